"""SqliteStore: the embedded store, one SQLite file in WAL mode that one node writes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import apsw
import trio

from gateway.errors import OperatorError, StoreError, StoreOverloaded
from gateway.store import migrations, queries, rows
from gateway.store.store import (
    Batch,
    BatchTotals,
    Criteria,
    Device,
    Operation,
    OwedReversal,
    StanBlock,
    State,
    StoreHealth,
    Tombstone,
    Transaction,
)
from gateway.store.writer import Outcome, Ticket, Writer
from gateway.telemetry.events import Emit, Event

_CHECKPOINT_PAGES = 4_000  # of 4 KiB: how far the write-ahead log grows
_CACHE_KIB = 32_768
_COMMITS_REMEMBERED = 256
_DAY_MS = 86_400_000
_BUSY_MS = 2_000  # somebody with a shell on the file; no second node gets past the lock
_LAST_CHARACTER = "\U0010ffff"  # sorts behind every text that goes on after a prefix

OnCommit = Callable[[float, int], None]
Fatal = Callable[[str], None]


class SqliteStore:
    """Implements `Store`; made by `open`, ended by `aclose`.

    `intend` and `commit` return once SQLite has synced the disk (WAL, synchronous = FULL). An
    operation that is queued is committed, whatever becomes of who waits for it: a caller that is
    cancelled in `intend` or `commit` does not know whether it is durable, and whoever needs to know
    shields the wait.

    Operations take effect in the order of the calls. What cannot take effect fails its own call
    with StoreError and no other's: an outcome for a transaction that does not exist, a reversal's
    attempt where none is owed, an id in use. MarkDelivered and TouchDevice change nothing where
    there is nothing to mark.

    After a failed sync nothing is known of what the disk holds: `fatal` is called with the reason,
    every later commit fails, and the node is to stop; a restart reads what is really there.
    """

    def __init__(
        self,
        *,
        writer_connection: apsw.Connection,
        reader: apsw.Connection,
        lock: int,
        queue_max: int,
        batch_max: int,
        emit: Emit,
        on_commit: OnCommit | None,
        fatal: Fatal | None,
    ) -> None:
        self._reader = reader
        self._lock = lock
        self._queue_max = queue_max
        self._emit = emit
        self._on_commit = on_commit
        self._fatal = fatal
        self._one_read = trio.CapacityLimiter(1)
        self._queued = 0  # rows taken and not committed yet; touched in the loop's thread only
        self._closed = False
        self._healthy = True
        self._last_error = ""
        self._commits = 0
        self._operations = 0
        self._commit_s: deque[float] = deque(maxlen=_COMMITS_REMEMBERED)
        self._writer = Writer(
            writer_connection,
            batch_max=batch_max,
            checkpoint_pages=_CHECKPOINT_PAGES,
            token=trio.lowlevel.current_trio_token(),
            deliver=self._delivered,
        )
        self._writer.start()

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        queue_max: int,
        batch_max: int,
        emit: Emit,
        on_commit: OnCommit | None = None,
        fatal: Fatal | None = None,
    ) -> Self:
        """The store in a file, made with its folder where it is absent, brought to this schema.

        `queue_max` and `batch_max` count operations. `on_commit` is called in the loop's thread
        with the seconds a commit took and its operations.

        Raises OperatorError where another process has the store, a newer gateway wrote it, or the
        file cannot be opened or is no database.
        """
        await trio.lowlevel.checkpoint()
        file = Path(path)
        with _as_operator_error(file):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _take_lock(file)
            try:
                writer_connection, reader = _open_both(file)
            except BaseException:
                os.close(lock)
                raise
        return cls(
            writer_connection=writer_connection,
            reader=reader,
            lock=lock,
            queue_max=queue_max,
            batch_max=batch_max,
            emit=emit,
            on_commit=on_commit,
            fatal=fatal,
        )

    # --- writing ----------------------------------------------------------------------------------

    async def intend(self, transaction: Transaction) -> Transaction | None:
        """Make an intent durable; see `Store.intend`."""
        row, changes_max = _written(rows.intent, transaction)
        count = 1
        if transaction.original_id:
            following, changes = _written(rows.follow_up, transaction)
            row, changes_max, count = row + following, changes_max + changes, 2
        ticket = Ticket(row, rows=count, changes_max=changes_max, intent=transaction)
        await self._wait_for(ticket)
        return ticket.found

    async def commit(self, *operations: Operation) -> None:
        """Make operations durable, together and in the order given; see `Store.commit`."""
        if len(operations) == 1:
            values, changes_max = _written(rows.operation, operations[0])
        else:
            values, changes_max = (), 0
            parts: list[Any] = []
            for operation in operations:
                row, changes = _written(rows.operation, operation)
                parts += row
                changes_max += changes
            values = tuple(parts)
        if not operations:
            await trio.lowlevel.checkpoint()
            return
        await self._wait_for(
            Ticket(values, rows=len(operations), changes_max=changes_max, intent=None)
        )

    def post(self, operation: Operation) -> None:
        """Queue an operation that nobody waits for; see `Store.post`."""
        values, changes_max = _written(rows.operation, operation)
        self._put(Ticket(values, rows=1, changes_max=changes_max, intent=None))

    def _put(self, ticket: Ticket) -> None:
        if self._closed:
            raise StoreError("the store is closed")
        if self._queued + ticket.rows > self._queue_max:
            raise StoreOverloaded(f"{self._queued} operations wait for the disk already")
        self._queued += ticket.rows
        self._writer.put(ticket)

    async def _wait_for(self, ticket: Ticket) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        ticket.task = trio.lowlevel.current_task()
        self._put(ticket)

        def stop_waiting(_: object) -> trio.lowlevel.Abort:
            ticket.task = None  # It is committed all the same.
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(stop_waiting)
        if ticket.error is not None:
            raise ticket.error

    def _delivered(self, outcome: Outcome) -> None:
        """Take over what became of a batch, and wake everybody who waited for it."""
        self._queued -= outcome.rows
        reschedule = trio.lowlevel.reschedule
        for ticket in outcome.tickets:
            task = ticket.task
            if task is not None:
                ticket.task = None
                reschedule(task)
            elif ticket.error is not None:
                self._last_error = str(ticket.error)
        if outcome.trouble:
            self._in_trouble(outcome)
            return
        if not self._healthy:
            self._healthy = True
            self._emit(Event.STORE_RECOVERED)
        self._commits += 1
        self._operations += outcome.rows
        self._commit_s.append(outcome.seconds)
        if self._on_commit is not None:
            self._on_commit(outcome.seconds, outcome.rows)

    def _in_trouble(self, outcome: Outcome) -> None:
        self._last_error = outcome.trouble
        if self._healthy:
            self._healthy = False
            self._emit(Event.STORE_FAILING, reason=outcome.trouble)
        if outcome.fatal and self._fatal is not None:
            fatal, self._fatal = self._fatal, None
            fatal(f"the store could not sync the disk: {outcome.trouble}")

    # --- reading ----------------------------------------------------------------------------------

    async def transaction(self, transaction_id: int) -> Transaction | None:
        found = await self._read(
            queries.SELECT_TRANSACTIONS + "WHERE t.transaction_id = ?", transaction_id
        )
        return rows.transaction(found[0]) if found else None

    async def find_repeat(self, repeat_key: str) -> Transaction | None:
        found = await self._read(queries.SELECT_TRANSACTIONS + "WHERE t.repeat_key = ?", repeat_key)
        return rows.transaction(found[0]) if found else None

    async def find_by_key_prefix(self, prefix: str, limit: int) -> list[Transaction]:
        found = await self._read(queries.BY_KEY_RANGE, prefix, prefix + _LAST_CHARACTER, limit)
        return [rows.transaction(row) for row in found]

    async def find_by_rrn(self, rrn: str, limit: int) -> list[Transaction]:
        return [rows.transaction(row) for row in await self._read(queries.BY_RRN, rrn, limit)]

    async def follow_ups(self, original_id: int) -> list[Transaction]:
        return [rows.transaction(row) for row in await self._read(queries.FOLLOW_UPS, original_id)]

    async def select(self, criteria: Criteria, limit: int) -> list[Transaction]:
        raise NotImplementedError

    async def undelivered(self, *, since_ms: int, until_ms: int, limit: int) -> list[Transaction]:
        found = await self._read(queries.UNDELIVERED, since_ms, until_ms, limit)
        return [rows.transaction(row) for row in found]

    async def tombstones(self, since_ms: int) -> list[Tombstone]:
        return rows.tombstones(
            await self._read(
                "SELECT key_prefix, created_ms FROM tombstones WHERE created_ms >= ?"
                " ORDER BY created_ms, key_prefix",
                since_ms,
            )
        )

    async def open_batches(self) -> list[Batch]:
        return [rows.batch(row) for row in await self._read(queries.OPEN_BATCHES)]

    async def batches(self, terminal_id: str, limit: int) -> list[Batch]:
        return [rows.batch(row) for row in await self._read(queries.BATCHES_OF, terminal_id, limit)]

    async def batch_totals(self, terminal_id: str, number: int) -> BatchTotals:
        ((opened_ms, closed_ms),) = await self._read(queries.BATCH_TIMES, terminal_id, number)
        found = await self._read(
            queries.BATCH_TOTALS,
            rows.terminal_day(terminal_id, opened_ms - _DAY_MS),
            rows.terminal_day(terminal_id, closed_ms + _DAY_MS),
            terminal_id,
            number,
        )
        return rows.batch_totals(found[0])

    async def uploads(self, terminal_id: str, batch: int) -> int:
        found = await self._read(
            "SELECT count(*) FROM uploads WHERE terminal_id = ? AND batch = ?", terminal_id, batch
        )
        return int(found[0][0])

    async def unsettled(self, limit: int) -> list[Transaction]:
        return [rows.transaction(row) for row in await self._read(queries.UNSETTLED, limit)]

    async def owed_reversals(self) -> list[OwedReversal]:
        found = await self._read(
            queries.SELECT_REVERSALS + "WHERE NOT given_up ORDER BY created_ms, transaction_id"
        )
        return [rows.reversal(row) for row in found]

    async def given_up_reversals(self, limit: int) -> list[OwedReversal]:
        found = await self._read(
            queries.SELECT_REVERSALS + "WHERE given_up ORDER BY created_ms, transaction_id LIMIT ?",
            limit,
        )
        return [rows.reversal(row) for row in found]

    async def stan_blocks(self, upstream: str) -> Sequence[StanBlock]:
        return rows.stan_blocks(
            await self._read(
                "SELECT upstream, first, reserved_ms FROM stan_blocks WHERE upstream = ?"
                " ORDER BY first",
                upstream,
            )
        )

    async def devices(self) -> list[Device]:
        return [rows.device(row) for row in await self._read(queries.SELECT_DEVICES)]

    async def last_transaction_id(self) -> int:
        found = await self._read("SELECT max(transaction_id) FROM transactions")
        return found[0][0] or 0

    async def count_by_state(self) -> dict[State, int]:
        found = await self._read(queries.COUNT_BY_STATE)
        return {State(state): count for state, count in found if count}

    async def _read(self, sql: str, *values: object) -> list[rows.Row]:
        """All rows of a query, read in a thread: it sees what was committed before the call."""
        if self._closed:
            raise StoreError("the store is closed")

        def fetch() -> list[rows.Row]:
            return list(self._reader.execute(sql, values))

        try:
            return await trio.to_thread.run_sync(fetch, limiter=self._one_read)
        except apsw.Error as error:
            raise StoreError(f"cannot be read: {type(error).__name__}: {error}") from None

    # --- its state and its end --------------------------------------------------------------------

    def health(self) -> StoreHealth:
        """How the store does now."""
        return StoreHealth(
            kind="sqlite",
            healthy=self._healthy and not self._closed,
            queue_depth=self._queued,
            queue_max=self._queue_max,
            last_error=self._last_error,
            commits=self._commits,
            operations=self._operations,
            commit_s=list(self._commit_s),
        )

    async def aclose(self) -> None:
        """Commit what is queued, empty the write-ahead log, close and release the lock."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        with trio.CancelScope(shield=True):
            # The reader first: the last connection to close empties the log and removes it.
            async with self._one_read:
                self._reader.close()
            await trio.to_thread.run_sync(self._writer.stop)
            os.close(self._lock)


def _written(
    write: Callable[[Any], tuple[rows.Row, int]], what: Transaction | Operation
) -> tuple[rows.Row, int]:
    """The row of a record; a text that is none (a lone surrogate) is the caller's to hear of."""
    try:
        return write(what)
    except TypeError as error:
        raise StoreError(f"cannot be stored: {error}") from None


@contextlib.contextmanager
def _as_operator_error(path: Path) -> Any:
    try:
        yield
    except OSError as error:
        raise OperatorError(f"{path}: the store cannot be opened: {error.strerror}") from None
    except apsw.Error as error:
        raise OperatorError(f"{path}: the store cannot be opened: {error}") from None


def _take_lock(path: Path) -> int:
    """The descriptor of the lock beside the store's file, held until it is closed."""
    beside = path.with_name(path.name + ".lock")
    lock = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise OperatorError(
            f"{path}: the store is in use by process {holder}; one store serves one node"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    return lock


def _open_both(path: Path) -> tuple[apsw.Connection, apsw.Connection]:
    """A connection to write and one to read; SQLite gives its own files the mode of the first."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    writer = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        writer.set_busy_timeout(_BUSY_MS)
        writer.pragma("journal_mode", "wal")
        writer.pragma("synchronous", "full")
        writer.pragma("temp_store", "memory")
        writer.pragma("cache_size", -_CACHE_KIB)
        writer.pragma("wal_autocheckpoint", 0)  # The writer does it, between two batches.
        migrations.migrate(writer)
        reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        reader.set_busy_timeout(_BUSY_MS)
    except BaseException:
        writer.close()
        raise
    return writer, reader
