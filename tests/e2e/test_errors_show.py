"""`gateway errors show` of a real gateway: what it could not read, and nothing of a card in it."""

from __future__ import annotations

import json
from pathlib import Path

from gateway.wire.framing import encode_frame
from tests.support import canaries
from tests.support.node import CODEC, SPEC, purchase, running_node


def test_what_could_not_be_read_is_shown_without_card_data(tmp_path: Path) -> None:
    with running_node(tmp_path / "node") as node:
        shown = node.run("errors", "show", "--config", str(node.config), "--json")
        assert json.loads(shown) == {"frames": [], "count": 0}
        # A purchase that ends too early is answered 30; garbage ends its connection.
        body = CODEC.encode(purchase(1))
        peer = node.connect()
        peer.sock.sendall(encode_frame(SPEC, body[:-7]))
        assert peer.receive().response_code == "30"
        peer.sock.sendall(b"\xff\xff" + body)
        assert peer.ended(5)
        web = node.connect()
        web.sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert web.ended(5)
        node.wait_for_event("frame_rejected", count=2)

        shown = node.run("errors", "show", "--config", str(node.config), "--json")
        found = json.loads(shown)
        assert found["count"] == 3
        assert "HTTP" in found["frames"][0]["reason"]
        cut = found["frames"][2]
        assert (cut["listener"], cut["mti"], cut["stan"]) == ("plain", "0200", "000001")
        assert cut["field"] == "55"
        text = node.run("errors", "show", "--last", "3", "--config", str(node.config))
        assert "field 55, byte" in text
        for said in (shown, text):
            assert not canaries.search("errors", said.encode())
        node.run("errors", "show", "--last", "0", "--config", str(node.config), expect=2)
