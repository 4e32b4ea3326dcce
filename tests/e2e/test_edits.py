"""Edits of lists and whole configurations under load: nothing is lost and no decision is mixed.

No figure of speed is held here: `python -m loadtest cutoff` and `swaps` measure those.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_FAULTS = ("lost", "doubled", "unexplained")


def run(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "loadtest", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_whoever_is_blocked_by_an_editor_is_cut_off_and_the_others_lose_nothing() -> None:
    found = run("cutoff", "--trials", "6", "--terminals", "40", "--rate", "1")
    assert found["not_refused"] == 0
    assert found["sold"]["approved"] > 0
    assert [found["sold"][fault] for fault in _FAULTS] == [0, 0, 0]


def test_each_decision_is_of_one_whole_configuration() -> None:
    found = run("swaps", "--swaps", "10", "--terminals", "20", "--rate", "2")
    assert found["versions_used"] > 2
    assert (found["unknown_version"], found["wrong_acquirer"]) == (0, 0)
    assert [found["sold"][fault] for fault in _FAULTS] == [0, 0, 0]
