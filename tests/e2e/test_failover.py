"""With an acquirer mute every terminal hears an answer, and all ledgers agree."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_with_an_acquirer_mute_every_terminal_hears_an_answer_and_all_ledgers_agree() -> None:
    # Few and patient terminals: what is held here is no figure of speed.
    command = [sys.executable, "-m", "loadtest", "failover", "--case", "mute", "--seconds", "2"]
    command += ["--rate", "40", "--back-s", "1", "--answer-s", "3", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    (result,) = json.loads(done.stdout)["cases"]
    faults = ("lost", "doubled", "unexplained", "reversals_open")
    assert [result[fault] for fault in faults] == [0] * 4, done.stderr
    bought, afterwards = result["purchases"], result["afterwards"]
    assert (bought["transactions"], afterwards["transactions"]) == (80, 40)
    assert bought["timed_out"] == bought["unsent"] == 0
    # The half that went to the mute one in its second, and what the machine makes of it.
    assert bought["failed"] <= 40
    assert bought["approved"] + bought["failed"] == 80
    assert set(bought["declined"]) <= {"91"}
