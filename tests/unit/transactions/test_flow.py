"""The flow: durable before forward, no doubt without a reversal, one answer to a repeat."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.store.store import (
    Device,
    DeviceState,
    OweReversal,
    Reroute,
    Settle,
    State,
)
from gateway.telemetry.events import Event
from gateway.transactions import images
from gateway.transactions.recovery import recover
from gateway.transactions.request import Reply
from gateway.upstreams.protocol import LinkState
from gateway.wire.message import Message
from tests.support.acquirer import approve, silent, with_code
from tests.support.fake_store import FakeStore
from tests.support.rig import PAN, START_MS, purchase, reversal_of, rig
from tests.support.stores import Emitted

# --- a purchase ---------------------------------------------------------------------------------


async def test_a_purchase_is_intended_sent_settled_and_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        request = purchase()
        reply = await made.ask(request)
        [sent] = made.acquirers["a"].received
        assert reply.message.mti == "0210"
        assert reply.message.response_code == "00"
        # The terminal's own STAN comes back; the upstream saw one of ours.
        assert reply.message.stan == request.stan
        assert sent.without([11]) == request.without([11])
        assert made.only() is State.ANSWERED
        made.flow.delivered(reply)
        await trio.sleep(1)
        await made.store.aclose()
        assert made.only() is State.DELIVERED


async def test_no_byte_leaves_before_the_intent_is_durable() -> None:
    store = FakeStore(commit_s=0.0)
    async with rig(store) as made:
        seen: list[int] = []

        def script(request: Message) -> Message:
            seen.append(len(store.intents))
            return approve(request)

        made.acquirers["a"].script = script
        await made.ask(purchase())
        assert seen == [1]


async def test_the_outcome_is_durable_before_the_terminal_hears_it() -> None:
    async with rig() as made:
        reply = await made.ask(purchase())
        assert any(
            isinstance(operation, Settle) and operation.response_code == reply.message.response_code
            for commit in made.store.commits
            for operation in commit
        )


async def test_a_store_that_fails_declines_and_nothing_is_sent() -> None:
    async with rig() as made:
        made.store.failing = True
        reply = await made.ask(purchase())
        assert reply.message.response_code == "96"
        assert made.acquirers["a"].received == []


async def test_a_store_that_fails_after_the_approval_lets_nobody_hear_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.store.fail_after = 1  # the intent goes through
        reply = await made.ask(purchase())
        assert len(made.acquirers["a"].received) == 1
        assert reply.message.response_code == "91"
        # On disk there is an intent without an outcome: a crash now would owe its reversal as well.
        assert made.only() is State.INTENDED
        await trio.sleep(60)
        assert made.acquirers["a"].of("0420") == []  # each attempt is written before it is made
        made.store.fail_after = None
        await trio.sleep(60)
        assert made.only() is State.REVERSED


async def test_what_is_kept_of_a_request_holds_no_track_and_no_pin_block() -> None:
    async with rig() as made:
        emv = "9F360200015A0899999900000000075710" + "9999990000000007D291210100000000"
        await made.ask(purchase(changes={55: emv, 45: "B9999990000000007^A/B^2912", 48: "CVV123"}))
        [transaction] = made.store.transactions.values()
        kept = images.unpack(transaction.image.partition(b"|")[2])
        assert not {35, 36, 45, 48, 52} & set(kept.fields)
        assert kept.get(55) == "9F36020001"
        assert kept.get(2) == PAN
        assert transaction.card_masked == "999999******0007"
        assert PAN not in repr(kept)


async def test_what_the_policy_refuses_is_answered_and_not_recorded() -> None:
    async with rig() as made:
        for message, code in (
            (purchase(changes={3: "010000"}), "58"),  # cash is not among the kinds
            (purchase(changes={3: "770000"}), "12"),
            (purchase(changes={4: "000000000000"}), "13"),
            (purchase(changes={11: "00000X"}), "30"),
            (Message("0800", {11: "000001", 41: "T0000001", 70: "161"}), "40"),
        ):
            reply = await made.ask(message)
            assert reply.message.response_code == code
            assert PAN not in str(reply.message.fields)
        assert made.store.transactions == {}
        assert made.acquirers["a"].received == []


async def test_echo_and_sign_on_are_answered_here() -> None:
    async with rig() as made:
        for code in ("301", "001", "002"):
            reply = await made.ask(Message("0800", {11: "000001", 41: "T0000001", 70: code}))
            assert (reply.message.mti, reply.message.response_code) == ("0810", "00")
        assert made.acquirers["a"].received == []
        made.store.failing = True
        reply = await made.ask(Message("0800", {11: "000001", 41: "T0000001", 70: "301"}))
        assert reply.message.response_code == "00"


# --- failover and doubt ---------------------------------------------------------------------------


async def test_the_next_candidate_is_taken_only_if_nothing_was_sent() -> None:
    async with rig() as made:
        made.acquirers["a"].refuse = True
        await made.acquirers["a"].hang_up()
        await trio.testing.wait_all_tasks_blocked()
        reply = await made.ask(purchase())
        assert reply.message.response_code == "00"
        assert len(made.acquirers["b"].received) == 1


async def test_a_link_that_fills_up_moves_the_intent_before_it_is_sent() -> None:
    async with rig() as made:
        # Ready when the route is taken, gone when it is to be sent.
        upstream = made.pool["a"]
        stan = upstream.take_stan

        def take_and_lose() -> int | None:
            for link in upstream.links:
                link.life.state, link.up = LinkState.BACKOFF, False
            return stan()

        upstream.take_stan = take_and_lose  # type: ignore[method-assign]
        reply = await made.ask(purchase())
        assert reply.message.response_code == "00"
        moved = [op for commit in made.store.commits for op in commit if isinstance(op, Reroute)]
        assert [operation.upstream for operation in moved] == ["b"]
        assert made.acquirers["a"].received == []


async def test_no_upstream_is_answered_91_at_once() -> None:
    async with rig() as made:
        for acquirer in made.acquirers.values():
            acquirer.refuse = True
            await acquirer.hang_up()
        await trio.testing.wait_all_tasks_blocked()
        reply = await made.ask(purchase())
        assert reply.message.response_code == "91"
        assert made.store.transactions == {}


async def test_no_answer_is_91_with_the_reversal_owed_first_and_never_sent_elsewhere(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.acquirers["a"].script = silent
        reply = await made.ask(purchase())
        assert reply.message.response_code == "91"
        assert trio.current_time() == pytest.approx(5.0, abs=0.1)
        assert made.only() is State.REVERSAL_OWED
        assert made.acquirers["b"].received == []


async def test_a_reversal_is_repeated_until_it_is_acknowledged(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        acquirer = made.acquirers["a"]
        acquirer.script = silent
        await made.ask(purchase())
        [sent] = acquirer.of("0200")
        await trio.sleep(8)
        acquirer.script = with_code("00")
        await trio.sleep(20)
        first, repeats = acquirer.of("0420"), acquirer.of("0421")
        assert len(first) == 1
        assert repeats
        assert {message.stan for message in first + repeats} == {first[0].stan}
        assert first[0].stan != sent.stan
        # DE90: the original's MTI, STAN and DE7 as the upstream saw them.
        assert first[0].get(90) == f"0200{sent.stan}{sent.get(7)}" + "0" * 22
        assert (first[0].get(4), first[0].get(39)) == (sent.get(4), "68")
        assert not {35, 52} & set(first[0].fields)
        assert made.only() is State.REVERSED
        assert made.reversals.open == 0
        assert made.store.reversals == {}


@pytest.mark.parametrize(("code", "state"), [("12", State.GIVEN_UP), ("00", State.REVERSED)])
async def test_what_an_acquirer_says_to_a_reversal_ends_it_or_hands_it_on(
    code: str, state: State, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        made.acquirers["a"].script = lambda request: (
            None if request.mti == "0200" else with_code(code)(request)
        )
        await made.ask(purchase())
        await trio.sleep(1)
        assert made.only() is state


async def test_25_ends_a_reversal_only_once_no_answer_can_come_any_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        acquirer = made.acquirers["a"]
        acquirer.script = lambda request: (
            None if request.mti == "0200" else with_code("25")(request)
        )
        await made.ask(purchase())
        await trio.sleep(1)
        assert made.only() is State.REVERSAL_OWED
        # Four attempts within late_max_s are too few for that: it is not the reversal's end.
        await trio.sleep(60)
        assert made.only() in (State.GIVEN_UP, State.REVERSED)


async def test_while_the_upstream_is_away_no_attempt_is_counted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        acquirer = made.acquirers["a"]
        acquirer.script = silent
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.ask, purchase())
            await trio.testing.wait_all_tasks_blocked()
            acquirer.refuse = True
            await acquirer.hang_up()
        assert made.only() is State.REVERSAL_OWED
        await trio.sleep(300)
        assert made.store.reversals[1].attempts == 0
        acquirer.refuse, acquirer.script = False, approve
        await trio.sleep(5)
        assert made.only() is State.REVERSED
        assert len(acquirer.of("0420")) == 1


async def test_a_refund_in_doubt_is_an_operators_and_an_enquiry_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.acquirers["a"].script = silent
        await made.ask(purchase(1, {3: "200000"}))
        await made.ask(purchase(2, {3: "310000"}))
        states = [transaction.state for transaction in made.store.transactions.values()]
        assert states == [State.GIVEN_UP, State.CLOSED]
        assert made.store.reversals == {}


async def test_a_late_answer_is_recorded_and_never_delivered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        acquirer = made.acquirers["a"]
        acquirer.script = silent
        reply = await made.ask(purchase())
        await acquirer.send(approve(acquirer.of("0200")[0]))
        await trio.testing.wait_all_tasks_blocked()
        assert reply.message.response_code == "91"
        assert Event.ANSWER_LATE in made.names()


# --- repeats --------------------------------------------------------------------------------------


async def test_a_repeat_gets_the_stored_answer_and_is_forwarded_once() -> None:
    async with rig() as made:
        first = await made.ask(purchase())
        for message in (purchase(), Message("0201", purchase().fields)):
            again = await made.ask(message)
            assert again.message == first.message
        assert len(made.acquirers["a"].received) == 1


async def test_a_repeat_of_one_under_way_waits_for_its_answer() -> None:
    async with rig() as made:
        acquirer = made.acquirers["a"]
        acquirer.script = silent
        replies: list[Reply] = []

        async def ask() -> None:
            replies.append(await made.ask(purchase()))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            [sent] = acquirer.received
            await acquirer.send(approve(sent))
        assert [reply.message.response_code for reply in replies] == ["00"] * 3
        assert len(acquirer.received) == 1


async def test_the_same_key_with_other_content_is_94() -> None:
    async with rig() as made:
        await made.ask(purchase())
        for changes in ({4: "000000002000"}, {2: "9999990000000015"}, {49: "840"}):
            reply = await made.ask(purchase(changes=changes))
            assert reply.message.response_code == "94"
        assert len(made.acquirers["a"].received) == 1


async def test_a_repeat_passes_though_the_kind_is_no_longer_permitted() -> None:
    async with rig() as made:
        first = await made.ask(purchase())
        barred = Device(
            device_id=1,
            terminal_id="T0000001",
            merchant_id="MERCHANT0000001",
            activation=1,
            state=DeviceState.ACTIVE,
            profile="nothing",
        )
        again = await made.ask(purchase(), device=barred)
        assert again.message == first.message
        new = await made.ask(purchase(2), device=barred)
        assert new.message.response_code == "58"


async def test_a_repeat_after_a_reversal_is_a_decline() -> None:
    async with rig() as made:
        await made.ask(purchase())
        await made.ask(reversal_of(purchase()))
        again = await made.ask(purchase())
        assert again.message.response_code != "00"
        assert len(made.acquirers["a"].of("0200")) == 1


# --- a terminal's own reversal --------------------------------------------------------------------


async def test_a_terminals_reversal_is_durable_then_answered_and_delivered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.ask(purchase())
        reply = await made.ask(reversal_of(purchase()))
        assert (reply.message.mti, reply.message.response_code) == ("0410", "00")
        assert made.only() is State.REVERSAL_OWED
        await trio.sleep(1)
        assert made.only() is State.REVERSED
        [sent] = made.acquirers["a"].of("0420")
        assert sent.get(38) == "123456"
        again = await made.ask(reversal_of(purchase()))
        assert again.message.response_code == "00"
        await trio.sleep(5)
        assert len(made.acquirers["a"].of("0420")) == 1


async def test_a_terminals_reversal_merges_with_the_one_already_owed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.acquirers["a"].script = silent
        await made.ask(purchase())
        made.acquirers["a"].script = approve
        reply = await made.ask(reversal_of(purchase()))
        assert reply.message.response_code == "00"
        await trio.sleep(10)
        assert len(made.acquirers["a"].of("0420") + made.acquirers["a"].of("0421")) == 1


async def test_a_reversal_of_one_under_way_waits_for_its_outcome_then_reverses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        acquirer = made.acquirers["a"]
        acquirer.script = lambda request: None if request.mti == "0200" else approve(request)
        replies: list[Reply] = []

        async def ask(message: Message) -> None:
            replies.append(await made.ask(message))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, purchase())
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, reversal_of(purchase()))
            await trio.testing.wait_all_tasks_blocked()
            assert replies == []
            await acquirer.send(approve(acquirer.received[0]))
        assert {reply.message.response_code for reply in replies} == {"00"}
        await trio.sleep(1)
        assert made.only() is State.REVERSED


async def test_a_reversal_of_nothing_known_is_25() -> None:
    async with rig() as made:
        reply = await made.ask(reversal_of(purchase()))
        assert reply.message.response_code == "25"


async def test_with_the_store_unwritable_a_reversal_gets_96() -> None:
    async with rig() as made:
        await made.ask(purchase())
        made.store.failing = True
        reply = await made.ask(reversal_of(purchase()))
        assert reply.message.response_code == "96"
        assert made.reversals.open == 0


# --- restarts -------------------------------------------------------------------------------------


async def test_killed_with_a_request_under_way_its_reversal_is_delivered_after_the_restart(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    async with rig(store) as made:
        made.acquirers["a"].script = silent
        with trio.move_on_after(1):
            await made.ask(purchase())
        [sent] = made.acquirers["a"].received
        made.store.posted.clear()
    assert next(iter(store.transactions.values())).state is State.INTENDED
    found = Emitted()
    await recover(store, clock=VirtualClock(START_MS), emit=found)
    assert found.names() == [Event.RECOVERY_DONE]
    async with rig(store) as made:
        await trio.sleep(5)
        [reversal] = made.acquirers["a"].received
        assert reversal.get(90)[4:10] == sent.stan
        assert made.only() is State.REVERSED
        # And its repeat hears no, not yes.
        again = await made.ask(purchase())
        assert again.message.response_code == "91"


async def test_over_the_bound_of_transactions_under_way_the_answer_is_96() -> None:
    async with rig() as made:
        made.acquirers["a"].script = silent
        async with trio.open_nursery() as nursery:
            for stan in range(1, 6):
                nursery.start_soon(made.ask, purchase(stan))
            await trio.testing.wait_all_tasks_blocked()
            reply = await made.ask(purchase(6))
            assert reply.message.response_code == "96"
            nursery.cancel_scope.cancel()


def test_an_owed_reversal_carries_what_the_terminal_was_told() -> None:
    operation = OweReversal(1, "a", "68", START_MS)
    assert operation.state is State.REVERSAL_OWED
    assert operation.response_code == ""


async def test_what_was_refused_for_want_of_an_upstream_is_refused_again_when_there_is_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.lose("a", "b")
        first = await made.ask(purchase())
        assert first.message.response_code == "91"
        made.find_again("a", "b")
        await trio.sleep(5)
        # The terminal holds its 91: its repeat, still on its way, must not be approved now.
        assert (await made.ask(purchase())).message == first.message
        assert (await made.ask(purchase(2))).message.response_code == "00"
