"""Rows of growth: whether a transaction costs the same with more terminals, after a million others,
and beside ten million kept ones."""

from __future__ import annotations

import json
import signal
from itertools import pairwise
from typing import Any

import trio

from loadtest.bench.figures import Figure, Measured, spread_percent
from loadtest.bench.load import Load
from loadtest.bench.stand import Server
from loadtest.bench.work import PLAIN, Bench, Row, took
from loadtest.processes import ChildFailed, python

FLAT_PERCENT_MAX = 15.0
CONNECTED = (100, 1_000, 10_000)
MILLION, PART = 1_000_000, 100_000
SIZES = (100_000, 1_000_000, 10_000_000)

_RATE = 500.0
_TABLES_FULL = 200_000  # transactions until what is remembered is bounded everywhere
_LOOK_S = 2.0
_MILLION_S = 1_200.0
_HISTORY_S = 1_500.0
_QUICK_PARTS, _QUICK_SIZES = (50, 3), (100, 1_000)


async def connected(bench: Bench, found: Measured) -> None:
    """The same rate with 100, 1,000 and 10,000 terminals on the line."""
    costs: dict[int, float] = {}
    async with bench.stand.gateway() as gateway:
        # 100 once more in the end: what the machine does meanwhile must not pass for growth.
        for number, terminals in enumerate((*CONNECTED, CONNECTED[0])):
            # The warm-up hears each terminal once: its first message finds nothing remembered.
            load = Load(
                terminals=terminals,
                rate=_RATE,
                seconds=8,
                warmup_s=max(3.0, terminals / _RATE),
            )
            said = await bench.run(gateway, load)
            took(found, f"{number}: {terminals}", said)
            costs[terminals] = (costs.get(terminals, said.cpu_us) + said.cpu_us) / 2
    found.figures += [
        Figure(name=f"CPU a transaction, {terminals:,} connected", unit="us", value=cost)
        for terminals, cost in costs.items()
    ]
    found.figures.append(
        Figure(
            name="the most over the least",
            unit="%",
            value=spread_percent(list(costs.values())),
            at_most=FLAT_PERCENT_MAX,
        )
    )


async def million(bench: Bench, found: Measured) -> None:
    """A million transactions in a closed loop, and what each 100,000 of them took."""
    part, parts = _QUICK_PARTS if bench.quick else (PART, MILLION // PART)
    async with bench.stand.gateway() as gateway:
        load = Load(terminals=PLAIN.terminals, seconds=_MILLION_S, warmup_s=0.5)
        child = await bench.stand.start("load", bench.stand.command(gateway, load))
        looks = await _watched(bench, gateway, part * parts)
        child.signal(signal.SIGINT)
        took(found, "gateway", bench.stand.read(await child.line(timeout_s=load.timeout_s)))
    found.raw["looks"] = looks
    costs, memory_mb = by_part(looks, part=part, parts=parts)
    settled = memory_mb[min(_TABLES_FULL // part, len(memory_mb) - 2) :]
    found.figures += [
        Figure(name=f"CPU a transaction, up to {part * number:,}", unit="us", value=cost)
        for number, cost in enumerate(costs, 1)
    ]
    found.figures += [
        Figure(
            name="the most over the least",
            unit="%",
            value=spread_percent(costs),
            at_most=FLAT_PERCENT_MAX,
        ),
        Figure(name="memory in the end", unit="MiB", value=memory_mb[-1]),
        Figure(
            name=f"growth of memory from {_TABLES_FULL:,} on",
            unit="%",
            value=spread_percent(settled),
            at_most=FLAT_PERCENT_MAX,
        ),
    ]


async def _watched(bench: Bench, gateway: Server, wanted: int) -> list[tuple[int, float, float]]:
    """Transactions done, seconds of CPU used and MiB held, time after time until all are done."""
    looks: list[tuple[int, float, float]] = []
    with trio.move_on_after(_MILLION_S):
        while not looks or looks[-1][0] < wanted:
            done, sample = await gateway.transactions(), gateway.sample()
            looks.append((done, sample.cpu_s, sample.rss_bytes / 1024**2))
            if not bench.quick:
                bench.say(f"    {done:,} of {wanted:,}")
            await trio.sleep(0.2 if bench.quick else _LOOK_S)
        return looks
    raise ChildFailed(f"{looks[-1][0]:,} of {wanted:,} transactions were done in {_MILLION_S:g} s")


def by_part(
    looks: list[tuple[int, float, float]], *, part: int, parts: int
) -> tuple[list[float], list[float]]:
    """What each part cost in us a transaction, and the MiB held at its end, read between looks."""
    ends: list[list[float]] = []
    wanted = 0
    for before, after in pairwise(looks):
        while len(ends) <= parts and before[0] <= wanted <= after[0] and after[0] > before[0]:
            share = (wanted - before[0]) / (after[0] - before[0])
            ends.append([b + share * (a - b) for b, a in zip(before, after, strict=True)])
            wanted += part
    costs = [1e6 * (end[1] - start[1]) / part for start, end in pairwise(ends)]
    return costs, [end[2] for end in ends[1:]]


async def history(bench: Bench, found: Measured) -> None:
    """What a look-up takes beside 100,000 to 10,000,000 transactions kept."""
    sizes = _QUICK_SIZES if bench.quick else SIZES
    command = python("loadtest.bench_history", "--sizes", ",".join(map(str, sizes)))
    command += ["--folder", str(bench.stand.folder)]
    child = await bench.stand.start("history", command)
    taken: dict[int, dict[str, float]] = {}
    for size in sizes:
        told: dict[str, Any] = json.loads(await child.line(timeout_s=_HISTORY_S))
        bench.say(f"    {size:,} rows")
        taken[size] = told["look_up_us"]
        found.raw[str(size)] = told
    for name in taken[sizes[0]]:
        found.figures += [
            Figure(name=f"{name}, {size:,} rows", unit="us", value=looks[name])
            for size, looks in taken.items()
        ]
        found.figures.append(
            Figure(
                name=f"{name}: the most over the least",
                unit="%",
                value=spread_percent([looks[name] for looks in taken.values()]),
                at_most=FLAT_PERCENT_MAX,
            )
        )


ROWS = (
    Row("connected", "500 a second with 100 to 10,000 connected, plain", connected),
    Row("million", "1,000,000 transactions, plain, closed loop", million, long=True),
    Row("history", "look-ups in 100,000 to 10,000,000 kept transactions", history, long=True),
)
