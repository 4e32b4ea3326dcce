"""An audit log in a folder, for tests, and somebody to write to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.clock import SystemClock
from gateway.telemetry.audit import AuditLog
from gateway.telemetry.audit_chain import Who
from gateway.telemetry.events import Event

ANNA = Who(name="anna", origin="socket", uid=1001, pid=77)


class Events(list[tuple[Event, dict[str, object]]]):
    def __call__(self, event: Event, /, **fields: object) -> None:
        self.append((event, fields))

    def names(self) -> list[Event]:
        return [event for event, _ in self]


def audit_log(folder: Path, emit: Events | None = None, **changes: Any) -> AuditLog:
    """One that is not opened yet."""
    bounds: dict[str, Any] = {"file_bytes_max": 1 << 20, "files_kept": 10, "waiting_max": 100}
    return AuditLog(
        folder,
        node="till-side",
        clock=SystemClock(),
        emit=Events() if emit is None else emit,
        **bounds | changes,
    )
