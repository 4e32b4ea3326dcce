"""An admin API over an audit log of its own, for tests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.admin.access import caller_of
from gateway.admin.api import AdminApi, Status
from gateway.admin.approvals import PendingApprovals
from gateway.admin.desk import Desk
from gateway.admin.guard import Guard
from gateway.admin.operations import Operations
from gateway.clock import Clock, SystemClock
from gateway.settings.schema_operators import Approvals, Operator
from gateway.telemetry.audit import AuditLog, opened
from gateway.telemetry.events import Emit


@asynccontextmanager
async def an_api(
    groups: Mapping[str, Operations],
    folder: Path,
    *,
    emit: Emit,
    status: Callable[[], Status],
    operators: Sequence[Operator] = (),
    approvals: Approvals | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[AdminApi]:
    """An API over these groups; its audit log is in `folder`."""
    clock = clock or SystemClock()
    log = AuditLog(
        folder,
        node="till-side",
        clock=SystemClock(),
        emit=lambda event, /, **fields: None,  # What it says of itself is tested elsewhere.
        file_bytes_max=1 << 20,
        files_kept=10,
        waiting_max=100,
    )
    wanted = approvals or Approvals()
    async with opened(log) as audit:
        pending = PendingApprovals(folder, settings=lambda: wanted, clock=clock, emit=emit)
        await pending.load()
        guard = Guard(audit=audit, approvals=pending, clock=clock, emit=emit)
        yield AdminApi(
            status=status,
            desk=Desk(groups, guard=guard, approvals=pending),
            callers=lambda peer: caller_of(peer, operators, own_uid=os.getuid()),
            emit=emit,
        )
