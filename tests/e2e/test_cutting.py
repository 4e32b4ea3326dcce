"""A real node: who is blocked or suspended is cut off, refused, sighted, and undone where it must
be; and the commands that do it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.wire.message import Message
from tests.support import canaries
from tests.support.node import PATIENT, ROOT, RunningNode, purchase, running_node, wait_for

CUT_WITHIN_S = 5.0  # a bound for slow machines: `python -m loadtest cutoff` measures


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    folder = tmp_path_factory.mktemp("node")
    with running_node(folder, answer_s=30.0, upstream_more=PATIENT) as node:
        (node.folder / "blocklists").mkdir()
        yield node


def gateway(node: RunningNode, *arguments: str) -> dict[str, Any]:
    """What a command prints as JSON."""
    told = node.run(*arguments, "--json", "--config", str(node.config))
    return dict(json.loads(told))


def block(node: RunningNode, *arguments: str) -> dict[str, Any]:
    done = gateway(node, "block", *arguments, "--reason", "test")
    assert done["result"] == "in_force"
    return done


def unblock(node: RunningNode, *arguments: str) -> None:
    assert gateway(node, "unblock", *arguments, "--reason", "test")["result"] == "in_force"


def sightings(node: RunningNode, terminal: str = "") -> list[dict[str, Any]]:
    named = (terminal,) if terminal else ()
    return list(gateway(node, "terminals", "sightings", *named)["sightings"])


def reversal(of: Message) -> Message:
    fields = {number: of.fields[number] for number in (3, 4, 7, 11, 12, 13, 37, 41, 42, 49)}
    original = f"0200{of.stan}{of.fields[7]}".ljust(42, "0")
    return Message("0400", fields | {2: of.pan, 39: "98", 90: original})


def test_a_blocked_terminal_is_cut_refused_and_sighted_and_others_stay(node: RunningNode) -> None:
    idle, other = node.connect(), node.connect()
    sold = purchase(1)
    assert idle.ask(sold).response_code == "00"
    assert other.ask(purchase(1, "T0000002")).response_code == "00"
    done = block(node, "terminal", "T0000001")
    assert idle.ended(CUT_WITHIN_S)
    assert other.ask(purchase(2, "T0000002")).response_code == "00"
    again = node.connect()
    assert again.ask(purchase(2)).response_code == "58"
    assert again.ask(Message("0800", {7: "0101000000", 11: "000003", 41: "T0000001", 70: "301"}))
    event = node.wait_for_event("identity_refused", reason="terminal_blocked")
    assert event["rule"].startswith(f"{done['file']}:{done['line']}")
    # What was done before is answered as it was, and may be undone.
    assert again.ask(sold).response_code == "00"
    assert again.ask(reversal(sold)).response_code == "00"
    (seen,) = sightings(node, "T0000001")
    assert (seen["address"], seen["listener"], seen["count"]) == ("127.0.0.1", "plain", 4)
    assert seen["why"].startswith("terminal_blocked: ")
    unblock(node, "terminal", "T0000001")
    assert node.connect().ask(purchase(4)).response_code == "00"


def test_what_a_blocked_terminal_has_under_way_is_reversed_at_once(node: RunningNode) -> None:
    node.switch("delay_ms=3000")
    try:
        busy = node.connect()
        received = node.received()
        busy.send(purchase(10))
        node.wait_until_received(received + 1)
        (node.folder / "blocklists" / "terminals").write_text("T0000001\n")
        assert busy.ended(CUT_WITHIN_S)
        node.switch("delay_ms=0")
        # Long before the grace time of those who may ask again is over.
        node.wait_for_event("undelivered", stan="000010")
        owed = node.wait_for_event("reversal_done")
        assert owed["transaction"]
    finally:
        node.switch("delay_ms=0")
        unblock(node, "terminal", "T0000001")


def test_a_merchants_connections_are_cut(node: RunningNode) -> None:
    peer = node.connect()
    assert peer.ask(purchase(20)).response_code == "00"
    block(node, "merchant", "MERCHANT0000001")
    assert peer.ended(CUT_WITHIN_S)
    assert node.connect().ask(purchase(21)).response_code == "03"
    unblock(node, "merchant", "MERCHANT0000001")


@pytest.mark.parametrize("named_by", ["sha256", "serial"])
def test_a_certificate_is_refused_after_its_handshake(node: RunningNode, named_by: str) -> None:
    peer = node.connect_tls("T0000002")
    stan = 30 if named_by == "sha256" else 31
    assert peer.ask(purchase(stan, "T0000002")).response_code == "00"
    file = node.folder / "certs" / "terminals" / "T0000002.crt"
    shown = subprocess.run(
        ["openssl", "x509", "-in", str(file), "-noout", "-fingerprint", "-sha256", "-serial"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    sha256, serial = (line.partition("=")[2] for line in shown.splitlines())
    value = f"sha256:{sha256}" if named_by == "sha256" else f"serial:{serial}"
    block(node, "certificate", value)
    assert peer.ended(CUT_WITHIN_S)
    assert node.connect_tls("T0000002").ended(CUT_WITHIN_S)
    wait_for(
        lambda: any("certificate_blocked" in one["why"] for one in sightings(node, "T0000002")),
        "the certificate to be sighted",
    )
    unblock(node, "certificate", value)
    assert node.connect_tls("T0000002").ask(purchase(stan + 2, "T0000002")).response_code == "00"


def test_on_a_concentrator_only_the_blocked_terminal_is_refused(node: RunningNode) -> None:
    line = node.connect(node.mall)
    tpdu = bytes.fromhex("6000010002")

    def code(stan: int, terminal: str) -> str:
        line.send(purchase(stan, terminal), tpdu)
        return line.receive().response_code

    assert code(40, "T0000003") == "00"
    block(node, "terminal", "T0000003")
    assert code(41, "T0000003") == "58"
    assert code(40, "T0000004") == "00"
    unblock(node, "terminal", "T0000003")
    assert code(42, "T0000003") == "00"


def test_a_suspended_device_is_cut_and_may_still_reverse(node: RunningNode) -> None:
    config = str(node.config)
    peer = node.connect()
    sold = purchase(50, "T0000005")
    assert peer.ask(sold).response_code == "00"
    node.run("terminals", "suspend", "T0000005", "--reason", "test", "--config", config)
    assert peer.ended(CUT_WITHIN_S)
    again = node.connect()
    assert again.ask(purchase(51, "T0000005")).response_code == "58"
    assert again.ask(reversal(sold)).response_code == "00"
    assert sightings(node, "T0000005")[0]["why"] == "not_active: suspended"


def test_a_card_is_named_on_standard_input_and_stands_nowhere(node: RunningNode) -> None:
    pan = purchase(60).pan
    command = [sys.executable, "-m", "gateway", "block", "card", "--reason", "stolen"]
    command += ["--code", "43", "--json", "--config", str(node.config)]
    done = subprocess.run(
        command, input=f"{pan}\n", cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["value"].startswith("h1:")
    assert pan not in done.stdout + done.stderr
    assert node.connect().ask(purchase(60)).response_code == "43"
    for file, content in canaries.contents_under(node.folder):
        assert pan.encode() not in content, file
    unblock(node, "card", told["value"])
    assert node.connect().ask(purchase(61)).response_code == "00"


def test_comments_and_order_stay_and_a_dry_run_changes_nothing(node: RunningNode) -> None:
    file = node.folder / "blocklists" / "terminals"
    file.write_text("# ours\nT0000901 reason=old\n\n# theirs\nT0000902\n")
    file.chmod(0o664)
    wait_for(lambda: gateway(node, "blocklist", "list")["sizes"]["terminals"] == 2, "the list")
    before = file.read_bytes()
    would = gateway(node, "block", "terminal", "T0000903", "--reason", "x", "--dry-run")
    assert (would["result"], would["line"], file.read_bytes()) == ("would_change", 6, before)
    block(node, "terminal", "T0000903", "--until", "2099-12-31")
    assert file.read_bytes() == before + b'T0000903 until=2099-12-31 reason="test"\n'
    assert file.stat().st_mode & 0o777 == 0o664
    found = gateway(node, "blocklist", "search", "terminal", "T0000903")["found"]
    assert found["rule"] == f"{file}:6 (test)"
    unblock(node, "terminal", "T0000903")
    assert file.read_bytes() == before
    for wrong in ("4111111111111111", "T00000001"):
        node.run(
            *("block", "terminal", wrong, "--reason", "x", "--config", str(node.config)), expect=1
        )
    assert file.read_bytes() == before


def test_a_blocked_network_is_cut_and_not_let_in(node: RunningNode) -> None:
    peer = node.connect()
    assert peer.ask(purchase(70)).response_code == "00"
    block(node, "network", "127.0.0.0/8")
    assert peer.ended(CUT_WITHIN_S)
    assert node.connect().ended(CUT_WITHIN_S)
    assert any(one["why"].startswith("network_blocked") for one in sightings(node))
    unblock(node, "network", "127.0.0.0/8")
    assert node.connect().ask(purchase(71)).response_code == "00"


def test_sightings_outlive_the_node_and_files_can_be_edited_without_it(node: RunningNode) -> None:
    before = [one for one in sightings(node) if one["terminal_id"]]
    assert before
    node.stop()
    assert [one for one in sightings(node) if one["terminal_id"]] == before
    done = gateway(node, "block", "terminal", "T0000009", "--reason", "stolen at night")
    assert done["result"] == "no_daemon"
    assert "T0000009" in Path(done["file"]).read_text()
    last = gateway(node, "audit", "list")["records"][-1]
    assert (last["action"], last["subject"], last["outcome"]) == (
        "blocklists.block",
        "T0000009",
        "done",
    )
