"""Wire: a dialect and a framing in one, as both simulators speak them."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from gateway.clock import SystemClock
from gateway.errors import PeerError
from gateway.settings.schema_base import Framing
from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.editions import codec_of
from gateway.wire.framing import (
    Frame,
    FrameReader,
    FramingSpec,
    answering_tpdu,
    encode_frame,
)
from gateway.wire.message import Message

_RECEIVE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Wire:
    """How messages are written on a link."""

    codec: Codec
    framing: FramingSpec
    tpdu: bytes = b""  # of what does not answer anything, where the framing has one
    header: bytes = b""

    def pack(self, message: Message, to: Frame | None = None) -> bytes:
        """The message as one frame, addressed as the answer `to` another; raises EncodeError."""
        tpdu, header = self.tpdu, self.header
        if to is not None:
            tpdu, header = answering_tpdu(to.tpdu), to.header
        return encode_frame(self.framing, self.codec.encode(message), tpdu, header)


def shipped_wire(
    dialect: str = "iso87_ascii",
    framing: Framing | None = None,
    *,
    tpdu: str = "6000000000",
    header: str = "",
) -> Wire:
    """A dialect of the gateway's own under a framing, by default a 2-byte length and no TPDU.

    TPDU and header are hex digits. Raises ValueError for an unknown dialect, and for digits that
    are none or do not fill the header.
    """
    settings = Framing() if framing is None else framing
    dialects = shipped_dialects()
    if dialect not in dialects:
        raise ValueError(f"dialect {dialect!r} is not one of {', '.join(sorted(dialects))}")
    own = bytes.fromhex(header)
    if len(own) != settings.header_bytes:
        raise ValueError(f"header {header!r} is not of {settings.header_bytes} bytes")
    return Wire(
        codec_of(dialects[dialect], SystemClock().wall_ms),
        FramingSpec(**settings.model_dump()),
        bytes.fromhex(tpdu) if settings.tpdu else b"",
        own,
    )


class MessageReader:
    """The messages of one stream, in order."""

    def __init__(self, stream: trio.abc.ReceiveStream, wire: Wire) -> None:
        self._stream = stream
        self._wire = wire
        self._frames = FrameReader(wire.framing)
        self._ready: list[tuple[Message, Frame]] = []

    async def next(self) -> Message | None:
        """The next message, or None at the stream's orderly end between two frames.

        Raises PeerError for what is not a message or not a frame, and trio.BrokenResourceError or
        trio.ClosedResourceError where the stream is gone. Cancelled, it loses nothing.
        """
        framed = await self.next_framed()
        return None if framed is None else framed[0]

    async def next_framed(self) -> tuple[Message, Frame] | None:
        """As `next`, with the frame that the message came in."""
        while not self._ready:
            data = await self._stream.receive_some(_RECEIVE_BYTES)
            if not data:
                if self._frames.mid_frame:
                    raise PeerError("the stream ends within a frame")
                return None
            frames = self._frames.feed(bytes(data))
            decode = self._wire.codec.decode
            self._ready = [(decode(frame.body), frame) for frame in reversed(frames)]
        return self._ready.pop()
