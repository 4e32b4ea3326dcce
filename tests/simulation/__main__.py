"""`python -m tests.simulation`: run seeds, say how fast, and show what a failing one did."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter

from tests.simulation.doubles import BROKEN, Doubles
from tests.simulation.run import Summary, collect_seldom, run_many, summary_of
from tests.simulation.world import simulate

_SHOWN_MAX = 5  # findings of a seed
_PROGRESS_S = 5.0


def main(arguments: list[str] | None = None) -> int:
    """0 where every seed converged and agreed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: all that happened")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--broken", default="", choices=("", *BROKEN), help="break a promise")
    options = parser.parse_args(arguments)
    collect_seldom()
    if options.seed is not None:
        return _one(options.seed, whole=options.trace, broken=options.broken)
    seeds = range(options.first, options.first + options.seeds)
    return _many(seeds, jobs=options.jobs, broken=options.broken)


def _one(seed: int, *, whole: bool, broken: str) -> int:
    result = simulate(seed, doubles=BROKEN.get(broken, Doubles()))
    summary = summary_of(result)
    for line in map(str, result.trace.lines) if whole else summary.trace:
        print(line)
    for finding in summary.findings:
        print(finding)
    print(
        f"seed {seed}: {result.attempts} transactions, {result.crashes} crashes,"
        f" {result.virtual_s:.0f} s of virtual time, trace {result.digest},"
        f" {len(result.findings)} findings"
    )
    return bool(summary.findings)


def _many(seeds: range, *, jobs: int, broken: str) -> int:
    started_s = said_s = time.perf_counter()
    failed: list[Summary] = []
    attempts = crashes = 0
    kinds: Counter[str] = Counter()
    for done, summary in enumerate(run_many(seeds, jobs=jobs, broken=broken), start=1):
        attempts += summary.attempts
        crashes += summary.crashes
        if summary.findings:
            failed.append(summary)
            kinds.update({finding.partition(":")[0] for finding in summary.findings})
            _show(summary, broken=broken, with_trace=len(failed) == 1)
        now_s = time.perf_counter()
        if now_s - said_s > _PROGRESS_S:
            said_s = now_s
            rate = done / (now_s - started_s)
            print(f"{done} of {len(seeds)} seeds, {rate:.1f} a second", flush=True)
    seconds = time.perf_counter() - started_s
    print(
        f"{len(seeds)} seeds in {seconds:.0f} s, {len(seeds) / seconds:.1f} a second:"
        f" {attempts} transactions, {crashes} crashes, {len(failed)} seeds failed"
        + (f" ({', '.join(f'{kind} {count}' for kind, count in kinds.items())})" if kinds else "")
    )
    return bool(failed)


def _show(summary: Summary, *, broken: str, with_trace: bool) -> None:
    for line in summary.trace if with_trace else ():
        print(line)
    print(f"seed {summary.seed} failed:")
    for finding in summary.findings[:_SHOWN_MAX]:
        print(f"  {finding}")
    more = f" --broken {broken}" if broken else ""
    print(f"  again: python -m tests.simulation --seed {summary.seed}{more} --trace", flush=True)


if __name__ == "__main__":
    sys.exit(main())
