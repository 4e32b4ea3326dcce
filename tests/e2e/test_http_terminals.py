"""Terminals that POST their frames, against the real gateway: plain and over mutual TLS."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator

import pytest

from gateway.terminals.http_carriage import CONTENT_TYPE
from gateway.wire.framing import FrameReader, encode_frame
from gateway.wire.message import Message
from tests.support.node import CODEC, SPEC, RunningNode, purchase
from tests.support.ports import own_ports

PATH = "/unp/webtrans/WPOS"

_LISTENERS = """
[[listeners]]
name = "web"
listen = "127.0.0.1:{plain}"
security = "plain"
macs = "by_profile"
dialect = "iso87_ascii"
carriage = "http"
http = {{ paths = ["/unp/webtrans/WPOS"] }}

[[listeners]]
name = "web-shops"
listen = "127.0.0.1:{tls}"
security = "mutual-tls"
dialect = "iso87_ascii"
carriage = "http"

[listeners.tls]
certificate = "certs/server.crt"
key = "certs/server.key"
client_ca = "certs/ca.crt"
crl = "certs/ca.crl"
"""


class WebNode(RunningNode):
    """A node that also listens for POSTs."""

    def prepare(self) -> None:
        super().prepare()
        self.web, self.web_tls = own_ports(2)
        with self.config.open("a", encoding="utf-8") as config:
            config.write(_LISTENERS.format(plain=self.web, tls=self.web_tls))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebNode]:
    node = WebNode(tmp_path_factory.mktemp("web") / "node")
    try:
        node.prepare()
        node.start_acquirer()
        node.start()
        yield node
    finally:
        node.close()


def ask(connection: http.client.HTTPConnection, message: Message) -> Message:
    frame = encode_frame(SPEC, CODEC.encode(message))
    connection.request("POST", PATH, frame, {"Content-Type": CONTENT_TYPE})
    response = connection.getresponse()
    body = response.read()
    assert (response.status, response.headers["Content-Type"]) == (200, CONTENT_TYPE)
    (answer,) = FrameReader(SPEC).feed(body)
    return CODEC.decode(answer.body)


def test_a_terminal_buys_by_post(node: WebNode) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", node.web, timeout=10)
    for stan in (1, 2):
        assert ask(connection, purchase(stan, "T0000011")).response_code == "00"
    # A repeat over another connection gets the same answer.
    again = http.client.HTTPConnection("127.0.0.1", node.web, timeout=10)
    assert ask(again, purchase(2, "T0000011")).response_code == "00"
    node.wait_for_event("repeat_answered", terminal="T0000011", stan="000002")
    connection.close()
    again.close()


def test_over_tls_the_certificate_says_who_posts(node: WebNode) -> None:
    context = node.context("T0000001")
    connection = http.client.HTTPSConnection("localhost", node.web_tls, timeout=10, context=context)
    assert ask(connection, purchase(21)).response_code == "00"
    assert ask(connection, purchase(22, "T0000002")).response_code == "58"
    connection.close()


def test_over_tls_nobody_posts_without_a_certificate(node: WebNode) -> None:
    context = node.context("")
    connection = http.client.HTTPSConnection("localhost", node.web_tls, timeout=10, context=context)
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        ask(connection, purchase(31))
    connection.close()


def test_what_is_no_terminal_is_told_by_its_status(node: WebNode) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", node.web, timeout=10)
    connection.request("GET", "/metrics")
    assert connection.getresponse().status == 404
    node.wait_for_event("frame_rejected", listener="web")
    connection.close()


def test_a_frame_that_cannot_be_read_gets_a_400(node: WebNode) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", node.web, timeout=10)
    connection.request("POST", PATH, b"\x00\x04abcd", {"Content-Type": CONTENT_TYPE})
    response = connection.getresponse()
    assert (response.status, response.read()) == (400, b"")
    connection.close()
