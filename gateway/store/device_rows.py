"""Devices, their history, incidents and replacements to rows of the SQLite store, and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from operator import attrgetter
from typing import Any, Final

import orjson

from gateway.store.devices import (
    Device,
    DeviceEvent,
    DeviceState,
    Incident,
    IncidentKind,
    NoteDevice,
    PutDevice,
    PutIncident,
    PutReplacement,
    Replacement,
    RevokeCertificate,
    RevokedCertificate,
    Standing,
)

Row = tuple[Any, ...]

SELECT_DEVICES: Final = "SELECT * FROM devices ORDER BY device_id"
SELECT_HISTORY: Final = """
SELECT event_id, terminal_id, at_ms, who, what, reason, detail FROM device_history
WHERE terminal_id = ? AND (?2 = 0 OR event_id < ?2) ORDER BY event_id DESC LIMIT ?
"""
SELECT_INCIDENTS: Final = """
SELECT incident_id, terminal_id, kind, opened_ms, who, reason, closed_ms, report FROM incidents
ORDER BY incident_id
"""
SELECT_REPLACEMENTS: Final = "SELECT replacement_id, facts FROM replacements ORDER BY 1"
SELECT_REVOKED: Final = "SELECT sha256, terminal_id, at_ms FROM revoked_certificates"

_COLUMNS: Final = tuple(one.name for one in fields(Device) if one.name != "device_id")
_facts_of: Final = attrgetter(*_COLUMNS)
_INHERITS: Final = _COLUMNS.index("inherits")
_event_of: Final = attrgetter("at_ms", "who", "what", "reason", "detail")
_incident_of: Final = attrgetter(
    "terminal_id", "kind", "opened_ms", "who", "reason", "closed_ms", "report"
)


def put_device(change: PutDevice) -> tuple[object, ...]:
    """What the trigger `put_device` is given."""
    facts = list(_facts_of(change.device))
    facts[_INHERITS] = orjson.dumps(facts[_INHERITS]).decode()
    return change.device.device_id, orjson.dumps(facts).decode()


def note_device(change: NoteDevice) -> tuple[object, ...]:
    """What the trigger `note_device` is given."""
    event = change.event
    return 0, event.terminal_id, orjson.dumps(_event_of(event)).decode()


def put_incident(change: PutIncident) -> tuple[object, ...]:
    """What the trigger `put_incident` is given."""
    incident = change.incident
    return incident.incident_id, orjson.dumps(_incident_of(incident)).decode()


def put_replacement(change: PutReplacement) -> tuple[object, ...]:
    """What the trigger `put_replacement` is given."""
    facts = asdict(change.replacement)
    return facts.pop("replacement_id"), orjson.dumps(facts).decode()


def revoke_certificate(change: RevokeCertificate) -> tuple[object, ...]:
    """What the trigger `revoke_certificate` is given."""
    one = change.certificate
    return 0, one.sha256, one.terminal_id, one.at_ms


# --- and back -------------------------------------------------------------------------------------


def device(row: Row) -> Device:
    """The device of a row of `SELECT_DEVICES`, whose columns are the device's fields in order."""
    values = dict(zip(("device_id", *_COLUMNS), row, strict=True))
    return _device({**values, "inherits": orjson.loads(values["inherits"])})


def events(rows: Iterable[Row]) -> list[DeviceEvent]:
    """The events of rows of `SELECT_HISTORY`."""
    return [
        DeviceEvent(
            event_id=row[0],
            terminal_id=row[1],
            at_ms=row[2],
            who=row[3],
            what=row[4],
            reason=row[5],
            detail=row[6],
        )
        for row in rows
    ]


def incidents(rows: Iterable[Row]) -> list[Incident]:
    """The incidents of rows of `SELECT_INCIDENTS`."""
    return [
        Incident(
            incident_id=row[0],
            terminal_id=row[1],
            kind=IncidentKind(row[2]),
            opened_ms=row[3],
            who=row[4],
            reason=row[5],
            closed_ms=row[6],
            report=row[7],
        )
        for row in rows
    ]


def replacements(rows: Iterable[Row]) -> list[Replacement]:
    """The replacements of rows of `SELECT_REPLACEMENTS`."""
    found = []
    for replacement_id, text in rows:
        facts = orjson.loads(text)
        facts["standing"] = Standing(facts["standing"])
        facts["old"], facts["new"] = _device(facts["old"]), _device(facts["new"])
        found.append(Replacement(replacement_id=replacement_id, **facts))
    return found


def revoked(rows: Iterable[Row]) -> list[RevokedCertificate]:
    """The certificates of rows of `SELECT_REVOKED`."""
    return [RevokedCertificate(*row) for row in rows]


def _device(values: dict[str, Any]) -> Device:
    return Device(
        **{
            **values,
            "state": DeviceState(values["state"]),
            "inherits": tuple((one, activation) for one, activation in values["inherits"]),
            "known_by_name": bool(values["known_by_name"]),
        }
    )
