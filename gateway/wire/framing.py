"""A stream's bytes to bounded frames, and a message's body to the bytes of a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from gateway.errors import EncodeError, FrameError

TPDU_BYTES: Final = 5
_MTI_BYTES = 4
_DIGITS_MAX = 9_999
_BINARY_MAX = 65_535


@dataclass(frozen=True, slots=True)
class FramingSpec:
    """How messages are cut from a stream; the names are those of the settings' `framing` table.

    `frame_bytes_max` bounds what follows the length prefix: TPDU, header and body.
    """

    length: Literal["binary2", "ascii4", "bcd2"] = "binary2"
    length_includes_itself: bool = False
    tpdu: bool = False
    header_bytes: int = 0
    frame_bytes_max: int = 4_096


class Frame(NamedTuple):
    """One frame: the message's body, and the TPDU and header before it (empty where none are)."""

    body: bytes
    tpdu: bytes = b""
    header: bytes = b""


class FrameReader:
    """Cuts one stream into frames; the same frames however the stream was split.

    Once a prefix cannot be believed nothing after it can be: `error` is set, and every further
    `feed` raises it. Never holds more than one unfinished frame of at most `frame_bytes_max`.
    """

    __slots__ = (
        "_bytes_max",
        "_bytes_min",
        "_held",
        "_own_bytes",
        "_prefix_bytes",
        "_simple",
        "_spec",
        "_start",
        "_wanted",
        "error",
    )

    def __init__(self, spec: FramingSpec) -> None:
        self._spec = spec
        self._prefix_bytes = prefix_bytes(spec)
        self._own_bytes = self._prefix_bytes if spec.length_includes_itself else 0
        self._start = (TPDU_BYTES if spec.tpdu else 0) + spec.header_bytes
        self._bytes_min = self._start + _MTI_BYTES
        self._bytes_max = spec.frame_bytes_max
        self._simple = spec.length == "binary2" and not self._own_bytes and not self._start
        self._held = bytearray()
        self._wanted = 0  # bytes that must be held before anything more can be cut
        self.error: FrameError | None = None

    @property
    def mid_frame(self) -> bool:
        """Whether some bytes of an unfinished frame are held."""
        return bool(self._held)

    def feed(self, data: bytes | bytearray) -> list[Frame]:
        """All frames that `data` completes, in order; frames of length zero are skipped.

        Raises FrameError at a length that is not one, over the bound, or too short for a message.
        Where frames were completed before it in the same chunk they are returned first: `error`
        is then set, and the next call raises it.
        """
        if self.error is not None:
            # A new one each time, so that tracebacks do not grow on a kept exception.
            raise FrameError(str(self.error))
        if not isinstance(data, bytes):
            data = bytes(data)
        held = self._held
        if not held and self._simple and len(data) > self._prefix_bytes:
            # The common case, one whole frame to a chunk: no state is touched.
            length = data[0] << 8 | data[1]
            if length + 2 == len(data) and self._bytes_min <= length <= self._bytes_max:
                return [Frame(data[2:])]
        if held:
            held += data
            if len(held) < self._wanted:
                return []
            data = bytes(held)
            held.clear()
        frames: list[Frame] = []
        try:
            position = self._cut(data, frames)
        except FrameError as error:
            self.error = error.with_traceback(None)
            if not frames:
                raise
            return frames
        if position < len(data):
            held += data[position:] if position else data
        return frames

    def _cut(self, data: bytes, frames: list[Frame]) -> int:
        """Appends the whole frames of `data`; returns where the first unfinished one starts."""
        position = 0
        available = len(data)
        prefix = self._prefix_bytes
        while available - position >= prefix:
            length = self._length(data, position)
            if length == 0:
                position += prefix
                continue
            end = position + prefix + length
            if end > available:
                self._wanted = prefix + length
                return position
            frames.append(self._frame(data, position + prefix, end))
            position = end
        self._wanted = prefix
        return position

    def _length(self, data: bytes, position: int) -> int:
        """Bytes after the prefix, checked against both bounds; 0 is a keep-alive."""
        kind = self._spec.length
        if kind == "binary2":
            length = data[position] << 8 | data[position + 1]
        else:
            prefix = data[position : position + self._prefix_bytes]
            digits = prefix if kind == "ascii4" else prefix.hex().encode()
            if not digits.isdigit():
                raise FrameError(f"length prefix {prefix.hex()} is not {kind}")
            length = int(digits)
        if length == 0:
            return 0
        length -= self._own_bytes
        if length == 0:
            return 0
        if length > self._bytes_max:
            raise FrameError(f"frame of {length} bytes is over the bound of {self._bytes_max}")
        if length < self._bytes_min:
            raise FrameError(
                f"frame of {length} bytes is too short: {self._bytes_min} are the least"
            )
        return length

    def _frame(self, data: bytes, start: int, end: int) -> Frame:
        if not self._start:
            return Frame(data[start:end])
        body = start + self._start
        header = start + TPDU_BYTES if self._spec.tpdu else start
        return Frame(data[body:end], data[start:header], data[header:body])


def encode_frame(spec: FramingSpec, body: bytes, tpdu: bytes = b"", header: bytes = b"") -> bytes:
    """The bytes of one frame.

    Raises EncodeError where the frame is over the bound, or TPDU and header are not of the size
    that the framing asks for.
    """
    if len(tpdu) != (TPDU_BYTES if spec.tpdu else 0):
        raise EncodeError(f"TPDU of {len(tpdu)} bytes", field="TPDU")
    if len(header) != spec.header_bytes:
        raise EncodeError(
            f"header of {len(header)} bytes, expecting {spec.header_bytes}", field="header"
        )
    length = len(tpdu) + len(header) + len(body)
    if length > spec.frame_bytes_max:
        raise EncodeError(
            f"frame of {length} bytes is over the bound of {spec.frame_bytes_max}", field="length"
        )
    if spec.length_includes_itself:
        length += prefix_bytes(spec)
    if length > (_BINARY_MAX if spec.length == "binary2" else _DIGITS_MAX):
        raise EncodeError(f"length {length} cannot be written as {spec.length}", field="length")
    if spec.length == "binary2":
        prefix = length.to_bytes(2, "big")
    elif spec.length == "ascii4":
        prefix = b"%04d" % length
    else:
        prefix = bytes.fromhex(f"{length:04d}")
    return prefix + tpdu + header + body


def prefix_bytes(spec: FramingSpec) -> int:
    """How many bytes the length prefix takes."""
    return 4 if spec.length == "ascii4" else 2


def answering_tpdu(tpdu: bytes) -> bytes:
    """The TPDU of the answer: identifier kept, destination and source swapped (2 bytes each)."""
    return tpdu[:1] + tpdu[3:5] + tpdu[1:3]
