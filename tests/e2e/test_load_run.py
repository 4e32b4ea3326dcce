"""`loadtest run` as its user runs it: the shipped smoke test, its result, its page, its verdict."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.run.result import read_result
from tests.support.browser import CHROMIUM, browser

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 150


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest", "run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)


def test_smoke_does_everything_once_and_all_ledgers_agree(tmp_path: Path) -> None:
    page, kept = tmp_path / "report.html", tmp_path / "run.json"
    done = run("smoke", "--json", "--report", str(page))
    assert done.returncode == 0, done.stderr
    kept.write_text(done.stdout, encoding="utf-8")
    result = read_result(kept)
    figures = result["figures"]
    assert result["passed"]
    assert all(one["passed"] for one in result["thresholds"])
    assert set(result["kinds"]) == {
        *("purchase", "void", "refund", "preauthorisation", "completion", "balance"),
    }
    assert figures["approved"] + figures["declined"] > 300
    assert figures["repeats"] > 0
    assert figures["reversed"] > 0
    assert [one["what"] for one in result["events"]] == ["reload", "block-terminals"]
    # Every device but the blocked one closed its batch, in balance.
    assert result["counts"]["batches_closed"] == 39
    assert sum(result["ledgers"][name] for name in ("lost", "doubled", "unexplained")) == 0
    # Both acquirers had their share, and the gateway was watched.
    assert len(result["series"]["upstreams"]) == 2
    assert figures["cpu_us_per_txn"] > 0
    assert figures["tool_cpu_us_per_txn"] > 0
    # Nobody's card number is anywhere in what is kept.
    kept = done.stdout + page.read_text(encoding="utf-8")
    # Not the end of a fraction that floats could not hold.
    assert not re.search(r"(?<![\d.])999999\d{10}", kept)
    if CHROMIUM is not None:
        with browser() as tab:
            seen = tab.look(page, width=420)
        assert (seen.overflowing, seen.requests, seen.complaints) == ([], [], [])
        assert "ledgers == equal" in seen.text


SMALL = """\
name = "small"
seconds = 2.0
thresholds = ["transactions > 1000000", "errors == 0"]
[devices]
count = 5
security = "plain"
connection = "each-time"
[arrival]
kind = "closed"
think_s = 0.1
"""


@pytest.mark.parametrize("direct", [False, True])
def test_a_threshold_that_is_missed_is_status_1(tmp_path: Path, direct: bool) -> None:
    scenario = tmp_path / "small.toml"
    scenario.write_text(SMALL, encoding="utf-8")
    done = run(str(scenario), *(["--direct"] if direct else []))
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("✗ transactions > 1000000") for line in lines), done.stdout
    assert any(line.startswith("✓ errors == 0") for line in lines), done.stdout


KILLED = """\
name = "killed"
seconds = 6.0
thresholds = ["errors == 0", "disturbed > 0", "ledgers == equal", "restart_s < 60"]
[devices]
count = 20
security = "plain"
repeats = 0.05
[arrival]
rate = 40.0
[[events]]
do = "kill-gateway"
at_s = 2.0
excuse_s = 60.0
[[events]]
do = "reconnect-storm"
at_s = 5.0
excuse_s = 60.0
[gateway]
answer_s = 3.0
"""


def test_a_gateway_that_is_killed_on_the_way_loses_nothing(tmp_path: Path) -> None:
    scenario = tmp_path / "killed.toml"
    scenario.write_text(KILLED, encoding="utf-8")
    done = run(str(scenario), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [one["what"] for one in result["events"]] == ["kill-gateway", "reconnect-storm"]


def test_what_runs_already_is_loaded_and_left_running(tmp_path: Path) -> None:
    scenario = tmp_path / "small.toml"
    text = SMALL.replace("transactions > 1000000", "transactions > 5").replace(
        '"errors == 0"', '"errors == 0", "ledgers == equal", "rss_mb < 1000"'
    )
    scenario.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "loadtest", "acquirer", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, "--ledger", str(tmp_path / "ledger.db")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as served:
        try:
            assert served.stdout is not None
            target = json.loads(served.stdout.readline())["listening"]
            done = run(str(scenario), "--target", target, "--pid", str(served.pid), "--json")
            assert served.poll() is None
        finally:
            served.terminate()
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    judged = {one["threshold"]: one["passed"] for one in result["thresholds"]}
    # Its ledgers are not ours to see, its process is.
    assert judged["ledgers == equal"] is None
    assert judged["rss_mb < 1000"] is True
    assert result["ledgers"] is None
