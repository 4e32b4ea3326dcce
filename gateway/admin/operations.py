"""What operators can have done, by name: JSON in, JSON out; and what they do with terminals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from gateway.admin.access import Role
from gateway.admin.api import (
    Arguments,
    BadArguments,
    BindArguments,
    DeviceView,
    EnrolArguments,
    ImportArguments,
    ImportView,
    ListArguments,
    MoveArguments,
    Page,
    Progress,
    RegistryApi,
    RuleView,
    ShowArguments,
    SightingApi,
    SightingsApi,
    SightingsArguments,
    SightingView,
)
from gateway.clock import iso_time
from gateway.errors import NoSuchThing, OperatorError
from gateway.store.store import Device

Json = dict[str, Any]
ArgumentsT = TypeVar("ArgumentsT", bound=Arguments)


async def _nothing(_: Any) -> None:
    """There was nothing before."""


def _all(result: Any) -> object:
    return result


@dataclass(frozen=True, slots=True)
class Operation:
    """What one operation takes, the coroutine function that does it, and who may ask for it.

    `run` is called with the arguments and where to tell progress; where it `keeps_who`, also with
    the name of who asks, as `who`. The rest says what the audit log is told of it: the argument
    that names its subject, how things were before, what of the result, and which arguments are too
    long to be repeated.
    """

    arguments: type[Arguments]
    run: Callable[..., Awaitable[object]]
    role: Role = Role.VIEWER
    subject: str = ""
    old: Callable[[Any], Awaitable[object]] = _nothing
    told: Callable[[Any], object] = _all
    long: frozenset[str] = frozenset()
    keeps_who: bool = False

    @property
    def changes(self) -> bool:
        """Whether it does more than look."""
        return self.role is not Role.VIEWER

    def subject_of(self, arguments: Arguments) -> str:
        return str(getattr(arguments, self.subject)) if self.subject else ""

    def shown(self, arguments: Arguments) -> Json:
        """The arguments as they are written down."""
        values = arguments.model_dump(mode="json")
        return {
            key: f"[{len(str(value))} characters]" if key in self.long else value
            for key, value in values.items()
        }


class Operations:
    """Operations by name.

    The daemon serves them; without a daemon a command builds them over the store itself, so both
    ways are one code.
    """

    def __init__(self, by_name: Mapping[str, Operation]) -> None:
        self._by_name = by_name

    async def run(
        self,
        name: str,
        arguments: Mapping[str, Any],
        progress: Progress | None = None,
        *,
        who: str = "",
    ) -> Json:
        """Do the operation and return its answer as JSON values.

        Raises NoSuchThing for an unknown name or device, BadArguments, OperatorError for what
        cannot be done, and StoreError.
        """
        operation = self.named(name)
        return await self.do(operation, self.parse(operation, arguments), progress, who=who)

    def named(self, name: str) -> Operation:
        """The operation of a name; raises NoSuchThing."""
        operation = self._by_name.get(name)
        if operation is None:
            raise NoSuchThing(f"no operation {name!r}; there are: {', '.join(self._by_name)}")
        return operation

    def parse(self, operation: Operation, arguments: Mapping[str, Any]) -> Arguments:
        """The arguments, checked; raises BadArguments."""
        return parse(operation.arguments, arguments)

    async def do(
        self,
        operation: Operation,
        arguments: Arguments,
        progress: Progress | None = None,
        *,
        who: str,
    ) -> Json:
        """Do an operation that was found with arguments that were parsed; `who` asks for it."""
        if operation.keeps_who:
            return cast("Json", await operation.run(arguments, progress, who=who))
        return cast("Json", await operation.run(arguments, progress))


def parse(kind: type[ArgumentsT], arguments: Mapping[str, Any]) -> ArgumentsT:
    """Arguments of a kind; raises BadArguments, which repeats no value."""
    try:
        return kind.model_validate(dict(arguments))
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        raise BadArguments("; ".join(problems)) from None


class TerminalOperations(Operations):
    """What can be done with terminals, over a registry."""

    def __init__(self, registry: RegistryApi, sightings: SightingsApi | None = None) -> None:
        self._registry = registry
        self._sightings = sightings
        super().__init__(
            {
                "enrol": self._change(EnrolArguments, self.enrol),
                "show": Operation(ShowArguments, self.show),
                "list": Operation(ListArguments, self.page),
                "sightings": Operation(SightingsArguments, self.sighted),
                "activate": self._change(MoveArguments, self.activate),
                "suspend": self._change(MoveArguments, self.suspend),
                "resume": self._change(MoveArguments, self.resume),
                "bind": self._change(BindArguments, self.bind, Role.KEYS),
                "import": Operation(
                    ImportArguments, self.import_csv, Role.OPERATOR, long=frozenset(("csv",))
                ),
            }
        )

    def _change(
        self,
        arguments: type[Arguments],
        run: Callable[[Any, Progress | None], Awaitable[object]],
        role: Role = Role.OPERATOR,
    ) -> Operation:
        return Operation(arguments, run, role, subject="terminal_id", old=self._before)

    async def _before(
        self, arguments: EnrolArguments | MoveArguments | BindArguments
    ) -> DeviceView | None:
        try:
            return self._view(self._registry.get(arguments.terminal_id))
        except OperatorError:
            return None

    async def enrol(self, arguments: EnrolArguments, _: Progress | None = None) -> DeviceView:
        return self._view(await self._registry.enrol(**arguments.model_dump()))

    async def show(self, arguments: ShowArguments, _: Progress | None = None) -> DeviceView:
        return self._view(self._registry.get(arguments.terminal_id))

    async def page(self, arguments: ListArguments, _: Progress | None = None) -> Page:
        devices = self._registry.select(
            after=arguments.after.ljust(8) if arguments.after else "",
            limit=arguments.limit + 1,
            state=arguments.state,
            silent_for_s=arguments.silent_for_s,
        )
        shown = devices[: arguments.limit]
        return {
            "devices": [self._view(device) for device in shown],
            "rules": [] if arguments.after else self._rules(),
            "next": shown[-1].terminal_id.rstrip() if len(devices) > len(shown) else "",
        }

    async def sighted(
        self, arguments: SightingsArguments, _: Progress | None = None
    ) -> dict[str, list[SightingView]]:
        """Where blocked and suspended devices were seen, the latest first."""
        found: Sequence[SightingApi] = ()
        if self._sightings is not None:
            found = self._sightings.of(arguments.terminal_id, limit=arguments.limit)
        return {
            "sightings": [
                {
                    "terminal_id": one.attempt.terminal_id,
                    "first": iso_time(one.first_ms),
                    "last": iso_time(one.last_ms),
                    "count": one.count,
                    "listener": one.attempt.listener,
                    "address": one.attempt.address,
                    "certificate_sha256": one.attempt.certificate_sha256,
                    "why": one.attempt.why,
                }
                for one in found
            ]
        }

    async def activate(self, arguments: MoveArguments, _: Progress | None = None) -> DeviceView:
        return self._view(await self._registry.activate(arguments.terminal_id, arguments.reason))

    async def suspend(self, arguments: MoveArguments, _: Progress | None = None) -> DeviceView:
        return self._view(await self._registry.suspend(arguments.terminal_id, arguments.reason))

    async def resume(self, arguments: MoveArguments, _: Progress | None = None) -> DeviceView:
        return self._view(await self._registry.resume(arguments.terminal_id, arguments.reason))

    async def bind(self, arguments: BindArguments, _: Progress | None = None) -> DeviceView:
        return self._view(
            await self._registry.bind_certificate(
                arguments.terminal_id, arguments.certificate_sha256
            )
        )

    async def import_csv(
        self, arguments: ImportArguments, progress: Progress | None = None
    ) -> ImportView:
        done = await self._registry.import_csv(
            arguments.csv,
            activate=arguments.activate,
            merchant_id=arguments.merchant_id,
            progress=progress,
        )
        return {"added": done.added, "completed": done.completed, "unchanged": done.unchanged}

    def _view(self, device: Device) -> DeviceView:
        seen_ms = self._registry.last_seen_ms(device)
        return {
            "terminal_id": device.terminal_id.rstrip(),
            "merchant_id": device.merchant_id,
            "state": str(device.state),
            "profile": device.profile,
            "activation": device.activation,
            "certificate_sha256": device.certificate_sha256,
            "serial": device.serial,
            "model": device.model,
            "place": device.place,
            "networks": device.networks,
            "enrolled": iso_time(device.enrolled_ms) if device.enrolled_ms else "",
            "last_seen": iso_time(seen_ms) if seen_ms else "",
            "from_rule": device.device_id == 0,
            "group": device.group,
            "inspected": device.inspected,
            "inspected_by": device.inspected_by,
            "state_reason": device.state_reason,
            "state_since": iso_time(device.state_since_ms) if device.state_since_ms else "",
            "until": iso_time(device.until_ms) if device.until_ms else "",
            "keys_of": device.keys_of.rstrip(),
            "inherits": " ".join(f"{one.rstrip()}/{number}" for one, number in device.inherits),
        }

    def _rules(self) -> list[RuleView]:
        return [
            {
                "terminals": rule.text,
                "count": len(rule.terminals),
                "merchant_id": rule.merchant_id,
                "profile": rule.profile,
            }
            for rule in self._registry.rules
        ]
