"""DeviceLife: all that is done to devices beyond enrolling and suspending them, in one hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from gateway.clock import iso_time
from gateway.errors import NoSuchThing
from gateway.settings.loader import Configuration
from gateway.settings.schema_devices import Incidents as IncidentSettings
from gateway.store.devices import IncidentKind
from gateway.store.store import Device, Replacement
from gateway.telemetry.events import Emit
from gateway.terminals import device_fields, incident_report
from gateway.terminals.deregistration import Deregistration
from gateway.terminals.incidents import Incidents
from gateway.terminals.keeper import Keeper, WriteDown
from gateway.terminals.losses import Losses
from gateway.terminals.replacements import Replacements
from gateway.terminals.sightings import Sightings
from gateway.terminals.surroundings import Surroundings
from gateway.transactions.retention import archive_folder

Json = dict[str, Any]


class DeviceLife:
    """Losses, replacements, deregistrations and what is known of them; answers are JSON values.

    Each method raises NoSuchThing, OperatorError and StoreError as what it calls does.
    """

    def __init__(
        self,
        around: Surroundings,
        *,
        sightings: Sightings,
        incidents: Callable[[], IncidentSettings],
        incident_folder: Callable[[], Path],
        archive_folder: Callable[[], Path],
        original_days: int,
        emit: Emit,
        write_down: WriteDown,
    ) -> None:
        """`original_days`: how old what a void, completion or refund follows may be."""
        self._around = around
        self._incidents = Incidents(
            around,
            sightings=sightings,
            settings=incidents,
            folder=incident_folder,
            original_days=original_days,
            emit=emit,
        )
        sightings.heard = self._incidents.sighted
        self._losses = Losses(around, self._incidents)
        self._replacements = Replacements(around)
        self._deregistration = Deregistration(
            around, self._incidents, folder=archive_folder, original_days=original_days
        )
        self.keeper = Keeper(
            around,
            replacements=self._replacements,
            incidents=self._incidents,
            write_down=write_down,
        )

    async def restore(self) -> None:
        """Take up what the store has; raises StoreError."""
        await self._replacements.restore()
        await self._incidents.restore()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Keeper.run`."""
        await self.keeper.run(task_status)

    def opened_batch(self, device: Device) -> None:
        """Of a device that is activated: its first batch is open."""
        self._around.batches.number(device.terminal_id)

    async def lost(
        self, terminal_id: str, *, stolen: bool, reason: str, who: str, hours: int | None
    ) -> tuple[Device, Json]:
        """See `Losses.lost`; what was done, and the incident's report."""
        kind = IncidentKind.STOLEN if stolen else IncidentKind.LOST
        lost = await self._losses.lost(terminal_id, kind, reason=reason, who=who, hours=hours)
        return lost.device, {
            "certificates_taken_away": list(lost.certificates),
            "keys_destroyed": lost.keys_destroyed,
            "report": lost.report,
        }

    async def found(self, terminal_id: str, *, reason: str, who: str) -> Device:
        """See `Losses.found`."""
        return await self._losses.found(terminal_id, reason=reason, who=who)

    async def replace(
        self, old_id: str, new_id: str, *, reason: str, who: str, keep_ids: bool
    ) -> Json:
        """See `Replacements.replace`."""
        made = await self._replacements.replace(
            old_id, new_id, reason=reason, who=who, keep_ids=keep_ids
        )
        return {**_replacement_view(made.replacement), "again": made.again}

    async def undo(self, terminal_id: str, *, reason: str, who: str) -> Json:
        """See `Replacements.undo`."""
        return _replacement_view(await self._replacements.undo(terminal_id, reason=reason, who=who))

    async def close_batch(self, terminal_id: str, *, reason: str, who: str) -> Json:
        """See `Deregistration.close_batch`."""
        closed = await self._deregistration.close_batch(terminal_id, reason=reason, who=who)
        return {
            "terminal_id": closed.terminal_id.rstrip(),
            "batch": closed.number,
            "closed": iso_time(closed.closed_ms),
            "debits": closed.debits,
            "debits_minor": closed.debits_minor,
            "credits": closed.credits,
            "credits_minor": closed.credits_minor,
            "carries": list(closed.carried),
        }

    async def deregister(self, terminal_id: str, *, reason: str, who: str) -> tuple[Device, Json]:
        """See `Deregistration.deregister`; the device, and what its archive holds."""
        device, manifest = await self._deregistration.deregister(
            terminal_id, reason=reason, who=who
        )
        return device, {
            "file": manifest.file,
            "records": manifest.records,
            "transactions": manifest.transactions,
            "bytes": manifest.bytes,
            "sha256": manifest.sha256,
        }

    async def open_items(self, terminal_id: str) -> Json:
        """What is open of a device, and what of it is in the way of its end."""
        items = await self._deregistration.look(terminal_id)
        return {
            "terminal_id": terminal_id.rstrip(),
            **incident_report.open_view(items),
            "in_the_way": items.in_the_way(),
        }

    async def history(self, terminal_id: str, *, limit: int, before_id: int) -> Json:
        """What was done to a device, the newest first, a page of it."""
        padded = device_fields.terminal_id(terminal_id)
        found = await self._around.store.device_history(padded, limit + 1, before_id=before_id)
        if not found and not before_id:
            self._around.registry.get(terminal_id)  # raises where there is no such device
        shown = found[:limit]
        return {
            "history": [incident_report.event_line(one) for one in shown],
            "replacements": [_replacement_view(one) for one in self._replacements.of(padded)],
            "next": shown[-1].event_id if len(found) > limit else 0,
        }

    def incidents(self, terminal_id: str) -> list[Json]:
        """The incidents of a device, or all; the newest first, without their reports."""
        wanted = terminal_id and device_fields.terminal_id(terminal_id)
        return [
            {
                "number": one.incident_id,
                "terminal_id": one.terminal_id.rstrip(),
                "kind": str(one.kind),
                "opened": iso_time(one.opened_ms),
                "opened_by": one.who,
                "reason": one.reason,
                "closed": iso_time(one.closed_ms) if one.closed_ms else "",
            }
            for one in reversed(self._incidents.all())
            if wanted in ("", one.terminal_id)
        ]

    async def incident(self, number: int) -> Json:
        """The report of one incident as it is now."""
        for one in self._incidents.all():
            if one.incident_id == number:
                return await self._incidents.report(one)
        raise NoSuchThing(f"no incident {number}: `gateway terminals incidents` lists them")


def _replacement_view(made: Replacement) -> Json:
    return {
        "number": made.replacement_id,
        "old": made.old_id.rstrip(),
        "new": made.new_id.rstrip(),
        "serves_as": made.serving_id.rstrip(),
        "activation": made.activation,
        "kept_ids": made.kept_ids,
        "batch": made.batch,
        "standing": str(made.standing),
        "at": iso_time(made.at_ms),
        "who": made.who,
        "reason": made.reason,
    }


def life_of(
    configuration: Callable[[], Configuration],
    around: Surroundings,
    *,
    original_days: int,
    sightings: Sightings,
    emit: Emit,
    write_down: WriteDown,
) -> DeviceLife:
    """The life of the devices of a configuration, as that says at each moment."""

    def incident_folder() -> Path:
        now = configuration()
        folder = now.settings.registry.incidents.folder
        if folder is not None:
            return now.resolve(folder)
        return now.resolve(now.settings.store.path).parent / "incidents"

    return DeviceLife(
        around,
        sightings=sightings,
        incidents=lambda: configuration().settings.registry.incidents,
        incident_folder=incident_folder,
        archive_folder=lambda: archive_folder(configuration()),
        original_days=original_days,
        emit=emit,
        write_down=write_down,
    )
