"""Group commit: one thread that makes all that waits durable with one call of SQLite."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import apsw
import trio

from gateway.errors import StoreError
from gateway.store import queries, rows
from gateway.store.checkpoints import Checkpointer, Copying
from gateway.store.store import Transaction

# Rows to one statement. Statements are prepared for these sizes only, so that SQLite keeps all of
# them; what is short of one is filled up with rows that no trigger heeds.
_SIZES: Final = (
    *(1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 72, 80, 88, 96),
    *(104, 112, 120, 128, 144, 160, 176, 192, 224, 256, 320, 384, 448, 512),
)
_ROWS_MAX: Final = _SIZES[-1]
_ROW_SQL: Final = "(" + ",".join("?" * rows.COLUMNS) + ")"
_PADDING: Final = (None,) * rows.COLUMNS

# What the caller alone is to blame for; everything else is the store's own trouble.
_CALLERS_FAULT: Final = (
    apsw.ConstraintError,
    apsw.MismatchError,
    apsw.RangeError,
    apsw.TooBigError,
    OverflowError,
    TypeError,
    ValueError,
)
_SYNC_FAILED: Final = frozenset((apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC))
# Each commit costs a sync, a wake-up and a fight for Python's lock, whatever its rows. Once batches
# are this large there is load, and letting more of it gather saves more than the wait takes: the
# larger they are, the longer. With less of it a batch is written as soon as there is one.
_GATHER_ROWS: Final = 8
_GATHER_ROW_S: Final = 0.0003
_GATHER_MAX_S: Final = 0.010
_IDLE_S: Final = 1.0  # after this time without work the write-ahead log is emptied


class Ticket:
    """What one caller wants durable, and what became of it."""

    __slots__ = ("changes_max", "error", "found", "intent", "rows", "task", "values")

    def __init__(
        self, values: tuple[Any, ...], *, rows: int, changes_max: int, intent: Transaction | None
    ) -> None:
        self.values = values  # of all its rows, one after the other
        self.rows = rows
        self.changes_max = changes_max
        self.intent = intent
        self.task: trio.lowlevel.Task | None = None  # who waits; None once nobody does
        self.error: StoreError | None = None
        self.found: Transaction | None = None  # what an intent turned out to repeat


class Outcome:
    """What became of a batch, for the thread of the loop."""

    __slots__ = ("fatal", "rows", "seconds", "tickets", "trouble")

    def __init__(self, tickets: list[Ticket], *, rows: int) -> None:
        self.tickets = tickets
        self.rows = rows
        self.seconds = 0.0
        self.trouble = ""  # why the store could not write; empty where it could
        self.fatal = False


class Writer:
    """The thread that writes, and its queue.

    A batch is all that is queued, up to `batch_max` rows (a caller's operations stay together even
    where they are more). Its rows go to SQLite in the order they were queued, in one statement that
    is its own transaction: SQLite is entered once, and Python's lock, which a busy loop yields
    reluctantly, has to be won back once. `deliver` is called in the loop's thread, once a batch.

    Where a caller's operation is at fault (a constraint), the batch is rolled back and written
    again caller by caller, and only that caller fails.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        *,
        batch_max: int,
        checkpoint_pages: int,
        token: trio.lowlevel.TrioToken,
        deliver: Callable[[Outcome], None],
        checkpointer: Checkpointer,
    ) -> None:
        self._connection = connection
        self._checkpointer = checkpointer
        self._batch_max = batch_max
        self._checkpoint_pages = checkpoint_pages
        self._token = token
        self._deliver = deliver
        self._queue: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._statements: dict[int, str] = {}
        self._sync_failed = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self.put = self._queue.put

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write what is queued, close the database and end. Blocks; call it in a thread."""
        self._queue.put(None)
        self._thread.join()

    # --- everything below runs in the writer's thread ---------------------------------------------

    def _run(self) -> None:
        waiting = self._queue
        last = False
        while not last:
            try:
                first = waiting.get(timeout=_IDLE_S if self._pages_in_log() else None)
            except queue.Empty:
                self._look_after_log(at_rest=True)
                continue
            batch: list[Ticket] = []
            count = 0
            while True:
                if first is None:
                    last = True
                    break
                batch.append(first)
                count += first.rows
                if count >= self._batch_max:
                    break
                try:
                    first = waiting.get_nowait()
                except queue.Empty:
                    break
            if batch:
                outcome = self._write(batch, count)
                written_s = time.perf_counter()
                self._tell(outcome)
                self._look_after_log(at_rest=False)
                self._let_gather(count, since_s=written_s)
        self._end_checkpoints()
        if self._sync_failed:
            # Closing would copy the log, and nothing more is to be written.
            self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._connection.close()

    @staticmethod
    def _let_gather(count: int, *, since_s: float) -> None:
        """Wait after so many rows for more to come; what a busy loop held this thread up counts."""
        if count >= _GATHER_ROWS:
            until_s = since_s + min(count * _GATHER_ROW_S, _GATHER_MAX_S)
            left_s = until_s - time.perf_counter()
            if left_s > 0:
                time.sleep(left_s)

    def _write(self, batch: list[Ticket], count: int) -> Outcome:
        """Commit a batch; never raises, the outcome and its tickets say what went wrong."""
        outcome = Outcome(batch, rows=count)
        started_s = time.perf_counter()
        try:
            self._commit(batch, count)
        except _CALLERS_FAULT as error:
            if len(batch) == 1:
                batch[0].error = _refused(error)
            else:
                self._write_one_by_one(batch, outcome)
        except Exception as error:
            self._fail(batch, error, outcome)
        outcome.seconds = time.perf_counter() - started_s
        return outcome

    def _write_one_by_one(self, batch: list[Ticket], outcome: Outcome) -> None:
        for at, ticket in enumerate(batch):
            try:
                self._commit([ticket], ticket.rows)
            except _CALLERS_FAULT as error:
                ticket.error = _refused(error)
            except Exception as error:
                self._fail(batch[at:], error, outcome)
                return

    def _commit(self, batch: list[Ticket], count: int) -> None:
        """Commit tickets together; raises what SQLite raises, and then nothing is written."""
        if self._sync_failed:
            raise StoreError("a sync of the disk failed before: nothing more is written")
        values: list[Any] = []
        changes_max = 0
        for ticket in batch:
            values += ticket.values
            changes_max += ticket.changes_max
        before = self._connection.total_changes()
        if count <= _ROWS_MAX:
            self._insert(values, count)
        else:
            self._insert_in_parts(values, count)
        if self._connection.total_changes() - before != changes_max:
            self._find_repeats(batch)

    def _insert(self, values: list[Any], count: int) -> None:
        size = next(size for size in _SIZES if size >= count)
        statement = self._statements.get(size)
        if statement is None:
            many = ",".join((_ROW_SQL,) * size)
            statement = f"INSERT INTO operations VALUES {many}"  # noqa: S608 (question marks only)
            self._statements[size] = statement
        if size > count:
            values += _PADDING * (size - count)
        self._connection.execute(statement, values)

    def _insert_in_parts(self, values: list[Any], count: int) -> None:
        """As `_insert`, for more rows than a statement takes: still one transaction."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for first in range(0, count, _ROWS_MAX):
                part = min(_ROWS_MAX, count - first)
                self._insert(values[first * rows.COLUMNS : (first + part) * rows.COLUMNS], part)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _find_repeats(self, batch: list[Ticket]) -> None:
        """Fewer rows changed than expected: see which intents were not inserted, and why."""
        for at, ticket in enumerate(batch):
            intent = ticket.intent
            if intent is None or self._is_there(intent.transaction_id):
                continue
            ticket.found = self._holder(intent.repeat_key, batch[at + 1 :])
            if ticket.found is None:
                ticket.error = StoreError("not durable: what it repeats is gone")

    def _holder(self, key: str, later: list[Ticket]) -> Transaction | None:
        """What had a key when an intent with it was not inserted, for `later` tickets were.

        They may have freed the key, and taken it: then it is what the first of them freed.
        """
        holder = self._transaction("t.repeat_key = ?", key)
        came_later = {one.intent.transaction_id for one in later if one.intent is not None}
        if holder is not None and holder.transaction_id not in came_later:
            return holder
        for ticket in later:
            for freed in rows.freed_by(ticket.values):
                holder = self._transaction("t.transaction_id = ?", freed)
                if holder is not None and holder.repeat_key.startswith(f"{key}#"):
                    return holder
        return None

    def _transaction(self, where: str, value: str | int) -> Transaction | None:
        row = self._connection.execute(
            f"{queries.SELECT_TRANSACTIONS} WHERE {where}", (value,)
        ).fetchone()
        return None if row is None else rows.transaction(row)

    def _is_there(self, transaction_id: int) -> bool:
        found = self._connection.execute(
            "SELECT 1 FROM transactions WHERE transaction_id = ?", (transaction_id,)
        )
        return found.fetchone() is not None

    def _fail(self, tickets: list[Ticket], error: Exception, outcome: Outcome) -> None:
        outcome.trouble = f"{type(error).__name__}: {error}"
        outcome.fatal = self._is_fatal(error)
        for ticket in tickets:
            ticket.error = StoreError(f"not durable: {outcome.trouble}")

    def _is_fatal(self, error: Exception) -> bool:
        """Whether the disk lost what was written: the kernel says so once, then forgets it."""
        if isinstance(error, apsw.Error) and getattr(error, "extendedresult", 0) in _SYNC_FAILED:
            self._sync_failed = True
        return self._sync_failed

    # --- the write-ahead log ----------------------------------------------------------------------

    def _pages_in_log(self) -> int:
        """Pages written since the log was last copied into the database in full."""
        return self._connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)[0]

    def _look_after_log(self, *, at_rest: bool) -> None:
        """Have the log copied where it is long, and copy what is left once that is done."""
        match self._checkpointer.state:
            case Copying.OVER:
                self._empty_log(self._checkpointer)
            case Copying.UNDER_WAY:
                return
            case Copying.NONE if at_rest:
                self._empty_log()
            case Copying.NONE if self._pages_in_log() >= self._checkpoint_pages:
                self._checkpointer.begin()

    def _empty_log(self, checkpointer: Checkpointer | None = None) -> None:
        """Copy the log into the database; done between two batches, and so in full."""
        try:
            if checkpointer is not None:
                checkpointer.finish()
            if not self._sync_failed:
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except Exception as error:
            self._tell_trouble(error)
        self._connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE, True)

    def _end_checkpoints(self) -> None:
        try:
            self._checkpointer.stop()
        except Exception as error:
            self._tell_trouble(error)

    def _tell_trouble(self, error: Exception) -> None:
        outcome = Outcome([], rows=0)
        self._fail([], error, outcome)
        self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        try:
            self._token.run_sync_soon(self._deliver, outcome)
        except trio.RunFinishedError:
            return  # The loop is gone, and with it everybody who waited.


def _refused(error: Exception) -> StoreError:
    return StoreError(f"refused by the store: {error}")
