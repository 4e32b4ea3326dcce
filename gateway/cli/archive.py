"""`gateway archive`: transactions that left the store, in their files; no daemon is needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from gateway.transactions.retention import archive_folder

_DAY_MS = 86_400_000

app = typer.Typer(
    name="archive",
    help="Transactions that left the store: masked, in compressed JSON-lines files, one a day.",
    no_args_is_help=True,
)


@app.command("list")
def list_(json: Json = False, config: Config = DEFAULT_CONFIG) -> None:
    """List the files of the archive."""
    folder = _folder(config)
    manifests = Archive(folder).manifests()
    if json:
        print_json({"folder": str(folder), "files": [_shown(one) for one in manifests]})
        return
    print_table(
        ("day", "file", "transactions", "bytes"),
        [(one.day, one.file, str(one.transactions), str(one.bytes)) for one in manifests],
    )
    say(f"{len(manifests)} files in {folder}", "dim")


@app.command()
def verify(json: Json = False, config: Config = DEFAULT_CONFIG) -> None:
    """Read every file and compare it with its manifest; exit status 1 where one is damaged."""
    archive = Archive(_folder(config))
    manifests = archive.manifests()
    faults = {one.file: fault for one in manifests if (fault := archive.faults(one))}
    if json:
        print_json({"files": len(manifests), "faults": faults})
    else:
        for file, fault in faults.items():
            say(f"{file}: {fault}", "red")
        say(f"{len(manifests)} files, {len(faults)} damaged")
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
