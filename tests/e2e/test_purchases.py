"""A real gateway, a real acquirer: purchases, identity, repeats, reversals, stop and start."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.wire.message import Message
from tests.support.canaries import PAN
from tests.support.node import CODEC, RunningNode, purchase, running_node

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    with running_node(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.mark.parametrize("version", VERSIONS)
def test_a_purchase_over_mutual_tls_comes_back_approved(
    node: RunningNode, version: ssl.TLSVersion
) -> None:
    peer = node.connect_tls(version=version)
    sign_on = peer.ask(Message("0800", {7: "1121120000", 11: "000001", 41: "T0000001", 70: "001"}))
    assert (sign_on.mti, sign_on.response_code) == ("0810", "00")
    for stan in (int(version) * 10 + 1, int(version) * 10 + 2):
        request = purchase(stan)
        answer = peer.ask(request)
        assert (answer.mti, answer.response_code) == ("0210", "00")
        assert answer.stan == request.stan
        assert answer.get(4) == request.get(4)
        assert answer.get(38)
    peer.close()


def test_a_resumed_session_buys_as_well(node: RunningNode) -> None:
    for version in VERSIONS:
        context = node.context("T0000001", version=version)
        first = node.connect_tls(context=context)
        assert first.ask(purchase(int(version) + 100)).response_code == "00"
        assert isinstance(first.sock, ssl.SSLSocket)
        session = first.sock.session
        first.close()
        second = node.connect_tls(context=context, session=session)
        assert isinstance(second.sock, ssl.SSLSocket)
        assert second.sock.session_reused
        assert second.ask(purchase(int(version) + 200)).response_code == "00"
        second.close()


def test_the_certificate_of_a_with_the_terminal_id_of_b_is_58(node: RunningNode) -> None:
    peer = node.connect_tls("T0000001")
    assert peer.ask(purchase(1, terminal="T0000002")).response_code == "58"
    assert peer.ask(purchase(1, terminal="T0009999")).response_code == "58"
    assert peer.ask(purchase(1, f42="MERCHANT0000002")).response_code == "03"
    assert peer.ask(purchase(301)).response_code == "00"
    peer.close()


def test_a_plain_connection_stays_with_the_terminal_it_first_was(node: RunningNode) -> None:
    peer = node.connect()
    assert peer.ask(purchase(1, terminal="T0000011")).response_code == "00"
    assert peer.ask(purchase(1, terminal="T0000012")).response_code == "58"
    peer.close()


def test_a_concentrator_carries_many_terminals_at_once(node: RunningNode) -> None:
    peer = node.connect(node.mall)
    tpdus = {}
    for number in range(21, 61):
        terminal, tpdu = f"T{number:07d}", bytes.fromhex(f"60 0099 {number:04x}")
        tpdus[terminal] = tpdu
        peer.send(purchase(7, terminal=terminal), tpdu)
    for _ in range(len(tpdus)):
        frame = peer.receive_frame()
        answer = CODEC.decode(frame.body)
        assert answer.response_code == "00"
        sent = tpdus.pop(answer.terminal_id)
        # Destination and source are swapped.
        assert frame.tpdu == sent[:1] + sent[3:5] + sent[1:3]
    assert not tpdus
    peer.send(purchase(8, terminal="T0000100"), bytes.fromhex("6000990064"))
    assert peer.receive().response_code == "58"
    peer.close()


def test_what_the_gateway_refuses_it_answers(node: RunningNode) -> None:
    peer = node.connect_tls("T0000002")
    for message, code in (
        (purchase(1, terminal="T0000002", f3="010000"), "58"),
        (purchase(1, terminal="T0000002", f4="000000000000"), "13"),
        (purchase(1, terminal="T0000002", f3="990000"), "12"),
        (Message("0800", {11: "000001", 41: "T0000002", 70: "161"}), "40"),
    ):
        answer = peer.ask(message)
        assert answer.response_code == code
        assert PAN not in answer.fields.values()
    # MTI and STAN can be read, the rest cannot: a field's length is no number.
    body = f"02006020000000000000{len(PAN)}{PAN}000000000042garbage".encode()
    peer.sock.sendall(len(body).to_bytes(2, "big") + body)
    answer = peer.receive()
    assert (answer.mti, answer.stan, answer.response_code) == ("0210", "000042", "30")
    peer.close()


def test_the_same_bytes_are_forwarded_once(node: RunningNode) -> None:
    request = purchase(777, terminal="T0000070")
    peers = [node.connect() for _ in range(3)]
    for peer in peers:
        peer.send(request)
    answers = [peer.receive() for peer in peers]
    answers.append(node.connect().ask(request))
    assert {answer.response_code for answer in answers} == {"00"}
    assert len({tuple(answer.fields.items()) for answer in answers}) == 1
    changed = request.changed({4: "000000009999"})
    assert node.connect().ask(changed).response_code == "94"
    for peer in peers:
        peer.close()


def test_status_and_metrics_say_how_it_does(node: RunningNode) -> None:
    status = json.loads(node.run("status", "--config", str(node.config), "--json"))
    assert status["upstreams"][0]["links_up"] == 2
    assert status["store"]["healthy"] is True
    with urllib.request.urlopen(f"http://127.0.0.1:{node.metrics}/metrics", timeout=5) as response:
        text = response.read().decode()
    assert 'gateway_transactions_total{kind="purchase",response_code="00"' in text
    assert "gateway_store_commit_seconds_bucket" in text


def test_check_finds_its_own_addresses_not_in_use_by_others(node: RunningNode) -> None:
    found = node.run("check", "--config", str(node.config))
    assert "in use" not in found


def test_a_second_daemon_on_the_same_store_is_refused(node: RunningNode) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "run", "--config", str(node.config)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert node.gateway is not None
    assert str(node.gateway.pid) in done.stderr


def test_a_suspended_device_is_refused_and_a_revoked_certificate_gets_nowhere(
    tmp_path: Path,
) -> None:
    with running_node(tmp_path / "node") as node:
        config = ("--config", str(node.config))
        peer = node.connect_tls("T0000002")
        assert peer.ask(purchase(1, terminal="T0000002")).response_code == "00"
        node.run("terminals", "suspend", "T0000002", "--reason", "test", *config)
        assert peer.ended(within_s=5)  # its open connection is cut off
        peer = node.connect_tls("T0000002")
        assert peer.ask(purchase(2, terminal="T0000002")).response_code == "58"
        node.run("terminals", "resume", "T0000002", "--reason", "test", *config)
        peer = node.connect_tls("T0000002")
        assert peer.ask(purchase(3, terminal="T0000002")).response_code == "00"

        contexts = {version: node.context("T0000002", version=version) for version in VERSIONS}
        sessions = {}
        for version, context in contexts.items():
            before = node.connect_tls(context=context)
            assert before.ask(purchase(10 + int(version), "T0000002")).response_code == "00"
            assert isinstance(before.sock, ssl.SSLSocket)
            sessions[version] = before.sock.session
            before.close()
        node.run(
            *("certs", "revoke", "T0000002", "--ca", str(node.folder / "certs"), "--yes"),
        )
        node.wait_for_event("crl_loaded", listener="shops")
        # Its open connection is cut off, and new handshakes fail, resumed or not.
        assert peer.ended(within_s=5)
        for version, context in contexts.items():
            for session in (None, sessions[version]):
                _refused(node, context, session)
        good = node.connect_tls("T0000001")
        assert good.ask(purchase(1)).response_code == "00"
        good.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_no_certificate_and_another_authoritys_get_no_further_than_the_handshake(
    node: RunningNode, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    _refused(node, node.context("", version=version), None)
    other = tmp_path / "other"
    node.run("certs", "init", "--out", str(other))
    node.run("certs", "issue", "T0000001", "--ca", str(other), "--out", str(other / "terminals"))
    context = node.context("T0000001", certs=other / "terminals", version=version)
    _refused(node, context, None)


def _refused(node: RunningNode, context: ssl.SSLContext, session: ssl.SSLSession | None) -> None:
    """Under TLS 1.3 the client may think it is connected; the server's own event is what counts."""
    before = sum(event["event"] == "handshake_failed" for event in node.events_of_this_run())
    try:
        peer = node.connect_tls(context=context, session=session)
        peer.sock.sendall(b"\x00\x04")
        assert peer.ended(within_s=5)
        peer.close()
    except (ssl.SSLError, ConnectionError):
        pass
    node.wait_for_event("handshake_failed", count=before + 1, listener="shops")


def test_a_stop_is_orderly_and_a_start_finds_its_state_again(tmp_path: Path) -> None:
    with running_node(tmp_path / "node") as node:
        request = purchase(5)
        first = node.connect().ask(request)
        idle = node.connect()
        assert node.stop() == 0
        assert idle.ended(within_s=1)
        node.start()
        assert node.connect().ask(request) == first
        assert node.connect().ask(purchase(6)).response_code == "00"
        counts = node.switch()["counts"]
        assert counts["approved"] == 2


def test_killed_with_a_request_unanswered_its_reversal_is_delivered_after_the_start(
    tmp_path: Path,
) -> None:
    with running_node(tmp_path / "node") as node:
        node.switch("mute=true")
        for number in (1, 2, 3):
            node.connect().send(purchase(9, terminal=f"T{number:07d}"))
        node.wait_for_event("node_ready")
        _until(lambda: node.switch()["counts"].get("received", 0) >= 3)
        node.kill()
        node.switch("mute=false")
        node.start()
        node.wait_for_event("recovery_done", reversals=3)
        node.wait_for_event("reversal_done", count=3)
        assert node.connect().ask(purchase(10)).response_code == "00"


def _until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.05)
