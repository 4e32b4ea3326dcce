"""Snapshot: one moment of a store's database, copied beside those who write it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from gateway.errors import OperatorError
from gateway.store import migrations

_BUSY_MS = 5_000
_CHECK_STEPS = 500_000  # of SQLite's virtual machine: some milliseconds
_BLOCK = 1_000  # STANs are reserved so many at a time (upstreams/stan.py)
_NEWEST_STANS = """
SELECT upstream, first, max(reserved_ms) FROM stan_blocks GROUP BY upstream ORDER BY upstream
"""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much is done in one go, and how long others have in between.

    `check` is called at each pause, and raises where nobody wants the rest any more.
    """

    step_pages: int
    pause_s: float
    check: Callable[[], object] = lambda: None

    def pause(self) -> None:
        """Let others at disk and processor; raises what `check` does. Blocks: for threads only."""
        self.check()
        if self.pause_s:
            time.sleep(self.pause_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFacts:
    """What a store's database holds, in numbers."""

    schema: int
    bytes: int
    transactions: int
    last_transaction_id: int
    open_intents: int  # each owes what its kind is owed
    reversals_owed: int
    reversals_given_up: int
    devices: int
    stans: Mapping[str, int]  # by upstream: the highest STAN of the block reserved last


def copy(source: Path, target: Path, *, pace: Pace, progress: Progress = lambda *_: None) -> None:
    """Copy the database as it is at one moment into a new file, in steps; blocks.

    The moment is that of the call. A read transaction holds it, so that what is written meanwhile
    neither shows in the copy nor makes it begin anew; the write-ahead log grows for as long as this
    takes. On return the copy is on the disk. Raises OperatorError where it cannot be read or
    written.
    """
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        reader = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            reader.set_busy_timeout(_BUSY_MS)
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM sqlite_master").fetchall()
            _copy_pages(reader, target, pace, progress)
        finally:
            reader.close()
        os.fsync(descriptor)
    except apsw.Error as error:
        raise OperatorError(f"{source}: cannot be copied: {error}") from None
    finally:
        os.close(descriptor)


def _copy_pages(reader: apsw.Connection, target: Path, pace: Pace, progress: Progress) -> None:
    copied = apsw.Connection(str(target), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        copied.pragma("journal_mode", "off")  # Half a copy is thrown away.
        copied.pragma("synchronous", "off")  # It is synced once, when it is whole.
        page_bytes = reader.pragma("page_size")
        with copied.backup("main", reader, "main") as pages:
            while not pages.step(pace.step_pages):
                total = pages.page_count * page_bytes
                progress(total - pages.remaining * page_bytes, total)
                pace.pause()
    finally:
        copied.close()


def facts_of(database: Path, *, pace: Pace | None = None) -> StoreFacts:
    """What is in a database that nobody writes; raises OperatorError where it is not whole.

    SQLite's own check of every page is made; it reads the whole file. Blocks.
    """
    try:
        connection = apsw.Connection(
            f"file:{database}?immutable=1",
            flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
        )
        try:
            if pace is not None:
                connection.set_progress_handler(lambda: _go_on(pace), _CHECK_STEPS)
            check: Any = connection.execute("PRAGMA quick_check(1)").fetchall()
            if check != [("ok",)]:
                raise OperatorError(f"{database}: is damaged: {check[0][0]}")
            return _facts(connection, database)
        finally:
            connection.close()
    except apsw.Error as error:
        raise OperatorError(f"{database}: is no store: {error}") from None


def _go_on(pace: Pace) -> bool:
    pace.pause()
    return False  # True would interrupt the statement


def _facts(connection: apsw.Connection, database: Path) -> StoreFacts:
    def number(sql: str) -> int:
        found: Any = connection.execute(sql).fetchall()
        return int(found[0][0] or 0)

    newest: Any = connection.execute(_NEWEST_STANS).fetchall()
    return StoreFacts(
        schema=migrations.version_of(connection),
        bytes=database.stat().st_size,
        transactions=number("SELECT count(*) FROM transactions"),
        last_transaction_id=number("SELECT max(transaction_id) FROM transactions"),
        open_intents=number("SELECT count(*) FROM open_intents"),
        reversals_owed=number("SELECT count(*) FROM reversals WHERE NOT given_up"),
        reversals_given_up=number("SELECT count(*) FROM reversals WHERE given_up"),
        devices=number("SELECT count(*) FROM devices"),
        stans={upstream: first + _BLOCK - 1 for upstream, first, _ in newest},
    )
