"""Group commit: many small pieces of work on one database to one transaction and one fsync."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import apsw
import trio

T = TypeVar("T")


Synchronous = Literal["FULL", "NORMAL"]


def open_database(path: Path, *, synchronous: Synchronous) -> apsw.Connection:
    """A writable WAL database; FULL survives power loss, NORMAL the death of the process only.

    Raises OSError where the file cannot be had.
    """
    try:
        database = apsw.Connection(str(path))
    except apsw.CantOpenError as error:
        raise OSError(f"{path}: {error}") from error
    database.set_busy_timeout(5_000)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA synchronous = {synchronous}")
    return database


def open_for_reading(path: Path) -> apsw.Connection:
    """A database that another process may be writing; raises apsw.CantOpenError if absent."""
    database = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    database.set_busy_timeout(5_000)
    return database


class _Batch:
    """What arrived while the batch before was being committed."""

    __slots__ = ("done", "results", "work")

    def __init__(self) -> None:
        self.work: list[Callable[[], Any]] = []
        self.results: list[Any] = []
        self.done = trio.Event()


class GroupCommit:
    """Runs work on a database, all that waits in one transaction and in a thread.

    With `inline` it runs in the event loop: a virtual clock waits for no thread, and what is not
    synced takes no time worth one.

    `run` is a task; where a piece of work or the commit fails it raises, the whole batch is
    rolled back and nobody who waits is told anything: a ledger that cannot be written must end
    its process.
    """

    def __init__(self, database: apsw.Connection, *, inline: bool = False) -> None:
        self._database = database
        self._inline = inline
        self._open = _Batch()
        self._wake = trio.Event()
        self.commits = 0

    async def run(self) -> None:
        """Commits until cancelled; a commit under way is finished first."""
        while True:
            await self._wake.wait()
            batch, self._open, self._wake = self._open, _Batch(), trio.Event()
            if self._inline:
                self._commit(batch)
            else:
                await trio.to_thread.run_sync(self._commit, batch)
            self.commits += 1
            batch.done.set()

    async def submit(self, work: Callable[[], T]) -> T:
        """What `work` returned, once what it wrote is durable. Cancelled, it may still be done."""
        batch = self._open
        position = len(batch.work)
        batch.work.append(work)
        self._wake.set()
        await batch.done.wait()
        result: T = batch.results[position]
        return result

    def _commit(self, batch: _Batch) -> None:
        with self._database:  # one transaction: committed here, or rolled back
            batch.results = [work() for work in batch.work]
