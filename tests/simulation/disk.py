"""Disk: the real store on a file, in virtual time, on a disk that may fail."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, TypeVar
from unittest.mock import patch

import apsw
import trio

from gateway.errors import StoreError
from gateway.store import sqlite
from gateway.store.sqlite import SqliteStore
from gateway.store.writer import Outcome, Ticket, Writer
from tests.simulation.plan import DiskPlan
from tests.simulation.trace import Trace
from tests.support.powerloss import PowerDisk
from tests.support.stores import io_error

_CHECKPOINT_EVERY = 40  # commits

T = TypeVar("T")

AtPoint = Callable[[str], None]


class Disk:
    """How the disk does at the moment; one to a run, whatever becomes of the gateway."""

    def __init__(self, plan: DiskPlan, random: Random, trace: Trace) -> None:
        self._plan = plan
        self._random = random
        self._trace = trace
        self._trouble: type[apsw.Error] | None = None
        self._full = False
        self._sync_fails = False
        self._calm = False

    async def go_wrong(self) -> None:
        """Now and then writes fail for a while, until cancelled."""
        plan, random = self._plan, self._random
        while plan.trouble_every_s:
            await trio.sleep(random.expovariate(1 / plan.trouble_every_s))
            if random.random() < plan.sync_fails:
                self._trace("disk", "next sync fails")
                self._sync_fails = True
                continue
            self._full = random.random() < 0.4
            if not self._full:
                self._trouble = random.choice((apsw.FullError, apsw.IOError, apsw.ReadOnlyError))
            self._trace("disk", "full" if self._full else "failing")
            await trio.sleep(random.expovariate(1 / plan.trouble_s))
            self._trouble, self._full = None, False
            self._trace("disk", "well again")

    def heal(self) -> None:
        self._calm = True
        self._trouble, self._full, self._sync_fails = None, False, False

    def commit_s(self) -> tuple[float, float]:
        """How long the next commit takes, before it is durable and until that is known."""
        plan, random = self._plan, self._random
        if self._calm or random.random() >= plan.slow:
            return plan.commit_s * (0.5 + random.random()), 0.0
        seconds = random.uniform(0, plan.slow_s)
        before_s = random.uniform(0, seconds)
        return before_s, seconds - before_s

    def read_s(self) -> tuple[float, float]:
        """How long the next read takes, before and after it looks."""
        plan, random = self._plan, self._random
        if self._calm or random.random() >= plan.slow:
            return 0.0, 0.0
        return plan.read_s * random.random(), plan.read_s * random.random()

    def write(
        self, connection: apsw.Connection, power: PowerDisk | None, statement: str, values: Any
    ) -> Any:
        """Execute a statement, or fail as the disk does now."""
        if self._trouble is not None:
            raise self._trouble("the disk was told to fail")
        if self._sync_fails:
            self._sync_fails = False
            if power is not None:
                return self._fail_sync(connection, power, statement, values)
            # Nobody knows what of it the disk holds: here, all or nothing.
            if self._random.random() < 0.5:
                connection.execute(statement, values)
                self._trace("disk", "sync failed, and it is written")
            else:
                self._trace("disk", "sync failed, and it is lost")
            raise io_error(apsw.SQLITE_IOERR_FSYNC)
        if self._full:
            # No page more: SQLite itself finds out, in the middle of the statement.
            connection.pragma("max_page_count", connection.pragma("page_count"))
            try:
                return connection.execute(statement, values)
            finally:
                connection.pragma("max_page_count", 2**30)
        return connection.execute(statement, values)

    def _fail_sync(
        self, connection: apsw.Connection, power: PowerDisk, statement: str, values: Any
    ) -> Any:
        """SQLite itself is told that its sync failed; what it wrote may be lost with the power."""
        self._trace("disk", "sync fails")
        power.fail_syncs = apsw.SQLITE_IOERR_FSYNC
        try:
            return connection.execute(statement, values)
        finally:
            power.fail_syncs = None


class _Connection:
    """The writer's connection to SQLite, over the disk."""

    def __init__(self, connection: apsw.Connection, disk: Disk, power: PowerDisk | None) -> None:
        self.real = connection
        self._disk = disk
        self._power = power

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def execute(self, statement: str, values: Any = None) -> Any:
        if statement.startswith("INSERT"):
            return self._disk.write(self.real, self._power, statement, values)
        return self.real.execute(statement, values)


class VirtualWriter(Writer):
    """The writer without its thread: what it writes, and how, is the real one's."""

    def __init__(self, connection: apsw.Connection, **settings: Any) -> None:
        super().__init__(connection, **settings)
        self._tickets: deque[Ticket] = deque()
        self._wanted = trio.Event()
        self._dropped = False
        self.put = self._take  # type: ignore[assignment]

    def start(self) -> None:
        """Its work is done by `run`."""

    def _take(self, ticket: Ticket | None) -> None:
        if ticket is not None:
            self._tickets.append(ticket)
            self._wanted.set()

    async def run(self, disk: Disk, at_point: AtPoint) -> None:
        """Commit what is queued, batch by batch, until cancelled."""
        commits = 0
        while True:
            if not self._tickets:
                self._wanted = trio.Event()
                await self._wanted.wait()
            batch, count = self._batch()
            at_point("before a commit")
            before_s, after_s = disk.commit_s()
            await self._pass(before_s)
            outcome = self._write(batch, count)
            at_point("after a commit")
            await self._pass(after_s)
            self._deliver(outcome)
            commits += 1
            if commits % _CHECKPOINT_EVERY == 0:
                self._empty_log()

    async def _pass(self, seconds: float) -> None:
        await _pass(seconds)
        if self._dropped:
            await trio.sleep_forever()  # until it is cancelled: the process is dead

    def _batch(self) -> tuple[list[Ticket], int]:
        batch: list[Ticket] = []
        count = 0
        while self._tickets and count < self._batch_max:
            batch.append(self._tickets.popleft())
            count += batch[-1].rows
        return batch, count

    def finish(self) -> None:
        """An orderly end: what is queued is written."""
        while self._tickets:
            self._deliver(self._write(*self._batch()))
        if self._sync_failed:
            self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._connection.close()

    def drop(self) -> None:
        """The process is gone: what is queued is lost, what is written stays in the log."""
        self._dropped = True
        self._tickets.clear()
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._connection.close()

    def _tell(self, outcome: Outcome) -> None:
        self._deliver(outcome)


class SimulatedStore(SqliteStore):
    """The store as it is, less its threads."""

    def __init__(self, **settings: Any) -> None:
        with patch.object(sqlite, "Writer", VirtualWriter):
            super().__init__(**settings)
        assert isinstance(self._writer, VirtualWriter)
        self.writer = self._writer
        self._disk: Disk | None = None

    def attach(self, disk: Disk, power: PowerDisk | None) -> None:
        """From here on it takes the disk's time and trouble."""
        self._disk = disk
        self.writer._connection = _Connection(  # type: ignore[assignment]
            self.writer._connection, disk, power
        )

    async def _ask(self, ask: Callable[[], T], *, limiter: trio.CapacityLimiter) -> T:
        async with limiter:
            if self._closed:
                raise StoreError("the store is closed")
            before_s, after_s = self._disk.read_s() if self._disk is not None else (0.0, 0.0)
            await _pass(before_s)
            try:
                found = ask()
            except apsw.Error as error:
                raise StoreError(f"cannot be read: {type(error).__name__}: {error}") from None
            await _pass(after_s)
            return found

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            for reader in (self._path_reader, self._search_reader):
                reader.close()
            self.writer.finish()
            os.close(self._lock)
        await trio.lowlevel.checkpoint()

    def drop(self) -> None:
        """The process died."""
        if not self._closed:
            self._closed = True
            for reader in (self._path_reader, self._search_reader):
                reader.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                reader.close()
            self.writer.drop()
            os.close(self._lock)


async def _pass(seconds: float) -> None:
    """Let time pass, or at least others have their turn."""
    if seconds:
        await trio.sleep(seconds)
    else:
        await trio.lowlevel.checkpoint()
