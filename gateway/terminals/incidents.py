"""Incidents: what is known of devices that were lost or stolen, and what was seen of them since."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import trio

from gateway.errors import StoreError
from gateway.settings.schema_devices import Incidents as Settings
from gateway.store.devices import IncidentKind
from gateway.store.store import Criteria, Device, Incident, PutIncident, State
from gateway.telemetry.events import Emit, Event
from gateway.terminals import incident_report
from gateway.terminals.incident_report import Json
from gateway.terminals.open_items import open_items
from gateway.terminals.sightings import Attempt, Sightings
from gateway.terminals.surroundings import Surroundings

_HISTORY_SHOWN = 200
_SIGHTINGS_SHOWN = 1_000
_HOUR_MS = 3_600_000


class Incidents:
    """Every incident, in memory and in the store, and their files.

    A file that cannot be written stops nothing: what it would say is in the store.
    """

    def __init__(
        self,
        around: Surroundings,
        *,
        sightings: Sightings,
        settings: Callable[[], Settings],
        folder: Callable[[], Path],
        original_days: int,
        emit: Emit,
    ) -> None:
        """`original_days`: how far back pre-authorisations may still be completed."""
        self._around = around
        self._sightings = sightings
        self._settings = settings
        self._folder = folder
        self._original_days = original_days
        self._emit = emit
        self._by_number: dict[int, Incident] = {}
        self._open: dict[str, Incident] = {}
        self._unwritten: set[int] = set()
        self._failed = False

    async def restore(self) -> None:
        """Take up what there is; raises StoreError. Reports of open ones are written anew."""
        for incident in await self._around.store.incidents():
            self._put(incident)
        self._unwritten.update(one.incident_id for one in self._open.values())

    def all(self) -> list[Incident]:
        """Every incident, the oldest first."""
        return list(self._by_number.values())

    def open_of(self, terminal_id: str) -> Incident | None:
        """The open incident of a terminal id (eight characters)."""
        return self._open.get(terminal_id)

    def of(self, terminal_id: str) -> list[Incident]:
        """The incidents of a terminal id, the oldest first."""
        return [one for one in self._by_number.values() if one.terminal_id == terminal_id]

    def draft(self, device: Device, kind: IncidentKind, *, who: str, reason: str) -> Incident:
        """The incident that a device's loss opens; kept once the store has it and `opened` is
        called."""
        return Incident(
            incident_id=max(self._by_number, default=0) + 1,
            terminal_id=device.terminal_id,
            kind=kind,
            opened_ms=self._around.clock.wall_ms(),
            who=who,
            reason=reason,
        )

    def opened(self, incident: Incident) -> None:
        """The store has it by now."""
        self._put(incident)
        self._emit(
            Event.INCIDENT_OPENED,
            incident=incident.incident_id,
            terminal=incident.terminal_id.rstrip(),
            kind=str(incident.kind),
            reason=incident.reason,
        )

    def closing(self, terminal_id: str) -> Incident | None:
        """A terminal's open incident as it is closed now; kept once `closed` is called."""
        incident = self._open.get(terminal_id)
        if incident is None:
            return None
        return replace(incident, closed_ms=self._around.clock.wall_ms())

    def closed(self, incident: Incident) -> None:
        """The store has it closed by now."""
        self._put(incident)
        self._unwritten.add(incident.incident_id)

    async def find_out(
        self, incident: Incident, device: Device, done: dict[str, object], *, hours: int | None
    ) -> Json:
        """Collect the device's last hours and open items, keep them with the incident, and write
        its report; returns that, with the paths of its files. Raises StoreError."""
        settings = self._settings()
        hours = hours or settings.hours
        limit = settings.transactions_max
        since_ms = incident.opened_ms - hours * _HOUR_MS
        criteria = Criteria(terminal_id=device.terminal_id, from_ms=since_ms)
        transactions = await self._around.store.select(criteria, limit)
        items = await open_items(
            self._around, device.terminal_id, limit=limit, days=self._original_days
        )
        facts = incident_report.facts_of(
            device,
            hours=hours,
            transactions=[one for one in transactions if one.state is not State.NOTHING_SENT],
            items=items,
            done=done,
        )
        known = replace(self._by_number[incident.incident_id], report=orjson.dumps(facts).decode())
        await self._around.store.commit(PutIncident(known))
        self._put(known)
        return await self._written(known)

    async def report(self, incident: Incident) -> Json:
        """The report of an incident as it is now; raises StoreError."""
        history = await self._around.store.device_history(incident.terminal_id, _HISTORY_SHOWN)
        sightings = [
            one
            for one in self._sightings.of(incident.terminal_id, limit=_SIGHTINGS_SHOWN)
            if one.last_ms >= incident.opened_ms
            and (not incident.closed_ms or one.first_ms <= incident.closed_ms)
        ]
        return incident_report.report_of(incident, history=history, sightings=sightings)

    def sighted(self, attempt: Attempt) -> None:
        """Somebody was turned away; of a device with an open incident the report is added to."""
        incident = self._open.get(attempt.terminal_id.ljust(8))
        if incident is not None:
            self._unwritten.add(incident.incident_id)

    async def write_changed(self) -> None:
        """Write the reports of incidents that something was added to."""
        while self._unwritten:
            number = self._unwritten.pop()
            try:
                report = await self._written(self._by_number[number])
            except StoreError:
                report = {"files": []}
            if not report["files"]:
                self._unwritten.add(number)
                return

    async def _written(self, incident: Incident) -> Json:
        report = await self.report(incident)
        try:
            paths = await trio.to_thread.run_sync(incident_report.write, self._folder(), report)
        except OSError as error:
            if not self._failed:
                self._failed = True
                reason = f"{self._folder()} cannot be written: {error.strerror}"
                self._emit(Event.INCIDENT_REPORT_FAILED, reason=reason)
            self._unwritten.add(incident.incident_id)
            return {**report, "files": []}
        self._failed = False
        return {**report, "files": [str(path) for path in paths]}

    def _put(self, incident: Incident) -> None:
        self._by_number[incident.incident_id] = incident
        if not incident.closed_ms:
            self._open[incident.terminal_id] = incident
        elif self._open.get(incident.terminal_id, incident).incident_id == incident.incident_id:
            self._open.pop(incident.terminal_id, None)
