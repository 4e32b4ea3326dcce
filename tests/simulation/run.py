"""Runs seeds, one or many over several processes, and sums up what became of each."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

from tests.simulation.doubles import BROKEN, Doubles
from tests.simulation.world import Result, simulate

_LINES_MAX = 120  # of a failing transaction's trace


@dataclass(frozen=True, slots=True)
class Summary:
    """What is told of a seed."""

    seed: int
    digest: str
    attempts: int
    crashes: int
    findings: tuple[str, ...]
    trace: tuple[str, ...]  # of the first transaction that fails, or what happened last


def summary_of(result: Result) -> Summary:
    about = next((found.about for found in result.findings if found.about is not None), None)
    lines: list[str] = []
    if about is not None:
        lines = [str(line) for line in result.trace.about([about])]
    elif result.findings:
        lines = [str(line) for line in result.trace.lines]
    return Summary(
        seed=result.seed,
        digest=result.digest,
        attempts=result.attempts,
        crashes=result.crashes,
        findings=tuple(str(found) for found in result.findings),
        trace=tuple(lines[-_LINES_MAX:]),
    )


def run_one(seed: int, *, broken: str = "") -> Summary:
    """One seed; a failure of the harness itself is a finding too."""
    try:
        return summary_of(simulate(seed, doubles=BROKEN.get(broken, Doubles())))
    except Exception as error:
        why = f"the simulation itself failed: {type(error).__name__}: {error}"
        return Summary(seed, "", 0, 0, (why,), ())


def run_many(seeds: Iterable[int], *, jobs: int, broken: str = "") -> Iterator[Summary]:
    """Seeds in order, over some processes."""
    run = partial(run_one, broken=broken)
    if jobs == 1:
        yield from map(run, seeds)
        return
    with get_context("spawn").Pool(jobs, collect_seldom) as pool:
        yield from pool.imap(run, seeds, chunksize=4)


def collect_seldom() -> None:
    """A run leaves little garbage; looking for it costs a tenth of the time."""
    gc.set_threshold(50_000, 20, 100)
