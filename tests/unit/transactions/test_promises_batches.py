"""Batches: totals compared at the close, the next one opened, a repeat of the close closes none."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.errors import StoreError
from gateway.store.store import Batch, Compared, PutBatch, Settle, State
from gateway.telemetry.events import Event
from gateway.transactions import images
from gateway.wire.message import Kind, Message
from tests.support.acquirer import FakeAcquirer, approve, silent
from tests.support.fake_store import FakeStore
from tests.support.rig import (
    KEEPING,
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


async def test_an_upload_is_of_the_batch_that_was_out_of_balance_and_is_compared_with_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await sell(made)
        assert await made.code(settlement(changes=totals(debits=9))) == "95"
        uploads = [
            purchase(1),
            purchase(2, {4: "000000000999"}),  # another amount
            purchase(4),  # reversed
            purchase(77),  # never seen
        ]
        for one in uploads:
            kept = one.fields | {39: "00", 35: f"{PAN}=4912101"}
            assert await made.code(Message("0320", kept)) == "00"
        stored = made.store.uploaded
        assert {key[1] for key in stored} == {1}
        assert [one.compared.value for one in stored.values()] == [
            "same",
            "differs",
            "differs",
            "unknown",
        ]
        assert await made.store.uploads("T0000001", 1) == {
            Compared.SAME: 1,
            Compared.DIFFERS: 2,
            Compared.UNKNOWN: 1,
        }
        told = [fields for event, fields in made.events if event is Event.UPLOAD_DIFFERS]
        assert [fields["stan"] for fields in told] == ["000002", "000004", "000077"]
        record = images.unpack(stored["T0000001", 1, "000001"].record.partition(b"|")[2])
        assert (record.get(39), record.get(35)) == ("00", "")


@pytest.mark.parametrize(("amount", "verdict"), [("000000001000", "1"), ("000000000999", "2")])
async def test_the_close_after_an_upload_is_of_the_batch_that_was_uploaded(
    amount: str, verdict: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        await made.ask(purchase(1))
        wrong = totals(debits=9)
        assert await made.code(settlement(500, wrong)) == "95"
        assert await made.code(Message("0320", purchase(1, {4: amount}).fields)) == "00"
        ended = settlement(501, wrong | {3: "960000"})
        for message in (ended, repeated(ended)):
            reply = (await made.ask(message)).message
            assert (reply.response_code, reply.get(66)) == ("00", verdict)
        assert open_batch(made.store).number == 2
        await made.ask(purchase(2))
        assert await made.code(settlement(502, totals(debits=1, debits_minor=1000))) == "00"


async def test_on_unionpay_an_upload_names_several_in_de48(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.ask(purchase(1, {60: "22000007"}))
        details = [f"00{stan:06d}{PAN:0>20}{minor:012d}" for stan, minor in ((1, 1000), (2, 1000))]
        upload = settlement(9, {48: "02" + "".join(details), 60: "00000007201"})
        assert await made.code(Message("0320", upload.fields)) == "00"
        [stored] = made.store.uploaded.values()
        assert stored.compared is Compared.UNKNOWN
        told = [fields["stan"] for event, fields in made.events if event is Event.UPLOAD_DIFFERS]
        assert told == ["000002"]
        assert images.unpack(stored.record.partition(b"|")[2]).get(48) == upload.get(48)


# --- what is under way at the close ---------------------------------------------------------------


async def test_what_is_under_way_at_a_close_is_counted_in_its_batch(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made, trio.open_nursery() as nursery:
        acquirer = made.acquirers["a"]
        acquirer.script = silent
        nursery.start_soon(made.ask, purchase(1))
        await trio.testing.wait_all_tasks_blocked()
        codes: dict[str, str] = {}

        async def ask(name: str, message: Message) -> None:
            codes[name] = await made.code(message)

        nursery.start_soon(ask, "close", settlement(changes=totals(debits=1, debits_minor=1000)))
        await trio.sleep(0.5)
        nursery.start_soon(ask, "next", purchase(2))
        await trio.sleep(0.5)
        assert codes == {}
        acquirer.script = approve
        await acquirer.send(approve(acquirer.received[0]))
        await trio.sleep(1)
        assert codes == {"close": "00", "next": "00"}
        batches = {one.stan: one.batch for one in made.store.transactions.values()}
        assert batches == {"000001": 1, "000500": 1, "000002": 2}
        assert not made.batches.closing
        assert await made.code(settlement(501, totals(debits=1, debits_minor=1000))) == "00"


async def test_two_closes_at_once_wait_for_each_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(FakeStore(commit_s=0.1)) as made, trio.open_nursery() as nursery:
        for stan in (500, 501, 502):
            nursery.start_soon(made.code, settlement(stan))
        await trio.sleep(5)
        assert open_batch(made.store).number == 4


async def test_a_close_that_failed_is_not_left_without_an_outcome(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.store.fail_after = 1  # its intent
        assert await made.code(settlement()) == "96"
        made.store.fail_after = None
        await trio.sleep(5)
        assert made.of_kind(Kind.SETTLEMENT).state is State.NOTHING_SENT
        assert made.records.unwritten == 0
        assert await made.code(repeated(settlement())) == "00"
        assert made.of_kind(Kind.SETTLEMENT).state is State.ANSWERED
        assert open_batch(made.store).number == 2


async def test_an_advice_found_by_a_restart_is_counted_and_its_repeat_hears_that_it_is_kept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        made.acquirers["a"].script = silent
        with trio.move_on_after(1):  # then it is killed
            await made.ask(advice(), device=KEEPING)
    acquirers = {"a": FakeAcquirer(silent)}
    async with rig(store, clock=clock, acquirers=acquirers) as made:
        assert made.of_kind(Kind.OFFLINE).state is State.ADVICE_OWED
        assert await made.code(repeated(advice()), device=KEEPING) == "00"
        closing = settlement(changes=totals(debits=1, debits_minor=1000))
        assert await made.code(closing, device=KEEPING) == "00"
