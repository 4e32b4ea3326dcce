"""Undelivered approvals: reversed after the grace time, and only where no byte was handed over."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.store.store import State
from gateway.transactions.request import Reply
from tests.support.acquirer import approve
from tests.support.fake_store import FakeStore
from tests.support.rig import GRACE_S, START_MS, Rig, purchase, repeated, reversal_of, rig, void_of


async def ask_twice_at_once(made: Rig) -> list[Reply]:
    """A purchase, and its repeat over another connection while it is under way."""
    acquirer = made.acquirers["a"]
    acquirer.script = lambda request: None if request.mti == "0200" else approve(request)
    replies: list[Reply] = []

    async def ask() -> None:
        replies.append(await made.ask(purchase()))

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
        await acquirer.send(approve(acquirer.received[0]))
    acquirer.script = approve
    return replies


async def test_an_approval_of_which_no_byte_was_handed_over_is_reversed_after_the_grace_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.flow.undelivered(await made.ask(purchase()))
        await trio.sleep(GRACE_S - 1)
        assert made.only() is State.ANSWERED
        await trio.sleep(3)
        assert made.only() is State.REVERSED
        assert len(made.acquirers["a"].of("0420")) == 1


async def test_a_repeat_after_that_gets_a_decline(autojump_clock: trio.testing.MockClock) -> None:
    async with rig() as made:
        made.flow.undelivered(await made.ask(purchase()))
        await trio.sleep(GRACE_S + 3)
        assert await made.code(purchase()) == "12"
        assert await made.code(repeated(purchase())) == "12"
        assert len(made.acquirers["a"].of("0200")) == 1


async def test_a_repeat_within_the_grace_time_gets_the_approval_which_then_stands(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.flow.undelivered(await made.ask(purchase()))
        await trio.sleep(GRACE_S / 2)
        again = await made.ask(purchase())
        assert again.message.response_code == "00"
        made.flow.delivered(again)
        await trio.sleep(GRACE_S * 3)
        await made.store.aclose()
        assert made.only() is State.DELIVERED


async def test_a_repeat_that_is_not_delivered_either_waits_another_grace_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.flow.undelivered(await made.ask(purchase()))
        await trio.sleep(GRACE_S / 2)
        made.flow.undelivered(await made.ask(purchase()))
        await trio.sleep(GRACE_S - 1)
        assert made.only() is State.ANSWERED
        await trio.sleep(3)
        assert made.only() is State.REVERSED


async def test_a_reversal_within_the_grace_time_is_the_only_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.flow.undelivered(await made.ask(purchase()))
        assert await made.code(reversal_of(purchase())) == "00"
        await trio.sleep(GRACE_S * 2)
        assert made.only() is State.REVERSED
        assert len(made.acquirers["a"].of("0420")) == 1


async def test_a_reversal_that_could_not_be_written_leaves_the_grace_time_to_run(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.flow.undelivered(await made.ask(purchase()))
        made.store.fail_after = 0
        assert await made.code(reversal_of(purchase())) == "96"
        made.store.fail_after = None
        await trio.sleep(GRACE_S + 3)
        assert made.only() is State.REVERSED


async def test_a_void_within_the_grace_time_is_all_that_undoes_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.flow.undelivered(await made.ask(purchase()))
        void = await made.ask(void_of(purchase()))
        assert void.message.response_code == "00"
        made.flow.delivered(void)
        await trio.sleep(GRACE_S * 2)
        assert made.acquirers["a"].of("0420") == []


async def test_an_approval_handed_over_in_part_is_never_reversed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        # Whatever becomes of the send: the connection says so before the first byte.
        made.flow.delivered(await made.ask(purchase()))
        await trio.sleep(GRACE_S * 3)
        assert made.acquirers["a"].of("0420") == []


@pytest.mark.parametrize("delivered_first", [True, False])
async def test_an_approval_that_one_of_two_connections_took_is_never_reversed(
    delivered_first: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """The terminal hung up and asked again over another connection while it was under way."""
    async with rig() as made:
        one, other = await ask_twice_at_once(made)
        if delivered_first:
            made.flow.delivered(one)
            made.flow.undelivered(other)
        else:
            made.flow.undelivered(one)
            made.flow.delivered(other)
        await trio.sleep(GRACE_S * 3)
        assert made.acquirers["a"].of("0420") == []


async def test_an_approval_that_neither_connection_took_is_reversed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        for reply in await ask_twice_at_once(made):
            made.flow.undelivered(reply)
        await trio.sleep(GRACE_S + 3)
        assert made.only() is State.REVERSED


async def test_an_approval_handed_over_once_is_not_reversed_for_an_undelivered_repeat(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.flow.delivered(await made.ask(purchase()))
        made.flow.undelivered(await made.ask(purchase()))
        await trio.sleep(GRACE_S * 3)
        assert made.acquirers["a"].of("0420") == []


async def test_of_two_repeats_of_an_undelivered_approval_one_that_is_taken_is_enough(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.flow.undelivered(await made.ask(purchase()))
        one, other = await made.ask(purchase()), await made.ask(purchase())
        made.flow.delivered(other)
        made.flow.undelivered(one)
        await trio.sleep(GRACE_S * 3)
        assert made.acquirers["a"].of("0420") == []


async def test_an_approval_found_answered_at_recovery_is_never_reversed_by_the_gateway(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It may have been handed over just before: nobody knows any more."""
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        await made.ask(purchase())
    async with rig(store, clock=clock) as made:
        again = await made.ask(purchase())
        assert again.message.response_code == "00"
        made.flow.undelivered(again)
        await trio.sleep(GRACE_S * 3)
        assert made.only() is State.ANSWERED
        assert made.acquirers["a"].of("0420") == []


async def test_the_grace_time_ends_in_a_reversal_though_the_store_fails_just_then(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.flow.undelivered(await made.ask(purchase()))
        await trio.sleep(GRACE_S - 1)
        made.store.failing = True
        await trio.sleep(60)
        made.store.failing = False
        await trio.sleep(5)
        assert made.only() is State.REVERSED


class PausingStore(FakeStore):
    """Each read and write takes a checkpoint more, before it looks and after: all can interleave.

    `slow_repeats`: an intent that finds a repeat is told so this many checkpoints late.
    """

    slow_repeats = 0

    async def intend(self, transaction):  # type: ignore[no-untyped-def]
        found = await super().intend(transaction)
        if found is not None:
            for _ in range(self.slow_repeats):
                await trio.lowlevel.checkpoint()
        return found


@pytest.mark.parametrize("late", range(12))
@pytest.mark.parametrize("early", range(4))
async def test_a_repeat_in_the_very_moment_of_the_graces_end_is_never_approved_and_reversed(
    late: int, early: int, autojump_clock: trio.testing.MockClock
) -> None:
    """The repeat has read the approval at any time before its answer is given."""
    store = PausingStore()
    async with rig(store) as made:
        made.flow.undelivered(await made.ask(purchase()))
        store.slow_repeats = late
        replies: list[Reply] = []

        async def repeat() -> None:
            await trio.sleep_until(trio.current_time() + GRACE_S)
            for _ in range(early):
                await trio.lowlevel.checkpoint()
            reply = await made.ask(purchase())
            made.flow.delivered(reply)
            replies.append(reply)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(repeat)
        await trio.sleep(GRACE_S * 2)
        await store.aclose()
        [reply] = replies
        approved = reply.message.response_code == "00"
        reversed_ = made.only() is not State.DELIVERED
        assert approved is not reversed_


async def test_what_was_cut_off_is_reversed_at_once_and_before_all_that_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.flow.undelivered(await made.ask(purchase()))
        await trio.sleep(1)
        made.flow.undelivered(await made.ask(purchase(2)), cut_off=True)
        await trio.sleep(0.5)
        assert len(made.acquirers["a"].of("0420")) == 1
        assert await made.code(purchase(2)) == "12"
        # The other one's grace time runs on.
        assert await made.code(purchase()) == "00"
