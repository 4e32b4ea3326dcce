"""The real flow, store and recovery under a virtual clock, with faults from a seed: all agree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.doubles import BROKEN
from tests.simulation.run import run_many
from tests.simulation.verdict import DOUBLED, LOST
from tests.simulation.world import simulate

SEEDS = range(1, 121)  # more by `make simulate`
# How many seeds a harness that is any good needs to notice a broken promise.
BROKEN_SEEDS = range(1, 61)
ROOT = Path(__file__).resolve().parents[2]


def test_whatever_dies_everybody_agrees_in_the_end() -> None:
    jobs = min(4, os.cpu_count() or 1)
    failed = [summary for summary in run_many(SEEDS, jobs=jobs) if summary.findings]
    told = [
        f"python -m tests.simulation --seed {summary.seed} --trace: {'; '.join(summary.findings)}"
        for summary in failed
    ]
    trace = "\n".join(failed[0].trace) if failed else ""
    assert not failed, "\n".join([trace, *told])


def test_one_seed_gives_one_trace() -> None:
    for seed in (4, 16, 46):
        first, second = simulate(seed), simulate(seed)
        assert first.digest == second.digest
        assert list(map(str, first.trace.lines)) == list(map(str, second.trace.lines))
    assert simulate(4).digest != simulate(16).digest


def test_one_seed_gives_one_trace_in_every_process() -> None:
    expected = simulate(46).digest
    for hash_seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--seed", "46"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert f"trace {expected}," in told.stdout, told.stdout + told.stderr


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_promise_is_noticed(broken: str) -> None:
    """Each of them loses or doubles money in some seed."""
    for seed in BROKEN_SEEDS:
        result = simulate(seed, doubles=BROKEN[broken])
        if any(found.what in (LOST, DOUBLED) for found in result.findings):
            return
    pytest.fail(f"{len(BROKEN_SEEDS)} seeds do not notice {broken}")
