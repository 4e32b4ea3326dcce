"""Advices: forwarded, kept where no upstream takes them, and repeated to one until answered."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.store.store import Device, State
from gateway.telemetry.events import Event
from gateway.upstreams.protocol import LinkState
from gateway.wire.message import Kind, Message
from tests.support.acquirer import approve, silent, with_code
from tests.support.fake_store import FakeStore
from tests.support.rig import (
    DEVICE,
    KEEPING,
    START_MS,
    Rig,
    advice,
    purchase,
    repeated,
    reversal_of,
    rig,
    settlement,
    totals,
)

BARRED = replace(DEVICE, profile="nothing")


def silent_at_first(request: Message) -> Message | None:
    return None if request.mti == "0220" else approve(request)


async def test_an_advice_is_forwarded() -> None:
    async with rig() as made:
        reply = await made.ask(advice())
        assert (reply.message.mti, reply.message.response_code) == ("0230", "00")
        [sent] = made.acquirers["a"].received
        assert sent.mti == "0220"
        assert made.only() is State.ANSWERED


async def test_an_advice_passes_identity_only_not_permissions() -> None:
    async with rig() as made:
        assert await made.code(advice(), device=BARRED) == "00"


@pytest.mark.parametrize("device", [KEEPING, DEVICE])
async def test_when_no_upstream_takes_it_it_is_kept_where_the_profile_allows(
    device: Device, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        await made.lose("a", "b")
        code = await made.code(advice(), device=device)
        assert code == ("00" if device is KEEPING else "91")
        assert len(made.store.transactions) == (device is KEEPING)
        made.find_again("a", "b")
        await trio.sleep(5)
        if device is KEEPING:
            [sent] = made.acquirers["a"].received
            # Under the upstream STAN it was kept with, and marked as a repeat.
            assert (sent.mti, sent.stan) == (
                "0221",
                f"{made.of_kind(Kind.OFFLINE).upstream_stan:06d}",
            )
            assert not {35, 52} & set(sent.fields)
            assert made.only() is State.ADVISED
            assert made.store.transactions[1].image == b""


async def test_it_is_answered_00_only_once_it_is_durable(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.lose("a", "b")
        made.store.fail_after = 0
        assert await made.code(advice(), device=KEEPING) == "96"
        made.store.fail_after = None
        assert await made.code(advice(), device=KEEPING) == "00"
        assert made.only() is State.ADVICE_OWED


async def test_a_kept_one_is_repeated_under_the_same_stan_over_a_restart_until_acknowledged(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    stans = set()
    async with rig(store, clock=clock) as made:
        await made.lose("a", "b")
        assert await made.code(advice(), device=KEEPING) == "00"
        made.acquirers["a"].script = silent
        made.find_again("a", "b")
        await trio.sleep(8)
        stans |= {(message.mti, message.stan) for message in made.acquirers["a"].received}
    async with rig(store, clock=clock) as made:
        await trio.sleep(30)
        stans |= {(message.mti, message.stan) for message in made.acquirers["a"].received}
        assert len(stans) == 1
        assert made.only() is State.ADVISED
        assert made.reversals.open == 0


@pytest.mark.parametrize("device", [KEEPING, DEVICE])
async def test_in_doubt_it_is_repeated_to_the_same_upstream_until_answered_whatever_the_profile(
    device: Device, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        made.acquirers["a"].script = silent
        code = await made.code(advice(), device=device)
        assert code == ("00" if device is KEEPING else "91")
        await trio.sleep(8)
        made.acquirers["a"].script = approve
        await trio.sleep(20)
        first, *again = made.acquirers["a"].received
        assert first.mti == "0220"
        assert {(message.mti, message.stan) for message in again} == {("0221", first.stan)}
        assert made.acquirers["b"].received == []
        assert made.only() is State.ADVISED


async def test_one_that_moved_to_another_upstream_before_it_was_sent_stays_there(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Its first upstream had no link left when it was to be sent; the second never answers."""
    async with rig() as made:
        for _ in range(5):
            made.pool["b"].take_stan()
        take_stan = made.pool["a"].take_stan

        def take_and_lose() -> int | None:
            for link in made.pool["a"].links:
                link.life.state, link.up = LinkState.BACKOFF, False
            return take_stan()

        made.pool["a"].take_stan = take_and_lose  # type: ignore[method-assign]
        made.acquirers["b"].script = silent_at_first
        assert await made.code(advice(), device=KEEPING) == "00"
        await trio.sleep(10)
        first, again = made.acquirers["b"].received
        assert (again.mti, again.stan) == ("0221", first.stan)
        assert made.acquirers["a"].received == []


async def test_one_that_neither_upstream_could_be_sent_is_kept_for_the_last(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        for name in "ab":
            upstream = made.pool[name]

            def take_and_lose(upstream=upstream, take=upstream.take_stan):  # type: ignore[no-untyped-def]
                for link in upstream.links:
                    link.life.state, link.up = LinkState.BACKOFF, False
                return take()

            upstream.take_stan = take_and_lose  # type: ignore[method-assign]
        assert await made.code(advice(), device=KEEPING) == "00"
        await made.lose("a", "b")
        made.find_again("a", "b")
        await trio.sleep(10)
        received = made.acquirers["a"].received + made.acquirers["b"].received
        assert [message.mti for message in received] == ["0221"]
        [transaction] = made.store.transactions.values()
        assert received[0].stan == f"{transaction.upstream_stan:06d}"
        assert transaction.state is State.ADVISED


async def test_found_without_an_outcome_by_a_restart_it_is_sent_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        made.acquirers["a"].script = silent
        with trio.move_on_after(1):
            await made.ask(advice())
        [first] = made.acquirers["a"].received
    async with rig(store, clock=clock) as made:
        await trio.sleep(5)
        [again] = made.acquirers["a"].received
        assert (again.mti, again.stan) == ("0221", first.stan)


# --- what its repeat hears ------------------------------------------------------------------------


async def test_a_repeat_of_a_kept_one_hears_00_whatever_became_of_its_delivery(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.lose("a", "b")
        first = await made.ask(advice(), device=KEEPING)
        again = await made.ask(repeated(advice()), device=KEEPING)
        assert again.message == first.message
        made.acquirers["a"].script = silent
        made.find_again("a", "b")
        await trio.sleep(100)
        assert made.only() is State.GIVEN_UP
        assert (await made.ask(advice(), device=KEEPING)).message == first.message
        await made.reversals.resolve(1, "booked by hand")
        assert (await made.ask(advice(), device=KEEPING)).message == first.message


@pytest.mark.parametrize("how", ["timed out", "killed"])
async def test_a_repeat_of_one_in_doubt_hears_the_acquirers_answer_once_there_is_one(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Told 91 for ever, the terminal would never be rid of an advice that the acquirer has."""
    store, clock = FakeStore(), VirtualClock(START_MS)

    async def doubt(made: Rig) -> None:
        made.acquirers["a"].script = silent
        with trio.move_on_after(1 if how == "killed" else 10):
            assert await made.code(advice()) == "91"

    async with rig(store, clock=clock) as made:
        await doubt(made)
    async with rig(store, clock=clock) as made:
        await trio.sleep(20)
        assert made.only() is State.ADVISED
        reply = await made.ask(repeated(advice()))
        assert reply.message.response_code == "00"
        assert reply.message.stan == advice().stan
        assert reply.message.get(38) == "123456"
        # And it counts, as the terminal will count it.
        closing = settlement(changes=totals(debits=1, debits_minor=1000))
        assert await made.code(closing) == "00"


# --- what an acquirer says to it ------------------------------------------------------------------


@pytest.mark.parametrize("code", ["91", "96", "68", "98"])
async def test_an_acquirer_in_trouble_itself_is_asked_again(
    code: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        await made.lose("a", "b")
        await made.ask(advice(), device=KEEPING)
        made.acquirers["a"].script = with_code(code)
        made.find_again("a", "b")
        await trio.sleep(2)
        assert made.only() is State.ADVICE_OWED
        made.acquirers["a"].script = approve
        await trio.sleep(20)
        assert made.only() is State.ADVISED


async def test_an_acquirer_that_refuses_what_the_terminal_was_told_is_booked_calls_an_operator(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.lose("a", "b")
        assert await made.code(advice(), device=KEEPING) == "00"
        made.acquirers["a"].script = with_code("14")
        made.find_again("a", "b")
        await trio.sleep(5)
        assert made.only() is State.GIVEN_UP
        assert Event.REVERSAL_GIVEN_UP in made.names()
        assert len(made.acquirers["a"].received) == 1


async def test_an_acquirer_that_refuses_one_in_doubt_is_believed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.acquirers["a"].script = silent
        assert await made.code(advice()) == "91"
        made.acquirers["a"].script = with_code("14")
        await trio.sleep(20)
        assert made.only() is State.ADVISED
        assert await made.code(advice()) == "14"


async def test_an_advice_is_never_reversed(autojump_clock: trio.testing.MockClock) -> None:
    async with rig() as made:
        made.acquirers["a"].script = silent
        await made.ask(advice())
        assert await made.code(reversal_of(advice())) == "12"
        await trio.sleep(100)
        assert {message.mti for message in made.acquirers["a"].received} == {"0220", "0221"}


async def test_after_n_attempts_an_operator_sends_it_again_as_the_advice_it_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        made.acquirers["a"].script = silent
        await made.ask(advice())
        await trio.sleep(200)
        assert made.only() is State.GIVEN_UP
        [first, *_] = made.acquirers["a"].received
    async with rig(store, clock=clock) as made:
        await made.reversals.retry(1)
        await trio.sleep(5)
        [again] = made.acquirers["a"].received
        assert (again.mti, again.stan) == ("0221", first.stan)
        assert made.only() is State.ADVISED


async def test_a_purchase_is_never_kept(autojump_clock: trio.testing.MockClock) -> None:
    async with rig() as made:
        await made.lose("a", "b")
        assert await made.code(purchase(), device=KEEPING) == "91"
        assert made.store.transactions == {}
