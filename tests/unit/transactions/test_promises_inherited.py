"""What a device that replaced another may do with what that one sold, and what it may not."""

from __future__ import annotations

from dataclasses import replace

import trio
import trio.testing
from trio.testing import MockClock

from gateway.store.store import Batch, Compared, PutBatch, PutDevice, State
from gateway.wire.message import Kind, Message
from tests.support.acquirer import approve, silent
from tests.support.fake_store import FakeStore
from tests.support.rig import (
    DEVICE,
    completion_of,
    preauthorisation,
    purchase,
    refund_of,
    reversal_of,
    rig,
    settlement,
    void_of,
)

# The same terminal id, another device.
HEIR = replace(DEVICE, activation=2, inherits=(("T0000001", 1),))
# A device with an id of its own, whose batch carries the one of the device that it replaced.
OTHER = replace(DEVICE, device_id=2, terminal_id="T0000002", inherits=(("T0000001", 1),))


async def test_it_voids_completes_and_refunds_what_was_sold(autojump_clock: MockClock) -> None:
    async with rig() as node:
        sold, kept, held = purchase(1), purchase(2), preauthorisation(3)
        for one in (sold, kept, held):
            assert await node.code(one) == "00"
        assert await node.code(void_of(sold, 1), device=HEIR) == "00"
        assert await node.code(refund_of(kept, 2), device=HEIR) == "00"
        assert await node.code(completion_of(held, 3), device=HEIR) == "00"
        originals = {one.kind: one.original_id for one in node.store.transactions.values()}
        assert originals[Kind.VOID] == 1
        # Once: the one before it has no more to take back, and nor has it.
        assert await node.code(void_of(sold, 4), device=HEIR) == "25"


async def test_its_stans_begin_again_and_meet_no_old_answer(autojump_clock: MockClock) -> None:
    async with rig() as node:
        assert await node.code(purchase(1)) == "00"
        # Word for word the same: of this device it is new.
        assert await node.code(purchase(1), device=HEIR) == "00"
        purchases = [one.activation for one in node.store.transactions.values()]
        assert purchases == [1, 2]


async def test_of_two_with_one_stan_it_voids_its_own(autojump_clock: MockClock) -> None:
    async with rig() as node:
        earlier = purchase(1)
        later = purchase(1, {7: "1121130000", 12: "130000"})
        assert await node.code(earlier) == "00"
        assert await node.code(later, device=HEIR) == "00"
        assert await node.code(void_of(later, 8), device=HEIR) == "00"
        assert node.of_kind(Kind.VOID).original_id == 2
        # What DE90 names to the second is the other's.
        assert await node.code(void_of(earlier, 9), device=HEIR) == "00"
        voids = [one for one in node.store.transactions.values() if one.kind is Kind.VOID]
        assert [one.original_id for one in voids] == [2, 1]


async def test_it_reverses_what_the_one_before_sent(autojump_clock: MockClock) -> None:
    async with rig(await carried(FakeStore())) as node:
        for stan, device in ((1, HEIR), (2, OTHER)):
            sold = purchase(stan)
            assert await node.code(sold) == "00"
            # The reversal that the old device still owed comes from the one in its place.
            reversal = reversal_of(sold).changed({41: device.terminal_id})
            assert await node.code(reversal, device=device) == "00"
            assert node.store.transactions[stan].state is State.REVERSAL_OWED
        await trio.sleep(5)
        taken_back = [one for one in node.acquirers["a"].received if one.mti == "0420"]
        assert [one.terminal_id for one in taken_back] == ["T0000001"] * 2


async def test_what_never_came_is_not_what_the_one_before_sent(autojump_clock: MockClock) -> None:
    async with rig() as node:
        assert await node.code(purchase(1)) == "00"
        # The same STAN, amount and card, and another time: its own request, which never came.
        lost = purchase(1, {7: "1121130000", 12: "130000"})
        for reversal in (reversal_of(lost), reversal_of(lost).without([7, 12, 90])):
            assert await node.code(reversal, device=HEIR) == "25"
        assert node.store.transactions[1].state in (State.ANSWERED, State.DELIVERED)


async def test_whoever_inherits_nothing_reverses_nothing(autojump_clock: MockClock) -> None:
    async with rig() as node:
        sold = purchase(1)
        assert await node.code(sold) == "00"
        assert await node.code(reversal_of(sold), device=replace(HEIR, inherits=())) == "25"
        assert node.store.transactions[1].state in (State.ANSWERED, State.DELIVERED)


async def test_whoever_inherits_nothing_finds_nothing(autojump_clock: MockClock) -> None:
    async with rig() as node:
        sold = purchase(1)
        assert await node.code(sold) == "00"
        bound_anew = replace(DEVICE, activation=2)
        assert await node.code(void_of(sold, 2), device=bound_anew) == "25"
        stranger = replace(OTHER, inherits=())
        assert await node.code(void_of(sold, 3, {41: "T0000002"}), device=stranger) == "25"


async def carried(store: FakeStore) -> FakeStore:
    """T0000002's batch carries the first one of T0000001."""
    batch = Batch(terminal_id="T0000002", number=1, opened_ms=1, carries="T0000001/1")
    await store.commit(PutBatch(batch), PutDevice(OTHER))
    return store


async def test_with_its_own_id_it_speaks_under_the_old_one(autojump_clock: MockClock) -> None:
    async with rig(await carried(FakeStore())) as node:
        sold, kept = purchase(1), purchase(2)
        assert await node.code(sold) == await node.code(kept) == "00"
        void = void_of(sold, 1, {41: "T0000002"})
        reply = await node.ask(void, device=OTHER)
        assert (reply.message.response_code, reply.message.terminal_id) == ("00", "T0000002")
        sent = node.acquirers["a"].received[-1]
        assert sent.terminal_id == "T0000001"
        original = node.acquirers["a"].received[0]
        assert sent.get(90)[4:20] == f"{original.stan}{original.get(7)}"
        # A repeat of it hears the same, and is not sent again.
        count = len(node.acquirers["a"].received)
        assert (await node.ask(void, device=OTHER)).message.response_code == "00"
        assert len(node.acquirers["a"].received) == count
        closing = settlement(3, {41: "T0000002"})
        answer = (await node.ask(closing, device=OTHER)).message
        assert (answer.get(76), answer.get(88)) == (f"{1:010d}", f"{1000:016d}")
        # What was carried is closed with it.
        late = void_of(kept, 4, {41: "T0000002"})
        assert (await node.ask(late, device=OTHER)).message.response_code == "25"


async def test_what_it_carries_is_found_in_its_upload(autojump_clock: MockClock) -> None:
    async with rig(await carried(FakeStore())) as node:
        sold, own = purchase(1), purchase(2, {41: "T0000002"})
        assert await node.code(sold) == await node.code(own, device=OTHER) == "00"
        closing = settlement(3, {41: "T0000002", 76: "9".zfill(10), 88: "1".zfill(16)})
        assert await node.code(closing, device=OTHER) == "95"
        for one in (sold, own):
            record = Message("0320", one.fields | {39: "00", 41: "T0000002"})
            assert await node.code(record, device=OTHER) == "00"
        assert await node.store.uploads("T0000002", 1) == {Compared.SAME: 2}


async def test_a_void_in_doubt_is_reversed_under_the_old_id(autojump_clock: MockClock) -> None:
    async with rig(await carried(FakeStore())) as node:
        sold = purchase(1)
        assert await node.code(sold) == "00"
        node.acquirers["a"].script = silent
        void = void_of(sold, 1, {41: "T0000002"})
        reply = await node.ask(void, device=OTHER)
        assert reply.message.response_code == "91"
        node.acquirers["a"].script = approve
        await trio.sleep(20)
        taken_back = node.acquirers["a"].received[-1]
        assert (taken_back.mti[:2], taken_back.terminal_id) == ("04", "T0000001")


async def test_another_shops_terminal_refunds_under_its_own_id(autojump_clock: MockClock) -> None:
    async with rig() as node:
        sold = purchase(1)
        reply = await node.ask(sold)
        neighbour = replace(OTHER, inherits=())
        refund = refund_of(sold, 2, {41: "T0000002"}).without([90])
        refund = refund.changed({37: reply.message.rrn, 38: reply.message.get(38)})
        assert await node.code(refund, device=neighbour) == "00"
        assert node.acquirers["a"].received[-1].terminal_id == "T0000002"


async def test_what_waits_while_its_device_is_replaced_begins_nothing(
    autojump_clock: MockClock,
) -> None:
    async with rig() as node:
        sold, frozen = purchase(1), set[str]()
        assert await node.code(sold) == "00"
        node.flow.in_service = lambda device: device.terminal_id not in frozen
        codes: list[str] = []

        async def ask(message: Message) -> None:
            codes.append(await node.code(message))

        async with trio.open_nursery() as nursery, node.batches.held("T0000001"):
            nursery.start_soon(ask, purchase(2))
            nursery.start_soon(ask, settlement(3))
            await trio.testing.wait_all_tasks_blocked()
            frozen.add("T0000001")
        # Else its batch would be opened again, and its sales counted there as well.
        assert codes == ["58", "58"]
        assert await node.code(reversal_of(sold)) == "00"
        assert {one.stan for one in node.store.transactions.values()} == {"000001"}


async def test_a_close_that_is_under_way_as_its_device_is_replaced_closes_nothing(
    autojump_clock: MockClock,
) -> None:
    async with rig() as node:
        assert await node.code(purchase(1)) == "00"
        serves = iter([True, False])  # as it comes, and once the replacement has let it go on
        node.flow.in_service = lambda _: next(serves)
        assert await node.code(settlement(2)) == "58"
        batch = node.batches.open_of("T0000001")
        assert batch is not None
        assert batch.number == 1
