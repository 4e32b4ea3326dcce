"""`make fuzz`: a million changed frames, in as many processes as there are processors."""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tests.fuzz.target import TIME_NS_MAX, Report, run

_CHUNK = 50_000
# Of a process. It grows until each codec has as many layouts as it keeps, and is flat from then on.
_MEMORY_KIB_MAX = 262_144


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the same: same frames")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    wanted = parser.parse_args()
    os.nice(10)
    began_s = time.monotonic()
    total = Report()
    print(f"{wanted.frames} frames, seed {wanted.seed}, {wanted.processes} processes", flush=True)
    with ProcessPoolExecutor(wanted.processes, mp_context=get_context("spawn")) as pool:
        chunks = [
            pool.submit(
                run, seed=wanted.seed, first=first, count=min(_CHUNK, wanted.frames - first)
            )
            for first in range(0, wanted.frames, _CHUNK)
        ]
        for done in as_completed(chunks):
            total.add(done.result())
            print(f"  {total.frames} frames, {len(total.failures)} failed", flush=True)
    _print(total, time.monotonic() - began_s)
    too_large = total.rss_kib[1] > _MEMORY_KIB_MAX
    return 1 if total.failures or total.over or too_large else 0


def _print(report: Report, seconds: float) -> None:
    print(f"\n{report.frames} frames in {seconds:.0f} s")
    for outcome, count in report.outcomes.most_common():
        print(f"  {count:>9}  {outcome}")
    print(f"CPU for one frame: 99.99 % within {report.percentile_ns(0.9999) / 1e6:.3f} ms,")
    print(f"  longest {report.percentile_ns(1.0) / 1e6:.3f} ms")
    print(f"  over {TIME_NS_MAX / 1e6:g} ms each time they are read: {len(report.over)}")
    before, after = report.rss_kib
    print(f"memory of the largest process: {before} KiB warm, {after} KiB at the end")
    for line in (*report.failures, *report.over[:20]):
        print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
