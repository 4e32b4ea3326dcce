"""What operators do with backups: take one of the gateway as it runs, or of one that does not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypedDict

import trio
from pydantic import Field, field_validator

from gateway.admin.access import Role
from gateway.admin.api import Arguments, Progress
from gateway.admin.operations import Operation, Operations
from gateway.clock import Clock, iso_time
from gateway.errors import GatewayError, OperatorError
from gateway.settings.loader import Configuration
from gateway.store.backup import Made, make
from gateway.store.snapshot import Pace
from gateway.telemetry.events import Emit, Event

_TOLD_EVERY_S = 0.5


class BackupArguments(Arguments):
    """Where the backup is written, on the gateway's machine, by the gateway's user."""

    file: str = Field(min_length=1, max_length=4_000)

    @field_validator("file", mode="after")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not Path(value).is_absolute() or "\0" in value:
            raise ValueError("give an absolute path: the gateway runs in a folder of its own")
        return value


class BackupView(TypedDict):
    """A backup that is on the disk."""

    file: str
    bytes: int
    sha256: str
    node: str
    taken: str  # ISO 8601, UTC
    transactions: int
    open_intents: int
    reversals_owed: int
    audit_sequence: int
    left_out: list[str]
    seconds: float


class BackupOperations(Operations):
    """One backup at a time; the work is a thread's, which pauses as the settings say."""

    def __init__(
        self, *, configuration: Callable[[], Configuration], clock: Clock, emit: Emit
    ) -> None:
        self._configuration = configuration
        self._clock = clock
        self._emit = emit
        self._busy = False
        super().__init__(
            {"create": Operation(BackupArguments, self.create, Role.ADMIN, subject="file")}
        )

    async def create(
        self, arguments: BackupArguments, progress: Progress | None = None
    ) -> BackupView:
        """Write a backup of what is committed by now; raises OperatorError.

        Who asks and hangs up has it stopped, and nothing of it stays.
        """
        if self._busy:
            raise OperatorError("another backup is being written: wait for its end")
        self._busy = True
        started_s = self._clock.monotonic_s()
        try:
            made = await self._made(Path(arguments.file), progress)
        except GatewayError as error:
            self._emit(Event.BACKUP_FAILED, reason=str(error))
            raise
        finally:
            self._busy = False
        seconds = round(self._clock.monotonic_s() - started_s, 3)
        self._emit(
            Event.BACKUP_DONE,
            file=made.file.name,
            bytes=made.bytes,
            sha256=made.sha256,
            transactions=made.manifest.store.transactions,
            audit=made.manifest.audit_seq,
            seconds=seconds,
        )
        return _view(made, seconds)

    async def _made(self, file: Path, progress: Progress | None) -> Made:
        configuration = self._configuration()
        told_s = self._clock.monotonic_s()

        def told(done_bytes: int, total_bytes: int) -> None:
            nonlocal told_s
            if progress is not None and self._clock.monotonic_s() - told_s >= _TOLD_EVERY_S:
                told_s = self._clock.monotonic_s()
                progress(done_bytes, total_bytes)

        def tell(done_bytes: int, total_bytes: int) -> None:
            # In trio's thread, as the clock that deadlines are set by is read there alone.
            if progress is not None:
                trio.from_thread.run_sync(told, done_bytes, total_bytes)

        pace = Pace(
            step_pages=configuration.settings.backup.step_pages,
            pause_s=configuration.settings.backup.pause_ms / 1000,
            check=trio.from_thread.check_cancelled,
        )
        work = partial(
            make, configuration, file, pace=pace, wall_ms=self._clock.wall_ms, progress=tell
        )
        return await trio.to_thread.run_sync(work)


def _view(made: Made, seconds: float) -> BackupView:
    manifest = made.manifest
    return {
        "file": str(made.file),
        "bytes": made.bytes,
        "sha256": made.sha256,
        "node": manifest.node,
        "taken": iso_time(manifest.taken_ms),
        "transactions": manifest.store.transactions,
        "open_intents": manifest.store.open_intents,
        "reversals_owed": manifest.store.reversals_owed,
        "audit_sequence": manifest.audit_seq,
        "left_out": list(manifest.left_out),
        "seconds": seconds,
    }
