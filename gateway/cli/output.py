"""What commands share: the configuration option, durations, and how data and words are printed."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

OK, FAILED, USAGE = 0, 1, 2  # exit statuses

DEFAULT_CONFIG = Path("config/gateway.toml")
Config = Annotated[
    Path,
    typer.Option(
        "--config",
        "-c",
        envvar="GATEWAY_CONFIG",
        exists=True,
        dir_okay=False,
        help="The configuration file.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_PIPE_COLUMNS = 10_000  # a row stays on one line where a program reads it
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def data() -> Console:
    """Standard output, for what was asked for; colours only on a terminal, and not if NO_COLOR."""
    width = None if sys.stdout.isatty() else _PIPE_COLUMNS
    return Console(file=sys.stdout, width=width, highlight=False, soft_wrap=True)


def words() -> Console:
    """Standard error, for everything else."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def say(text: str, style: str = "") -> None:
    """Tell the person who sits there; markup in the text stays text."""
    words().print(Text(text, style=style))


class Default(TyperGroup):
    """Commands of which one needs no name: what is no command's is that one's argument."""

    default = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with the name put in where none was given."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def print_json(value: object) -> None:
    """A value as JSON on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows as CSV under a line of names."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows under a heading; no cell is cut or wrapped, so that other programs can read them."""
    table = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(*map(Text, row))
    data().print(table)


def duration_s(text: str) -> float:
    """Seconds of a duration such as 45s, 30m, 24h, 7d or 1h30m; raises typer.BadParameter."""
    compact = text.strip().lower()
    parts = _DURATION.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise typer.BadParameter(f"{text!r} is no duration: write 45s, 30m, 24h, 7d or 1h30m")
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def wall_ms(text: str) -> int:
    """Milliseconds since 1970 of a date or a time such as 2026-11-21, 2026-11-21T20:33 (UTC unless
    it says otherwise); raises typer.BadParameter."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time: write 2026-11-21, 2026-11-21T20:33 or 2026-11-21T20:33:54Z"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def duration_words(seconds: float) -> str:
    """A duration as people say it, in its two largest units: 3 d 4 h."""
    left = int(seconds)
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, _UNIT_S[unit])
        if count:
            parts.append(f"{count} {'min' if unit == 'm' else unit}")
    return " ".join(parts[:2]) or "0 s"
