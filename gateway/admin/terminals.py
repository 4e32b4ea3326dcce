"""What operators do with terminals, over the registry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gateway.admin.access import Role
from gateway.admin.api import (
    Arguments,
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
    RenewArguments,
    RuleView,
    ShowArguments,
    SightingApi,
    SightingsApi,
    SightingsArguments,
    SightingView,
)
from gateway.admin.device_life import (
    InspectArguments,
    LifeApi,
    SuspendArguments,
    life_operations,
)
from gateway.admin.operations import Operation, Operations
from gateway.clock import iso_time
from gateway.errors import OperatorError
from gateway.store.store import Device


class TerminalOperations(Operations):
    """What can be done with terminals, over a registry."""

    def __init__(
        self,
        registry: RegistryApi,
        sightings: SightingsApi | None = None,
        life: LifeApi | None = None,
    ) -> None:
        """Without `life` devices are enrolled, suspended and bound, and nothing beyond."""
        self._registry = registry
        self._sightings = sightings
        self._life = life
        beyond = {} if life is None else life_operations(life, view=self._view, old=self._before)
        super().__init__(
            {
                "enrol": self._change(EnrolArguments, self.enrol),
                "show": Operation(ShowArguments, self.show),
                "list": Operation(ListArguments, self.page),
                "sightings": Operation(SightingsArguments, self.sighted),
                "activate": self._change(MoveArguments, self.activate),
                "suspend": self._change(SuspendArguments, self.suspend),
                "resume": self._change(MoveArguments, self.resume),
                "bind": self._change(BindArguments, self.bind, Role.KEYS),
                "renew": self._change(RenewArguments, self.renew, Role.KEYS),
                "inspect": self._change(InspectArguments, self.inspect),
                "import": Operation(
                    ImportArguments,
                    self.import_csv,
                    Role.OPERATOR,
                    long=frozenset(("csv",)),
                    keeps_who=True,
                ),
                **beyond,
            }
        )

    def _change(
        self,
        arguments: type[Arguments],
        run: Callable[..., Awaitable[object]],
        role: Role = Role.OPERATOR,
    ) -> Operation:
        return Operation(
            arguments, run, role, subject="terminal_id", old=self._before, keeps_who=True
        )

    async def _before(self, arguments: Any) -> DeviceView | None:
        try:
            return self._view(self._registry.get(arguments.terminal_id))
        except OperatorError:
            return None

    async def enrol(
        self, arguments: EnrolArguments, _: Progress | None = None, *, who: str = ""
    ) -> DeviceView:
        return self._view(await self._registry.enrol(**arguments.model_dump(), who=who))

    async def show(self, arguments: ShowArguments, _: Progress | None = None) -> DeviceView:
        return self._view(self._registry.get(arguments.terminal_id))

    async def page(self, arguments: ListArguments, _: Progress | None = None) -> Page:
        devices = self._registry.select(
            after=arguments.after.ljust(8) if arguments.after else "",
            limit=arguments.limit + 1,
            state=arguments.state,
            silent_for_s=arguments.silent_for_s,
            merchant_id=arguments.merchant_id,
            group=arguments.group,
            inspected_before=arguments.inspected_before,
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

    async def activate(
        self, arguments: MoveArguments, _: Progress | None = None, *, who: str = ""
    ) -> DeviceView:
        device = await self._registry.activate(arguments.terminal_id, arguments.reason, who=who)
        if self._life is not None:
            self._life.opened_batch(device)
        return self._view(device)

    async def suspend(
        self, arguments: SuspendArguments, _: Progress | None = None, *, who: str = ""
    ) -> DeviceView:
        return self._view(
            await self._registry.suspend(
                arguments.terminal_id, arguments.reason, who=who, until_ms=arguments.until_ms
            )
        )

    async def inspect(
        self, arguments: InspectArguments, _: Progress | None = None, *, who: str = ""
    ) -> DeviceView:
        return self._view(
            await self._registry.inspect(
                arguments.terminal_id, arguments.date, arguments.by, who=who
            )
        )

    async def resume(
        self, arguments: MoveArguments, _: Progress | None = None, *, who: str = ""
    ) -> DeviceView:
        device = await self._registry.resume(arguments.terminal_id, arguments.reason, who=who)
        return self._view(device)

    async def bind(
        self, arguments: BindArguments, _: Progress | None = None, *, who: str = ""
    ) -> DeviceView:
        return self._view(
            await self._registry.bind_certificate(
                arguments.terminal_id, arguments.certificate_sha256, who=who
            )
        )

    async def renew(
        self, arguments: RenewArguments, _: Progress | None = None, *, who: str = ""
    ) -> DeviceView:
        return self._view(
            await self._registry.renew_certificate(
                arguments.terminal_id,
                arguments.certificate_sha256,
                overlap_s=arguments.overlap_s,
                who=who,
            )
        )

    async def import_csv(
        self, arguments: ImportArguments, progress: Progress | None = None, *, who: str = ""
    ) -> ImportView:
        done = await self._registry.import_csv(
            arguments.csv,
            activate=arguments.activate,
            merchant_id=arguments.merchant_id,
            progress=progress,
            who=who,
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
            "old_certificate_sha256": device.old_certificate_sha256,
            "old_until": iso_time(device.old_until_ms) if device.old_until_ms else "",
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
