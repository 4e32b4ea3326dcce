"""`make bench` as its user runs it, at a glance: that it runs, and keeps what it found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.isoload import SOURCES

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 400  # isoload is built where it was not

pytestmark = pytest.mark.skipif(
    not (SOURCES / "build.sh").exists(), reason=f"isoload's sources are not at {SOURCES}"
)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtest.bench", "--quick", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)


def test_rows_are_measured_beside_the_echo_and_kept() -> None:
    done = bench("--json", "--only", "plain", "--only", "crowd", "--only", "million")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = {row["key"]: row for row in report["rows"]}
    assert list(rows) == ["plain", "crowd", "million"]
    assert all(row["errors"] == 0 and not row["failure"] for row in rows.values())
    assert report["echo"]["before"]["ok"] > 0
    assert report["echo"]["after"]["ok"] > 0
    assert len(report["configuration"]) == 16
    assert report["versions"]["isoload"]
    cpu = rows["plain"]["figures"][0]
    assert cpu["value"] > 0
    assert cpu["times_echo"] > 0
    assert cpu["at_most"] == 130
    # All came back with their sessions, and none was turned away.
    again = rows["crowd"]["raw"]["gateway"]["again"]
    assert (again["lines"], again["resumed"]) == (20, 20)
    assert len([one for one in rows["million"]["figures"] if "up to" in one["name"]]) == 3
    # What is kept is what was printed, and the runs' folder is gone.
    kept = ROOT / "var" / "bench"
    assert any(
        json.loads(file.read_text(encoding="utf-8"))["when"] == report["when"]
        for file in kept.glob("*.json")
    )


def test_told_to_stop_it_leaves_nothing_running() -> None:
    command = [sys.executable, "-m", "loadtest.bench", "--quick", "--only", "plain"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "terminals, plain" in line:
                break
        process.terminate()
        said = process.stderr.read()
        assert process.wait(timeout=60) == 1
    assert "stopped; nothing is kept" in said
    assert "Traceback" not in said


def test_where_isoload_is_not_there_nothing_fails(tmp_path: Path) -> None:
    done = bench("--isoload", str(tmp_path))
    assert done.returncode == 0
    assert "isoload is not there" in done.stderr
