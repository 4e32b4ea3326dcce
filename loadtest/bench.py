"""The benchmark: isoload on both sides of a gateway on config/bench.toml, one table of figures."""

from __future__ import annotations

import json as json_
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import trio
import typer
from rich.console import Console
from rich.table import Table

from gateway import __version__, faults
from loadtest.isoload import SOURCES, built
from loadtest.processes import Child, ChildFailed, Children, python, run_once

_ROOT = Path(__file__).resolve().parent.parent
_CONFIG = _ROOT / "config" / "bench.toml"
_VAR = _ROOT / "var"
_CERTS = _ROOT / "certs"
_TERMINALS = _VAR / "bench-terminals"
_RANGE = "T0000001-T0005000"
_PLAIN, _TLS = "127.0.0.1:9000", "127.0.0.1:9443"
_ACQUIRERS = ("127.0.0.1:9101", "127.0.0.1:9102")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run of isoload's terminals, and what the sketch of the same shape took for it."""

    name: str
    terminals: int
    tls: bool
    rate: float  # transactions a second; 0: closed loop
    seconds: float
    sketch_cpu_us: str = ""
    sketch_tps: str = ""


UNKEPT = Scenario("the same, nothing kept", 100, tls=False, rate=0, seconds=10)
SCENARIOS = (
    Scenario("plain, closed loop", 100, tls=False, rate=0, seconds=10,
             sketch_cpu_us="81-86", sketch_tps="12,000-13,000"),
    Scenario("mutual TLS, closed loop", 100, tls=True, rate=0, seconds=10,
             sketch_cpu_us="138"),
    Scenario("5,000 over mutual TLS, 500/s", 5_000, tls=True, rate=500, seconds=30),
)  # fmt: skip


def main(
    *,
    isoload: Annotated[
        Path, typer.Option("--isoload", help="The folder of isoload's sources.")
    ] = SOURCES,
    setup_only: Annotated[
        bool, typer.Option("--setup-only", help="Make the certificates and stop.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two seconds each, to see that it works.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure the gateway with every guarantee on; exit 1 where a transaction failed."""
    console = Console(stderr=True, highlight=False)
    try:
        trio.run(_set_up, console)
        if setup_only:
            return
        tool = trio.run(built, isoload)
        if tool is None:
            console.print(f"{isoload}: isoload is not there, so there is nothing to measure with")
            return
        report = trio.run(_measure, tool, quick, console)
    except ChildFailed as error:
        console.print(f"bench: {error}")
        raise typer.Exit(1) from None
    kept = _keep(report)
    if json:
        sys.stdout.write(json_.dumps(report) + "\n")
    else:
        Console(highlight=False).print(_table(report))
    console.print(f"The figures are kept in {kept.relative_to(_ROOT)}.")
    raise typer.Exit(1 if any(run["errors"] for run in report["runs"]) else 0)


async def _set_up(console: Console) -> None:
    """Certificates of the gateway's own authority, for itself and for 5,000 terminals."""
    console.print("Certificates ...")
    await run_once(*python("gateway", "certs", "init", "--out", str(_CERTS)))
    if not (_TERMINALS / "T0005000.crt").exists():
        await run_once(
            *python("gateway", "certs", "issue", "--range", _RANGE),
            *("--ca", str(_CERTS), "--out", str(_TERMINALS)),
            timeout_s=300,
        )


async def _measure(tool: Path, quick: bool, console: Console) -> dict[str, Any]:
    for left in (_VAR / name for name in ("bench.db", "bench.db-wal", "bench.db-shm", "bench.log")):
        left.unlink(missing_ok=True)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        async with Children(grace_s=15) as children:
            for number, address in enumerate(_ACQUIRERS, 1):
                command = [str(tool), "acquirer", "-listen", address]
                await children.start(f"acquirer-{number}", command, log=logs / f"{number}.log")
            gateway = await children.start(
                "gateway",
                python("gateway", "run", "--config", str(_CONFIG)),
                log=logs / "gateway.log",
            )
            await _until_it_listens(gateway)
            for scenario in SCENARIOS:
                console.print(f"{scenario.name} ...")
                runs.append(await _run(tool, scenario, gateway.pid, quick))
            await gateway.stop(grace_s=15)
            # What durability costs: the same work with a store that keeps nothing.
            console.print(f"{UNKEPT.name} ...")
            forgetful = await children.start(
                "gateway-unkept",
                [
                    *("env", f"{faults.VARIABLE}={faults.Fault.KEEP_NOTHING}"),
                    *python("gateway", "run", "--config", str(_CONFIG)),
                ],
                log=logs / "gateway-unkept.log",
            )
            await _until_it_listens(forgetful)
            runs.insert(1, await _run(tool, UNKEPT, forgetful.pid, quick))
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "python": platform.python_version(),
        "machine": {"processors": os.cpu_count(), "system": platform.release()},
        "runs": runs,
    }


async def _until_it_listens(gateway: Child) -> None:
    host, port = _TLS.rsplit(":", 1)
    for _ in range(200):
        try:
            stream = await trio.open_tcp_stream(host, int(port))
        except OSError:
            if gateway.process.poll() is not None:
                raise gateway.failure() from None
            await trio.sleep(0.1)
        else:
            await stream.aclose()
            await trio.sleep(1.0)  # links come up with a jittered pause
            return
    raise ChildFailed("the gateway does not listen after 20 s")


async def _run(tool: Path, scenario: Scenario, pid: int, quick: bool) -> dict[str, Any]:
    command = [
        str(tool),
        "terminals",
        *("-target", _TLS if scenario.tls else _PLAIN),
        *("-n", str(scenario.terminals), "-rate", str(scenario.rate)),
        *("-duration", "2s" if quick else f"{scenario.seconds:g}s"),
        *("-pid", str(pid), "-json"),
    ]
    if scenario.tls:
        command += ["-tls", "-certdir", str(_TERMINALS), "-ca", str(_CERTS / "ca.crt")]
        command += ["-connect-rate", "150"]
    said = await run_once(*command, timeout_s=scenario.seconds + 120)
    found = json_.loads(said)
    return asdict(scenario) | {
        "errors": found["errors"],
        "error_kinds": found["error_kinds"],
        "tps": found["tps"],
        "latency_ms": found["latency_ms"],
        "cpu_us_per_txn": found["gateway"][0]["cpu_us_per_txn"],
        "rss_kb": found["gateway"][0]["rss_kb"],
        "ok": found["ok"],
    }


def _keep(report: dict[str, Any]) -> Path:
    folder = _VAR / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    name = str(report["when"]).replace(":", "").replace("+0000", "Z")
    file = folder / f"{name}.json"
    file.write_text(json_.dumps(report, indent=1) + "\n")
    shutil.copyfile(file, folder / "latest.json")
    return file


def _table(report: dict[str, Any]) -> Table:
    table = Table(title="gateway, every guarantee on", title_justify="left")
    table.add_column("scenario")
    for column in (
        "errors",
        "tps",
        "p50 ms",
        "p99 ms",
        "CPU us/txn",
        "sketch us",
        "sketch tps",
        "MiB",
    ):
        table.add_column(column, justify="right")
    for run in report["runs"]:
        latency = run["latency_ms"]
        table.add_row(
            run["name"],
            str(run["errors"]),
            f"{run['tps']:,.0f}",
            f"{latency['p50']:.2f}",
            f"{latency['p99']:.2f}",
            f"{run['cpu_us_per_txn']:.0f}",
            run["sketch_cpu_us"],
            run["sketch_tps"],
            f"{run['rss_kb'] / 1024:.0f}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
