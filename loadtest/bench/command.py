"""Command: the options of `python -m loadtest.bench`, and what is printed and kept."""

from __future__ import annotations

import json as json_
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import trio
import typer
from rich.console import Console

from loadtest.bench.runner import ROWS, Options, Report, run, set_up_for
from loadtest.bench.stand import ROOT
from loadtest.bench.table import WIDTH, drift_words, table_of
from loadtest.isoload import SOURCES, built
from loadtest.running import FAILED, run_told, unless_stopped

_KEPT = ROOT / "var" / "bench"

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    isoload: Annotated[
        Path, typer.Option("--isoload", help="The folder of isoload's sources.")
    ] = SOURCES,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="ROW",
            help=f"This row; may be repeated. There are {', '.join(row.key for row in ROWS)}.",
        ),
    ] = None,
    long: Annotated[
        bool, typer.Option("--long", help="The rows that take half an hour as well.")
    ] = False,
    setup_only: Annotated[
        bool, typer.Option("--setup-only", help="Make certificates and blocklists, and stop.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A second or two each, to see that it works.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure the gateway with every guarantee on, beside a bare echo.

    Exit status 1: something could not be measured, or a transaction failed. A target that is missed
    is a cross in the table, and no failure.
    """
    console = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    options = Options(only=tuple(only or ()), long=long, quick=quick)
    unknown = [key for key in options.only if key not in {row.key for row in ROWS}]
    if unknown:
        raise typer.BadParameter(f"there is no row {', '.join(unknown)}", param_hint="--only")

    async def measure() -> Report | None:
        say("Certificates and blocklists ...")
        tls = await set_up_for(options)
        if setup_only:
            return None
        tool = await built(isoload)
        if tool is None:
            say(f"{isoload}: isoload is not there, so there is nothing to measure with")
            return None
        _KEPT.mkdir(parents=True, exist_ok=True)
        return await run(options, tool=tool, tls=tls, kept=_KEPT, say=say)

    stopped = False

    async def unless_told_to_stop(stop: trio.Event) -> Report | None:
        nonlocal stopped
        report = await unless_stopped(measure, stop)
        stopped = stop.is_set()
        return report

    report = run_told(unless_told_to_stop)
    if stopped:
        say("bench: stopped; nothing is kept")
        raise typer.Exit(FAILED)
    if report is None:
        return
    file = _keep(report)
    if json:
        sys.stdout.write(json_.dumps(report.to_json()) + "\n")
    else:
        out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
        out.print(table_of(report.rows, title="gateway, every guarantee on"))
        sys.stdout.write(drift_words(report.echo_before_us, report.echo_after_us) + "\n")
    say(f"The figures are kept in {file.relative_to(ROOT)}.")
    raise typer.Exit(0 if report.complete else FAILED)


def _keep(report: Report) -> Path:
    told: dict[str, Any] = report.to_json()
    name = str(told["when"]).replace(":", "").replace("+0000", "Z")
    file = _KEPT / f"{name}.json"
    file.write_text(json_.dumps(told, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(file, _KEPT / "latest.json")
    return file
