"""What waits for a second operator: on disk, bounded, and over after its time."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import trio

from gateway.admin.approval_records import Pending, pending_of, problems_of
from gateway.clock import Clock
from gateway.errors import NoSuchThing, OperatorError
from gateway.settings.schema_operators import Approvals
from gateway.telemetry.events import Emit, Event

FILE = "approvals.json"
_HOUR_MS = 3_600_000
_BYTES_MAX = 64 * 1024 * 1024


class PendingApprovals:
    """The operations that wait; a change is on disk before anybody hears of it."""

    def __init__(
        self, folder: Path, *, settings: Callable[[], Approvals], clock: Clock, emit: Emit
    ) -> None:
        """`folder` is the audit log's, which proves each of them."""
        self._file = folder / FILE
        self._settings = settings
        self._clock = clock
        self._emit = emit
        self._pending: dict[int, Pending] = {}
        self._changing = trio.Lock()

    async def load(self) -> None:
        """Take up what waited when the gateway stopped, once the audit log is open.

        What the audit log does not tell of, or tells otherwise, is an alarm and is left out:
        somebody wrote it there meanwhile. Raises OperatorError where nothing can be read at all.
        """
        try:
            found, dropped = await trio.to_thread.run_sync(_read, self._file, self._clock.wall_ms())
        except FileNotFoundError:
            return
        except (OSError, ValueError):
            raise OperatorError(
                f"{self._file} cannot be read: mend it, or remove it and have what waited there"
                " asked for again"
            ) from None
        self._pending = found
        for entry, reason in dropped:
            self._emit(
                Event.APPROVAL_DROPPED,
                path=str(self._file),
                entry=entry,
                reason=f"{reason}; where it is wanted, have it asked for again",
            )

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

    def draft(
        self,
        *,
        group: str,
        operation: str,
        arguments: Mapping[str, Any],
        subject: str,
        operator: str,
        uid: int,
    ) -> Pending:
        """An operation that is to wait, before the audit record that gives it its number."""
        now_ms = self._clock.wall_ms()
        return Pending(
            number=0,
            group=group,
            operation=operation,
            arguments=dict(arguments),
            subject=subject,
            operator=operator,
            uid=uid,
            asked_ms=now_ms,
            ends_ms=now_ms + round(self._settings().expires_h * _HOUR_MS),
        )

    async def add(self, pending: Pending) -> None:
        """Have an operation wait; raises OperatorError."""
        async with self._changing:
            self.check_room()
            await self._keep({**self._current(), pending.number: pending})

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


def _read(file: Path, now_ms: int) -> tuple[dict[int, Pending], list[tuple[int, str]]]:
    """What waits, by number, and which entries (from 1) of the file are left out and why.

    What is over is neither. Raises OSError, and ValueError where it is no list of JSON.
    """
    with file.open("rb") as opened:
        content = opened.read(_BYTES_MAX + 1)
    if len(content) > _BYTES_MAX or not content.startswith(b"["):
        raise ValueError("no list, or too long a one")
    rows = orjson.loads(content)
    found: dict[int, Pending] = {}
    places: dict[int, int] = {}
    dropped: list[tuple[int, str]] = []
    for place, row in enumerate(rows, start=1):
        try:
            pending = pending_of(orjson.dumps(row))
        except ValueError as error:
            dropped.append((place, str(error)))
            continue
        if pending.number in places:
            dropped.append((place, f"has the number of entry {places[pending.number]}"))
        elif pending.ends_ms > now_ms:
            found[pending.number] = pending
            places[pending.number] = place
    for number, reason in problems_of(found, file.parent).items():
        del found[number]
        dropped.append((places[number], reason))
    return found, sorted(dropped)


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
