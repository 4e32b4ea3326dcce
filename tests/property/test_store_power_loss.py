"""What the store has acknowledged survives a loss of power at any moment, and a disk that fails."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import apsw
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import StoreError
from gateway.store import sqlite
from gateway.store.sqlite import SqliteStore
from gateway.store.store import EndReversal, MarkDelivered, OweReversal, State
from tests.support.powerloss import PowerDisk, Snapshot, restore
from tests.support.stores import Emitted, a_transaction, opened, settled

PAYERS = 6
PAYMENTS = 15  # of each payer
SNAPSHOTS = 8
# How far each state is on its way; an acknowledged one may have gone on, and never back.
ORDER = (
    State.INTENDED,
    State.ANSWERED,
    State.DELIVERED,
    State.REVERSAL_OWED,
    State.REVERSED,
)


@dataclass
class Losses:
    """Takes snapshots of a disk at random moments, with what was acknowledged until then."""

    disk: PowerDisk
    random: Random
    acknowledged: dict[int, State] = field(default_factory=dict)
    taken: list[tuple[Snapshot, dict[int, State]]] = field(default_factory=list)

    def maybe(self) -> None:
        if len(self.taken) < SNAPSHOTS and self.random.random() < 0.08:
            self.take()

    def take(self) -> None:
        acknowledged = dict(self.acknowledged)  # first: what is acknowledged later may be lost
        self.taken.append((self.disk.snapshot(), acknowledged))


async def _pay(store: SqliteStore, payer: int, losses: Losses) -> None:
    for number in range(payer * 1_000 + 1, payer * 1_000 + 1 + PAYMENTS):
        await store.intend(a_transaction(number))
        losses.acknowledged[number] = State.INTENDED
        if number % 3:
            await store.commit(settled(number))
            losses.acknowledged[number] = State.ANSWERED
            store.post(MarkDelivered(number, 1))
        else:
            await store.commit(OweReversal(number, "one", "68", 7))
            losses.acknowledged[number] = State.REVERSAL_OWED
            if number % 2:
                await store.commit(EndReversal(number, State.REVERSED))
                losses.acknowledged[number] = State.REVERSED


async def _run(folder: Path, *, seed: int, writes_survive: bool, synchronous: str) -> int:
    """How many acknowledged transactions the losses of power lost, or put back."""
    random = Random(seed)
    with PowerDisk(random if writes_survive else None) as disk:
        async with opened(folder / "s", vfs=disk.vfs_name, batch_max=8) as store:
            store._writer._connection.pragma("synchronous", synchronous)
            losses = Losses(disk, random)
            disk.on_operation = losses.maybe
            async with trio.open_nursery() as nursery:
                for payer in range(PAYERS):
                    nursery.start_soon(_pay, store, payer, losses)
            losses.take()
            disk.on_operation = lambda: None
    lost = 0
    for number, (snapshot, acknowledged) in enumerate(losses.taken):
        restore(snapshot, folder / str(number))
        lost += await _lost(folder / str(number) / "s", acknowledged)
    return lost


async def _lost(path: Path, acknowledged: dict[int, State]) -> int:
    async with opened(path) as store:
        check = await store._read("PRAGMA integrity_check")
        assert check == [("ok",)]
        lost = 0
        for number, state in acknowledged.items():
            found = await store.transaction(number)
            lost += found is None or ORDER.index(found.state) < ORDER.index(state)
        owed = {reversal.transaction_id for reversal in await store.owed_reversals()}
        for number, state in acknowledged.items():
            found = await store.transaction(number)
            if found is not None and state is State.REVERSAL_OWED:
                lost += found.state is State.REVERSAL_OWED and number not in owed
    return lost


@pytest.mark.parametrize("writes_survive", [False, True])
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32), checkpoint_pages=st.sampled_from([10, 4_000]))
def test_what_was_acknowledged_survives_a_power_loss(
    writes_survive: bool, seed: int, checkpoint_pages: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(sqlite, "_CHECKPOINT_PAGES", checkpoint_pages)

        async def run() -> int:
            return await _run(
                Path(folder), seed=seed, writes_survive=writes_survive, synchronous="full"
            )

        assert trio.run(run) == 0


@pytest.mark.parametrize("synchronous", ["normal", "off"])
async def test_a_store_that_acknowledges_before_it_syncs_is_found_out(
    tmp_path: Path, synchronous: str
) -> None:
    assert await _run(tmp_path, seed=1, writes_survive=False, synchronous=synchronous) > 0


@pytest.mark.parametrize("code", [apsw.SQLITE_FULL, apsw.SQLITE_IOERR_WRITE])
async def test_a_store_whose_disk_is_full_loses_nothing_and_recovers(
    tmp_path: Path, code: int
) -> None:
    emitted = Emitted()
    with PowerDisk() as disk:
        async with opened(tmp_path / "s", vfs=disk.vfs_name, emit=emitted) as store:
            await store.intend(a_transaction(1))
            disk.fail_writes = code
            with pytest.raises(StoreError, match="not durable"):
                await store.intend(a_transaction(2))
            with pytest.raises(StoreError, match="not durable"):
                await store.commit(settled(1))
            assert not store.health().healthy
            found = await store.transaction(1)
            assert found is not None
            assert found.state is State.INTENDED
            assert await store.transaction(2) is None

            disk.fail_writes = None
            assert await store.intend(a_transaction(2)) is None
            await store.commit(settled(1))
            assert store.health().healthy
            snapshot = disk.snapshot()
    assert len(emitted) == 2  # failing, recovered
    restore(snapshot, tmp_path / "after")
    assert await _lost(tmp_path / "after" / "s", {1: State.ANSWERED, 2: State.INTENDED}) == 0


async def test_after_a_failed_sync_nothing_more_is_written(tmp_path: Path) -> None:
    reasons: list[str] = []
    with PowerDisk() as disk:
        async with opened(tmp_path / "s", vfs=disk.vfs_name, fatal=reasons.append) as store:
            await store.intend(a_transaction(1))
            disk.fail_syncs = apsw.SQLITE_IOERR_FSYNC
            with pytest.raises(StoreError, match="not durable"):
                await store.intend(a_transaction(2))
            assert len(reasons) == 1
            disk.fail_syncs = None  # The kernel says it once, and then forgets it.
            writes = disk.writes
            with pytest.raises(StoreError, match="sync of the disk failed before"):
                await store.intend(a_transaction(3))
            assert disk.writes == writes
            snapshot = disk.snapshot()
    assert len(reasons) == 1
    restore(snapshot, tmp_path / "after")
    assert await _lost(tmp_path / "after" / "s", {1: State.INTENDED}) == 0


async def test_a_checkpoint_beside_the_writer_that_fails_stops_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_CHECKPOINT_PAGES", 10)
    reasons: list[str] = []
    acknowledged: dict[int, State] = {}
    with PowerDisk() as disk:
        async with opened(tmp_path / "s", vfs=disk.vfs_name, fatal=reasons.append) as store:
            disk.fail_database_syncs = True
            for number in range(1, 2_000):
                try:
                    await store.intend(a_transaction(number))
                except StoreError:
                    break
                acknowledged[number] = State.INTENDED
            assert len(reasons) == 1
            assert "sync" in reasons[0]
            # No page of the log was given up before the database had it for good.
            snapshot = disk.snapshot()
        assert disk.snapshot()["s-wal"] == snapshot["s-wal"]
    restore(snapshot, tmp_path / "after")
    assert await _lost(tmp_path / "after" / "s", acknowledged) == 0


async def test_a_checkpoint_that_fails_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_CHECKPOINT_PAGES", 10)
    with PowerDisk() as disk:
        async with opened(tmp_path / "s", vfs=disk.vfs_name, emit=Emitted()) as store:
            for number in range(1, 60):
                # The log is synced by each commit, the database by a checkpoint alone.
                disk.fail_database_syncs = number == 30
                try:
                    await store.intend(a_transaction(number))
                except StoreError:
                    break
            snapshot = disk.snapshot()
        assert number > 30
    restore(snapshot, tmp_path / "after")
    acknowledged = dict.fromkeys(range(1, number), State.INTENDED)
    assert await _lost(tmp_path / "after" / "s", acknowledged) == 0
