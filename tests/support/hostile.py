"""Peers that misbehave: each calls from an address of its own, so that its lines can be told."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import ssl
from typing import Any

import trio

from gateway.wire.framing import FrameReader
from gateway.wire.message import Message
from tests.support.node import CODEC, SPEC, RunningNode, purchase

_numbers = itertools.count(1)
_UNANSWERED_S = 10.0
TROUBLE = ("warning", "error")


def new_address() -> str:
    """A loopback address that nobody else calls from."""
    number = next(_numbers)
    return f"127.{100 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


async def call(port: int, address: str, *, receive_bytes: int = 0) -> trio.SocketStream:
    """A connection to the gateway from this address; its receive buffer may be a small one."""
    sock = trio.socket.socket()
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    await sock.bind((address, 0))
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


async def secured(
    node: RunningNode, address: str, context: ssl.SSLContext
) -> trio.SSLStream[trio.SocketStream]:
    """The same with a finished TLS handshake."""
    transport = await call(node.tls, address)
    stream = trio.SSLStream(transport, context, server_hostname="localhost")
    await stream.do_handshake()
    return stream


async def until_closed(stream: trio.abc.Stream, within_s: float = _UNANSWERED_S) -> float:
    """How many seconds the gateway takes to close a connection on which it says nothing."""
    began_s = trio.current_time()
    with trio.fail_after(within_s):
        try:
            data = await stream.receive_some(65_536)
        except trio.BrokenResourceError:
            data = b""
    assert not data, "an answer where none was expected"
    # A deadline of the caller's that passes now must not hide that it was closed.
    with trio.CancelScope(shield=True):
        await trio.aclose_forcefully(stream)
    return trio.current_time() - began_s


async def send(stream: trio.abc.Stream, data: bytes) -> None:
    """Send what the gateway may not want to have any more."""
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(data)


async def answer_or_close(stream: trio.abc.Stream) -> Message | None:
    """The gateway's first answer, or None where it closes the connection."""
    reader = FrameReader(SPEC)
    with trio.fail_after(_UNANSWERED_S):
        while True:
            try:
                data = await stream.receive_some(65_536)
            except trio.BrokenResourceError:
                data = b""
            if not data:
                return None
            frames = reader.feed(bytes(data))
            if frames:
                return CODEC.decode(frames[0].body)


def framed(body: bytes) -> bytes:
    """A body behind its length."""
    return len(body).to_bytes(2, "big") + body


def garbage(source: random.Random, number: int) -> bytes:
    """A byte string: at random all of it, all but its length, or a purchase with some of it spoilt.

    The spoilt ones keep their MTI: some can still be read so far that they are answered.
    """
    kind = number % 3
    if kind == 0:
        return source.randbytes(source.randrange(600))
    if kind == 1:
        return framed(source.randbytes(source.randrange(4, 400)))
    body = bytearray(CODEC.encode(purchase(number, terminal=f"T{100 + number % 800:07d}")))
    for _ in range(source.randrange(1, 6)):
        at = source.randrange(4, len(body))
        spoil = source.randrange(3)
        if spoil == 0:
            body[at] = source.randrange(256)
        elif spoil == 1:
            del body[at : at + source.randrange(1, 9)]
        else:
            body[at:at] = source.randbytes(source.randrange(1, 9))
        if len(body) <= 8:
            break
    return framed(bytes(body))


def client_hello() -> bytes:
    """The first flight of a TLS handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    handshake = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        handshake.do_handshake()
    return outgoing.read()


def lines_of(node: RunningNode, address: str) -> list[dict[str, Any]]:
    """The warnings and errors about one address, in order."""
    return [
        event
        for event in node.events_of_this_run()
        if event.get("address") == address and event["level"] in TROUBLE
    ]


def lines_by_address(node: RunningNode) -> dict[str, list[dict[str, Any]]]:
    """The warnings and errors about each address, the log read once."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in node.events_of_this_run():
        if event["level"] in TROUBLE and "address" in event:
            found.setdefault(str(event["address"]), []).append(event)
    return found
