"""A store that fails: 96 at once for what is new, and nothing lost when it is back."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.errors import StoreError
from gateway.store.store import OweReversal, Settle, State
from gateway.wire.message import Message
from tests.support.acquirer import approve, silent, with_code
from tests.support.fake_store import FakeStore
from tests.support.rig import (
    KEEPING,
    START_MS,
    Rig,
    advice,
    preauthorisation,
    purchase,
    refund_of,
    reversal_of,
    rig,
    settlement,
    void_of,
)

NEW = {
    "purchase": purchase(9),
    "preauthorisation": preauthorisation(9),
    "balance": purchase(9, {3: "310000"}),
    "void": void_of(purchase(1)),
    "refund": refund_of(purchase(1)),
    "advice": advice(9),
    "settlement": settlement(),
    "upload": Message("0320", purchase(9).fields),
    "reversal": reversal_of(purchase(1)),
    "reversal of nothing known": reversal_of(purchase(8)),
}


def fail(store: FakeStore, how: str) -> None:
    """The disk is full (it can be read), or gone."""
    if how == "full":
        store.fail_after = 0
    else:
        store.failing = True


def heal(store: FakeStore) -> None:
    store.fail_after, store.failing = None, False


@pytest.mark.parametrize("how", ["full", "gone"])
@pytest.mark.parametrize("what", NEW)
async def test_what_is_new_is_declined_with_96_at_once_and_nothing_is_sent(
    what: str, how: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        await made.ask(purchase(1))
        fail(made.store, how)
        asked_s = trio.current_time()
        assert await made.code(NEW[what], device=KEEPING) == "96"
        assert trio.current_time() == asked_s
        assert len(made.acquirers["a"].received) == 1
        assert await made.code(Message("0800", {11: "000001", 41: "T0000001", 70: "301"})) == "00"


@pytest.mark.parametrize("how", ["full", "gone"])
async def test_it_recovers_when_space_is_back(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        fail(made.store, how)
        assert await made.code(purchase(1)) == "96"
        heal(made.store)
        assert await made.code(purchase(2)) == "00"
        assert await made.code(reversal_of(purchase(2))) == "00"


async def test_a_repeat_that_heard_96_hears_the_stored_answer_once_that_can_be_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        first = await made.ask(purchase())
        fail(made.store, "gone")
        assert await made.code(purchase()) == "96"
        heal(made.store)
        assert (await made.ask(purchase())).message == first.message


async def test_a_refusal_that_was_given_stays_given(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        fail(made.store, "gone")
        assert await made.code(purchase()) == "96"
        heal(made.store)
        assert await made.code(purchase()) == "96"
        assert made.acquirers["a"].received == []


async def under_way_while_it_fails(made: Rig, how: str, *messages: Message) -> list[str]:
    """The codes of requests that were sent before the store failed and answered after."""
    codes = [""] * len(messages)

    async def ask(number: int, message: Message) -> None:
        codes[number] = await made.code(message)

    async with trio.open_nursery() as nursery:
        for number, message in enumerate(messages):
            nursery.start_soon(ask, number, message)
            await trio.testing.wait_all_tasks_blocked()
        fail(made.store, how)
        for request in made.acquirers["a"].received[-len(messages) :]:
            answer = with_code("51") if request.get(4) == "000000000051" else approve
            await made.acquirers["a"].send(answer(request))
    return codes


@pytest.mark.parametrize("how", ["full", "gone"])
async def test_what_was_under_way_is_not_lost(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Nobody hears of an approval that is not on disk: it is undone, at the latest by a restart."""
    store, clock = FakeStore(), VirtualClock(START_MS)
    declined = purchase(3, {4: "000000000051"})
    async with rig(store, clock=clock) as made:
        made.acquirers["a"].script = silent
        codes = await under_way_while_it_fails(made, how, purchase(1), purchase(2), declined)
        assert codes == ["91", "91", "51"]
        assert made.records.unwritten == 3
        made.acquirers["a"].script = approve
        await trio.sleep(30)
        heal(store)
        await trio.sleep(30)
        assert made.records.unwritten == 0
        states = [transaction.state for transaction in store.transactions.values()]
        assert states == [State.REVERSED, State.REVERSED, State.ANSWERED]
        assert len(made.acquirers["a"].of("0420") + made.acquirers["a"].of("0421")) == 2
        assert await made.code(declined) == "51"


@pytest.mark.parametrize("how", ["full", "gone"])
async def test_nor_is_it_if_the_node_dies_before_the_store_is_back(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        made.acquirers["a"].script = silent
        assert await under_way_while_it_fails(made, how, purchase(1), purchase(2)) == ["91", "91"]
    heal(store)
    async with rig(store, clock=clock) as made:
        await trio.sleep(30)
        assert {t.state for t in store.transactions.values()} == {State.REVERSED}
        assert await made.code(purchase(1)) == "91"


async def test_what_the_store_will_never_take_holds_up_nothing_else(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Picky(FakeStore):
        async def commit(self, *operations):  # type: ignore[no-untyped-def]
            if (
                isinstance(operations[0], Settle | OweReversal)
                and operations[0].transaction_id == 1
            ):
                raise StoreError("refused by the store: a value it cannot hold")
            await super().commit(*operations)

    async with rig(Picky()) as made:
        made.acquirers["a"].script = silent
        assert await under_way_while_it_fails(made, "full", purchase(1), purchase(2)) == ["91"] * 2
        heal(made.store)
        made.acquirers["a"].script = approve
        await trio.sleep(30)
        states = [transaction.state for transaction in made.store.transactions.values()]
        assert states == [State.INTENDED, State.REVERSED]
        assert made.records.unwritten == 1


async def test_reversals_wait_for_the_store_and_take_no_stan_for_each_try(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.acquirers["a"].script = silent
        await made.ask(purchase())
        fail(made.store, "full")
        await trio.sleep(60)
        heal(made.store)
        made.acquirers["a"].script = approve
        await trio.sleep(30)
        assert made.only() is State.REVERSED
        stans = {message.stan for message in made.acquirers["a"].received if message.mti[1] == "4"}
        assert len(stans) == 1
        assert made.pool["a"].stans._held == {}


class Stubborn(FakeStore):
    """Will not take the outcome of what was under way, and all else."""

    stubborn = False

    async def commit(self, *operations):  # type: ignore[no-untyped-def]
        outcome = isinstance(operations[0], Settle) or (
            isinstance(operations[0], OweReversal) and operations[0].reason == "68"
        )
        if self.stubborn and outcome:
            raise StoreError("not now")
        await super().commit(*operations)


@pytest.mark.parametrize("code", ["00", "51"])
async def test_a_reversal_that_comes_before_an_outcome_could_be_written_is_not_undone_by_it(
    code: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = Stubborn()
    async with rig(store) as made:

        def answer(request: Message) -> Message:
            store.stubborn = True
            return with_code(code)(request)

        made.acquirers["a"].script = answer
        assert await made.code(purchase()) == ("91" if code == "00" else "51")
        assert made.records.unwritten == 1
        made.acquirers["a"].script = approve
        reversal = reversal_of(purchase(), {39: "06"})
        for _ in range(3):
            assert await made.code(reversal) == "96"
            await trio.sleep(1)
        store.stubborn = False
        assert await made.code(reversal) == "00"
        await trio.sleep(5)
        assert made.only() is (State.REVERSED if code == "00" else State.ANSWERED)
        assert made.store.reversals == {}
        assert made.reversals.open == 0
        assert made.records.unwritten == 0
