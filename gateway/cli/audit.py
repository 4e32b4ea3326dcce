"""`gateway audit`: who did what, and whether anybody has changed what was written of it."""

from __future__ import annotations

import re
import sys
import tomllib
from collections import deque
from collections.abc import Iterator
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
    wall_ms,
)
from gateway.clock import iso_time
from gateway.errors import OperatorError
from gateway.settings import loader
from gateway.telemetry import audit_reader
from gateway.telemetry.audit_chain import HASH_CHARS, Head, Record, canonical
from gateway.telemetry.redact import printable

app = typer.Typer(
    name="audit",
    help="Who did what, and whether anybody has changed what was written of it.",
    no_args_is_help=True,
)

Since = Annotated[str, typer.Option("--since", help="From this time on: 2026-11-21T20:33.")]
Until = Annotated[str, typer.Option("--until", help="Before this time.")]
Folder = Annotated[
    Path | None,
    typer.Option("--folder", help="Of a copy; default: the one of the configuration."),
]
_ANCHOR = re.compile(r"(\d+):([0-9a-f]{64})")
_VALUE_CHARS_MAX = 60


@app.command("list")
def list_(
    since: Since = "",
    until: Until = "",
    who: Annotated[str, typer.Option(help="Only what this operator or user did.")] = "",
    action: Annotated[str, typer.Option(help="Only actions that begin so: terminals.")] = "",
    subject: Annotated[str, typer.Option(help="Only what is about this.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="The last so many.")] = 100,
    json: Json = False,
    folder: Folder = None,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """List what was done, the oldest first."""
    found = _chosen(_place(config, folder), since=since, until=until, who=who, action=action)
    chosen = list(deque((one for one in found if subject in ("", one["subject"])), limit))
    if json:
        print_json({"records": chosen})
        return
    print_table(
        ("sequence", "time", "who", "action", "subject", "outcome", "change"),
        [
            (
                str(one["seq"]),
                one["time"][:19],
                _person(one),
                one["action"],
                printable(one["subject"]) or "-",
                printable(one["outcome"]),
                _change(one),
            )
            for one in chosen
        ],
    )
    say(f"{len(chosen)} records; `gateway audit verify` proves that they are whole", "dim")


@app.command()
def verify(
    anchor: Annotated[
        str,
        typer.Option(
            help="SEQUENCE:HASH of a record, kept elsewhere (`gateway status`, event audit_head)."
        ),
    ] = "",
    json: Json = False,
    folder: Folder = None,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Prove that no record was changed, removed, inserted or moved; exit status 1 where one was.

    Whoever may write every file of the folder could make up a whole new chain: that is found with
    an --anchor only.
    """
    place = _place(config, folder)
    try:
        verdict = audit_reader.verify(place, anchor=_anchor(anchor))
    except OSError as error:
        raise OperatorError(f"{place}: cannot be read: {error.strerror}") from None
    last = verdict.last
    if json:
        print_json(
            {
                "ok": verdict.ok,
                "files": verdict.files,
                "records": verdict.records,
                "first": None if verdict.first is None else verdict.first["seq"],
                "last": None if last is None else last["seq"],
                "hash": None if last is None else last["hash"],
                "problems": [_problem(one) for one in verdict.problems],
                "remarks": [_problem(one) for one in verdict.remarks],
            }
        )
    else:
        for problem in verdict.problems:
            say(f"{place}/{problem}", "red")
        for remark in verdict.remarks:
            say(f"{place}/{remark}", "yellow")
        words = "whole" if verdict.ok else f"{len(verdict.problems)} things are wrong"
        say(f"{verdict.records} records in {verdict.files} files: {words}")
        if last is not None:
            typer.echo(f"{last['seq']}:{last['hash']}")
    if not verdict.ok:
        raise typer.Exit(FAILED)


@app.command()
def export(
    since: Since = "",
    until: Until = "",
    folder: Folder = None,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Write the records as they are, one a line, to standard output.

    A whole export is a chain that can be verified: put it into a file named after its first record
    (audit-000000000001.jsonl) and use `verify --folder`.
    """
    for record in _chosen(_place(config, folder), since=since, until=until):
        sys.stdout.write(canonical(record).decode() + "\n")


def _chosen(
    place: Path, *, since: str, until: str, who: str = "", action: str = ""
) -> Iterator[Record]:
    # Times of one form compare as text.
    first = iso_time(wall_ms(since)) if since else ""
    end = iso_time(wall_ms(until)) if until else ""
    try:
        for record in audit_reader.records(place):
            if (
                record["time"] >= first
                and (not end or record["time"] < end)
                and who in ("", record["who"])
                and record["action"].startswith(action)
            ):
                yield record
    except OSError as error:
        raise OperatorError(
            f"{place}: cannot be read: {error.strerror}; run this as the gateway's own user"
        ) from None


def _place(config: Path, folder: Path | None) -> Path:
    """Nothing of the file but what names the folder needs to be right: see `ask.admin_socket`."""
    if folder is not None:
        return folder
    try:
        tables = tomllib.loads(config.read_text(encoding="utf-8"))
        named = tables.get("audit", {}).get("folder")
        path = named if named is not None else Path(tables["store"]["path"]).parent / "audit"
        return loader.resolve(config.absolute(), str(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Here to say all that is wrong with the file.
        return loader.audit_folder(loader.load(config))


def _anchor(text: str) -> Head | None:
    if not text:
        return None
    found = _ANCHOR.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"write SEQUENCE:HASH, the hash being {HASH_CHARS} hex digits")
    return Head(int(found.group(1)), found.group(2))


def _person(record: Record) -> str:
    who = printable(record["who"])
    return who if record["origin"] in ("socket", "node") else f"{who} ({record['origin']})"


def _change(record: Record) -> str:
    """What is different, in short: `--json` has all of it."""
    old, new = record["old"], record["new"]
    if isinstance(old, dict) and isinstance(new, dict):
        changed = [key for key in new if old.get(key) != new[key]]
        text = ", ".join(f"{key}: {_shown(old.get(key))} > {_shown(new[key])}" for key in changed)
    else:
        text = "" if new is None else _shown(new)
    text = printable(text)
    return text if len(text) <= _VALUE_CHARS_MAX else text[: _VALUE_CHARS_MAX - 1] + "…"


def _shown(value: Any) -> str:
    """A value for people: name: value, name: value."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_shown(one)}" for key, one in value.items())
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    return "-" if value in (None, "") else str(value)


def _problem(problem: audit_reader.Problem) -> dict[str, Any]:
    return {
        "file": problem.file,
        "line": problem.line,
        "sequence": problem.seq,
        "problem": problem.problem,
    }
