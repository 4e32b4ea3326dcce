"""`gateway check`: all that is wrong with a configuration, without opening anything."""

from __future__ import annotations

import json as json_
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from gateway.clock import SystemClock, utc
from gateway.live import prepare
from gateway.settings.addresses import listening_sockets
from gateway.settings.check import Report
from gateway.settings.check import check as check_configuration
from gateway.settings.findings import Finding, SettingsError
from gateway.settings.reload import read_whole

_OK, _FINDINGS, _USAGE = 0, 1, 2


def check(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The configuration file.", show_default=True)
    ] = Path("config/gateway.toml"),
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a configuration and every file it names; opens no socket and no database.

    Exit status: 0 without errors (warnings may be printed), 1 with errors, 2 for wrong usage.
    """
    if not config.is_file():
        what = "is not a file" if config.exists() else "does not exist"
        typer.echo(f"gateway check: {config} {what}; name one with --config FILE", err=True)
        raise typer.Exit(_USAGE)
    report = check_configuration(
        config, now=utc(SystemClock().wall_ms()), addresses_in_use=listening_sockets()
    )
    if report.ok:
        report = _with_lists(config, report)
    if json:
        _print_json(report)
    else:
        _print_lines(config, report)
    raise typer.Exit(_OK if report.ok else _FINDINGS)


def _with_lists(config: Path, report: Report) -> Report:
    """The blocklists and all else that decides on requests, as the daemon would read it."""
    try:
        whole = read_whole(config.absolute(), prepare)
    except SettingsError as error:
        return replace(report, findings=(*report.findings, *error.findings))
    return replace(report, version=whole.prepared.configuration.version)


def _print_json(report: Report) -> None:
    findings = [finding.to_json() for finding in report.findings]
    answer = {"ok": report.ok, "version": report.version, "findings": findings}
    typer.echo(json_.dumps(answer, indent=2, ensure_ascii=False))


def _print_lines(config: Path, report: Report) -> None:
    # rich itself leaves colours out where NO_COLOR is set or standard output is no terminal.
    console = Console(file=sys.stdout, soft_wrap=True, highlight=False)
    for finding in report.findings:
        console.print(_line(finding))
    errors = sum(finding.severity == "error" for finding in report.findings)
    warnings = len(report.findings) - errors
    verdict = "can be used" if report.ok else "cannot be used"
    typer.echo(
        f"{config} {verdict}: {_counted(errors, 'error')}, {_counted(warnings, 'warning')}"
        + (f", version {report.version}" if report.ok else ""),
        err=True,
    )


def _line(finding: Finding) -> Text:
    colour = "red" if finding.severity == "error" else "yellow"
    line = Text(str(finding))
    place = len(f"{finding.file}:{finding.line}:")
    line.stylize("bold", 0, place)
    line.stylize(colour, place)
    if finding.severity == "warning":
        line.append(" [warning]", style="dim")
    return line


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
