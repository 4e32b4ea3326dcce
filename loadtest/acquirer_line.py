"""Acquirer line: one connection of a simulated acquirer, and what is known of it."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

import trio

from gateway.wire.framing import Frame
from gateway.wire.message import Kind, Message, kind_of, response_mti
from loadtest.wire import MessageReader, Wire

GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
_NO_LINGER = struct.pack("ii", 1, 0)
_UNANSWERED_MAX = 1_000


class Line:
    """Messages in and out of one connection; `scope` ends it."""

    def __init__(self, stream: trio.abc.Stream, wire: Wire, scope: trio.CancelScope) -> None:
        self.scope = scope
        self.signed_on = False
        self._stream = stream
        self._wire = wire
        self._reader = MessageReader(stream, wire)
        self._sending = trio.Lock()
        self._unanswered: dict[str, str] = {}  # STAN of an own request -> its network code

    async def next(self) -> tuple[Message, Frame] | None:
        """The next message; None at the orderly end. Raises PeerError, and those of `GONE`."""
        return await self._reader.next_framed()

    async def answer(self, answer: Message, to: Frame) -> None:
        """Sends an answer the way its request came; raises those of `GONE`."""
        await self._send(self._wire.pack(answer, to))

    async def ask(self, request: Message, code: str) -> None:
        """Sends a request of the acquirer's own; raises those of `GONE`."""
        if len(self._unanswered) < _UNANSWERED_MAX:
            self._unanswered[request.stan] = code
        await self._send(self._wire.pack(request))

    async def _send(self, frame: bytes) -> None:
        async with self._sending:
            await self._stream.send_all(frame)

    def take_answer(self, answer: Message) -> str | None:
        """The network code of the own request that this answers; None: it answers none."""
        if answer.mti != response_mti("0800"):
            return None
        return self._unanswered.pop(answer.stan, None)

    def note(self, request: Message, answer: Message) -> None:
        """What an answered network message means for the line."""
        kind = kind_of(request)
        if kind is Kind.SIGN_ON and answer.response_code == "00":
            self.signed_on = True
        elif kind is Kind.SIGN_OFF:
            self.signed_on = False


async def reset(stream: trio.abc.Stream) -> None:
    """Ends a connection with an RST, where it is one that can have such a thing."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if isinstance(transport, trio.SocketStream):
        with suppress(OSError):  # the other side was first
            transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    await trio.aclose_forcefully(stream)
