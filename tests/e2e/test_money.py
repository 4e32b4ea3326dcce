"""An acquirer dies with a hundred requests under way; the same bytes come a hundred times."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway.wire.message import Message
from tests.support.node import Peer, RunningNode, purchase, running_node, wait_for

REQUESTS = 100


def test_an_acquirer_dies_with_100_under_way_all_hear_at_once_and_all_are_reversed(
    tmp_path: Path,
) -> None:
    with running_node(tmp_path / "node", answer_s=20.0) as node:
        node.switch("mute=true")
        peers = [node.connect() for _ in range(REQUESTS)]
        for number, peer in enumerate(peers, 1):
            peer.send(purchase(1, terminal=f"T{number:07d}"))
        wait_for(
            lambda: node.switch()["counts"].get("withheld", 0) >= REQUESTS,
            "the acquirer to have them all in its ledger",
        )
        assert node.acquirer is not None
        with node.own_time() as took:
            node.acquirer.kill()
            codes = [peer.receive().response_code for peer in peers]
        took_s = sum(took)
        node.acquirer.wait(10)
        print(f"{REQUESTS} answers {took_s:.2f} s after the acquirer's end")
        assert codes == ["91"] * REQUESTS
        assert took_s < 1.0
        node.start_acquirer()
        returned_s = time.monotonic()
        node.wait_for_event("reversal_done", count=REQUESTS)
        reversed_s = time.monotonic() - returned_s
        print(f"all reversed {reversed_s:.2f} s after its return")
        assert reversed_s < 30.0


def test_the_same_bytes_100_times_over_connections_and_a_restart_are_forwarded_once(
    tmp_path: Path,
) -> None:
    with running_node(tmp_path / "node") as node:
        request = purchase(1)
        node.switch("delay_ms=200")
        peers = [node.connect() for _ in range(10)]
        for peer in peers:
            peer.send(request)
        answers = [peer.receive_frame().body for peer in peers]
        answers += _asked_often(node, request, count=40)
        assert node.stop() == 0
        node.start()
        answers += _asked_often(node, request, count=50)
        assert len(answers) == REQUESTS
        assert len(set(answers)) == 1
        assert node.switch()["counts"]["approved"] == 1


def _asked_often(node: RunningNode, request: Message, *, count: int) -> list[bytes]:
    peers = [node.connect() for _ in range(5)]

    def ask(peer: Peer) -> list[bytes]:
        found = []
        for _ in range(count // len(peers)):
            peer.send(request)
            found.append(peer.receive_frame().body)
        return found

    with ThreadPoolExecutor(len(peers)) as pool:
        return [body for bodies in pool.map(ask, peers) for body in bodies]
