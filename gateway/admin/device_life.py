"""What operators do to devices beyond enrolling them: lost, replaced, deregistered, looked into."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from pydantic import Field

from gateway.admin.access import Role
from gateway.admin.api import Arguments, DeviceView, Progress
from gateway.admin.operations import Operation
from gateway.store.store import Device

Json = dict[str, Any]
_HOURS_MAX = 24 * 31


class SuspendArguments(Arguments):
    terminal_id: str
    reason: str = ""
    until_ms: int = Field(default=0, ge=0)  # 0: until it is resumed


class InspectArguments(Arguments):
    terminal_id: str
    date: str  # YYYY-MM-DD
    by: str = ""


class LostArguments(Arguments):
    terminal_id: str
    reason: str = ""
    stolen: bool = False
    hours: int | None = Field(default=None, ge=1, le=_HOURS_MAX)


class ReasonArguments(Arguments):
    terminal_id: str
    reason: str = ""


class ReplaceArguments(Arguments):
    terminal_id: str
    new_id: str
    reason: str = ""
    keep_ids: bool = False


class HistoryArguments(Arguments):
    terminal_id: str
    limit: int = Field(default=100, ge=1, le=250)
    before_id: int = Field(default=0, ge=0)


class IncidentsArguments(Arguments):
    terminal_id: str = ""  # of all where it is empty


class IncidentArguments(Arguments):
    number: int = Field(ge=1)


class OpenArguments(Arguments):
    terminal_id: str


class LifeApi(Protocol):
    """See terminals/device_life.py."""

    def opened_batch(self, device: Device) -> None: ...

    async def lost(
        self, terminal_id: str, *, stolen: bool, reason: str, who: str, hours: int | None
    ) -> tuple[Device, Json]: ...

    async def found(self, terminal_id: str, *, reason: str, who: str) -> Device: ...

    async def replace(
        self, old_id: str, new_id: str, *, reason: str, who: str, keep_ids: bool
    ) -> Json: ...

    async def undo(self, terminal_id: str, *, reason: str, who: str) -> Json: ...

    async def close_batch(self, terminal_id: str, *, reason: str, who: str) -> Json: ...

    async def deregister(
        self, terminal_id: str, *, reason: str, who: str
    ) -> tuple[Device, Json]: ...

    async def open_items(self, terminal_id: str) -> Json: ...

    async def history(self, terminal_id: str, *, limit: int, before_id: int) -> Json: ...

    def incidents(self, terminal_id: str) -> list[Json]: ...

    async def incident(self, number: int) -> Json: ...


View = Callable[[Device], DeviceView]
Old = Callable[[Any], Awaitable[object]]


def life_operations(life: LifeApi, *, view: View, old: Old) -> dict[str, Operation]:
    """The operations of the group "terminals" that `life` does; `old` is a device as it was."""
    steps = _Steps(life, view)

    def change(
        arguments: type[Arguments],
        run: Callable[..., Awaitable[object]],
        role: Role = Role.OPERATOR,
        told: Callable[[Any], object] = lambda result: result,
    ) -> Operation:
        return Operation(
            arguments, run, role, subject="terminal_id", old=old, told=told, keeps_who=True
        )

    return {
        "lost": change(LostArguments, steps.lost, told=_without_report),
        "found": change(ReasonArguments, steps.found),
        "replace": change(ReplaceArguments, steps.replace),
        "undo": change(ReasonArguments, steps.undo),
        "close-batch": change(ReasonArguments, steps.close_batch),
        "deregister": change(ReasonArguments, steps.deregister),
        "open": Operation(OpenArguments, steps.open_items),
        "history": Operation(HistoryArguments, steps.history),
        "incidents": Operation(IncidentsArguments, steps.incidents),
        "incident": Operation(IncidentArguments, steps.incident),
    }


class _Steps:
    """Each takes its arguments, and answers with what commands show."""

    def __init__(self, life: LifeApi, view: View) -> None:
        self._life = life
        self._view = view

    async def lost(
        self, arguments: LostArguments, _: Progress | None = None, *, who: str = ""
    ) -> Json:
        device, done = await self._life.lost(**arguments.model_dump(), who=who)
        return {"device": self._view(device), **done}

    async def found(
        self, arguments: ReasonArguments, _: Progress | None = None, *, who: str = ""
    ) -> DeviceView:
        return self._view(await self._life.found(**arguments.model_dump(), who=who))

    async def replace(
        self, arguments: ReplaceArguments, _: Progress | None = None, *, who: str = ""
    ) -> Json:
        return await self._life.replace(
            arguments.terminal_id,
            arguments.new_id,
            reason=arguments.reason,
            who=who,
            keep_ids=arguments.keep_ids,
        )

    async def undo(
        self, arguments: ReasonArguments, _: Progress | None = None, *, who: str = ""
    ) -> Json:
        return await self._life.undo(**arguments.model_dump(), who=who)

    async def close_batch(
        self, arguments: ReasonArguments, _: Progress | None = None, *, who: str = ""
    ) -> Json:
        return await self._life.close_batch(**arguments.model_dump(), who=who)

    async def deregister(
        self, arguments: ReasonArguments, _: Progress | None = None, *, who: str = ""
    ) -> Json:
        device, archive = await self._life.deregister(**arguments.model_dump(), who=who)
        return {"device": self._view(device), "archive": archive}

    async def open_items(self, arguments: OpenArguments, _: Progress | None = None) -> Json:
        return await self._life.open_items(arguments.terminal_id)

    async def history(self, arguments: HistoryArguments, _: Progress | None = None) -> Json:
        return await self._life.history(
            arguments.terminal_id, limit=arguments.limit, before_id=arguments.before_id
        )

    async def incidents(self, arguments: IncidentsArguments, _: Progress | None = None) -> Json:
        return {"incidents": self._life.incidents(arguments.terminal_id)}

    async def incident(self, arguments: IncidentArguments, _: Progress | None = None) -> Json:
        return await self._life.incident(arguments.number)


def _without_report(result: Json) -> Json:
    """What the audit log is told of a loss: the report has a file of its own."""
    return {
        "state": result["device"]["state"],
        "certificates_taken_away": result["certificates_taken_away"],
        "keys_destroyed": result["keys_destroyed"],
        "incident": result["report"]["incident"]["number"],
    }
