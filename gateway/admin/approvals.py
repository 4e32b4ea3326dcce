"""What waits for a second operator: on disk, bounded, and over after its time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import trio

from gateway.clock import Clock
from gateway.errors import NoSuchThing, OperatorError
from gateway.settings.schema_operators import Approvals

FILE = "approvals.json"
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """An operation that one operator asked for and another has to approve."""

    number: int  # of the audit record that tells it was asked for
    group: str
    operation: str
    arguments: Mapping[str, Any]
    subject: str
    operator: str  # who asked
    uid: int
    asked_ms: int
    ends_ms: int

    @property
    def action(self) -> str:
        return f"{self.group}.{self.operation}"


class PendingApprovals:
    """The operations that wait; a change is on disk before anybody hears of it."""

    def __init__(self, folder: Path, *, settings: Callable[[], Approvals], clock: Clock) -> None:
        self._file = folder / FILE
        self._settings = settings
        self._clock = clock
        self._pending: dict[int, Pending] = {}
        self._changing = trio.Lock()

    async def load(self) -> None:
        """Take up what waited when the gateway stopped; raises OperatorError."""
        try:
            content = await trio.to_thread.run_sync(self._file.read_bytes)
            rows = [Pending(**row) for row in orjson.loads(content)]
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError):
            raise OperatorError(
                f"{self._file} cannot be read: mend it, or remove it and have what waited there"
                " asked for again"
            ) from None
        self._pending = {row.number: row for row in rows}

    def wanted(self, action: str) -> bool:
        """Whether an action needs a second operator."""
        return action in self._settings().actions

    def waiting(self) -> list[Pending]:
        """What waits, the oldest first."""
        now_ms = self._clock.wall_ms()
        return [one for one in self._pending.values() if one.ends_ms > now_ms]

    def check_room(self) -> None:
        """Raises OperatorError where no more may wait."""
        bound = self._settings().pending_max
        if len(self.waiting()) >= bound:
            raise OperatorError(
                f"{bound} operations wait for approval already: approve or reject some"
                " (`gateway approve --list`)"
            )

    def get(self, number: int) -> Pending:
        """What waits under a number; raises NoSuchThing."""
        found = self._pending.get(number)
        if found is None or found.ends_ms <= self._clock.wall_ms():
            raise NoSuchThing(
                f"nothing waits under {number}: it was approved, rejected, or its time is over;"
                " see `gateway approve --list`"
            )
        return found

    async def add(
        self,
        *,
        number: int,
        group: str,
        operation: str,
        arguments: Mapping[str, Any],
        subject: str,
        operator: str,
        uid: int,
    ) -> Pending:
        """Have an operation wait; raises OperatorError."""
        now_ms = self._clock.wall_ms()
        pending = Pending(
            number=number,
            group=group,
            operation=operation,
            arguments=dict(arguments),
            subject=subject,
            operator=operator,
            uid=uid,
            asked_ms=now_ms,
            ends_ms=now_ms + round(self._settings().expires_h * _HOUR_MS),
        )
        async with self._changing:
            self.check_room()
            await self._keep({**self._current(), number: pending})
        return pending

    async def take(self, number: int) -> Pending:
        """Take one out, to be done or rejected: nobody can take it twice. Raises NoSuchThing."""
        async with self._changing:
            found = self.get(number)
            await self._keep({key: one for key, one in self._current().items() if one is not found})
            return found

    def _current(self) -> dict[int, Pending]:
        return {one.number: one for one in self.waiting()}

    async def _keep(self, pending: dict[int, Pending]) -> None:
        content = orjson.dumps([asdict(one) for one in pending.values()])
        try:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_replace, self._file, content)
        except OSError as error:
            raise OperatorError(f"{self._file} cannot be written: {error.strerror}") from None
        self._pending = pending


def _replace(file: Path, content: bytes) -> None:
    fresh = file.with_name(f"{file.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(descriptor)
    fresh.replace(file)
    folder = os.open(file.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
