"""`gateway archive`: transactions that left the store, in their files; no daemon is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.output import (
    DEFAULT_CONFIG,
    FAILED,
    Config,
    Json,
    print_json,
    print_table,
    say,
)
from gateway.cli.transactions import (
    Amount,
    Csv,
    From,
    LastFour,
    Limit,
    Rrn,
    Stan,
    Terminal,
    Until,
    print_transactions,
)
from gateway.clock import iso_time
from gateway.errors import OperatorError
from gateway.settings.loader import load
from gateway.transactions.archive import Archive, Manifest
from gateway.transactions.device_archive import DeviceArchive
from gateway.transactions.retention import archive_folder

_DAY_MS = 86_400_000
_DEVICE_COLUMNS = {  # of a deregistered device's records, by their kind
    "event": ("at", "who", "what", "reason", "detail"),
    "batch": ("number", "debits", "debits_minor", "credits", "credits_minor", "balanced"),
    "transaction": ("created", "kind", "stan", "amount_minor", "card", "response_code", "state"),
}

app = typer.Typer(
    name="archive",
    help="What left the store, masked: transactions, one file a day; devices, one file each.",
    no_args_is_help=True,
)


@app.command("list")
def list_(json: Json = False, config: Config = DEFAULT_CONFIG) -> None:
    """List the files of the archive."""
    folder = _folder(config)
    manifests = Archive(folder).manifests()
    devices = DeviceArchive(folder).manifests()
    if json:
        files = [_shown(one) for one in manifests]
        print_json(
            {"folder": str(folder), "files": files, "devices": [asdict(one) for one in devices]}
        )
        return
    print_table(
        ("day", "file", "transactions", "bytes"),
        [(one.day, one.file, str(one.transactions), str(one.bytes)) for one in manifests],
    )
    if devices:
        print_table(
            ("device", "file", "transactions", "bytes"),
            [(one.terminal_id, one.file, str(one.transactions), str(one.bytes)) for one in devices],
        )
    say(f"{len(manifests)} days and {len(devices)} devices in {folder}", "dim")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A device's terminal id, or its file.")],
    limit: Limit = 50,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Show what was archived of a deregistered device: its history, incidents and transactions."""
    archive = DeviceArchive(_folder(config))
    manifest = archive.named(name)
    fault = archive.faults(manifest)
    if fault:
        raise OperatorError(f"{manifest.file}: {fault}; restore it from a backup")
    records: dict[str, list[dict[str, Any]]] = {}
    for record in archive.records(manifest):
        records.setdefault(record.pop("record"), []).append(record)
    (device,) = records["device"]
    if json:
        print_json({"manifest": asdict(manifest), **records, "device": device})
        return
    for column in ("terminal_id", "merchant_id", "state", "profile", "serial", "model", "place"):
        typer.echo(f"{column.replace('_', ' '):<20}{device[column] or '-'}")
    for kind, columns in _DEVICE_COLUMNS.items():
        rows = records.get(kind, [])
        say(f"{len(rows)} of {kind}", "bold")
        print_table(columns, [[str(row[one]) or "-" for one in columns] for row in rows[:limit]])
    say(f"{manifest.file}, archived {manifest.archived}", "dim")


@app.command()
def verify(json: Json = False, config: Config = DEFAULT_CONFIG) -> None:
    """Read every file and compare it with its manifest; exit status 1 where one is damaged."""
    archive, devices = Archive(_folder(config)), DeviceArchive(_folder(config))
    manifests, of_devices = archive.manifests(), devices.manifests()
    faults = {one.file: fault for one in manifests if (fault := archive.faults(one))}
    faults |= {one.file: fault for one in of_devices if (fault := devices.faults(one))}
    files = len(manifests) + len(of_devices)
    if json:
        print_json({"files": files, "faults": faults})
    else:
        for file, fault in faults.items():
            say(f"{file}: {fault}", "red")
        say(f"{files} files, {len(faults)} damaged")
    raise typer.Exit(FAILED if faults else 0)


@app.command()
def find(
    terminal: Terminal = "",
    rrn: Rrn = "",
    stan: Stan = "",
    from_: From = None,
    until: Until = None,
    amount: Amount = None,
    last_four: LastFour = "",
    limit: Limit = 50,
    json: Json = False,
    csv: Csv = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Find archived transactions, the oldest first; every file of the time is read."""
    if json and csv:
        raise typer.BadParameter("give --json or --csv, not both")
    wanted = {
        "terminal_id": terminal,
        "rrn": rrn,
        "stan": stan.zfill(6) if stan else "",
    }
    earliest = iso_time(from_) if from_ else ""
    latest = iso_time(until) if until else "9"

    def fits(line: dict[str, Any]) -> bool:
        return (
            all(line[name] == value for name, value in wanted.items() if value)
            and earliest <= line["created"] < latest
            and amount in (None, line["amount_minor"])
            and line["card"].endswith(last_four)
        )

    found: list[dict[str, Any]] = []
    # Around midnight a few transactions are in the file of the next day.
    last_day = iso_time(until + _DAY_MS)[:10] if until else latest
    for line in _lines(Archive(_folder(config)), earliest[:10], last_day):
        if fits(line):
            found.append(line)
            if len(found) == limit:
                break
    print_transactions(found, json=json, csv=csv)


def _lines(archive: Archive, first_day: str, last_day: str) -> Iterator[dict[str, Any]]:
    """All lines of the files that can hold transactions of those days."""
    for manifest in archive.manifests():
        if first_day <= manifest.day <= last_day:
            try:
                yield from archive.lines(manifest)
            except (OSError, EOFError, ValueError) as error:
                raise OperatorError(
                    f"{manifest.file} cannot be read: {error}; see `gateway archive verify`"
                ) from None


def _folder(config: Path) -> Path:
    return archive_folder(load(config))


def _shown(manifest: Manifest) -> dict[str, Any]:
    return {
        "file": manifest.file,
        "day": manifest.day,
        "transactions": manifest.transactions,
        "first_id": manifest.first_id,
        "last_id": manifest.last_id,
        "left_in_store": len(manifest.kept),
        "bytes": manifest.bytes,
        "sha256": manifest.sha256,
    }
