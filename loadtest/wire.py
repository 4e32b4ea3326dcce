"""Wire: a dialect and a framing in one, as both simulators speak them."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from gateway.errors import PeerError
from gateway.settings.schema import Framing
from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.framing import FrameReader, FramingSpec, encode_frame
from gateway.wire.message import Message

_RECEIVE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Wire:
    """How messages are written on a link."""

    codec: Codec
    framing: FramingSpec

    def pack(self, message: Message) -> bytes:
        """The message as one frame; raises EncodeError."""
        return encode_frame(self.framing, self.codec.encode(message))


def shipped_wire(dialect: str = "iso87_ascii", framing: Framing | None = None) -> Wire:
    """A dialect of the gateway's own under a framing, by default a 2-byte length and no TPDU.

    Raises KeyError for an unknown dialect.
    """
    settings = Framing() if framing is None else framing
    return Wire(Codec(shipped_dialects()[dialect]), FramingSpec(**settings.model_dump()))


class MessageReader:
    """The messages of one stream, in order."""

    def __init__(self, stream: trio.abc.ReceiveStream, wire: Wire) -> None:
        self._stream = stream
        self._wire = wire
        self._frames = FrameReader(wire.framing)
        self._ready: list[Message] = []

    async def next(self) -> Message | None:
        """The next message, or None at the stream's orderly end between two frames.

        Raises PeerError for what is not a message or not a frame, and trio.BrokenResourceError or
        trio.ClosedResourceError where the stream is gone. Cancelled, it loses nothing.
        """
        while not self._ready:
            data = await self._stream.receive_some(_RECEIVE_BYTES)
            if not data:
                if self._frames.mid_frame:
                    raise PeerError("the stream ends within a frame")
                return None
            frames = self._frames.feed(bytes(data))
            decode = self._wire.codec.decode
            self._ready = [decode(frame.body) for frame in reversed(frames)]
        return self._ready.pop()
