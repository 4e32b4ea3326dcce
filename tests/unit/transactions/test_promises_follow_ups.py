"""Voids, completions, adjustments and refunds: their original, its upstream, and their bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.errors import OperatorError, StoreError
from gateway.store.store import Settle, State
from gateway.telemetry.events import Event
from gateway.wire.message import Kind, Message
from tests.support.acquirer import FakeAcquirer, approve, silent, with_code
from tests.support.fake_store import FakeStore
from tests.support.rig import (
    DAY_S,
    DEVICE,
    KEEPING,
    START_MS,
    Rig,
    by_rrn,
    completion_of,
    preauthorisation,
    purchase,
    refund_of,
    reversal_of,
    rig,
    settlement,
    void_of,
)

FollowUp = Callable[..., Message]


def completion_void_of(request: Message, stan: int = 80) -> Message:
    return void_of(request, stan, {25: "06"})


def preauthorisation_void_of(request: Message, stan: int = 85) -> Message:
    return Message("0100", void_of(request, stan).fields)


def adjustment_of(request: Message, stan: int = 90) -> Message:
    return Message("0220", void_of(request, stan).fields)


async def at_once(made: Rig, *messages: Message) -> list[str]:
    codes = [""] * len(messages)

    async def ask(number: int, message: Message) -> None:
        codes[number] = await made.code(message)

    async with trio.open_nursery() as nursery:
        for number, message in enumerate(messages):
            nursery.start_soon(ask, number, message)
            await trio.testing.wait_all_tasks_blocked()
    return codes


def silent_to_follow_ups(request: Message) -> Message | None:
    return None if 90 in request and request.mti[1] in "12" else approve(request)


# --- finding the original -----------------------------------------------------------------------


@pytest.mark.parametrize("follow_up", [void_of, refund_of])
@pytest.mark.parametrize("named", ["DE90", "DE61", "DE37", "DE37 and DE38"])
async def test_a_follow_up_finds_its_original(follow_up: FollowUp, named: str) -> None:
    async with rig() as made:
        batch = {60: "22000007"} if named == "DE61" else {}
        sale = purchase(changes=batch)
        reply = await made.ask(sale)
        message = follow_up(sale).changed(batch)
        if named == "DE61":
            message = message.without([90]).changed({61: "0000070000011121"})
        elif named != "DE90":
            message = by_rrn(message, reply)
            if named == "DE37":
                message = message.without([38])
        assert await made.code(message) == "00"
        assert made.store.transactions[2].original_id == 1


@pytest.mark.parametrize("follow_up", [void_of, completion_of, completion_void_of, adjustment_of])
async def test_original_not_found_is_25(follow_up: FollowUp) -> None:
    async with rig() as made:
        assert await made.code(follow_up(purchase())) == "25"
        assert await made.code(follow_up(purchase()).without([90])) == "25"
        assert made.acquirers["a"].received == []


async def test_a_refund_that_names_an_original_never_seen_is_25_one_that_names_none_goes_on() -> (
    None
):
    async with rig() as made:
        assert await made.code(refund_of(purchase())) == "25"
        assert await made.code(refund_of(purchase(), 61).without([90])) == "00"
        assert await made.code(refund_of(purchase(), 62, {90: "0" * 42})) == "00"


async def test_an_approval_code_that_is_not_the_originals_finds_nothing() -> None:
    async with rig() as made:
        reply = await made.ask(purchase())
        assert await made.code(by_rrn(void_of(purchase()), reply).changed({38: "654321"})) == "25"


async def test_another_merchants_or_cards_rrn_finds_nothing() -> None:
    async with rig() as made:
        reply = await made.ask(purchase())
        for changes in ({42: "MERCHANT0000002"}, {2: "9999990000000015", 35: ""}):
            message = by_rrn(void_of(purchase()), reply).changed(changes)
            assert await made.code(message) == "25"


async def test_of_two_days_sales_with_one_stan_the_one_is_followed_that_de90_names() -> None:
    store = FakeStore()
    yesterdays = purchase(changes={13: "1120", 7: "1120120000", 4: "000000002000"})
    async with rig(store, clock=VirtualClock(START_MS - DAY_S * 1000)) as made:
        await made.ask(yesterdays)
    async with rig(store) as made:
        await made.ask(purchase())
        assert await made.code(refund_of(yesterdays)) == "00"
        assert await made.code(void_of(purchase())) == "00"
        assert [t.original_id for t in store.transactions.values()] == [0, 0, 1, 2]


async def test_a_follow_up_never_falls_back_to_a_sale_of_another_second() -> None:
    async with rig() as made:
        await made.ask(purchase())
        lost = purchase(changes={7: "1110120000", 13: "1110"})
        assert await made.code(void_of(lost)) == "25"


# --- its upstream -------------------------------------------------------------------------------


@pytest.mark.parametrize("follow_up", [void_of, refund_of, adjustment_of])
async def test_it_goes_to_the_acquirer_that_got_the_original_though_the_route_says_otherwise(
    follow_up: FollowUp, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        await made.lose("a")
        assert await made.code(purchase()) == "00"
        made.find_again("a")
        await trio.sleep(5)
        assert made.pool["a"].ready
        assert await made.code(follow_up(purchase())) == "00"
        assert made.acquirers["a"].received == []
        assert len(made.acquirers["b"].received) == 2


@pytest.mark.parametrize("follow_up", [void_of, refund_of])
async def test_or_it_gets_91(follow_up: FollowUp) -> None:
    async with rig() as made:
        await made.ask(purchase())
        await made.lose("a")
        assert await made.code(follow_up(purchase())) == "91"
        assert made.acquirers["b"].received == []


async def test_or_91_where_the_configuration_has_lost_it() -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        await made.ask(purchase())
    async with rig(store, clock=clock, acquirers={"c": FakeAcquirer()}) as made:
        assert await made.code(void_of(purchase())) == "91"
        assert made.acquirers["c"].received == []


async def test_de90_and_de61_are_filled_with_upstream_values(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        for _ in range(5):
            made.pool["a"].take_stan()
        sale = purchase(changes={32: "123456", 60: "22000007"})
        await made.ask(sale)
        void = void_of(sale, changes={60: "23000007", 61: "0000070000011121"})
        assert await made.code(void) == "00"
        sent, follow = made.acquirers["a"].received
        assert follow.get(90) == f"0200{sent.stan}{sent.get(7)}00000123456" + "0" * 11
        assert follow.get(61) == f"000007{sent.stan}1121"


async def test_a_void_by_rrn_keeps_the_rrn_that_names_its_original(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(settings={"rrn": "issue"}) as made:
        reply = await made.ask(purchase(changes={37: "000000000001"}))
        await made.ask(purchase(2))
        assert await made.code(by_rrn(void_of(purchase()), reply)) == "00"
        sale, other, void = made.acquirers["a"].received
        assert sale.rrn != "000000000001"
        assert void.rrn == reply.message.rrn == sale.rrn != other.rrn
        # And so does its reversal.
        assert await made.code(reversal_of(void_of(purchase()))) == "00"
        await trio.sleep(1)
        assert made.acquirers["a"].received[-1].rrn == sale.rrn


# --- bounds -------------------------------------------------------------------------------------


async def test_a_void_comes_from_the_same_terminal_same_batch_full_amount() -> None:
    async with rig() as made:
        reply = await made.ask(purchase())
        elsewhere = replace(DEVICE, device_id=2, terminal_id="T0000002")
        theirs = by_rrn(void_of(purchase()), reply).changed({41: "T0000002"})
        assert await made.code(theirs, device=elsewhere) == "25"
        assert await made.code(void_of(purchase(), 51, {4: "000000000900"})) == "13"
        assert await made.code(settlement()) == "00"
        assert await made.code(void_of(purchase(), 52)) == "25"
        assert len(made.acquirers["a"].received) == 1


async def test_a_refund_may_come_from_another_terminal_of_the_merchant_and_after_the_batch() -> (
    None
):
    async with rig() as made:
        reply = await made.ask(purchase())
        await made.ask(settlement())
        elsewhere = replace(DEVICE, device_id=2, terminal_id="T0000002")
        theirs = by_rrn(refund_of(purchase()), reply).changed({41: "T0000002"})
        assert await made.code(theirs, device=elsewhere) == "00"


async def test_per_original_at_most_one_void() -> None:
    async with rig() as made:
        await made.ask(purchase())
        assert await made.code(void_of(purchase(), 50)) == "00"
        assert await made.code(void_of(purchase(), 51)) == "25"
        assert await made.code(void_of(purchase(), 50)) == "00"  # a repeat is no second one
        assert await made.code(refund_of(purchase())) == "25"


async def test_of_two_voids_at_once_one_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    async with rig(FakeStore(commit_s=0.2)) as made:
        await made.ask(purchase())
        assert await at_once(made, void_of(purchase(), 50), void_of(purchase(), 51)) == ["00", "25"]


async def test_of_refunds_at_once_only_those_within_the_amount_go_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(FakeStore(commit_s=0.2)) as made:
        await made.ask(purchase())
        half = {4: "000000000500"}
        refunds = [refund_of(purchase(), 60 + number, half) for number in range(3)]
        assert await at_once(made, *refunds) == ["00", "00", "13"]


async def test_a_declined_void_leaves_its_original_as_it_was() -> None:
    async with rig() as made:
        await made.ask(purchase())
        made.acquirers["a"].script = with_code("05")
        assert await made.code(void_of(purchase(), 50)) == "05"
        made.acquirers["a"].script = approve
        assert await made.code(void_of(purchase(), 51)) == "00"


async def test_a_reversed_void_leaves_its_original_as_it_was(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.ask(purchase())
        await made.ask(void_of(purchase(), 50))
        assert await made.code(reversal_of(void_of(purchase(), 50))) == "00"
        assert await made.code(void_of(purchase(), 51)) == "25"  # it is not undone yet
        await trio.sleep(1)
        assert await made.code(void_of(purchase(), 52)) == "00"


async def test_a_void_in_doubt_is_reversed_and_bars_another_until_then(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.ask(purchase())
        made.acquirers["a"].script = silent
        assert await made.code(void_of(purchase(), 50)) == "91"
        assert await made.code(void_of(purchase(), 51)) == "25"
        made.acquirers["a"].script = approve
        await trio.sleep(20)
        assert await made.code(void_of(purchase(), 52)) == "00"


async def test_25_while_a_reversal_of_it_is_owed_and_after(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.ask(purchase())
        await made.lose("a", "b")
        await made.ask(reversal_of(purchase()))
        for follow_up in (void_of(purchase()), refund_of(purchase())):
            assert await made.code(follow_up) == "25"
        made.find_again("a", "b")
        await trio.sleep(5)
        assert made.only() is State.REVERSED
        assert await made.code(void_of(purchase(), 51)) == "25"


async def test_a_declined_original_cannot_be_followed() -> None:
    async with rig() as made:
        made.acquirers["a"].script = with_code("51")
        await made.ask(purchase())
        assert await made.code(void_of(purchase())) == "25"
        assert await made.code(refund_of(purchase())) == "25"


async def test_refunds_may_be_partial_up_to_the_amount() -> None:
    async with rig() as made:
        await made.ask(purchase())
        codes = [
            await made.code(refund_of(purchase(), 60 + number, {4: f"{minor:012d}"}))
            for number, minor in enumerate((400, 700, 600, 1))
        ]
        assert codes == ["00", "13", "00", "13"]
        assert await made.code(void_of(purchase())) == "12"


async def test_a_refund_in_doubt_is_an_operators_and_bars_further_ones_until_it_is_settled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    part = {4: "000000000100"}
    async with rig(store, clock=clock) as made:
        await made.ask(purchase())
        made.acquirers["a"].script = silent
        assert await made.code(refund_of(purchase(), 60, part)) == "91"
        made.acquirers["a"].script = approve
        assert made.of_kind(Kind.REFUND).state is State.GIVEN_UP
        assert made.of_kind(Kind.REFUND).image
        assert Event.REVERSAL_GIVEN_UP in made.names()
        assert made.reversals.given_up == 1
        assert await made.code(refund_of(purchase(), 61, part)) == "12"
        assert await made.code(refund_of(purchase(), 60, part)) == "91"
        await trio.sleep(60)
        assert len(made.acquirers["a"].received) == 2
    async with rig(store, clock=clock) as made:
        assert made.reversals.given_up == 1
        assert await made.code(refund_of(purchase(), 62, part)) == "12"
        with pytest.raises(OperatorError, match="--booked or --not-booked"):
            await made.reversals.resolve(2, "by telephone")
        await made.reversals.resolve(2, "by telephone", booked=False)
        assert made.of_kind(Kind.REFUND).state is State.CLOSED
        assert made.reversals.given_up == 0
        assert await made.code(refund_of(purchase(), 63, part)) == "00"


async def test_a_refund_in_doubt_that_was_booked_counts_against_the_amount(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.ask(purchase())
        made.acquirers["a"].script = silent
        assert await made.code(refund_of(purchase(), 60, {4: "000000000700"})) == "91"
        made.acquirers["a"].script = approve
        await made.reversals.resolve(2, "it is on their list", booked=True)
        assert made.of_kind(Kind.REFUND).state is State.BOOKED
        assert await made.code(refund_of(purchase(), 61, {4: "000000000301"})) == "13"
        assert await made.code(refund_of(purchase(), 62, {4: "000000000300"})) == "00"


async def test_a_refund_whose_doubt_could_not_be_written_bars_further_ones_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Failing(FakeStore):
        async def commit(self, *operations):  # type: ignore[no-untyped-def]
            if isinstance(operations[0], Settle) and operations[0].state is State.GIVEN_UP:
                raise StoreError("not this one")
            await super().commit(*operations)

    part = {4: "000000000100"}
    async with rig(Failing()) as made:
        await made.ask(purchase())
        made.acquirers["a"].script = silent
        assert await made.code(refund_of(purchase(), 60, part)) == "91"
        assert made.of_kind(Kind.REFUND).state is State.INTENDED
        made.acquirers["a"].script = approve
        assert await made.code(refund_of(purchase(), 61, part)) == "12"


async def test_a_refund_under_way_when_the_node_dies_is_an_operators(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        await made.ask(purchase())
        made.acquirers["a"].script = silent
        with trio.move_on_after(1):
            await made.ask(refund_of(purchase()))
    async with rig(store, clock=clock) as made:
        assert made.of_kind(Kind.REFUND).state is State.GIVEN_UP
        assert await made.code(refund_of(purchase())) == "91"
        assert await made.code(refund_of(purchase(), 61)) == "12"
        assert made.acquirers["a"].received == []


# --- pre-authorisations ---------------------------------------------------------------------------


async def test_per_original_at_most_one_completion() -> None:
    async with rig() as made:
        await made.ask(preauthorisation())
        assert await made.code(completion_of(preauthorisation(), 70)) == "00"
        assert await made.code(completion_of(preauthorisation(), 71)) == "12"
        assert await made.code(preauthorisation_void_of(preauthorisation())) == "12"


async def test_a_completion_is_voided_and_refunded_like_a_sale() -> None:
    async with rig() as made:
        await made.ask(preauthorisation())
        completion = completion_of(preauthorisation(), 70)
        await made.ask(completion)
        assert await made.code(refund_of(completion, changes={4: "000000000400"})) == "00"
        assert await made.code(completion_void_of(completion)) == "12"
    async with rig() as made:
        await made.ask(preauthorisation())
        await made.ask(completion)
        assert await made.code(completion_void_of(completion)) == "00"
        assert made.store.transactions[3].kind is Kind.COMPLETION_VOID


async def test_a_voided_pre_authorisation_cannot_be_completed() -> None:
    async with rig() as made:
        await made.ask(preauthorisation())
        assert await made.code(preauthorisation_void_of(preauthorisation())) == "00"
        assert await made.code(completion_of(preauthorisation())) == "25"


async def test_a_sale_is_no_pre_authorisation_and_the_other_way_round() -> None:
    async with rig() as made:
        await made.ask(purchase(1))
        await made.ask(preauthorisation(2))
        assert await made.code(completion_of(purchase(1))) == "25"
        assert await made.code(refund_of(preauthorisation(2))) == "25"


# --- adjustments ----------------------------------------------------------------------------------


async def test_an_adjustment_kept_for_later_still_names_its_original_to_the_upstream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.ask(purchase())
        [sale] = made.acquirers["a"].received
        await made.lose("a")
        assert await made.code(adjustment_of(purchase()), device=KEEPING) == "00"
        made.find_again("a")
        await trio.sleep(5)
        [advice] = made.acquirers["a"].of("0221")
        assert advice.get(90)[:10] == f"0200{sale.stan}"
        assert made.of_kind(Kind.ADJUSTMENT).state is State.ADVISED
        assert made.acquirers["b"].received == []


async def test_nothing_waits_for_ever_for_its_turn_at_an_original(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.ask(purchase())
        made.acquirers["a"].script = silent_to_follow_ups
        with trio.fail_after(30):
            part = {4: "000000000100"}
            refunds = [refund_of(purchase(), 60 + number, part) for number in range(3)]
            assert await at_once(made, *refunds) == ["91", "12", "12"]
        # Nobody holds the original any more.
        assert made.originals._locks == {}
