"""The last frames that could not be read, masked, for whoever looks for what a terminal sends."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from gateway.clock import Clock
from gateway.errors import FrameError, ParseError
from gateway.wire.codec import Codec
from gateway.wire.framing import Frame
from gateway.wire.masked_dump import MaskedFrame, looks_like, masked_frame, masked_start
from gateway.wire.message import printable


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedFrame:
    """One of them; field and byte are "" and -1 where it was no frame at all."""

    number: int  # counted from 1 since the start: a gap tells how many were forgotten
    at_ms: int
    listener: str
    address: str
    dialect: str
    reason: str
    field: str
    position: int  # of the byte, from the first of TPDU, header and body
    mti: str
    stan: str
    frame: MaskedFrame


class RejectedFrames:
    """A bounded number of them, in memory only."""

    def __init__(self, *, kept_max: int, clock: Clock) -> None:
        """None are kept where `kept_max` is 0."""
        self._kept: deque[RejectedFrame] = deque(maxlen=kept_max)
        self._clock = clock
        self._count = 0

    @property
    def count(self) -> int:
        """How many there were since the start."""
        return self._count

    def unparsed(
        self, codec: Codec, frame: Frame, error: ParseError, *, listener: str, address: str
    ) -> None:
        """A frame whose body its listener's dialect cannot read."""
        heading = frame.tpdu + frame.header
        self._count += 1
        if not self._kept.maxlen:
            return
        self._keep(
            reason=error.reason,
            field=error.field,
            position=len(heading) + error.position,
            mti=printable(error.mti),
            stan=printable(error.stan),
            dialect=codec.dialect.name,
            listener=listener,
            address=address,
            frame=masked_frame(codec, heading, frame.body, error),
        )

    def uncut(self, data: bytes, error: FrameError, *, listener: str, address: str) -> None:
        """Bytes that no frame could be cut from, as they came in one piece."""
        self._count += 1
        if not self._kept.maxlen:
            return
        guess = looks_like(data)
        self._keep(
            reason=f"{error} (this is {guess})" if guess else str(error),
            field="",
            position=-1,
            mti="",
            stan="",
            dialect="",
            listener=listener,
            address=address,
            frame=masked_start(data),
        )

    def last(self, count: int) -> list[RejectedFrame]:
        """The newest of them first, at most `count`."""
        return list(self._kept)[: -count - 1 : -1] if count > 0 else []

    def _keep(
        self,
        *,
        reason: str,
        field: str,
        position: int,
        mti: str,
        stan: str,
        dialect: str,
        listener: str,
        address: str,
        frame: MaskedFrame,
    ) -> None:
        self._kept.append(
            RejectedFrame(
                number=self._count,
                at_ms=self._clock.wall_ms(),
                listener=listener,
                address=address,
                dialect=dialect,
                reason=reason,
                field=field,
                position=position,
                mti=mti,
                stan=stan,
                frame=frame,
            )
        )
