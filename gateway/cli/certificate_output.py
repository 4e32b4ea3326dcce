"""What `gateway certs` says: certificates and files as lines or JSON, questions, what failed."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import ParamSpec

import typer

from gateway.errors import OperatorError
from gateway.keys.authority import Issued

FAILED, _USAGE = 1, 2
_P = ParamSpec("_P")


def told(command: Callable[_P, None]) -> Callable[_P, None]:
    """What cannot be done is said in one line on standard error; the exit status is 1."""

    @functools.wraps(command)
    def telling(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except OperatorError as error:
            say(f"gateway certs: {error}")
            raise typer.Exit(FAILED) from error

    return telling


def print_rows(rows: Sequence[dict[str, str]]) -> None:
    """Certificates, one to a line."""
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        line = f"{row['name']:<{width}}  {row['state']:<7}  {row['use']:<6}  {row['not_after']}  "
        typer.echo(line + row["serial"])


def row_of(item: Issued, now: datetime) -> dict[str, str]:
    """A certificate as `--json` shows it."""
    row = {
        "name": item.name,
        "use": item.use.value,
        "state": item.state(now).value,
        "serial": f"{item.serial:x}",
        "sha256": item.sha256,
        "not_before": iso(item.not_before),
        "not_after": iso(item.not_after),
    }
    if item.revoked is not None:
        row |= {"revoked": iso(item.revoked), "reason": item.reason.value}
    return row


def described(item: Issued) -> str:
    """A certificate in a sentence."""
    return f"{item.name} (serial {item.serial:x}, until {item.not_after:%Y-%m-%d})"


def file_row(path: Path, end: datetime | None, made: Sequence[Path]) -> dict[str, str]:
    """A file of the authority, whether it was made just now, and until when it is valid."""
    state = "made" if path in made else "there"
    return {"path": str(path), "state": state, "valid_until": "" if end is None else iso(end)}


def print_json(answer: object) -> None:
    """Data, to standard output."""
    typer.echo(json.dumps(answer, indent=2))


def say(text: str) -> None:
    """Whatever is no data, to standard error."""
    typer.echo(text, err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless `yes`; ends the command where nobody can be asked, or the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        say(f"gateway certs: {question} Give --yes, as nobody can be asked.")
        raise typer.Exit(_USAGE)
    typer.confirm(question, abort=True, err=True)


def iso(moment: datetime) -> str:
    """A time in UTC, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
