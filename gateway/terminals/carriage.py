"""What carries frames over a connection: its bytes to frames, and answers to its bytes."""

from __future__ import annotations

from typing import Protocol

from gateway.errors import FrameError
from gateway.wire.framing import Frame, FrameReader


class Carriage(Protocol):
    """One connection's carriage, without I/O. All of a connection's rules are the same over each.

    `error` is set where frames were completed before something that cannot be believed: they are
    served first, and the next `feed` raises it. `ahead` says that what came already may hold the
    next frame: `feed(b"")` then tells.
    """

    error: FrameError | None

    @property
    def ahead(self) -> bool: ...

    @property
    def mid_frame(self) -> bool:
        """Whether some bytes of an unfinished frame are held."""
        ...

    @property
    def closing(self) -> bool:
        """Whether nothing more can come over this connection once it was answered."""
        ...

    def feed(self, data: bytes, /) -> list[Frame]:
        """The frames that the data completes, in order. Raises FrameError."""
        ...

    def to_say(self) -> bytes:
        """What the carriage itself has to say by now, before any answer; empty for nothing."""
        ...

    def answer(self, frame: bytes, *, last: bool) -> bytes:
        """The bytes that bear an answering frame; `last`: the connection ends after it."""
        ...

    def no_answer(self) -> bytes:
        """What says that a frame wants no answer; empty where silence does."""
        ...

    def farewell(self) -> bytes:
        """What tells the peer that its connection ends since it was not understood."""
        ...


class StreamCarriage(FrameReader):
    """Frames one after the other, and nothing else: TCP, and TLS over it."""

    __slots__ = ()

    ahead = False
    closing = False

    def to_say(self) -> bytes:
        return b""

    def answer(self, frame: bytes, *, last: bool) -> bytes:
        return frame

    def no_answer(self) -> bytes:
        return b""

    def farewell(self) -> bytes:
        return b""
