"""`python -m loadtest run`: reads a scenario, runs it, judges it and keeps what came of it."""

from __future__ import annotations

import shutil
import socket
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import trio
import typer
from rich.console import Console

from gateway.settings.findings import SettingsError
from loadtest.addresses import HostPort, NotLoopback, loopback
from loadtest.run.board import Board
from loadtest.run.conductor import Ran, RunOptions, conduct
from loadtest.run.line import TlsFolder
from loadtest.run.progress import show_progress
from loadtest.run.report import page_of
from loadtest.run.result import NotAResult, Result, notes, planned, read_result, result_of
from loadtest.run.scenario import SHIPPED, Scenario, ScenarioFile, find, load
from loadtest.run.stand import MERCHANT
from loadtest.running import FAILED, fail, print_json, print_line, run_told, say, unless_stopped

_USAGE = 2


def run_scenario(
    *,
    scenario: Annotated[
        str,
        typer.Argument(
            metavar="SCENARIO",
            help="A TOML file, or the name of one that is shipped; `list` shows those.",
        ),
    ],
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, max=86_400, help="Instead of the scenario's.")
    ] = 0.0,
    scale: Annotated[
        float, typer.Option("--scale", min=0.001, max=100, help="Times devices and rate.")
    ] = 1.0,
    target: Annotated[
        str, typer.Option("--target", metavar="HOST:PORT", help="A gateway that runs already.")
    ] = "",
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="The target may be another machine.")
    ] = False,
    certs: Annotated[
        Path | None, typer.Option("--certs", help="With --target: T0000001.crt, .key and so on.")
    ] = None,
    ca: Annotated[Path | None, typer.Option("--ca", help="Default: ca.crt beside them.")] = None,
    server_name: Annotated[str, typer.Option("--server-name")] = "localhost",
    merchant: Annotated[str, typer.Option("--merchant", help="With --target: DE42.")] = MERCHANT,
    pid: Annotated[int, typer.Option("--pid", min=0, help="With --target: its process.")] = 0,
    direct: Annotated[
        bool, typer.Option("--direct", help="No gateway, plain: what the tool itself costs.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.html", help="Write a page.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="EARLIER.json", help="Its `--json`.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be run, and end.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep ledgers, journals and logs.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one object.")] = False,
) -> None:
    """Run a load test; exit status 0: all thresholds hold, 1: one does not, 2: it cannot be run."""
    if scenario == "list":
        _list(as_json=json)
        return
    earlier = _earlier(compare)
    file = _file(scenario)
    scaled = file.scenario.scaled(seconds=seconds, scale=scale)
    if direct:
        plain = scaled.devices.model_copy(update={"security": "plain", "close_batch": False})
        scaled = scaled.model_copy(update={"devices": plain, "events": []})
    options = RunOptions(
        file=file,
        scenario=scaled,
        direct=direct,
        target=_target(target, allow_remote=allow_remote) if target else None,
        target_pid=pid,
        tls=_tls(certs, ca, server_name),
        merchant=merchant,
        keep=keep,
    )
    _check(options)
    if report is not None and (report.is_dir() or not report.absolute().parent.is_dir()):
        raise typer.BadParameter(f"--report {report}: no file can be written there")
    if plan:
        for line in planned(options):
            print_line(line)
        return
    result = run_told(partial(unless_stopped, partial(_run, options)))
    if result is None:
        fail("stopped before its end")
    if report is not None:
        report.write_text(page_of(result, earlier), encoding="utf-8")
        say(f"the report: {report}")
    _tell(result, as_json=json)
    raise typer.Exit(0 if result["passed"] else FAILED)


async def _run(options: RunOptions) -> Result:
    """The result of a run in a folder of its own; raises ChildFailed."""
    # Short, for the Unix sockets in it.
    folder = Path(tempfile.mkdtemp(prefix="gwload-"))
    board = Board(options.scenario)
    kept = True
    try:
        async with trio.open_nursery() as nursery:
            console = Console(stderr=True, highlight=False)
            nursery.start_soon(show_progress, board, console)
            quiet = console.is_terminal  # where the view says it already
            ran = await conduct(options, board, folder, (lambda _: None) if quiet else say)
            nursery.cancel_scope.cancel()
        result = result_of(options, ran)
        kept = options.keep or not _agrees(ran)
    except BaseException:
        # Whoever stops it wants nothing of it any more; what failed is worth a look.
        stopped = trio.current_effective_deadline() <= trio.current_time()
        kept = options.keep or not stopped
        raise
    finally:
        if kept:
            say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return result


def _agrees(ran: Ran) -> bool:
    return ran.books is None or ran.books.agree


def _tell(result: Result, *, as_json: bool) -> None:
    """The thresholds, one a line with a tick or a cross, and the result where it is asked for."""
    out = say if as_json else print_line
    figures = result["figures"]
    out(
        f"{result['scenario']['name']}: {figures['transactions']:,} transactions,"
        f" {figures['rate']:,.0f}/s, p50 {figures['p50_ms']:.2f} p99 {figures['p99_ms']:.2f}"
        f" max {figures['max_ms']:.1f} ms, {figures['errors']} errors,"
        f" {figures['disturbed']} disturbed by events"
    )
    gateway_us = figures.get("cpu_us_per_txn")
    used = f"gateway {gateway_us:g} us, " if gateway_us is not None else ""
    out(
        f"processor time for a transaction: {used}tool {figures['tool_cpu_us_per_txn']:g} us;"
        f" the tool was late by {figures['late_p99_ms']:g} ms at the 99th percentile"
    )
    for one in result["thresholds"]:
        mark = {True: "✓", False: "✗", None: "-"}[one["passed"]]
        found = "not measured here" if one["found"] is None else _shown(one["found"])
        out(f"{mark} {one['threshold']:<28} {found}")
    for line in result["disagreements"]:
        say(line)
    for note in notes(result):
        say(f"note: {note}")
    if as_json:
        print_json(result)


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.6g}"


# --- arguments -----------------------------------------------------------------------------------


def _list(*, as_json: bool) -> None:
    found = [load(path).scenario for path in sorted(SHIPPED.glob("*.toml"))]
    if as_json:
        print_json([{"name": one.name, "title": one.title} for one in found])
        return
    for one in found:
        print_line(f"{one.name:<20} {one.title}")


def _file(name: str) -> ScenarioFile:
    try:
        return load(find(name))
    except SettingsError as error:
        for finding in error.findings:
            say(str(finding))
        raise typer.Exit(_USAGE) from None


def _earlier(path: Path | None) -> Result | None:
    try:
        return None if path is None else read_result(path)
    except NotAResult as error:
        raise typer.BadParameter(str(error)) from None


def _target(text: str, *, allow_remote: bool) -> HostPort:
    """Where the gateway is, as a numeric address; only on this machine unless told openly."""
    try:
        return loopback(text)
    except NotLoopback as error:
        if not allow_remote:
            raise typer.BadParameter(
                f"{error}; --allow-remote loads another machine: be sure that it is yours"
            ) from None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    host, _, port = text.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise typer.BadParameter(f"{text}: {error.strerror}") from None
    return HostPort(str(found[0][4][0]), int(port))


def _tls(certs: Path | None, ca: Path | None, server_name: str) -> TlsFolder | None:
    if certs is None:
        return None
    beside = certs / "ca.crt" if (certs / "ca.crt").exists() else certs.parent / "ca.crt"
    return TlsFolder(certs, ca or beside, server_name)


def _check(options: RunOptions) -> None:
    """What cannot be run as it was asked for; raises typer.BadParameter."""
    scenario: Scenario = options.scenario
    if options.direct and options.target is not None:
        raise typer.BadParameter("--direct starts an acquirer of its own: leave --target out")
    if options.target is not None and scenario.devices.security == "mutual-tls" and not options.tls:
        raise typer.BadParameter("the scenario's devices call over mutual TLS: name their --certs")
    if options.target is not None and scenario.devices.secure:
        raise typer.BadParameter(
            "devices with keys (secure = true) need a gateway that the run gives them to: leave"
            " --target out"
        )
    if options.target is not None and scenario.events:
        raise typer.BadParameter(
            f"the scenario's events ({scenario.events[0].do} and so on) are for a gateway that the"
            " run starts itself: leave --target out, or the events"
        )
