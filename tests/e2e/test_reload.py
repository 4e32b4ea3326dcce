"""A real node whose files are edited while it sells: what is in force, and what is said of it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import Peer, RunningNode, purchase, running_node, wait_for


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with running_node(tmp_path_factory.mktemp("node")) as node:
        yield node


@pytest.fixture
def terminals(node: RunningNode) -> Path:
    """The file of blocked terminals; nobody is blocked in it, but it is there."""
    file = node.folder / "blocklists" / "terminals"
    file.parent.mkdir(exist_ok=True)
    return file


def version(node: RunningNode) -> str:
    return str(
        json.loads(node.run("status", "--json", "--config", str(node.config)))["config_version"]
    )


def code(peer: Peer, stan: int) -> str:
    return peer.ask(purchase(stan)).response_code


def test_a_terminal_is_blocked_by_an_editor_and_let_go_again(
    node: RunningNode, terminals: Path
) -> None:
    peer = node.connect()
    assert code(peer, 1) == "00"
    first = version(node)
    fresh = terminals.with_name("terminals.tmp")
    fresh.write_text("T0000001 reason=stolen\n")
    fresh.replace(terminals)
    started_s = time.monotonic()
    loaded = node.wait_for_event("config_loaded", files=["terminals"])
    print(f"taken up after {time.monotonic() - started_s:.2f} s")
    peer = node.connect()
    assert code(peer, 2) == "58"
    assert version(node) == loaded["config"] != first
    terminals.write_text("# nobody\n")
    node.wait_for_event("config_loaded", former=loaded["config"])
    peer = node.connect()
    assert code(peer, 3) == "00"
    peer.close()


def test_a_bad_edit_is_told_and_mended(node: RunningNode, terminals: Path) -> None:
    good = node.config.read_text()
    before = version(node)
    node.config.write_text(good + "surprise = 1\n")
    refused = node.wait_for_event("config_refused")
    assert refused["file"] == str(node.config)
    status = json.loads(node.run("status", "--json", "--config", str(node.config), expect=1))
    assert status["config_version"] == before
    assert "surprise" in status["configuration"]["refused"][0]["path"]
    assert "not in force" in status["problems"][0]
    details = [one["detail"] for one in status["alarms"] if one["event"] == "config_refused"]
    assert details == [f"{node.config}:{refused['line']}"]
    node.run("reload", "--config", str(node.config), expect=1)
    node.config.write_text(good)
    wait_for(
        lambda: (
            not json.loads(node.run("reload", "--json", "--config", str(node.config)))["findings"]
        ),
        "the mended file to be in force",
    )
    assert version(node) == before


def test_sighup_and_the_command_take_up_what_changed(node: RunningNode, terminals: Path) -> None:
    report = json.loads(node.run("reload", "--json", "--config", str(node.config)))
    assert report["result"] == "unchanged"
    terminals.write_text("T0000009\n")
    assert node.gateway is not None
    node.gateway.send_signal(signal.SIGHUP)
    wait_for(lambda: version(node) != report["version"], "the new version")


def test_all_of_it_is_in_the_audit_log(node: RunningNode) -> None:
    config = str(node.config)
    node.run("terminals", "suspend", "T0000002", "--reason", "test", "--config", config)
    node.run("audit", "verify", "--config", config)
    records = json.loads(node.run("audit", "list", "--json", "--config", config))["records"]
    actions = [one["action"] for one in records]
    assert actions[0] == "node.start"
    assert "config.load" in actions
    done = records[-1]
    assert (done["action"], done["outcome"], done["new"]["state"]) == (
        "terminals.suspend",
        "done",
        "suspended",
    )
    assert done["uid"] is not None
    node.stop()
    last = json.loads(node.run("audit", "list", "--json", "--config", config))["records"][-1]
    assert last["action"] == "node.stop"
    node.run("terminals", "resume", "T0000002", "--config", config)
    last = json.loads(node.run("audit", "list", "--json", "--config", config))["records"][-1]
    assert (last["action"], last["origin"]) == ("terminals.resume", "command")
