"""Promise 4: a repeat gets the same answer, over restarts too; other content gets 94."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.store.store import Reroute, State
from gateway.transactions.duplicates import Exchange
from gateway.transactions.request import Reply
from gateway.upstreams.protocol import LinkState
from gateway.wire.message import Message
from tests.support.acquirer import FakeAcquirer, approve, silent
from tests.support.fake_store import FakeStore
from tests.support.rig import (
    DAY_S,
    DEVICE,
    START_MS,
    Rig,
    advice,
    completion_of,
    preauthorisation,
    purchase,
    refund_of,
    repeated,
    reversal_of,
    rig,
    settlement,
    void_of,
)
from tests.support.stores import a_transaction

ASKED: dict[str, Callable[[], Message]] = {
    "purchase": purchase,
    "balance": lambda: purchase(changes={3: "310000"}),
    "preauthorisation": preauthorisation,
    "void": lambda: void_of(purchase()),
    "refund": lambda: refund_of(purchase()),
    "unlinked refund": lambda: refund_of(purchase()).without([90]),
    "completion": lambda: completion_of(preauthorisation()),
    "advice": advice,
    "settlement": settlement,
    "reversal": lambda: reversal_of(purchase()),
    "reversal of nothing known": lambda: reversal_of(purchase(77)),
}


async def prepare(made: Rig, what: str) -> None:
    if what in ("void", "refund", "reversal"):
        await made.ask(purchase())
    elif what == "completion":
        await made.ask(preauthorisation())


def first_sent(acquirer: FakeAcquirer) -> list[Message]:
    """What was sent that is no reversal and no repeat."""
    return [message for message in acquirer.received if message.mti[1] in "12"]


# --- same content: the stored answer --------------------------------------------------------------


@pytest.mark.parametrize("what", ASKED)
async def test_same_content_gets_the_stored_answer(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        await prepare(made, what)
        first = await made.ask(ASKED[what]())
        await trio.sleep(5)
        sent = len(first_sent(made.acquirers["a"]))
        for message in (ASKED[what](), repeated(ASKED[what]())):
            again = await made.ask(message)
            assert again.message == first.message
        assert len(first_sent(made.acquirers["a"])) == sent


@pytest.mark.parametrize("what", ASKED)
async def test_same_content_gets_the_stored_answer_over_a_restart(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        await prepare(made, what)
        first = await made.ask(ASKED[what]())
        await trio.sleep(5)
    async with rig(store, clock=clock) as made:
        for message in (ASKED[what](), repeated(ASKED[what]())):
            again = await made.ask(message)
            assert again.message == first.message
        await trio.sleep(5)
        assert made.acquirers["a"].received == []


@pytest.mark.parametrize("code", ["05", "51", "99", "Z9", "11"])
async def test_a_decline_and_an_odd_code_are_repeated_as_they_were(code: str) -> None:
    async with rig() as made:
        made.acquirers["a"].script = lambda request: approve(request).changed({39: code})
        first = await made.ask(purchase())
        assert first.message.response_code == code
        assert (await made.ask(purchase())).message == first.message


async def test_the_same_bytes_a_hundred_times_over_connections_and_a_restart_are_sent_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    acquirers = {"a": FakeAcquirer(), "b": FakeAcquirer()}
    replies: list[Reply] = []

    async def ask(made: Rig) -> None:
        replies.append(await made.ask(purchase()))

    for _ in range(2):
        async with rig(store, clock=clock, acquirers=acquirers) as made:
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(ask, made)
            await trio.sleep(1)
    assert len(replies) == 100
    assert all(reply.message == replies[0].message for reply in replies)
    assert len(acquirers["a"].received) == 1


async def test_a_repeat_waits_for_the_one_under_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        acquirer = made.acquirers["a"]
        acquirer.script = silent
        codes: list[str] = []

        async def ask(message: Message) -> None:
            codes.append(await made.code(message))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, purchase())
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, repeated(purchase()))
            await trio.testing.wait_all_tasks_blocked()
            assert codes == []
            await acquirer.send(approve(acquirer.received[0]))
        assert codes == ["00", "00"]
        assert len(acquirer.received) == 1


async def test_a_repeat_of_one_in_doubt_gets_its_time_outs_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.acquirers["a"].script = silent
        assert await made.code(purchase()) == "91"
        made.acquirers["a"].script = approve
        assert await made.code(purchase()) == "91"
        await trio.sleep(30)
        assert await made.code(purchase()) == "91"
        assert len(made.acquirers["a"].of("0200")) == 1


# --- when nothing new can be done, what was done is still answered --------------------------------


@pytest.mark.parametrize("what", ["purchase", "preauthorisation", "void", "refund", "completion"])
async def test_a_repeat_gets_the_stored_answer_while_no_upstream_is_there(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        await prepare(made, what)
        first = await made.ask(ASKED[what]())
        await made.lose("a", "b")
        assert (await made.ask(ASKED[what]())).message == first.message
        assert await made.code(purchase(9)) == "91"


async def test_a_repeat_gets_the_stored_answer_while_no_stan_can_be_issued() -> None:
    async with rig() as made:
        first = await made.ask(purchase())
        for upstream in made.pool:
            upstream.take_stan = lambda: None  # type: ignore[method-assign]
        assert (await made.ask(purchase())).message == first.message


async def test_a_repeat_gets_the_stored_answer_while_too_many_are_under_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        first = await made.ask(purchase(100))
        made.acquirers["a"].script = silent
        async with trio.open_nursery() as nursery:
            for stan in range(1, 6):
                nursery.start_soon(made.ask, purchase(stan))
            await trio.testing.wait_all_tasks_blocked()
            assert (await made.ask(purchase(100))).message == first.message
            assert await made.code(purchase(6)) == "96"
            nursery.cancel_scope.cancel()


async def test_a_repeat_gets_the_stored_answer_while_the_store_cannot_be_written() -> None:
    async with rig() as made:
        first = await made.ask(purchase())
        made.store.fail_after = 0
        assert (await made.ask(purchase())).message == first.message
        assert await made.code(purchase(2)) == "96"


async def test_a_repeat_gets_the_same_code_though_the_key_of_the_answer_is_gone() -> None:
    async with rig() as made:
        first = await made.ask(purchase())
        [transaction] = made.store.transactions.values()
        made.store.transactions[1] = replace(transaction, answer=b"another context|x")
        again = await made.ask(purchase())
        for number in (11, 37, 38, 39, 41):
            assert again.message.get(number) == first.message.get(number)


async def test_a_key_that_fails_after_the_request_was_sent_loses_no_outcome(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:

        def approve_and_lose_the_key(request: Message) -> Message:
            made.security.failing = True
            return approve(request)

        made.acquirers["a"].script = approve_and_lose_the_key
        assert await made.code(purchase()) == "00"
        assert made.only() is State.ANSWERED
        made.security.failing = False
        assert await made.code(purchase()) == "00"


async def test_a_key_that_fails_while_the_answer_is_awaited_loses_no_reversal(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:

        def lose_the_key(request: Message) -> None:
            made.security.failing = True

        made.acquirers["a"].script = lose_the_key
        assert await made.code(purchase()) == "91"
        assert made.only() is State.REVERSAL_OWED
        made.security.failing = False
        assert await made.code(purchase()) == "91"
        made.acquirers["a"].script = approve
        await trio.sleep(20)
        assert made.only() is State.REVERSED


# --- an approval since reversed -------------------------------------------------------------------


@pytest.mark.parametrize("what", ["purchase", "preauthorisation", "void", "completion"])
async def test_an_approval_since_reversed_or_owed_a_reversal_repeats_as_a_decline(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        await prepare(made, what)
        request = ASKED[what]()
        assert await made.code(request) == "00"
        made.acquirers["a"].script = silent
        assert await made.code(reversal_of(request)) == "00"
        assert await made.code(request) == "12"
        made.acquirers["a"].script = approve
        await trio.sleep(20)
        assert await made.code(request) == "12"
    async with rig(store, clock=clock) as made:
        assert await made.code(request) == "12"
        assert made.acquirers["a"].received == []


# --- other content --------------------------------------------------------------------------------


@pytest.mark.parametrize("over_a_restart", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {4: "000000002000"},
        {2: "9999990000000015", 35: "9999990000000015=2912"},
        {49: "840"},
        {55: "9F36020002"},
        {3: "003000"},
    ],
)
async def test_the_same_key_with_other_content_is_94(
    changes: dict[int, str], over_a_restart: bool, autojump_clock: trio.testing.MockClock
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        await made.ask(purchase(changes={55: "9F36020001"}))
        if not over_a_restart:
            assert await made.code(purchase(changes={55: "9F36020001"} | changes)) == "94"
    async with rig(store, clock=clock) as made:
        assert await made.code(purchase(changes={55: "9F36020001"} | changes)) == "94"
        assert await made.code(repeated(purchase(changes={55: "9F36020001"} | changes))) == "94"
        assert made.acquirers["a"].received == []


@pytest.mark.parametrize("changes", [{90: "0200000002" + "0" * 32}, {4: "000000000900"}])
async def test_a_refund_with_the_same_key_of_another_original_or_amount_is_94(
    changes: dict[int, str],
) -> None:
    async with rig() as made:
        await made.ask(purchase(1))
        await made.ask(purchase(2))
        assert await made.code(refund_of(purchase(1))) == "00"
        assert await made.code(refund_of(purchase(1), changes=changes)) == "94"


async def test_a_refund_with_the_same_key_that_names_another_original_by_rrn_is_94() -> None:
    async with rig() as made:
        await made.ask(purchase(1))
        await made.ask(purchase(2))
        for stan, code in ((1, "00"), (2, "94")):
            named = {37: f"632512{stan:06d}"}
            refund = refund_of(purchase(1)).without([90]).changed(named)
            assert await made.code(refund) == code


async def test_other_content_of_one_under_way_is_94_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.acquirers["a"].script = silent
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.ask, purchase())
            await trio.testing.wait_all_tasks_blocked()
            assert await made.code(purchase(changes={4: "000000002000"})) == "94"
            nursery.cancel_scope.cancel()


# --- the key --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{41: "T0000002"}, {42: "MERCHANT0000002"}, {11: "000002"}, {12: "120001"}, {13: "1120"}],
)
async def test_another_key_is_another_transaction(changes: dict[int, str]) -> None:
    async with rig() as made:
        await made.ask(purchase())
        assert await made.code(purchase(changes=changes)) == "00"
        assert len(made.acquirers["a"].received) == 2


async def test_a_device_bound_anew_meets_no_old_answer() -> None:
    async with rig() as made:
        await made.ask(purchase())
        again = replace(DEVICE, activation=2)
        assert await made.code(purchase(changes={4: "000000009900"}), device=again) == "00"
        assert len(made.acquirers["a"].received) == 2


async def test_without_a_date_of_its_own_a_repeat_over_midnight_is_still_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The date of transmission (DE7) does as well: a repeat bears its first one's."""
    midnight_ms = START_MS + DAY_S * 500
    async with rig(clock=VirtualClock(midnight_ms - 1000)) as made:
        undated = purchase().without([12, 13])
        first = await made.ask(undated)
        await trio.sleep(10)
        assert (await made.ask(undated)).message == first.message
        assert len(made.acquirers["a"].received) == 1


async def test_with_a_batch_the_key_has_no_date() -> None:
    async with rig() as made:
        numbered = {60: "22000001"}
        await made.ask(purchase(changes=numbered))
        assert await made.code(purchase(changes=numbered | {13: "1120", 12: "115900"})) == "00"
        assert await made.code(purchase(changes={60: "22000002"})) == "00"
        assert len(made.acquirers["a"].received) == 2


async def test_an_exchange_that_has_ended_keeps_nobody_waiting() -> None:
    exchange = Exchange(a_transaction(1))
    exchange.end()
    with trio.fail_after(1):
        assert await exchange.wait() is None


# --- a request that moved on its way --------------------------------------------------------------


async def test_a_store_that_fails_while_the_route_changes_leaves_no_intent_without_an_outcome(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Nothing left for the first upstream: nothing is in doubt, then or after a restart."""
    async with rig() as made:
        commit = made.store.commit

        async def fail_to_reroute(*operations: object) -> None:
            if isinstance(operations[0], Reroute):
                made.store.fail_after = 0
            await commit(*operations)  # type: ignore[arg-type]

        made.store.commit = fail_to_reroute  # type: ignore[method-assign]
        take_stan = made.pool["a"].take_stan

        def take_and_lose() -> int | None:
            for link in made.pool["a"].links:
                link.life.state, link.up = LinkState.BACKOFF, False
            return take_stan()

        made.pool["a"].take_stan = take_and_lose  # type: ignore[method-assign]
        assert await made.code(purchase()) == "96"
        assert made.acquirers["b"].received == []
        made.store.fail_after = None
        await trio.sleep(5)
        assert made.only() is State.NOTHING_SENT


async def test_a_repeat_after_the_hashing_key_was_replaced_is_still_one() -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        first = await made.ask(purchase())
    async with rig(store, clock=clock) as made:
        [known] = store.transactions.values()
        store.transactions[1] = replace(known, card_token="0:of the old key", content="0:the same")
        assert (await made.ask(purchase())).message == first.message
        assert await made.code(purchase(changes={4: "000000002000"})) == "94"


# --- within a set window --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("later_s", "changes", "code"),
    [
        (DAY_S - 60, {4: "000000000999"}, "94"),
        (DAY_S + 60, {4: "000000000999"}, "00"),  # the terminal counts anew
    ],
)
async def test_a_batch_and_stan_with_other_content_are_a_repeat_within_a_set_window(
    later_s: int, changes: dict[int, str], code: str
) -> None:
    numbered = {60: "22000001"}
    store = FakeStore()
    async with rig(store) as made:
        assert await made.code(purchase(changes=numbered)) == "00"
    async with rig(store, clock=VirtualClock(START_MS + later_s * 1000)) as made:
        again = purchase(changes=numbered | changes)
        for message in (again, again, repeated(again)):
            assert await made.code(message) == code
        assert len(made.acquirers["a"].of("0200")) == (code == "00")
        if code == "00":
            # What is reversed is the last one, though both bear the same batch and STAN.
            assert await made.code(reversal_of(again)) == "00"
            assert store.transactions[1].state is State.ANSWERED
            assert store.transactions[2].state is not State.ANSWERED


async def test_the_same_sale_again_is_a_repeat_however_late() -> None:
    store = FakeStore()
    sales = purchase(changes={60: "22000001"}), purchase(2)
    async with rig(store) as made:
        for sale in sales:
            assert await made.code(sale) == "00"
    async with rig(store, clock=VirtualClock(START_MS + 3 * DAY_S * 1000)) as made:
        for sale in sales:
            assert await made.code(repeated(sale)) == "00"
        assert made.acquirers["a"].received == []


async def test_a_stan_that_comes_again_on_another_date_is_another_request() -> None:
    async with rig() as made:
        assert await made.code(purchase(changes={13: "1121"})) == "00"
        assert await made.code(purchase(changes={13: "1120"})) == "00"
        assert len(made.acquirers["a"].of("0200")) == 2
