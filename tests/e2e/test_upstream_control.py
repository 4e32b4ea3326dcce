"""An operator takes an acquirer out of use and back: nothing is lost, over a restart neither."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import PATIENT, RunningNode, purchase, running_node, wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    with running_node(tmp_path / "node", answer_s=30.0, upstream_more=PATIENT) as running:
        yield running


def upstreams(node: RunningNode, *arguments: str, expect: int = 0) -> str:
    return node.run("upstreams", *arguments, "--config", str(node.config), expect=expect)


def shown(node: RunningNode) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(upstreams(node, "show", "acquirer", "--json"))
    return found


def test_draining_under_load_fails_nothing() -> None:
    command = [sys.executable, "-m", "loadtest", "failover", "--case", "drain", "--seconds", "2"]
    command += ["--rate", "60", "--back-s", "3", "--answer-s", "3", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    (result,) = json.loads(done.stdout)["cases"]
    assert result["available"], result["note"]
    faults = ("lost", "doubled", "unexplained", "reversals_open")
    assert [result[fault] for fault in faults] == [0] * 4, done.stderr
    assert result["purchases"]["transactions"] == 120
    assert result["purchases"]["failed"] == result["afterwards"]["failed"] == 0
    controlled = [one for one in result["first_events"] if one["event"] == "upstream_controlled"]
    assert controlled, done.stderr


def test_what_is_drained_is_finished_and_stays_drained_over_a_restart(node: RunningNode) -> None:
    till = node.connect()
    assert till.ask(purchase(1)).response_code == "00"
    node.switch("delay_ms=1500")
    before = node.received()
    till.send(purchase(2))
    node.wait_until_received(before + 1)
    drained: list[dict[str, Any]] = []

    def drain() -> None:
        out = upstreams(node, "drain", "acquirer", "--yes", "--reason", "their move", "--json")
        drained.append(json.loads(out))

    operator = threading.Thread(target=drain)
    operator.start()
    node.wait_for_event("upstream_controlled", upstream="acquirer", control="drained")
    # What was under way when the word came is approved; what comes after it is not even sent.
    assert till.receive().response_code == "00"
    operator.join(30)
    assert (drained[0]["state"], drained[0]["pending"], drained[0]["links_up"]) == ("drained", 0, 0)
    before = node.received()
    assert till.ask(purchase(3)).response_code == "91"
    assert node.received() == before
    node.switch("delay_ms=0")

    assert node.stop() == 0
    node.start(links=0)
    found = shown(node)
    assert (found["state"], found["links_up"], found["each_link"][0]["attempts"]) == (
        "drained",
        0,
        0,
    )
    assert found["why"].endswith(": their move")
    status = json.loads(node.run("status", "--config", str(node.config), "--json", expect=1))
    assert status["upstreams"][0]["state"] == "drained"
    assert any("no upstream takes requests" in problem for problem in status["problems"])
    assert node.connect().ask(purchase(4)).response_code == "91"
    with urllib.request.urlopen(f"http://127.0.0.1:{node.metrics}/metrics", timeout=5) as response:
        text = response.read().decode()
    assert 'gateway_upstream_state{state="drained",upstream="acquirer"} 1.0' in text

    upstreams(node, "resume", "acquirer", "--wait")
    assert node.connect().ask(purchase(5)).response_code == "00"
    written = node.run("audit", "list", "--config", str(node.config), "--json")
    for action in ("upstreams.drain", "upstreams.resume"):
        assert action in written
    assert node.stop() == 0
    node.start()
    assert shown(node)["state"] == "up"


def test_what_is_pending_when_it_is_disabled_is_reversed(node: RunningNode) -> None:
    node.switch("mute=true", "echo_while_mute=true")
    till = node.connect()
    before = node.received()
    till.send(purchase(1))
    node.wait_until_received(before + 1)
    assert "--yes is needed" not in upstreams(node, "disable", "acquirer", "--yes")
    assert till.receive().response_code == "91"
    assert shown(node)["reversals_owed"] == 1
    node.switch("mute=false")
    upstreams(node, "enable", "acquirer", "--wait")
    wait_for(lambda: shown(node)["reversals_owed"] == 0, "the reversal to be acknowledged")
