"""Batches: totals compared at the close, the next one opened, a repeat of the close closes none."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.errors import StoreError
from gateway.store.store import Batch, PutBatch, Settle, State
from gateway.transactions import images
from gateway.wire.message import Kind, Message
from tests.support.acquirer import silent
from tests.support.fake_store import FakeStore
from tests.support.rig import (
    PAN,
    START_MS,
    Rig,
    advice,
    purchase,
    refund_of,
    repeated,
    reversal_of,
    rig,
    settlement,
    totals,
    void_of,
)

SOLD = totals(debits=2, debits_minor=2000, credits_=1, credits_minor=300)


def unionpay_settlement(stan: int = 500, *, debits_minor: int = 2000) -> Message:
    text = f"{debits_minor:012d}002{300:012d}001"
    return settlement(stan, {48: text + "0", 60: "00000007201"})


async def sell(made: Rig) -> None:
    """Two sales and a refund in part count; what was voided, reversed or declined does not."""
    for stan in (1, 2, 3, 4):
        await made.ask(purchase(stan))
    await made.ask(refund_of(purchase(1), changes={4: "000000000300"}))
    await made.ask(void_of(purchase(3)))
    await made.ask(reversal_of(purchase(4)))
    made.acquirers["a"].script = silent
    await made.ask(purchase(5))


def open_batch(store: FakeStore) -> Batch:
    [batch] = [batch for batch in store.batches_by_key.values() if not batch.closed_ms]
    return batch


async def test_totals_that_agree_are_balanced_and_the_next_batch_opens(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await sell(made)
        reply = await made.ask(settlement(changes=SOLD))
        assert (reply.message.mti, reply.message.response_code) == ("0510", "00")
        assert reply.message.get(66) == "1"
        assert {n: reply.message.get(n) for n in SOLD} == SOLD
        closed = made.store.batches_by_key["T0000001", 1]
        assert (closed.balanced, closed.debits, closed.credits_minor) == (True, 2, 300)
        assert open_batch(made.store).number == 2
        await made.ask(purchase(9))
        assert made.store.transactions[max(made.store.transactions)].batch == 2


async def test_totals_that_differ_are_not_balanced_and_ours_are_said(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await sell(made)
        reply = await made.ask(settlement(changes=SOLD | {88: f"{1999:016d}"}))
        assert reply.message.response_code == "95"
        assert reply.message.get(66) == "2"
        assert {n: reply.message.get(n) for n in SOLD} == SOLD
        closed = made.store.batches_by_key["T0000001", 1]
        assert not closed.balanced
        assert closed.reported == "2/1999/1/300"
        # It is closed all the same: the records are uploaded for it.
        assert open_batch(made.store).number == 2


@pytest.mark.parametrize(("debits_minor", "flag"), [(2000, "1"), (1999, "2")])
async def test_on_unionpay_de48_says_whether_it_is_balanced(
    debits_minor: int, flag: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        await sell(made)
        reply = await made.ask(unionpay_settlement(debits_minor=debits_minor))
        assert reply.message.response_code == "00"
        assert reply.message.get(48)[30:] == flag


async def test_without_totals_there_is_nothing_to_compare() -> None:
    async with rig() as made:
        await made.ask(purchase())
        reply = await made.ask(settlement())
        assert (reply.message.response_code, reply.message.get(66)) == ("00", "1")
        assert made.store.batches_by_key["T0000001", 1].debits_minor == 1000


async def test_an_advice_counts_as_the_terminal_was_told() -> None:
    async with rig() as made:
        await made.ask(advice())
        assert await made.code(settlement(changes=totals(debits=1, debits_minor=1000))) == "00"


async def test_a_repeat_of_a_close_does_not_close_the_next_batch(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        await sell(made)
        first = await made.ask(settlement(changes=SOLD))
    async with rig(store, clock=clock) as made:
        await made.ask(purchase(9))
        for message in (settlement(changes=SOLD), repeated(settlement(changes=SOLD))):
            assert (await made.ask(message)).message == first.message
        assert open_batch(store).number == 2


async def test_two_copies_of_a_close_at_once_close_one_batch(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(FakeStore(commit_s=0.2)) as made:
        await made.ask(purchase())
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(made.ask, settlement())
        assert open_batch(made.store).number == 2


async def test_batches_go_on_over_a_restart() -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    for number in (1, 2, 3):
        async with rig(store, clock=clock) as made:
            await made.ask(purchase(number))
            counted = totals(debits=1, debits_minor=1000)
            assert await made.code(settlement(500 + number, counted)) == "00"
            assert open_batch(store).number == number + 1


async def test_each_terminal_has_its_own_batch() -> None:
    async with rig() as made:
        await made.ask(purchase())
        await made.ask(purchase(changes={41: "T0000002"}))
        counted = totals(debits=1, debits_minor=1000)
        assert await made.code(settlement(changes=counted)) == "00"
        assert await made.code(settlement(changes=counted | {41: "T0000002"})) == "00"


@pytest.mark.parametrize("what", [PutBatch, Settle])
@pytest.mark.parametrize("over_a_restart", [True, False])
async def test_a_close_that_the_store_could_not_write_is_done_by_its_repeat(
    what: type, over_a_restart: bool, autojump_clock: trio.testing.MockClock
) -> None:
    class Failing(FakeStore):
        broken = False

        async def commit(self, *operations):  # type: ignore[no-untyped-def]
            if self.broken and any(isinstance(operation, what) for operation in operations):
                raise StoreError("the disk is full")
            await super().commit(*operations)

    store, clock = Failing(), VirtualClock(START_MS)
    closing = settlement(changes=totals(debits=1, debits_minor=1000))
    async with rig(store, clock=clock) as made:
        await made.ask(purchase())
        store.broken = True
        assert await made.code(closing) == "96"
        store.broken = False
        if not over_a_restart:
            assert await made.code(closing) == "00"
    async with rig(store, clock=clock) as made:
        assert await made.code(closing) == "00"
        assert await made.code(repeated(closing)) == "00"
        assert open_batch(store).number == 2
        assert made.of_kind(Kind.SETTLEMENT).state is State.ANSWERED


@pytest.mark.parametrize("text", ["²²²²²²²²²²", "12345x7890"])
async def test_totals_that_are_no_numbers_do_not_agree(text: str) -> None:
    async with rig() as made:
        await made.ask(purchase())
        assert await made.code(settlement(changes={74: text})) == "95"


# --- batch upload -------------------------------------------------------------------------------


async def test_a_batch_upload_is_stored_sealed_once_however_often_it_is_sent() -> None:
    async with rig() as made:
        upload = Message("0320", purchase(7).fields)
        for message in (upload, upload, repeated(upload)):
            reply = await made.ask(message)
            assert (reply.message.mti[:3], reply.message.response_code) == ("033", "00")
        [stored] = made.store.uploaded.values()
        assert (stored.terminal_id, stored.batch, stored.stan) == ("T0000001", 1, "000007")
        context, _, record = stored.record.partition(b"|")
        assert context.startswith(b"upload:")
        assert images.unpack(record).get(2) == PAN
        assert images.unpack(record).get(35) == ""
        assert made.acquirers["a"].received == []


async def test_with_the_store_unwritable_an_upload_gets_96() -> None:
    async with rig() as made:
        made.store.fail_after = 0
        assert await made.code(Message("0320", purchase(7).fields)) == "96"
