"""Where callers' orders arrive: each goes to its group of operations, or waits for a second yes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from gateway.admin.access import Caller, Role
from gateway.admin.api import Arguments, BadArguments, Progress
from gateway.admin.approval_records import Pending
from gateway.admin.approvals import PendingApprovals
from gateway.admin.guard import REJECTED, Guard, NotAllowed
from gateway.admin.operations import Json, Operations, parse
from gateway.clock import iso_time
from gateway.errors import NoSuchThing

APPROVALS = "approvals"


class PendingView(TypedDict):
    """What waits, as commands show it."""

    number: int
    action: str
    subject: str
    arguments: dict[str, Any]
    operator: str
    asked: str  # ISO 8601, UTC
    ends: str


class NoArguments(Arguments):
    """The operation takes none."""


class NumberArguments(Arguments):
    number: int


class RejectArguments(NumberArguments):
    reason: str = ""


class Desk:
    """All groups of operations, behind one guard."""

    def __init__(
        self,
        groups: Mapping[str, Operations],
        *,
        guard: Guard,
        approvals: PendingApprovals,
    ) -> None:
        self._groups = dict(groups)
        self._guard = guard
        self._approvals = approvals

    @property
    def waiting(self) -> int:
        """How many operations wait for a second operator."""
        return len(self._approvals.waiting())

    async def look(self, caller: Caller, action: str) -> None:
        """Raises NotAllowed where a caller may not even look."""
        await self._guard.require(caller, Role.VIEWER, action)

    async def run(
        self,
        caller: Caller,
        group: str,
        name: str,
        arguments: Mapping[str, Any],
        progress: Progress | None = None,
    ) -> Json:
        """Do an operation for a caller; raises as `Guard.run` does, and NoSuchThing."""
        if group == APPROVALS:
            return await self._steer(caller, name, arguments)
        operations = self._groups.get(group)
        if operations is None:
            raise NoSuchThing(f"no group {group!r}; there are: {', '.join(self._groups)}")
        return await self._guard.run(caller, group, operations, name, arguments, progress)

    async def _steer(self, caller: Caller, name: str, arguments: Mapping[str, Any]) -> Json:
        match name:
            case "list":
                await self.look(caller, "approvals.list")
                parse(NoArguments, arguments)
                return {"pending": [_view(one) for one in self._approvals.waiting()]}
            case "approve":
                return await self._approve(caller, parse(NumberArguments, arguments).number)
            case "reject":
                return await self._reject(caller, parse(RejectArguments, arguments))
        raise NoSuchThing(f"no operation {name!r}; there are: list, approve, reject")

    async def _approve(self, caller: Caller, number: int) -> Json:
        pending = self._approvals.get(number)
        operations = self._groups.get(pending.group)
        if operations is None:
            raise NoSuchThing(f"{pending.action}: this version has no such operation: reject it")
        await self._guard.require(
            caller, operations.named(pending.operation).role, f"approve {pending.action}"
        )
        if pending.operator == caller.name or pending.uid == caller.who.uid:
            reason = f"{caller.name} asked for it: somebody else has to approve"
            await self._guard.refuse(caller, f"approve {pending.action}", reason)
            raise NotAllowed(f"{number}: {reason}")
        # Out of the book first: what is begun is never begun again.
        pending = await self._approvals.take(number)
        result = await self._guard.approved(caller, pending, operations)
        return {"approved": _view(pending), "result": result}

    async def _reject(self, caller: Caller, arguments: RejectArguments) -> Json:
        pending = self._approvals.get(arguments.number)
        if pending.operator != caller.name:  # who asked may take it back
            await self._guard.require(caller, Role.OPERATOR, f"reject {pending.action}")
        if not arguments.reason and pending.operator != caller.name:
            raise BadArguments("reason: say why (--reason)")
        await self._guard.note(
            caller,
            pending.action,
            subject=pending.subject,
            outcome=f"{REJECTED}: {arguments.reason or 'taken back'}",
            refers=pending.number,
        )
        pending = await self._approvals.take(arguments.number)
        return {"rejected": _view(pending)}


def _view(pending: Pending) -> PendingView:
    return {
        "number": pending.number,
        "action": pending.action,
        "subject": pending.subject,
        "arguments": {
            key: value if len(str(value)) <= 200 else f"[{len(str(value))} characters]"
            for key, value in pending.arguments.items()
        },
        "operator": pending.operator,
        "asked": iso_time(pending.asked_ms),
        "ends": iso_time(pending.ends_ms),
    }
