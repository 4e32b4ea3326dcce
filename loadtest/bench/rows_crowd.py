"""Row of the crowd: 5,000 lines that are idle, and then all of them lost in one moment."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import trio

from loadtest.bench.figures import Figure, Measured
from loadtest.bench.load import Load
from loadtest.bench.stand import Server
from loadtest.bench.work import Bench, Row
from loadtest.processes import Child, python

IDLE_KIB_MAX = 45.0
BACK_S_MAX, STAYED_P99_MS_MAX = 15.0, 100.0
CROWD = 5_000
STAYERS = 300

_QUICK = 20
_STORM_S = 90.0  # for all lines to open; more is a failure
_WARM = Load(terminals=100, tls=True, seconds=2, warmup_s=0.5)
_STAY = Load(terminals=STAYERS, tls=True, rate=100, seconds=_STORM_S, warmup_s=1, connect_per_s=100)
_STARTING_S = 1.0
_BEFORE_S, _AFTER_S = 2.0, 0.5  # of the storm, with those that stay
_SETTLE_S = 2.0
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class _Storm:
    """What a crowd found of a server."""

    idle_kib: float  # resident memory for each line
    back_s: float
    cpu_ms: float  # for each line that came back
    raw: dict[str, Any]


async def crowd(bench: Bench, found: Measured) -> None:
    """5,000 idle terminals over mutual TLS, and then all of them calling again in one moment."""
    count = _QUICK if bench.quick else CROWD
    async with bench.stand.echo(tls=True) as echo, _lines(bench, echo, count) as lines:
        of_echo = await _storm(lines)
    async with bench.stand.gateway() as gateway:
        # What the first of its kind makes it load is no terminal's.
        await bench.run(gateway, _WARM)
        async with _lines(bench, gateway, count) as lines:
            stay = replace(_STAY.quick() if bench.quick else _STAY, first=count + 1)
            stay = replace(stay, seconds=_STORM_S)
            staying = await bench.stand.start("stayers", bench.stand.command(gateway, stay))
            await trio.sleep(_STARTING_S + stay.terminals / stay.connect_per_s + stay.warmup_s)
            await trio.sleep(_BEFORE_S)
            of_gateway = await _storm(lines)
            await trio.sleep(_AFTER_S)
            staying.signal(signal.SIGINT)  # it says what it found until then
            stayed = bench.stand.read(await staying.line(timeout_s=_STORM_S))
    found.raw |= {"echo": of_echo.raw, "gateway": of_gateway.raw, "stayed": stayed.raw}
    found.errors += stayed.errors
    found.figures += [
        Figure(
            name="memory an idle terminal",
            unit="KiB",
            value=of_gateway.idle_kib,
            at_most=IDLE_KIB_MAX,
            echo=of_echo.idle_kib,
            compare="40 KiB is OpenSSL and trio",
        ),
        Figure(
            name="all back, each with a purchase",
            unit="s",
            value=of_gateway.back_s,
            at_most=BACK_S_MAX,
            echo=of_echo.back_s,
        ),
        Figure(
            name="p99 of those that stayed",
            unit="ms",
            value=stayed.p99_ms,
            at_most=STAYED_P99_MS_MAX,
        ),
        Figure(name="CPU a return", unit="ms", value=of_gateway.cpu_ms, echo=of_echo.cpu_ms),
    ]


@dataclass(frozen=True, slots=True)
class _Lines:
    """A crowd whose lines are open."""

    child: Child
    server: Server
    count: int
    idle_kib: float
    opened: dict[str, Any]


@asynccontextmanager
async def _lines(bench: Bench, server: Server, count: int) -> AsyncIterator[_Lines]:
    await trio.sleep(_SETTLE_S)
    before = server.sample()
    tls = bench.stand.clients_tls
    command = python("loadtest.bench.crowd", "--target", str(server.tls), "--count", str(count))
    command += ["--certs", str(tls.folder), "--ca", str(tls.ca)]
    child = await bench.stand.start("crowd", command)
    try:
        opened = json.loads(await child.line(timeout_s=_STORM_S))
        bench.say(f"    {server.name}: {count:,} lines open after {opened['seconds']:.1f} s")
        await trio.sleep(_SETTLE_S)
        idle_kib = (server.sample().rss_bytes - before.rss_bytes) / 1024 / count
        yield _Lines(child, server, count, idle_kib, opened)
    finally:
        await child.stop(grace_s=_GRACE_S)


async def _storm(lines: _Lines) -> _Storm:
    before = lines.server.sample()
    lines.child.signal(signal.SIGUSR1)
    again = json.loads(await lines.child.line(timeout_s=_STORM_S))
    cpu_s = lines.server.sample().cpu_s - before.cpu_s
    raw = {"opened": lines.opened, "again": again, "cpu_s": round(cpu_s, 2)}
    return _Storm(lines.idle_kib, again["seconds"], 1000 * cpu_s / lines.count, raw)


ROWS = (Row("crowd", "5,000 idle over mutual TLS, then all call again at once", crowd),)
