"""What the simulation is made of does what it says: networks that cut, disks that fail, ledgers."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing

from gateway.errors import StoreError
from loadtest.ledger import Entry
from tests.simulation.acquirer import MemoryLedger
from tests.simulation.disk import Disk, SimulatedStore
from tests.simulation.network import Network, SimulatedStream
from tests.simulation.plan import DiskPlan, Weather, plan_of
from tests.simulation.trace import About, Trace
from tests.support.stores import Emitted, a_transaction

Clock = trio.testing.MockClock


def a_pair(weather: Weather | None = None) -> tuple[SimulatedStream, SimulatedStream]:
    ours, theirs = Network(Random(1), Trace()).pair("one", "two", weather or Weather())
    return ours, theirs


async def everything(stream: SimulatedStream) -> bytes:
    """What can be read until the stream ends or breaks."""
    got = b""
    try:
        while data := await stream.receive_some():
            got += data
    except trio.BrokenResourceError:
        pass
    return got


# --- network --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut_at", [0, 1, 7, 9])
async def test_a_connection_is_cut_at_its_byte(cut_at: int, autojump_clock: Clock) -> None:
    ours, theirs = a_pair()
    ours.doom(cut_at_bytes=cut_at, mute_at_bytes=float("inf"))
    await ours.send_all(b"0123")
    await ours.send_all(b"456789")
    assert await everything(theirs) == b"0123456789"[:cut_at]
    with pytest.raises(trio.BrokenResourceError):
        await ours.send_all(b"more")


async def test_a_mute_connection_tells_nobody_until_the_kernel_does(autojump_clock: Clock) -> None:
    ours, theirs = a_pair()
    ours.doom(cut_at_bytes=float("inf"), mute_at_bytes=3)
    await ours.send_all(b"0123456789")
    assert theirs.established
    assert await everything(theirs) == b"012"
    assert trio.current_time() > 5


async def test_what_is_sent_arrives_in_order_however_slow(autojump_clock: Clock) -> None:
    ours, theirs = a_pair(Weather(slow=0.5, slow_s=5.0, split=0.5, stall=0.3, stall_s=2.0))
    sent = bytes(range(256)) * 4
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            for at in range(0, len(sent), 32):
                await ours.send_all(sent[at : at + 32])
            await ours.aclose()

        nursery.start_soon(send)
        assert await everything(theirs) == sent


async def test_a_host_without_power_says_nothing_more(autojump_clock: Clock) -> None:
    ours, theirs = a_pair()
    await ours.send_all(b"before")
    ours.vanish()
    await ours.send_all(b"after")
    ours.close()
    assert await everything(theirs) == b"before"


async def test_the_end_of_a_process_is_told_to_its_peers(autojump_clock: Clock) -> None:
    ours, theirs = a_pair()
    ours.kill(reset=False)
    await trio.sleep(1)
    assert not theirs.established
    assert await theirs.receive_some() == b""
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"too late")


async def test_what_is_unread_is_in_flight(autojump_clock: Clock) -> None:
    ours, theirs = a_pair()
    seen = [ours.in_flight]
    await ours.send_all(b"request")
    seen.append(ours.in_flight)
    await theirs.receive_some()
    seen.append(ours.in_flight)
    assert seen == [False, True, False]


# --- disk -----------------------------------------------------------------------------------------


async def a_store(path: Path) -> SimulatedStore:
    return await SimulatedStore.open(path, queue_max=100, batch_max=10, emit=Emitted())


async def test_the_real_store_keeps_in_virtual_time_what_it_acknowledged(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    disk = Disk(DiskPlan(commit_s=2.0), Random(1), Trace())
    store = await a_store(tmp_path / "store.db")
    store.attach(disk, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.writer.run, disk, lambda where: None)
        assert await store.intend(a_transaction(1)) is None
        assert trio.current_time() > 0.9
        with trio.move_on_after(0.1) as killed:
            await store.intend(a_transaction(2))
        assert killed.cancelled_caught
        store.drop()
        nursery.cancel_scope.cancel()
    again = await a_store(tmp_path / "store.db")
    assert [one.transaction_id for one in await again.unsettled(10)] == [1]
    await again.aclose()


async def test_a_full_disk_fails_in_the_middle_and_is_well_again(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    disk = Disk(DiskPlan(), Random(1), Trace())
    store = await a_store(tmp_path / "store.db")
    store.attach(disk, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.writer.run, disk, lambda where: None)
        disk._full = True
        with pytest.raises(StoreError, match="Full"):
            await store.intend(a_transaction(1, image=bytes(50_000)))
        disk.heal()
        assert await store.intend(a_transaction(1, image=bytes(50_000))) is None
        nursery.cancel_scope.cancel()
    await store.aclose()


# --- the rest -------------------------------------------------------------------------------------


def an_entry(**changes: object) -> Entry:
    values: dict[str, object] = {
        "stan": "000001",
        "transmitted": "1121120000",
        "terminal_id": "T0000001",
        "merchant_id": "M",
        "mti": "0200",
        "kind": "purchase",
        "amount_minor": 5,
        "currency": "978",
        "reference": "",
        "rrn": "001000000001",
        "approval_code": "",
        "response_code": "00",
        "approved": True,
        "double": False,
        "received_ms": 1,
    }
    return Entry(**(values | changes))  # type: ignore[arg-type]


def test_an_acquirers_ledger_finds_what_it_holds() -> None:
    ledger = MemoryLedger()
    made = ledger.add(an_entry())
    assert (made.entry_id, made.reference, made.holds_money) == (1, "001000000001", True)
    ledger.mark_reversed(made, amount_minor=5, now_ms=9)
    assert not ledger.entries[1].holds_money


def test_a_plan_is_the_seeds_alone() -> None:
    assert plan_of(7) == plan_of(7)
    assert plan_of(7) != plan_of(8)
    assert {plan_of(seed).crashes.steps > 0 for seed in range(20)} == {True, False}


async def test_a_trace_can_be_asked_for_one_transaction(autojump_clock: Clock) -> None:
    trace = Trace()
    trace("gateway", "killed")
    trace("T0000001", "asks", terminal="T0000001", stan="000001")
    trace("gateway", "reversal_owed", transaction=5)
    trace("north", "decided", upstream="north", upstream_stan="000007")
    trace("T0000002", "asks", terminal="T0000002", stan="000001")
    about = About("T0000001", {"000001"}, {5}, {("north", "000007")})
    assert [line.what for line in trace.about([about])] == [
        "killed",
        "asks",
        "reversal_owed",
        "decided",
    ]
