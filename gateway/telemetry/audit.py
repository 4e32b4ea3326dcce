"""The audit log: who did what, when, from where, with what outcome; on disk before it is done."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from gateway.clock import Clock, iso_time
from gateway.telemetry.audit_chain import Head, Who, plain
from gateway.telemetry.audit_files import AuditFailed, AuditFull, ChainWriter
from gateway.telemetry.events import Emit, Event

BEGUN, DONE, REFUSED, FAILED = "begun", "done", "refused", "failed"

_BATCH_MAX = 256
_FULL_RETRY_S = 1.0
_OUTCOME_CHARS_MAX = 500


class _Waiting:
    """A record on its way to the disk."""

    __slots__ = ("failed", "fields", "head")

    def __init__(self, fields: Mapping[str, object]) -> None:
        self.fields = fields
        self.head: Head | None = None
        self.failed: AuditFailed | None = None


class AuditLog:
    """Appends records in the order they come; each is durable when `record` returns.

    Records that wait while others are written go to the disk together. No task of its own: so it
    can be written to from the first moment of a start to the last of a stop.
    """

    def __init__(
        self,
        folder: Path,
        *,
        node: str,
        clock: Clock,
        emit: Emit,
        file_bytes_max: int,
        files_kept: int,
        waiting_max: int,
    ) -> None:
        self.folder = folder
        self._node = node
        self._clock = clock
        self._emit = emit
        self._waiting_max = waiting_max
        self._writer = ChainWriter(
            folder, own=self._own, file_bytes_max=file_bytes_max, files_kept=files_kept
        )
        self._waiting: deque[_Waiting] = deque()
        self._writing = trio.Lock()
        self._failing = False

    @property
    def head(self) -> Head:
        """The last durable record: kept elsewhere, it proves all that came before it."""
        return self._writer.head

    @property
    def waiting(self) -> int:
        """Records that are not durable yet."""
        return len(self._waiting)

    async def open(self) -> None:
        """Go on where the chain ends; raises AuditFailed.

        What is not as it was left is recorded, and an alarm; the log goes on behind it.
        """
        trouble = await trio.to_thread.run_sync(self._writer.open)
        if trouble:
            self._emit(Event.AUDIT_DAMAGED, folder=str(self.folder), found=trouble)
        self._tell_head()

    async def aclose(self) -> None:
        """Tell the last head, and give the folder free."""
        self._tell_head()
        async with self._writing:
            await trio.to_thread.run_sync(self._writer.close)

    async def record(
        self,
        action: str,
        *,
        who: Who,
        subject: str = "",
        old: object = None,
        new: object = None,
        outcome: str = DONE,
        refers: int = 0,
    ) -> int:
        """Make a record durable, and return its sequence number.

        `old` and `new` are values or mappings of them; card numbers in them are masked, fields that
        may hold secrets hidden. Raises AuditFailed: then it is not in the log, and what it was to
        record must not be done.
        """
        if len(self._waiting) >= self._waiting_max:
            raise AuditFailed(
                f"the audit log has {self._waiting_max} records to write: try again, or raise"
                " audit.waiting_max"
            )
        waiting = _Waiting(
            self._fields(
                action,
                who=who,
                subject=subject,
                old=old,
                new=new,
                outcome=outcome,
                refers=refers,
            )
        )
        self._waiting.append(waiting)
        async with self._writing:
            if waiting.head is None and waiting.failed is None:
                await self._write()
        if waiting.failed is not None:
            raise waiting.failed
        if waiting.head is None:
            raise AuditFailed("the record was not written")
        return waiting.head.seq

    async def _write(self) -> None:
        """Everything that waits, in order; whoever gets here does it for all."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH_MAX))]
            # To the end even where its own task is cancelled: the others wait for it too.
            with trio.CancelScope(shield=True):
                try:
                    heads = await trio.to_thread.run_sync(
                        self._writer.append, [waiting.fields for waiting in batch]
                    )
                except AuditFailed as error:
                    for waiting in batch:
                        waiting.failed = error
                    self._tell_failed(error)
                    continue
            for waiting, head in zip(batch, heads, strict=True):
                waiting.head = head
            self._tell_recovered()

    def _fields(
        self,
        action: str,
        *,
        who: Who,
        subject: str = "",
        old: object = None,
        new: object = None,
        outcome: str = DONE,
        refers: int = 0,
    ) -> Mapping[str, object]:
        return {
            "time": iso_time(self._clock.wall_ms()),
            "node": self._node,
            "who": plain(who.name),
            "uid": who.uid,
            "pid": who.pid,
            "origin": who.origin,
            "action": action,
            # Terminal ids, transaction ids and names: long numbers by nature.
            "subject": plain({"terminal": subject})["terminal"],
            "old": plain(old),
            "new": plain(new),
            "outcome": plain(outcome[:_OUTCOME_CHARS_MAX]),
            "refers": refers,
        }

    def _own(self, action: str, subject: str, new: object) -> Mapping[str, object]:
        return self._fields(
            action, who=Who(name="gateway", origin="node"), subject=subject, new=new
        )

    # --- telling ------------------------------------------------------------------------------

    def _tell_head(self) -> None:
        # The event log usually leaves the machine: there it is an anchor.
        head = self._writer.head
        self._emit(Event.AUDIT_HEAD, sequence=head.seq, sha256=head.hash)

    def tell_full(self, error: AuditFull) -> None:
        """Say, once, that there is no room for it."""
        if not self._failing:
            self._tell_failed(error)

    def _tell_failed(self, error: AuditFailed) -> None:
        self._failing = True
        self._emit(Event.AUDIT_FAILED, reason=str(error))

    def _tell_recovered(self) -> None:
        if self._failing:
            self._failing = False
            self._emit(Event.AUDIT_RECOVERED)


async def patiently(
    attempt: Callable[[], Awaitable[object]], tell: Callable[[AuditFull], None]
) -> None:
    """Do it, and again as long as the disk is full. Raises AuditFailed for all else."""
    while True:
        try:
            await attempt()
        except AuditFull as error:
            tell(error)
            await trio.sleep(_FULL_RETRY_S)
        else:
            return


@asynccontextmanager
async def opened(log: AuditLog) -> AsyncIterator[AuditLog]:
    """The log, open as long as the block runs; raises AuditFailed.

    While the disk is full it waits for room: a store on the same disk could take nothing either.
    """
    await patiently(log.open, log.tell_full)
    try:
        yield log
    finally:
        with trio.CancelScope(shield=True):
            await log.aclose()
