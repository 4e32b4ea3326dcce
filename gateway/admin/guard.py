"""Between who asks and what is done: the role it needs, a second operator, and the audit log."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import trio

from gateway.admin.access import Caller, Role
from gateway.admin.api import Arguments, BadArguments, Progress
from gateway.admin.approval_records import WAITS, Pending
from gateway.admin.approvals import PendingApprovals
from gateway.admin.operations import Json, Operation, Operations, holds_secret
from gateway.clock import Clock
from gateway.errors import GatewayError, OperatorError
from gateway.policy.card_numbers import holds_card_number
from gateway.telemetry.audit import BEGUN, DONE, FAILED, REFUSED, AuditLog
from gateway.telemetry.audit_files import AuditFailed
from gateway.telemetry.events import Emit, Event

REJECTED = "rejected"
_REFUSALS_PER_MINUTE = 30  # of one user, written down; the rest is counted
_USERS_MAX = 1_000
_MINUTE_S = 60.0


class NotAllowed(OperatorError):
    """Who asks lacks the role that the operation needs."""


class ApprovalWanted(OperatorError):
    """The operation waits for another operator."""


class Guard:
    """Runs operations for callers, and writes down what changes something or was refused."""

    def __init__(
        self,
        *,
        audit: AuditLog,
        approvals: PendingApprovals,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._audit = audit
        self._approvals = approvals
        self._clock = clock
        self._emit = emit
        self._refusals = _Refusals()

    async def run(
        self,
        caller: Caller,
        group: str,
        operations: Operations,
        name: str,
        arguments: Mapping[str, Any],
        progress: Progress | None = None,
    ) -> Json:
        """Do an operation for a caller, and return its answer.

        Raises NotAllowed, ApprovalWanted where it now waits for another operator, AuditFailed
        where it cannot be written down and so was not done, and whatever the operation raises.
        """
        operation = operations.named(name)
        action = f"{group}.{name}"
        await self.require(caller, operation.role, action)
        if not operation.changes:
            return await operations.run(name, arguments, progress)
        parsed = operations.parse(operation, arguments)
        # What people write freely is kept: in the store, and on disk while it waits for approval.
        if holds_card_number(str(getattr(parsed, "reason", ""))):
            raise BadArguments("reason: holds what looks like a card number: leave it out")
        if self._approvals.wanted(action):
            raise await self._put_off(caller, group, name, operation, parsed)
        return await self._done(caller, action, operations, operation, parsed, progress=progress)

    async def approved(self, caller: Caller, pending: Pending, operations: Operations) -> Json:
        """Do what waited, another operator having said yes; the same errors as `run`."""
        operation = operations.named(pending.operation)
        parsed = operations.parse(operation, pending.arguments)
        return await self._done(
            caller,
            pending.action,
            operations,
            operation,
            parsed,
            asked={"asked_by": pending.operator, "approved_by": caller.name},
            refers=pending.number,
        )

    async def require(self, caller: Caller, role: Role, action: str) -> None:
        """Raises NotAllowed, and writes it down, where a caller does not have a role."""
        if caller.may(role):
            return
        if caller.roles:
            reason = f"needs the role {role}, and {caller.name} has " + ", ".join(
                sorted(caller.roles)
            )
        else:
            reason = f"needs the role {role}, and {caller.name} is no operator"
        await self.refuse(caller, action, reason)
        raise NotAllowed(f"{action} {reason}; roles are given by [[operators]]")

    async def refuse(self, caller: Caller, action: str, reason: str) -> None:
        """Write down that somebody was refused; raises AuditFailed."""
        self._emit(Event.OPERATOR_REFUSED, operator=caller.name, operation=action, reason=reason)
        untold = self._refusals.count(caller.who.uid or 0, self._clock.monotonic_s())
        if untold is not None:
            await self._audit.record(
                action,
                who=caller.who,
                new={"refused_unwritten_before": untold} if untold else None,
                outcome=f"{REFUSED}: {reason}",
            )

    async def note(
        self, caller: Caller, action: str, *, subject: str, outcome: str, refers: int
    ) -> None:
        """Write down what a caller decided; raises AuditFailed."""
        await self._audit.record(
            action, who=caller.who, subject=subject, outcome=outcome, refers=refers
        )

    async def _put_off(
        self, caller: Caller, group: str, name: str, operation: Operation, parsed: Arguments
    ) -> ApprovalWanted:
        if holds_secret(parsed):
            raise BadArguments(
                f"{group}.{name} waits for another operator, and the secret that was given is kept"
                f" nowhere meanwhile: {operation.instead or 'ask for it without'}"
            )
        self._approvals.check_room()
        draft = self._approvals.draft(
            group=group,
            operation=name,
            arguments=parsed.model_dump(mode="json"),
            subject=operation.subject_of(parsed),
            operator=caller.name,
            uid=-1 if caller.who.uid is None else caller.who.uid,
        )
        number = await self._audit.record(
            draft.action,
            who=caller.who,
            subject=draft.subject,
            # The hash proves what waits on disk, whatever of it is not shown.
            new={**operation.shown(parsed), "sha256": draft.sha256},
            outcome=f"{WAITS}: for another operator",
        )
        await self._approvals.add(replace(draft, number=number))
        self._emit(
            Event.APPROVAL_WANTED, operation=f"{group}.{name}", operator=caller.name, number=number
        )
        return ApprovalWanted(
            f"{group}.{name} waits for another operator: `gateway approve {number}`"
        )

    async def _done(
        self,
        caller: Caller,
        action: str,
        operations: Operations,
        operation: Operation,
        parsed: Arguments,
        *,
        asked: Mapping[str, str] | None = None,
        refers: int = 0,
        progress: Progress | None = None,
    ) -> Json:
        subject = operation.subject_of(parsed)
        # The intent first: what cannot be written down is not done.
        begun = await self._audit.record(
            action,
            who=caller.who,
            subject=subject,
            new={**operation.shown(parsed), **(asked or {})},
            outcome=BEGUN,
            refers=refers,
        )
        old = await operation.old(parsed)
        try:
            # Who approved it is in the audit log; what is kept names who wanted it.
            who = (asked or {}).get("asked_by", caller.name)
            result = await operations.do(operation, parsed, progress, who=who)
        except BaseException as error:
            words = str(error) if isinstance(error, GatewayError) else type(error).__name__
            await self._finish(action, caller, subject, f"{FAILED}: {words}", begun, old, None)
            raise
        await self._finish(action, caller, subject, DONE, begun, old, operation.told(result))
        return result

    async def _finish(
        self,
        action: str,
        caller: Caller,
        subject: str,
        outcome: str,
        begun: int,
        old: object,
        new: object,
    ) -> None:
        # It is done, or not: that it was begun is on disk, and where this cannot be written the log
        # raises its own alarm. Nor does who asked take it back by hanging up.
        with trio.CancelScope(shield=True), contextlib.suppress(AuditFailed):
            await self._audit.record(
                action,
                who=caller.who,
                subject=subject,
                old=old,
                new=new,
                outcome=outcome,
                refers=begun,
            )


class _Refusals:
    """Keeps somebody who is refused from filling the audit log, and with it from emptying it."""

    def __init__(self) -> None:
        self._by_user: dict[int, tuple[float, int]] = {}

    def count(self, uid: int, now_s: float) -> int | None:
        """How many went unwritten before this one, which is to be written; None: it is not."""
        since_s, count = self._by_user.pop(uid, (now_s, 0))
        untold = 0
        if now_s - since_s > _MINUTE_S:
            untold = max(0, count - _REFUSALS_PER_MINUTE)
            since_s, count = now_s, 0
        while len(self._by_user) >= _USERS_MAX:
            del self._by_user[next(iter(self._by_user))]
        self._by_user[uid] = (since_s, count + 1)
        return untold if count < _REFUSALS_PER_MINUTE else None
