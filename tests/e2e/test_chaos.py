"""Chaos as its user runs it: short runs that must pass, and runs that must find what is wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KEYS = [
    "seed",
    "transactions",
    "approved",
    "declined",
    "reversed",
    "gateway_kills",
    "acquirer_kills",
    "cuts",
    "lost",
    "doubled",
    "unexplained",
    "reversals_open",
    "converged_s",
]
WRONG = ("lost", "doubled", "unexplained", "reversals_open")
# What the gateway can be told to do wrong, so that it can be shown that chaos finds it.
TEST_FAULT = "GATEWAY_TEST_FAULT"


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "loadtest", "chaos", *options, "--json"]


def chaos(*options: str, fault: str = "") -> tuple[int, dict[str, Any], str]:
    """Exit status, what it printed, and what it said on the way."""
    environment = {name: value for name, value in os.environ.items() if name != TEST_FAULT}
    if fault:
        environment[TEST_FAULT] = fault
    done = subprocess.run(
        command(*options), cwd=ROOT, capture_output=True, text=True, timeout=240, env=environment
    )
    kept = re.search(r"^kept: (/\S+/gateway-chaos-\S+)$", done.stderr, re.MULTILINE)
    if kept is not None:
        shutil.rmtree(kept[1], ignore_errors=True)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def test_whatever_dies_all_ledgers_agree() -> None:
    options = ("--seconds", "12", "--terminals", "30", "--rate", "2", "--seed", "1")
    status, found, told = chaos(*options)
    assert list(found) == KEYS
    assert {name: found[name] for name in WRONG} == dict.fromkeys(WRONG, 0), told
    assert status == 0, told
    assert found["seed"] == 1
    assert found["approved"] > 0
    assert found["gateway_kills"] >= 4
    assert found["acquirer_kills"] >= 2
    ended = found["approved"] + found["declined"] + found["reversed"]
    assert found["transactions"] == ended
    assert found["converged_s"] < 60


@pytest.mark.skipif(
    "GATEWAY_CHAOS_FAULTS" not in os.environ,
    reason="how soon chaos finds a fault depends on the machine: run `make chaos-faults`",
)
def test_an_acquirer_that_ignores_reversals_is_found_out() -> None:
    options = ("--seconds", "10", "--terminals", "30", "--rate", "2", "--seed", "2")
    status, found, told = chaos(
        *options, "--converge-s", "12", "--switch", "reversals_ignored=true", "--no-full-disk"
    )
    assert status == 1, told
    assert found["lost"] > 0, told
    # What it takes to look into it: both ledgers, the gateway's record, and how to run it again.
    for evidence in ("lost: T", "terminal: Attempt(", "acquirer-", "gateway: Record(", "kept: /"):
        assert evidence in told
    assert "again: python -m loadtest chaos --seconds 10 --terminals 30" in told


@pytest.mark.skipif(
    "GATEWAY_CHAOS_FAULTS" not in os.environ,
    reason="how soon chaos finds a fault depends on the machine: run `make chaos-faults`",
)
@pytest.mark.parametrize("fault", ["ack-before-write", "resend-after-send", "accept-25-at-once"])
def test_a_gateway_with_a_fault_is_found_out(fault: str) -> None:
    options = ["--seconds", "30", "--terminals", "40", "--rate", "4", "--seed", "3"]
    if fault == "accept-25-at-once":
        # Acquirers that look at a request after its reversal, and approve it all the same.
        options += ["--switch", "tombstones=false", "--switch", "hold_ms=1200"]
    status, found, told = chaos(*options, "--converge-s", "12", "--no-full-disk", fault=fault)
    assert status == 1, told
    assert sum(found[name] for name in ("lost", "doubled", "unexplained")) > 0, told


@pytest.fixture
def folder() -> Iterator[Path]:
    """One with a short name: sockets have no room for a long one."""
    with TemporaryDirectory(prefix="gw") as name:
        yield Path(name)


def test_a_run_that_is_stopped_ends_its_processes_and_leaves_nothing(folder: Path) -> None:
    process = subprocess.Popen(
        command("--seconds", "30", "--terminals", "4", "--seed", "4"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert process.stderr is not None
    with process:
        try:
            for line in process.stderr:
                if "killed the gateway" in line:
                    break
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 1
        finally:
            process.kill()
    assert list(folder.iterdir()) == []
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if readable(path)]
    assert not [line for line in running if str(folder).encode() in line]


def readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def test_the_plan_of_a_seed_can_be_read_without_a_run() -> None:
    first, second = (
        subprocess.run(
            [sys.executable, "-m", "loadtest", "chaos", "--seed", "5", "--plan"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        for _ in range(2)
    )
    assert first.returncode == 0
    assert first.stdout == second.stdout
    assert "gateway, life 20" in first.stdout
