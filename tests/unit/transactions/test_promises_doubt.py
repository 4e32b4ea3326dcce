"""Promises 1, 2, 3 and 5: durable, then sent, once; every doubt is owed; late answers."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.errors import StoreError
from gateway.store.store import State
from gateway.transactions.recovery import recover
from gateway.upstreams.protocol import LinkState
from gateway.upstreams.upstream import Upstream
from gateway.wire.message import Message
from tests.support.acquirer import Script, approve, silent, with_code
from tests.support.fake_store import FakeStore
from tests.support.rig import (
    PAN,
    START_MS,
    advice,
    preauthorisation,
    purchase,
    refund_of,
    rig,
    void_of,
)
from tests.support.stores import Emitted


def full_when_asked(upstream: Upstream) -> None:
    """The upstream is ready when the route is taken, and has no link when it is to be sent."""
    take_stan = upstream.take_stan

    def take_and_lose() -> int | None:
        for link in upstream.links:
            link.life.state, link.up = LinkState.BACKOFF, False
        return take_stan()

    upstream.take_stan = take_and_lose  # type: ignore[method-assign]


async def test_the_reversal_names_the_stan_of_the_upstream_that_got_the_original(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(settings={"rrn": "issue"}) as made:
        for _ in range(5):  # so that the STANs of both differ
            made.pool["b"].take_stan()
        full_when_asked(made.pool["a"])
        made.acquirers["b"].script = silent
        await made.ask(purchase())
        [sent] = made.acquirers["b"].received
        made.acquirers["b"].script = approve
        await trio.sleep(10)
        [reversal, *_] = made.acquirers["b"].of("0420") + made.acquirers["b"].of("0421")
        assert reversal.get(90)[:20] == f"0200{sent.stan}{sent.get(7)}"
        assert reversal.rrn == sent.rrn
        assert made.only() is State.REVERSED


# --- 1: durable before forward --------------------------------------------------------------------

ASKED = {
    "purchase": purchase(9),
    "preauthorisation": preauthorisation(9),
    "balance": purchase(9, {3: "310000"}),
    "void": void_of(purchase(1)),
    "refund": refund_of(purchase(1)),
    "advice": advice(9),
}


@pytest.mark.parametrize("what", ASKED)
async def test_no_byte_leaves_before_the_intent_is_on_disk(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        await made.ask(purchase(1))
        made.store.commit_s = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.ask, ASKED[what])
            await trio.sleep(0.9)
            assert len(made.acquirers["a"].received) == 1
            await trio.sleep(0.2)
            assert len(made.acquirers["a"].received) == 2


@pytest.mark.parametrize("what", ASKED)
async def test_the_outcome_is_on_disk_before_the_terminal_hears_it(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        await made.ask(purchase(1))
        made.store.commit_s = 1.0
        asked_s = trio.current_time()
        assert await made.code(ASKED[what]) == "00"
        assert trio.current_time() - asked_s == pytest.approx(2.0)
        assert State.INTENDED not in {t.state for t in made.store.transactions.values()}


async def test_nor_does_a_repeat_of_a_reversal_leave_before_its_attempt_is_on_disk(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.acquirers["a"].script = silent
        await made.ask(purchase())
        made.store.commit_s = 1.0
        await trio.sleep(20)
        assert made.store.reversals[1].attempts >= len(made.acquirers["a"].received) - 1


# --- 2: sent at most once -------------------------------------------------------------------------


def answer_nothing_usable(request: Message) -> Message:
    return approve(request).without([39])


def answer_of_another_amount(request: Message) -> Message:
    return approve(request).changed({4: "000000000999"})


def answer_of_another_terminal(request: Message) -> Message:
    return approve(request).changed({41: "T0000002"})


def answer_of_another_stan(request: Message) -> Message:
    return approve(request).changed({11: "999999"})


def answer_of_another_kind(request: Message) -> Message:
    return approve(request).changed({}, mti="0230")


@pytest.mark.parametrize(
    "script",
    [
        silent,
        answer_nothing_usable,
        answer_of_another_amount,
        answer_of_another_terminal,
        answer_of_another_stan,
        answer_of_another_kind,
    ],
)
async def test_after_the_first_byte_it_waits_then_reverses_and_never_resends(
    script: Script, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        made.acquirers["a"].script = lambda request: (
            script(request) if request.mti == "0200" else approve(request)
        )
        assert await made.code(purchase()) == "91"
        await trio.sleep(10)
        assert [message.mti for message in made.acquirers["a"].received] == ["0200", "0420"]
        assert made.acquirers["b"].received == []
        assert made.only() is State.REVERSED


async def test_a_link_lost_after_the_first_byte_is_doubt_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        acquirer = made.acquirers["a"]

        def hang_up(request: Message) -> Message | None:
            if request.mti == "0200":
                acquirer.hang_up_now()
                return None
            return approve(request)

        acquirer.script = hang_up
        assert await made.code(purchase()) == "91"
        assert trio.current_time() < 1.0
        await trio.sleep(10)
        assert made.only() is State.REVERSED
        assert made.acquirers["b"].received == []


async def test_a_hundred_under_way_when_their_upstream_dies_are_answered_at_once_and_reversed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(under_way_max=200) as made:
        acquirer = made.acquirers["a"]
        acquirer.script = silent
        codes: list[str] = []

        async def ask(stan: int) -> None:
            codes.append(await made.code(purchase(stan)))

        async with trio.open_nursery() as nursery:
            for stan in range(1, 101):
                nursery.start_soon(ask, stan)
            await trio.testing.wait_all_tasks_blocked()
            died_s = trio.current_time()
            await made.lose("a")
        assert codes == ["91"] * 100
        assert trio.current_time() - died_s < 1.0
        await trio.sleep(60)
        acquirer.script = approve
        made.find_again("a")
        await trio.sleep(10)
        assert {t.state for t in made.store.transactions.values()} == {State.REVERSED}
        assert len(acquirer.of("0420")) == 100


async def test_two_terminals_with_one_stan_get_upstream_stans_of_their_own_and_theirs_back() -> (
    None
):
    async with rig() as made:
        replies = [
            await made.ask(purchase(changes={41: terminal}))
            for terminal in ("T0000002", "T0000001")
        ]
        assert [reply.message.stan for reply in replies] == ["000001", "000001"]
        one, other = made.acquirers["a"].received
        assert one.stan != other.stan


async def test_a_restart_issues_no_stan_again(autojump_clock: trio.testing.MockClock) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    stans: list[str] = []
    for number in range(3):
        async with rig(store, clock=clock) as made:
            await made.ask(purchase(number))
            stans += [message.stan for message in made.acquirers["a"].received]
    assert len(set(stans)) == 3


# --- 3: every doubt is owed a reversal, or what its kind allows -----------------------------------


@pytest.mark.parametrize(
    ("what", "state"),
    [
        ("purchase", State.REVERSAL_OWED),
        ("preauthorisation", State.REVERSAL_OWED),
        ("void", State.REVERSAL_OWED),
        ("advice", State.ADVICE_OWED),
        ("refund", State.GIVEN_UP),
        ("balance", State.CLOSED),
    ],
)
@pytest.mark.parametrize("how", ["timed out", "link lost", "node killed"])
async def test_every_doubt_is_owed_what_its_kind_allows(
    what: str, state: State, how: str, autojump_clock: trio.testing.MockClock
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        await made.ask(purchase(1))
        made.acquirers["a"].script = silent
        if how == "node killed":
            with trio.move_on_after(1):
                await made.ask(ASKED[what])
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(made.ask, ASKED[what])
                await trio.testing.wait_all_tasks_blocked()
                if how == "link lost":
                    await made.lose("a")
            assert store.transactions[2].state is state
    if how == "node killed":
        await recover(store, clock=clock, emit=Emitted())
        assert store.transactions[2].state is state


async def test_a_reply_to_doubt_holds_no_card_data(autojump_clock: trio.testing.MockClock) -> None:
    async with rig() as made:
        made.acquirers["a"].script = silent
        reply = await made.ask(purchase())
        assert PAN not in str(reply.message.fields)
        assert all(PAN not in str(event) for event in made.events)


async def test_recovery_that_is_killed_is_gone_on_with(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        made.acquirers["a"].script = silent
        async with trio.open_nursery() as nursery:
            for stan in (1, 2, 3):
                nursery.start_soon(made.ask, purchase(stan))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    store.fail_after = 0
    with pytest.raises(StoreError):
        await recover(store, clock=clock, emit=Emitted())
    store.fail_after = None
    for _ in range(2):
        await recover(store, clock=clock, emit=Emitted())
    async with rig(store, clock=clock) as made:
        await trio.sleep(10)
        assert {t.state for t in store.transactions.values()} == {State.REVERSED}
        assert len(made.acquirers["a"].received) == 3


# --- 5: a late answer is never delivered --------------------------------------------------------


async def test_a_late_approval_that_comes_while_its_reversal_is_being_written_keeps_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(FakeStore(commit_s=0.5)) as made:
        acquirer = made.acquirers["a"]
        acquirer.script = lambda request: None if request.mti == "0200" else approve(request)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.ask, purchase())
            await trio.sleep(5.7)
            assert made.only() is State.INTENDED  # its time is over, and that is not written yet
            await acquirer.send(approve(acquirer.received[0]))
        await trio.sleep(10)
        assert made.only() is State.REVERSED


async def test_a_late_approval_after_12_opens_the_reversal_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        acquirer = made.acquirers["a"]
        acquirer.script = lambda request: (
            None if request.mti == "0200" else with_code("12")(request)
        )
        reply = await made.ask(purchase())
        await trio.sleep(1)
        assert made.only() is State.GIVEN_UP
        acquirer.script = approve
        await acquirer.send(approve(acquirer.of("0200")[0]))
        await trio.sleep(5)
        assert reply.message.response_code == "91"
        assert made.only() is State.REVERSED
        assert made.reversals.given_up == 0


async def test_a_late_approval_opens_the_reversal_again_though_the_store_fails_just_then(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        acquirer = made.acquirers["a"]
        acquirer.script = lambda request: (
            None if request.mti == "0200" else with_code("12")(request)
        )
        await made.ask(purchase())
        await trio.sleep(1)
        acquirer.script = approve
        made.store.failing = True
        await acquirer.send(approve(acquirer.of("0200")[0]))
        await trio.sleep(5)
        made.store.failing = False
        await trio.sleep(5)
        assert made.only() is State.REVERSED


async def test_25_said_before_the_late_approval_does_not_end_the_reversal_after_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The 25 and the approval come over two links, the later one first."""
    async with rig(settings={"links": 2}) as made:
        acquirer = made.acquirers["a"]
        acquirer.script = silent
        await made.ask(purchase())
        [sent] = acquirer.received
        await trio.sleep(1)
        [reversal] = acquirer.of("0420")
        await acquirer.send(approve(sent))
        await trio.testing.wait_all_tasks_blocked()
        # On the link that the reversal went over; the other one knows nothing of it.
        await acquirer.send_everywhere(with_code("25")(reversal))
        await trio.testing.wait_all_tasks_blocked()
        assert made.only() is State.REVERSAL_OWED
        acquirer.script = approve
        await trio.sleep(20)
        assert made.only() is State.REVERSED
        assert len(acquirer.of("0421")) >= 1


async def test_25_ends_no_reversal_while_a_late_approval_could_still_be_told_of(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        acquirer = made.acquirers["a"]
        acquirer.script = lambda request: (
            None if request.mti == "0200" else with_code("25")(request)
        )
        await made.ask(purchase())
        # Given up after 5 s, and awaited for 30 s more.
        await trio.sleep_until(34.9)
        assert made.only() is State.REVERSAL_OWED
        acquirer.script = approve
        await acquirer.send(approve(acquirer.of("0200")[0]))
        await trio.sleep(20)
        assert made.only() is State.REVERSED
        assert acquirer.received[-1].mti == "0421"
