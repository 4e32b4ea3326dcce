"""The report of an incident, masked: as JSON, and as Markdown for people; written as files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from gateway.clock import iso_time
from gateway.store.store import Device, DeviceEvent, Incident, Transaction
from gateway.terminals.open_items import OpenItems
from gateway.terminals.sightings import Sighting
from gateway.wire.message import printable

Json = dict[str, Any]
_COLUMNS = ("created", "kind", "stan", "amount_minor", "currency", "card", "response_code", "state")


def transaction_line(transaction: Transaction) -> Json:
    """As much of a transaction as a report shows: its card at most first six and last four."""
    t = transaction
    return {
        "transaction_id": t.transaction_id,
        "created": iso_time(t.created_ms),
        "kind": str(t.kind),
        "stan": printable(t.stan),
        "rrn": printable(t.rrn),
        "amount_minor": t.amount_minor,
        "currency": printable(t.currency),
        "card": t.card_masked,
        "response_code": printable(t.response_code),
        "approval_code": printable(t.approval_code),
        "state": str(t.state),
        "upstream": t.upstream,
        "batch": t.batch,
    }


def open_view(items: OpenItems) -> Json:
    """What is open of a device, as it is shown."""
    batch, totals = items.batch, items.totals
    return {
        "batch": None
        if batch is None
        else {
            "number": batch.number,
            "opened": iso_time(batch.opened_ms),
            "debits": totals.debits,
            "debits_minor": totals.debits_minor,
            "credits": totals.credits,
            "credits_minor": totals.credits_minor,
            "carries": list(batch.carried),
        },
        "under_way": [transaction_line(one) for one in items.under_way],
        "reversals_owed": [transaction_line(one) for one in items.reversals],
        "advices_owed": [transaction_line(one) for one in items.advices],
        "given_up": [transaction_line(one) for one in items.given_up],
        "unsettled_approvals": [transaction_line(one) for one in items.unsettled],
        "open_preauthorisations": [transaction_line(one) for one in items.preauthorisations],
    }


def event_line(event: DeviceEvent) -> Json:
    """One line of a device's history, as it is shown."""
    return {
        "at": iso_time(event.at_ms),
        "who": event.who or "the gateway",
        "what": event.what,
        "reason": event.reason,
        "detail": event.detail,
    }


def sighting_line(sighting: Sighting) -> Json:
    attempt = sighting.attempt
    return {
        "first": iso_time(sighting.first_ms),
        "last": iso_time(sighting.last_ms),
        "count": sighting.count,
        "address": attempt.address,
        "listener": attempt.listener,
        "certificate_sha256": attempt.certificate_sha256,
        "why": attempt.why,
    }


def facts_of(
    device: Device,
    *,
    hours: int,
    transactions: Sequence[Transaction],
    items: OpenItems,
    done: Mapping[str, object],
) -> Json:
    """What is kept of an incident when it is opened: the device, its last hours, what is open of
    it, and what was done at once."""
    return {
        "device": {
            "terminal_id": device.terminal_id.rstrip(),
            "merchant_id": device.merchant_id,
            "serial": device.serial,
            "model": device.model,
            "place": device.place,
            "group": device.group,
            "activation": device.activation,
            "last_seen": iso_time(device.last_seen_ms) if device.last_seen_ms else "",
        },
        "done": dict(done),
        "hours": hours,
        "transactions": [transaction_line(one) for one in transactions],
        "open": open_view(items),
    }


def report_of(
    incident: Incident, *, history: Iterable[DeviceEvent], sightings: Iterable[Sighting]
) -> Json:
    """The whole report; what was not to be found out when it was opened is empty."""
    facts = orjson.loads(incident.report) if incident.report else {}
    return {
        "incident": {
            "number": incident.incident_id,
            "terminal_id": incident.terminal_id.rstrip(),
            "kind": str(incident.kind),
            "opened": iso_time(incident.opened_ms),
            "opened_by": incident.who,
            "reason": incident.reason,
            "closed": iso_time(incident.closed_ms) if incident.closed_ms else "",
        },
        **facts,
        "history": [event_line(one) for one in history],
        "sightings": [sighting_line(one) for one in sightings],
    }


def markdown(report: Json) -> str:
    """A report for people."""
    incident, device = report["incident"], report.get("device", {})
    why = _cell(incident["reason"]) or "no reason given"
    lines = [
        f"# Incident {incident['number']}: {incident['terminal_id']} {incident['kind']}",
        "",
        f"Opened {incident['opened']} by {_cell(incident['opened_by'])}: {why}.",
        f"Closed {incident['closed']}." if incident["closed"] else "Open.",
        "",
        "## Device",
        "",
        *(f"- {name.replace('_', ' ')}: {_cell(value)}" for name, value in device.items() if value),
        "",
        "## Done at once",
        "",
        *(f"- {_cell(k).replace('_', ' ')}: {_cell(v)}" for k, v in report.get("done", {}).items()),
        "",
        "## Sightings since",
        "",
        *_table(("last", "count", "address", "listener", "why"), report["sightings"]),
        "",
        "## Open items",
        "",
        *_open(report.get("open", {})),
        f"## Transactions of the last {report.get('hours', 0)} hours",
        "",
        *_table(_COLUMNS, report.get("transactions", [])),
        "",
        "## History of the device",
        "",
        *_table(("at", "who", "what", "reason", "detail"), report["history"]),
    ]
    return "\n".join(lines) + "\n"


def write(folder: Path, report: Json) -> list[Path]:
    """Write a report's two files in place of what they were, for their owner only.

    Returns their paths; blocks, and raises OSError.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    incident = report["incident"]
    name = "".join(c if c.isalnum() else "_" for c in incident["terminal_id"])
    stem = f"incident-{incident['number']:04d}-{name}"
    contents = {
        ".json": orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n",
        ".md": markdown(report).encode(),
    }
    paths = []
    for suffix, content in contents.items():
        path = folder / f"{stem}{suffix}"
        fresh = folder / f".{stem}{suffix}.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        fresh.replace(path)
        paths.append(path)
    return paths


def _open(items: Json) -> list[str]:
    lines: list[str] = []
    batch = items.get("batch")
    if batch:
        lines += [
            (
                f"Batch {batch['number']}: {batch['debits']} debits of {batch['debits_minor']},"
                f" {batch['credits']} credits of {batch['credits_minor']}."
            ),
            "",
        ]
    for name, transactions in items.items():
        if name != "batch" and transactions:
            lines += [f"### {name.replace('_', ' ').capitalize()}", ""]
            lines += [*_table(_COLUMNS, transactions), ""]
    return lines or ["None.", ""]


def _table(columns: Sequence[str], rows: Sequence[Json]) -> list[str]:
    if not rows:
        return ["None."]
    return [
        "| " + " | ".join(name.replace("_", " ") for name in columns) + " |",
        "| " + " | ".join("---" for _ in columns) + " |",
        *("| " + " | ".join(_cell(row[name]) for name in columns) + " |" for row in rows),
    ]


def _cell(value: object) -> str:
    """A value that cannot break a line or a table."""
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return printable(text).replace("|", "\\|")
