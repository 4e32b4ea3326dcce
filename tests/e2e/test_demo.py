"""The demo as its user runs it: a real gateway between real simulators, and every ledger agrees."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

from loadtest.ledger import read_attempts
from loadtest.reconcile import reconcile_files
from tests.support.ports import own_ports

ROOT = Path(__file__).parents[2]


def test_demo_buys_and_all_ledgers_agree() -> None:
    command = [sys.executable, "-m", "loadtest", "demo", "--seconds", "3", "--terminals", "5"]
    done = subprocess.run(
        [*command, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert list(counts) == [
        "sent",
        "approved",
        "declined",
        "errors",
        "lost",
        "doubled",
        "unexplained",
    ]
    assert counts["approved"] > 30
    assert counts["declined"] > 0
    assert counts["sent"] == counts["approved"] + counts["declined"] + counts["errors"]
    assert [counts[fault] for fault in ("errors", "lost", "doubled", "unexplained")] == [0] * 4


def config_on_free_ports(folder: Path) -> Path:
    """The shipped example, in a folder of its own and on ports that nobody uses."""
    text = (ROOT / "config" / "gateway.toml").read_text(encoding="utf-8")
    used = ["127.0.0.1:8443", "127.0.0.1:8101", "127.0.0.1:8102", "127.0.0.1:9464"]
    for address, port in zip(used, own_ports(len(used)), strict=True):
        assert address in text
        text = text.replace(address, f"127.0.0.1:{port}")
    path = folder / "config" / "gateway.toml"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    return path


def show(config: Path, stop: signal.Signals) -> list[str]:
    """What a show says, stopped after its first approval; it must end in an orderly way."""
    command = [sys.executable, "-m", "loadtest", "show", "--config", str(config)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    with process:
        try:
            for line in process.stdout:
                lines.append(line)
                if "the first approval" in line:
                    process.send_signal(stop)
            assert process.wait(60) == 0, lines
        finally:
            process.kill()
    return lines


def test_show_stops_in_order_and_finds_its_state_again(tmp_path: Path) -> None:
    config = config_on_free_ports(tmp_path)
    first = show(config, signal.SIGINT)
    assert any("making certificates" in line for line in first)
    attempts = list(read_attempts(tmp_path / "var" / "terminals.ledger.db"))
    second = show(config, signal.SIGTERM)
    assert not any("making certificates" in line for line in second)
    told = re.search(r"first approval, ([0-9.]+) s after", "".join(second))
    assert told is not None
    print(f"the first approval {told[1]} s after the second start")
    # The counters went on: what the first run bought was not bought anew.
    again = list(read_attempts(tmp_path / "var" / "terminals.ledger.db"))
    assert len(again) > len(attempts)
    ledgers = {
        name: tmp_path / "var" / f"{name}.ledger.db" for name in ("acquirer-a", "acquirer-b")
    }
    result = reconcile_files([tmp_path / "var" / "terminals.ledger.db"], ledgers)
    assert result.agrees, result.disagreements
