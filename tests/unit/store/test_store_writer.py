from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from gateway.errors import StoreError, StoreOverloaded
from gateway.store import rows
from gateway.store.sqlite import SqliteStore
from gateway.store.store import MarkDelivered, Operation, PutDevice, Settle, State, Transaction
from gateway.store.writer import _SIZES
from gateway.telemetry.events import Event
from tests.support.powerloss import PowerDisk
from tests.support.stores import (
    Emitted,
    a_device,
    a_transaction,
    disk_of,
    io_error,
    opened,
    settled,
)

ROOT = Path(__file__).parents[3]


class Callers:
    """Calls of the store that wait side by side, started one after the other."""

    def __init__(self, nursery: trio.Nursery, store: SqliteStore) -> None:
        self._nursery = nursery
        self._store = store
        self.results: dict[int, object] = {}

    async def intend(self, transaction: Transaction) -> int:
        number = len(self.results)
        self.results[number] = "waits"

        async def call() -> None:
            try:
                self.results[number] = await self._store.intend(transaction)
            except StoreError as error:
                self.results[number] = error

        self._nursery.start_soon(call)
        await wait_all_tasks_blocked()
        return number

    async def commit(self, *operations: Operation) -> int:
        number = len(self.results)
        self.results[number] = "waits"

        async def call() -> None:
            try:
                await self._store.commit(*operations)
                self.results[number] = None
            except StoreError as error:
                self.results[number] = error

        self._nursery.start_soon(call)
        await wait_all_tasks_blocked()
        return number


async def test_what_waits_is_one_statement(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store, trio.open_nursery() as nursery:
        disk = disk_of(store)
        callers = Callers(nursery, store)
        with disk.held():
            await callers.intend(a_transaction(1))
            await disk.taken()
            for number in range(2, 7):
                await callers.intend(a_transaction(number))
            await callers.commit(settled(1), settled(2))
            store.post(MarkDelivered(1, 5))
            assert store.health().queue_depth == 9
            assert set(callers.results.values()) == {"waits"}
        while "waits" in callers.results.values():
            await trio.lowlevel.checkpoint()
        assert set(callers.results.values()) == {None}
        assert disk.sizes == [rows.COLUMNS, 8 * rows.COLUMNS]
        assert store.health().queue_depth == 0
        found = await store.transaction(1)
        assert found is not None
        assert found.state is State.DELIVERED


async def test_a_batch_has_a_bound(tmp_path: Path) -> None:
    async with opened(tmp_path / "s", batch_max=4) as store:
        disk = disk_of(store)
        with disk.held():
            for number in range(11):
                store.post(PutDevice(a_device(number)))
        await store.commit(PutDevice(a_device(11)))
        assert len(await store.devices()) == 12
    assert max(disk.sizes) == 4 * rows.COLUMNS


async def test_of_two_intents_with_one_key_in_a_batch_the_first_wins(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store, trio.open_nursery() as nursery:
        disk = disk_of(store)
        callers = Callers(nursery, store)
        first, second = a_transaction(2, repeat_key="k"), a_transaction(3, repeat_key="k")
        with disk.held():
            await callers.intend(a_transaction(1))
            await callers.intend(first)
            await callers.intend(second)
            await callers.intend(a_transaction(4))
        await wait_until(callers)
        assert callers.results == {0: None, 1: None, 2: first, 3: None}
        assert await store.transaction(3) is None
        assert len(await store.unsettled(10)) == 3


async def test_one_callers_fault_is_not_the_others(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store, trio.open_nursery() as nursery:
        callers = Callers(nursery, store)
        await store.intend(a_transaction(1))
        with disk_of(store).held():
            await callers.intend(a_transaction(2))
            await callers.commit(settled(1))
            await callers.commit(PutDevice(a_device(1)), settled(99))
            await callers.intend(a_transaction(1, repeat_key="another"))
            await callers.intend(a_transaction(3))
            await callers.intend(a_transaction(4, repeat_key=a_transaction(3).repeat_key))
            await callers.commit(settled(3))
        await wait_until(callers)
        results = callers.results
        assert [results[n] for n in (0, 1, 4, 6)] == [None] * 4
        assert "no such transaction" in str(results[2])
        assert "refused" in str(results[3])
        assert isinstance(results[5], Transaction)
        assert results[5].transaction_id == 3
        assert await store.devices() == []
        assert store.health().healthy


async def wait_until(callers: Callers) -> None:
    """Let the loop run until every caller has its result."""
    while "waits" in callers.results.values():
        await trio.lowlevel.checkpoint()


async def test_over_its_bound_nothing_is_taken(tmp_path: Path) -> None:
    async with opened(tmp_path / "s", queue_max=3) as store:
        with disk_of(store).held():
            for number in (1, 2):
                store.post(PutDevice(a_device(number)))
            with pytest.raises(StoreOverloaded):
                await store.commit(PutDevice(a_device(3)), PutDevice(a_device(4)))
            store.post(PutDevice(a_device(5)))
            with pytest.raises(StoreOverloaded):
                store.post(PutDevice(a_device(6)))
            with pytest.raises(StoreOverloaded):
                await store.intend(a_transaction(1))
            assert store.health().queue_depth == 3
        while store.health().queue_depth:
            await trio.lowlevel.checkpoint()
        assert [device.device_id for device in await store.devices()] == [1, 2, 5]
        await store.intend(a_transaction(1))


async def test_who_stops_waiting_does_not_stop_the_commit(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        with disk_of(store).held():
            with trio.move_on_after(10) as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(store.intend, a_transaction(1))
                    await wait_all_tasks_blocked()
                    scope.cancel()
            assert scope.cancelled_caught
            # Cancelled before anything was queued: nothing is.
            with trio.CancelScope() as before:
                before.cancel()
                await store.intend(a_transaction(2))
            assert store.health().queue_depth == 1
        await store.commit(settled(1))
        assert await store.transaction(2) is None


def _names(folder: Path) -> list[str]:
    return sorted(found.name for found in folder.iterdir())


async def test_closing_commits_what_is_queued(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        with disk_of(store).held():
            for number in range(50):
                store.post(PutDevice(a_device(number)))
    async with opened(tmp_path / "s") as store:
        assert len(await store.devices()) == 50
    # The log is empty, so that the file alone is the whole store.
    assert _names(tmp_path) == ["s", "s.lock"]


async def test_each_commit_is_in_the_file_when_it_returns(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        for number in range(1, 6):
            await store.intend(a_transaction(number))
            # A reader of its own, as a restart would be.
            reader = apsw.Connection(str(tmp_path / "s"), flags=apsw.SQLITE_OPEN_READONLY)
            assert reader.execute("SELECT max(transaction_id) FROM transactions").get == number
            reader.close()
        assert store._writer._connection.pragma("synchronous") == 2  # FULL
        assert store._writer._connection.pragma("journal_mode") == "wal"
    async with opened(tmp_path / "s") as store:
        assert len(await store.unsettled(10)) == 5


CHILD = """
import sys, trio
from gateway.store.sqlite import SqliteStore
from tests.support.stores import Emitted, a_transaction, settled

async def pay(store, numbers):
    for number in numbers:
        await store.intend(a_transaction(number))
        await store.commit(settled(number))
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()

async def main():
    store = await SqliteStore.open(sys.argv[1], queue_max=100, batch_max=50, emit=Emitted())
    async with trio.open_nursery() as nursery:
        for payer in range(8):
            nursery.start_soon(pay, store, range(payer + 1, 10**9, 8))

trio.run(main)
"""


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "s"
    child = subprocess.Popen(  # noqa: ASYNC220 (nothing else runs in this loop)
        [sys.executable, "-c", CHILD, str(path)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert child.stdout is not None
    with child.stdout:
        acknowledged = [int(child.stdout.readline()) for _ in range(300)]
        child.send_signal(signal.SIGKILL)
        # What it wrote before it died is acknowledged too; a cut line is not.
        acknowledged += [int(line) for line in child.stdout if line.endswith(b"\n")]
    assert child.wait() == -signal.SIGKILL
    async with opened(path) as store:  # its lock died with it
        for number in acknowledged:
            found = await store.transaction(number)
            assert found is not None
            assert found.state is State.ANSWERED
        # At most one each of the eight was under way.
        assert len(await store.unsettled(100)) <= 8
        assert await store.last_transaction_id() <= max(acknowledged) + 8


async def test_a_full_disk_fails_who_waits_and_is_got_over(tmp_path: Path) -> None:
    emitted = Emitted()
    fatal: list[str] = []
    async with opened(tmp_path / "s", emit=emitted, fatal=fatal.append) as store:
        await store.intend(a_transaction(1))
        connection = store._writer._connection
        bound = connection.pragma("max_page_count")
        connection.pragma("max_page_count", connection.pragma("page_count"))
        big = b"x" * 10_000
        for number in (2, 3):
            with pytest.raises(StoreError, match="FullError"):
                await store.intend(a_transaction(number, image=big))
        assert emitted.names() == [Event.STORE_FAILING]
        assert not store.health().healthy
        assert "FullError" in store.health().last_error
        # What is there can be read, and nothing of what failed is there.
        assert await store.transaction(1) == a_transaction(1)
        assert await store.transaction(2) is None

        connection.pragma("max_page_count", bound)
        await store.intend(a_transaction(2, image=big))
        assert emitted.names() == [Event.STORE_FAILING, Event.STORE_RECOVERED]
        assert store.health().healthy
        assert fatal == []


async def test_trouble_in_the_middle_fails_only_what_was_not_written(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store, trio.open_nursery() as nursery:
        disk = disk_of(store)
        callers = Callers(nursery, store)
        write, calls = disk.execute, 0

        def fails_later(statement: str, values: object = None) -> object:
            nonlocal calls
            calls += 1
            if calls == 5:  # 1: alone; 2: the batch; 3 to 5: its parts one by one
                raise io_error(apsw.SQLITE_IOERR_WRITE)
            return write(statement, values)

        disk.execute = fails_later  # type: ignore[method-assign]
        with disk.held():
            await callers.commit(PutDevice(a_device(1)))
            await disk.taken()
            await callers.commit(PutDevice(a_device(2)))
            await callers.commit(settled(99))
            await callers.commit(PutDevice(a_device(3)))
        await wait_until(callers)
        assert callers.results[0] is None
        assert callers.results[1] is None
        assert "no such" in str(callers.results[2])
        assert "not durable" in str(callers.results[3])
        assert [device.device_id for device in await store.devices()] == [1, 2]


@pytest.mark.parametrize("code", [apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC])
async def test_after_a_failed_sync_the_node_must_stop(tmp_path: Path, code: int) -> None:
    emitted = Emitted()
    fatal: list[str] = []
    async with opened(tmp_path / "s", emit=emitted, fatal=fatal.append) as store:
        disk = disk_of(store)
        disk.error = io_error(code)
        with pytest.raises(StoreError, match="not durable"):
            await store.intend(a_transaction(1))
        assert len(fatal) == 1
        assert "sync" in fatal[0]
        # The disk says that all is well again, and is not believed.
        disk.error = None
        with pytest.raises(StoreError, match="nothing more is written"):
            await store.intend(a_transaction(2))
        assert len(fatal) == 1
        assert emitted.names() == [Event.STORE_FAILING]
        assert not store.health().healthy


async def test_another_io_error_is_not_fatal(tmp_path: Path) -> None:
    fatal: list[str] = []
    async with opened(tmp_path / "s", fatal=fatal.append) as store:
        disk = disk_of(store)
        disk.error = io_error(apsw.SQLITE_IOERR_WRITE)
        with pytest.raises(StoreError, match="IOError"):
            await store.intend(a_transaction(1))
        disk.error = None
        await store.intend(a_transaction(1))
        assert fatal == []
        assert store.health().healthy


async def test_the_log_is_emptied_past_its_bound(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        store._writer._checkpoint_pages = 20
        largest = 0
        for number in range(1, 400):
            await store.intend(a_transaction(number, image=b"x" * 3_000))
            largest = max(largest, (tmp_path / "s-wal").stat().st_size)
        # Some pages go into the log while it is copied; without that it would be 1,000 and more.
        assert largest < 500 * 4_200


async def test_a_checkpoint_beside_the_writer_that_fails_to_sync_is_fatal(tmp_path: Path) -> None:
    fatal: list[str] = []
    with PowerDisk() as disk:
        async with opened(tmp_path / "s", vfs=disk.vfs_name, fatal=fatal.append) as store:
            store._writer._checkpoint_pages = 5
            disk.fail_database_syncs = True

            async def go_on() -> None:
                for number in range(1, 500):
                    await store.intend(a_transaction(number))

            with pytest.raises(StoreError):
                await go_on()
            assert len(fatal) == 1
            assert not store.health().healthy
            writes = disk.writes
        # Not even its end writes anything more.
        assert disk.writes == writes


def test_statements_are_few_and_none_is_short() -> None:
    assert list(_SIZES) == sorted(set(_SIZES))
    assert _SIZES[0] == 1
    assert all(after <= 2 * before for before, after in itertools.pairwise(_SIZES))


async def test_a_settled_state_is_kept_as_text(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await store.intend(a_transaction(1))
        await store.commit(Settle(1, State.CLOSED, "", "", b"", 0, wipe_image=True))
        assert await store._read("SELECT state, typeof(state) FROM outcomes") == [
            ("closed", "text")
        ]
