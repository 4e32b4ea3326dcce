"""SqliteStore: the embedded store, one SQLite file in WAL mode that one node writes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import apsw
import trio

from gateway.errors import OperatorError, StoreError, StoreOverloaded
from gateway.store import migrations, rows
from gateway.store.checkpoints import Checkpointer
from gateway.store.reads import Reads
from gateway.store.store import Operation, StoreHealth, Transaction
from gateway.store.writer import Outcome, Ticket, Writer
from gateway.telemetry.events import Emit, Event

_CHECKPOINT_PAGES = 4_000  # of 4 KiB: how far the write-ahead log grows
_CACHE_KIB = 32_768
_COMMITS_REMEMBERED = 256
_BUSY_MS = 2_000  # somebody with a shell on the file; no second node gets past the lock

OnCommit = Callable[[float, int], None]
Fatal = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Connections:
    """What a store has open."""

    writer: apsw.Connection
    reader: apsw.Connection
    search_reader: apsw.Connection
    another: Callable[[], apsw.Connection]  # opens one that may write


class SqliteStore(Reads):
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
        connections: Connections,
        lock: int,
        queue_max: int,
        batch_max: int,
        emit: Emit,
        on_commit: OnCommit | None,
        fatal: Fatal | None,
    ) -> None:
        super().__init__(path_reader=connections.reader, search_reader=connections.search_reader)
        self._lock = lock
        self._queue_max = queue_max
        self._emit = emit
        self._on_commit = on_commit
        self._fatal = fatal
        self._queued = 0  # rows taken and not committed yet; touched in the loop's thread only
        self._healthy = True
        self._last_error = ""
        self._commits = 0
        self._operations = 0
        self._commit_s: deque[float] = deque(maxlen=_COMMITS_REMEMBERED)
        self._writer = Writer(
            connections.writer,
            batch_max=batch_max,
            checkpoint_pages=_CHECKPOINT_PAGES,
            token=trio.lowlevel.current_trio_token(),
            deliver=self._delivered,
            checkpointer=Checkpointer(connections.another),
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
        vfs: str | None = None,
    ) -> Self:
        """The store in a file, made with its folder where it is absent, brought to this schema.

        `queue_max` and `batch_max` count operations. `on_commit` is called in the loop's thread
        with the seconds a commit took and its operations. `vfs` names what SQLite reaches its files
        through; None is the operating system.

        Raises OperatorError where another process has the store, a newer gateway wrote it, or the
        file cannot be opened or is no database.
        """
        await trio.lowlevel.checkpoint()
        file = Path(path)
        with _as_operator_error(file):
            _make_folder(file.parent)
            lock = _take_lock(file)
            try:
                connections = _connect(file, vfs)
            except BaseException:
                os.close(lock)
                raise
        return cls(
            connections=connections,
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
        try:
            row, changes_max = rows.intent(transaction)
        except TypeError as error:
            raise _unwritable(error) from None
        count = 1
        if transaction.original_id:
            following, changes = rows.follow_up(transaction)
            row, changes_max, count = row + following, changes_max + changes, 2
        ticket = Ticket(row, rows=count, changes_max=changes_max, intent=transaction)
        await self._wait_for(ticket)
        return ticket.found

    async def commit(self, *operations: Operation) -> None:
        """Make operations durable, together and in the order given; see `Store.commit`."""
        if not operations:
            await trio.lowlevel.checkpoint()
            return
        try:
            values, changes_max = rows.operation(operations[0])
            if len(operations) > 1:
                parts = list(values)
                for operation in operations[1:]:
                    row, changes = rows.operation(operation)
                    parts += row
                    changes_max += changes
                values = tuple(parts)
        except TypeError as error:
            raise _unwritable(error) from None
        await self._wait_for(
            Ticket(values, rows=len(operations), changes_max=changes_max, intent=None)
        )

    def post(self, operation: Operation) -> None:
        """Queue an operation that nobody waits for; see `Store.post`."""
        try:
            values, changes_max = rows.operation(operation)
        except TypeError as error:
            raise _unwritable(error) from None
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
            # The readers first: the last connection to close empties the log and removes it.
            await self._close_readers()
            await trio.to_thread.run_sync(self._writer.stop)
            os.close(self._lock)


def _unwritable(error: TypeError) -> StoreError:
    """For a text that is none (a lone surrogate): its caller is to hear of it."""
    return StoreError(f"cannot be stored: {error}")


@contextlib.contextmanager
def _as_operator_error(path: Path) -> Any:
    try:
        yield
    except OSError as error:
        raise OperatorError(f"{path}: the store cannot be opened: {error.strerror}") from None
    except apsw.Error as error:
        raise OperatorError(f"{path}: the store cannot be opened: {error}") from None


def _make_folder(folder: Path) -> None:
    """Make it where it is absent, so that the loss of power takes none of its names away."""
    absent = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for one in absent:
        _sync_folder(one.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def _connect(path: Path, vfs: str | None) -> Connections:
    """A connection to write and two to read; SQLite gives its own files the mode of the first."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    _sync_folder(path.parent)
    opened: list[apsw.Connection] = []

    def connect(flags: int) -> apsw.Connection:
        connection = apsw.Connection(str(path), flags=flags, vfs=vfs)
        opened.append(connection)
        connection.set_busy_timeout(_BUSY_MS)
        return connection

    def another() -> apsw.Connection:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
        connection.pragma("journal_mode")  # One that has read nothing knows of no log to copy.
        connection.pragma("synchronous", "full")
        connection.pragma("wal_autocheckpoint", 0)
        return connection

    try:
        writer = connect(apsw.SQLITE_OPEN_READWRITE)
        writer.pragma("journal_mode", "wal")
        writer.pragma("synchronous", "full")
        writer.pragma("temp_store", "memory")
        writer.pragma("cache_size", -_CACHE_KIB)
        writer.pragma("wal_autocheckpoint", 0)  # The writer does it, between two batches.
        migrations.migrate(writer)
        reader = connect(apsw.SQLITE_OPEN_READONLY)
        search_reader = connect(apsw.SQLITE_OPEN_READONLY)
    except BaseException:
        for connection in opened:
            connection.close()
        raise
    return Connections(writer, reader, search_reader, another)
