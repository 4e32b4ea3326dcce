from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gateway.clock import VirtualClock
from gateway.errors import OperatorError, StoreError
from gateway.settings.schema import Retention as RetentionSettings
from gateway.store.store import (
    Batch,
    DeviceEvent,
    Forget,
    MarkDelivered,
    NoteDevice,
    Operation,
    OweReversal,
    PutBatch,
    PutTombstone,
    PutUpload,
    Settle,
    State,
    Tombstone,
)
from gateway.telemetry.events import Event
from gateway.transactions.archive import Archive, Archived, line_of
from gateway.transactions.retention import Retention
from tests.support.fake_store import FakeStore
from tests.support.stores import Emitted, a_transaction, opened, settled

DAY_MS = 86_400_000
TODAY = 20_000  # days since 1970: 2024-10-04
OLD = "2024-09-24"  # ten days ago


def at(days_ago: int, ms: int = 3_600_000) -> int:
    return (TODAY - days_ago) * DAY_MS + ms


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def retention(store: Any, folder: Path, **changes: Any) -> tuple[Retention, Emitted]:
    emitted = Emitted()
    settings = RetentionSettings(
        **{"transactions_days": 7, "step_rows": 3, "pause_ms": 10, "tombstones_days": 7, **changes}
    )
    made = Retention(
        store=store,
        settings=settings,
        folder=folder,
        grace_s=60,
        clock=VirtualClock(at(0)),
        emit=emitted,
    )
    return made, emitted


async def filled(store: FakeStore, *days_ago: int, state: State = State.DELIVERED) -> None:
    """A finished transaction for each number of days, and one of today behind them."""
    for number, days in enumerate((*days_ago, 0), start=1):
        await store.intend(
            a_transaction(number, created_ms=at(days), repeat_key=f"key {number}", batch=1)
        )
        await store.commit(settled(number, state=state))


def lines(folder: Path, name: str = f"transactions-{OLD}.jsonl.gz") -> list[dict[str, Any]]:
    with gzip.open(folder / name) as file:
        return [json.loads(line) for line in file]


def names(folder: Path, pattern: str = "*") -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


async def test_old_days_are_archived_then_deleted(
    store: FakeStore, folder: Path, autojump_clock: MockClock
) -> None:
    await filled(store, 10, 10, 10, 10, 9, 7)
    made, _ = retention(store, folder)
    done = await made.once()
    assert (done.archived, done.deleted, done.kept) == (5, 5, 0)
    assert set(store.transactions) == {6, 7}
    assert names(folder) == [
        f"transactions-{OLD}.jsonl.gz",
        f"transactions-{OLD}.jsonl.gz.json",
        "transactions-2024-09-25.jsonl.gz",
        "transactions-2024-09-25.jsonl.gz.json",
    ]
    assert [line["transaction_id"] for line in lines(folder)] == [1, 2, 3, 4]
    modes = {name: (folder / name).stat().st_mode & 0o777 for name in (".", *names(folder))}
    assert modes.pop(".") == 0o700
    assert set(modes.values()) == {0o600}


async def test_an_archived_line_is_masked(store: FakeStore, folder: Path) -> None:
    transaction = replace(a_transaction(1), image=b"sealed image", answer=b"sealed answer")
    line = json.dumps(line_of(transaction))
    assert "622848******1234" in line
    for secret in (transaction.card_token, "sealed", transaction.content):
        assert secret not in line


async def test_a_manifest_says_what_its_file_holds(
    store: FakeStore, folder: Path, autojump_clock: MockClock
) -> None:
    await filled(store, 10, 10)
    made, _ = retention(store, folder)
    await made.once()
    (manifest,) = Archive(folder).manifests()
    content = (folder / manifest.file).read_bytes()
    assert manifest.sha256 == hashlib.sha256(content).hexdigest()
    assert (manifest.day, manifest.transactions, manifest.bytes) == (OLD, 2, len(content))
    assert (manifest.first_id, manifest.last_id, manifest.kept) == (1, 2, ())
    assert Archive(folder).faults(manifest) == ""
    (folder / manifest.file).write_bytes(content[:-1] + b"x")
    assert "checksum" in Archive(folder).faults(manifest)
    (folder / manifest.file).write_bytes(content[:-1])
    assert "bytes" in Archive(folder).faults(manifest)
    (folder / manifest.file).unlink()
    assert "cannot be read" in Archive(folder).faults(manifest)


@pytest.mark.parametrize(
    "operations",
    [
        (),
        (OweReversal(1, "one", "68", 7),),
        (OweReversal(1, "one", "68", 7, state=State.ADVICE_OWED),),
        (settled(1, state=State.GIVEN_UP),),
        (settled(1, state=State.TIMED_OUT),),
        (Settle(1, State.ANSWERED, "00", "1", b"", at(0) - 10_000, False),),
        (
            PutBatch(Batch(terminal_id="T0000001", number=4, opened_ms=1)),
            settled(1, state=State.DELIVERED),
        ),
    ],
)
async def test_nothing_open_is_deleted(
    store: FakeStore, folder: Path, autojump_clock: MockClock, operations: tuple[Operation, ...]
) -> None:
    await store.intend(a_transaction(1, created_ms=at(50), batch=4))
    await store.commit(*operations)
    await store.intend(a_transaction(2, created_ms=at(0)))
    made, _ = retention(store, folder)
    done = await made.once()
    assert (done.archived, done.deleted, done.kept) == (0, 0, 1)
    assert set(store.transactions) == {1, 2}
    assert names(folder) == []


async def test_an_open_batch_keeps_its_transactions_only_so_long(
    store: FakeStore, folder: Path, autojump_clock: MockClock
) -> None:
    await filled(store, 10, 10)
    await store.commit(
        PutBatch(Batch(terminal_id="T0000001", number=1, opened_ms=1)),
        PutBatch(Batch(terminal_id="T0000002", number=2, opened_ms=1)),
    )
    made, _ = retention(store, folder)
    await made.once()
    assert set(store.transactions) == {1, 3}  # the second one's batch is closed
    made, _ = retention(store, folder, open_batches_days=9)
    await made.once()
    assert set(store.transactions) == {3}


async def test_what_was_open_is_archived_later_in_a_second_file(
    store: FakeStore, folder: Path, autojump_clock: MockClock
) -> None:
    await filled(store, 10, 10, 10)
    await store.commit(OweReversal(2, "one", "68", 7))
    made, _ = retention(store, folder)
    await made.once()
    assert [line["transaction_id"] for line in lines(folder)] == [1, 3]
    assert set(store.transactions) == {2, 4}
    await store.commit(settled(2, state=State.REVERSED))
    del store.reversals[2]
    await made.once()
    second = lines(folder, f"transactions-{OLD}-2.jsonl.gz")
    assert [line["transaction_id"] for line in second] == [2]
    assert set(store.transactions) == {4}
    assert [(one.part, one.kept) for one in Archive(folder).manifests()] == [(1, (2,)), (2, ())]


async def test_a_crash_before_the_deletion_archives_nothing_twice(
    store: FakeStore, folder: Path, autojump_clock: MockClock
) -> None:
    await filled(store, *[10] * 8)
    made, _ = retention(store, folder)
    store.fail_after = 1  # the second step's deletion fails
    with pytest.raises(StoreError):
        await made.once()
    assert len(store.transactions) == 6
    store.fail_after = None
    made, _ = retention(store, folder)
    done = await made.once()
    assert (done.archived, done.deleted) == (0, 5)
    assert names(folder, "*.gz") == [f"transactions-{OLD}.jsonl.gz"]
    assert [line["transaction_id"] for line in lines(folder)] == list(range(1, 9))


def leave_half_a_file(folder: Path) -> None:
    folder.mkdir(exist_ok=True)  # the clock may have jumped before its thread had made it
    (folder / f"transactions-{OLD}.jsonl.gz.part").write_bytes(b"of one that was killed")


async def test_a_crash_while_a_file_is_written_begins_it_again(
    store: FakeStore, folder: Path, autojump_clock: MockClock
) -> None:
    await filled(store, *[10] * 8)
    made, _ = retention(store, folder)
    with trio.move_on_after(0.015):  # the second step of the file
        await made.once()
    assert names(folder) == []
    leave_half_a_file(folder)
    await made.once()
    assert len(lines(folder)) == 8
    assert names(folder, "*.part") == []
    assert set(store.transactions) == {9}


async def test_without_an_archive_it_is_only_deleted(
    store: FakeStore, folder: Path, autojump_clock: MockClock
) -> None:
    await filled(store, 10, 9)
    made, _ = retention(store, folder, archive=False)
    assert (await made.once()).deleted == 2
    assert names(folder) == []


async def test_each_deletion_is_small_and_followed_by_a_pause(
    store: FakeStore, folder: Path, autojump_clock: MockClock
) -> None:
    await filled(store, *[10] * 7)
    made, _ = retention(store, folder)
    started_s = trio.current_time()
    await made.once()
    forgotten = [op for (op, *_) in store.commits if isinstance(op, Forget)]
    assert [len(op.transaction_ids) for op in forgotten] == [3, 3, 1]
    assert trio.current_time() - started_s == pytest.approx(0.06)  # three steps, read and deleted


async def test_tombstones_uploads_and_batches_come_to_their_end(
    store: FakeStore, folder: Path, autojump_clock: MockClock
) -> None:
    old_ms, new_ms = at(500), at(1)
    for number, ms in enumerate((old_ms, old_ms, old_ms, old_ms, new_ms)):
        await store.commit(
            PutTombstone(Tombstone(f"key {number}", ms)),
            PutUpload("T1", number, "000001", ms, b""),
            PutBatch(Batch(terminal_id="T1", number=number, opened_ms=1, closed_ms=ms)),
        )
    await store.commit(PutBatch(Batch(terminal_id="T1", number=2, opened_ms=1)))
    made, _ = retention(store, folder)
    done = await made.once()
    assert list(store.tombs) == ["key 4"]
    assert [batch for _, batch, _ in store.uploaded] == [2, 4]
    assert [number for _, number in store.batches_by_key] == [2, 4]
    assert done.leftovers == 4 + 3 + 3


async def test_a_devices_history_is_kept_as_long_as_the_settings_say(
    store: FakeStore, folder: Path, autojump_clock: MockClock
) -> None:
    for days in (500, 300, 300, 300, 300, 200):
        event = DeviceEvent(terminal_id="T1", at_ms=at(days), who="ada", what="inspect")
        await store.commit(NoteDevice(event))
    made, _ = retention(store, folder)
    assert not (await made.once()).anything  # ten years
    made, _ = retention(store, folder, device_history_days=299)
    assert (await made.once()).leftovers == 5
    assert [one.at_ms for one in store.events_by_id.values()] == [at(200)]


async def test_it_runs_now_and_then_and_says_what_it_did(
    store: FakeStore, folder: Path, autojump_clock: MockClock
) -> None:
    await filled(store, 10)
    made, emitted = retention(store, folder, every_s=1_000, archive=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        await trio.sleep(59)
        assert emitted == []
        await trio.sleep(2)
        assert emitted == [
            (Event.RETENTION_DONE, {"archived": 0, "deleted": 1, "kept": 0, "leftovers": 0})
        ]
        store.failing = True
        await trio.sleep(1_000)
        assert emitted.names()[1:] == [Event.RETENTION_FAILED]
        store.failing = False
        await trio.sleep(2_000)
        assert emitted.names()[2:] == [Event.RETENTION_DONE]  # and nothing where nothing was done
        nursery.cancel_scope.cancel()


async def test_switched_off_it_does_nothing(
    store: FakeStore, folder: Path, autojump_clock: MockClock
) -> None:
    await filled(store, 10)
    made, _ = retention(store, folder, enabled=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
    assert set(store.transactions) == {1, 2}


async def test_a_broken_manifest_stops_it(
    store: FakeStore, folder: Path, autojump_clock: MockClock
) -> None:
    await filled(store, 10, 9)
    made, _ = retention(store, folder)
    await made.once()
    (folder / names(folder, "*.json")[0]).write_text("{}")
    with pytest.raises(OperatorError, match="manifest"):
        await made.once()


def test_what_is_archived_is_known_by_the_manifests() -> None:
    assert 1 not in Archived([])


async def test_the_real_store_forgets(folder: Path, tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        for number in range(1, 11):
            await store.intend(a_transaction(number, created_ms=at(10)))
        await store.commit(*(settled(number) for number in range(1, 10)))
        await store.commit(MarkDelivered(1, 5), OweReversal(2, "one", "68", 7))
        made, _ = retention(store, folder, pause_ms=0)
        done = await made.once()
        assert (done.archived, done.deleted, done.kept) == (8, 8, 2)
        assert await store.last_transaction_id() == 10
        left = await store.oldest(after_id=0, until_ms=at(0), limit=100)
        assert [one.transaction_id for one in left] == [2, 10]
        assert await store.find_by_rrn("", 5) == []
