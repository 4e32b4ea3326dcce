"""A stream's bytes to bounded frames, and a message's body to the bytes of a frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from gateway.errors import EncodeError, FrameError
from gateway.wire.delimiters import enclose, next_content

TPDU_BYTES: Final = 5
_MTI_BYTES = 4

Length = Literal["binary2", "binary4", "ascii4", "bcd2", "stx_etx", "stx_bcd2", "none"]
# The bytes of each prefix, and the largest frame that it can announce; frames between STX and ETX
# have none, and neither have those whose length the carriage says ("none": HTTP).
PREFIX_BYTES: Final = {"binary2": 2, "binary4": 4, "ascii4": 4, "bcd2": 2}
LENGTH_MAX: Final = {
    "binary2": 65_535,
    "binary4": 4_294_967_295,
    "ascii4": 9_999,
    "bcd2": 9_999,
    "stx_bcd2": 9_999,
}
_BARE_PREFIX_BYTES: Final = PREFIX_BYTES["binary2"]
_DELIMITED: Final = ("stx_etx", "stx_bcd2")


@dataclass(frozen=True, slots=True)
class FramingSpec:
    """How messages are cut from a stream; the names are those of the settings' `framing` table.

    `frame_bytes_max` bounds what follows the length prefix: TPDU, header and body. A header that
    counts itself says in its first byte how long it is; `header_bytes` is then the most it may be.
    """

    length: Length = "binary2"
    length_includes_itself: bool = False
    tpdu: bool = False
    header_bytes: int = 0
    header_counts_itself: bool = False
    frame_bytes_max: int = 4_096
    # Two bytes of length and the body, as most have it: both ways are short then.
    bare: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        more = self.length_includes_itself or self.tpdu or self.header_bytes
        bare = self.length == "binary2" and not more and not self.header_counts_itself
        object.__setattr__(self, "bare", bare)


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
        "_searched",
        "_simple",
        "_spec",
        "_wanted",
        "error",
        "mid_frame",
    )

    def __init__(self, spec: FramingSpec) -> None:
        if spec.length == "none":
            raise ValueError("a stream without lengths cannot be cut into frames: use frame_of")
        self._spec = spec
        self._prefix_bytes = prefix_bytes(spec)
        self._own_bytes = self._prefix_bytes if spec.length_includes_itself else 0
        self._bytes_min = bytes_min(spec)
        self._bytes_max = spec.frame_bytes_max
        self._simple = spec.bare
        self._held = bytearray()
        self._wanted = 0  # bytes that must be held before anything more can be cut
        self._searched = 0  # bytes held that no ETX is among
        self.error: FrameError | None = None
        self.mid_frame = False  # some bytes of an unfinished frame are held

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
            self.mid_frame = False
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
            self.mid_frame = True
        return frames

    def _cut(self, data: bytes, frames: list[Frame]) -> int:
        """Appends the whole frames of `data`; returns where the first unfinished one starts."""
        if self._spec.length in _DELIMITED:
            return self._cut_delimited(data, frames)
        position = self._cut_bare(data, frames) if self._simple else 0
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
            frames.append(split_frame(self._spec, data[position + prefix : end]))
            position = end
        self._wanted = prefix
        return position

    def _cut_bare(self, data: bytes, frames: list[Frame]) -> int:
        """As `_cut`, up to the first frame that is not whole, or wants a closer look."""
        position = 0
        available, least, most = len(data), self._bytes_min, self._bytes_max
        while available - position > _BARE_PREFIX_BYTES:
            content = position + _BARE_PREFIX_BYTES
            length = data[position] << 8 | data[position + 1]
            if not least <= length <= most or content + length > available:
                break
            position = content + length
            frames.append(Frame(data[content:position]))
        return position

    def _cut_delimited(self, data: bytes, frames: list[Frame]) -> int:
        counted = self._spec.length == "stx_bcd2"
        position = 0
        while True:
            start, end, following = next_content(
                data,
                position,
                counted=counted,
                bytes_max=self._bytes_max,
                searched=self._searched,
            )
            self._searched = 0
            if end < 0:
                self._wanted = following
                if not counted:
                    # What was looked through is not looked through again, byte after byte.
                    self._searched = max(0, following - 2)
                return start
            if end == start:
                position = following  # Empty: a keep-alive.
                continue
            self._check(end - start)
            frames.append(split_frame(self._spec, data[start:end]))
            position = following

    def _length(self, data: bytes, position: int) -> int:
        """Bytes after the prefix, checked against both bounds; 0 is a keep-alive."""
        kind = self._spec.length
        if kind == "binary2":
            length = data[position] << 8 | data[position + 1]
        elif kind == "binary4":
            length = int.from_bytes(data[position : position + 4], "big")
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
        self._check(length)
        return length

    def _check(self, length: int) -> None:
        if length > self._bytes_max:
            raise FrameError(f"frame of {length} bytes is over the bound of {self._bytes_max}")
        if length < self._bytes_min:
            raise FrameError(
                f"frame of {length} bytes is too short: {self._bytes_min} are the least"
            )


def frame_of(spec: FramingSpec, data: bytes) -> Frame:
    """The one frame that the data is, where the carriage says its length; raises FrameError.

    With a length of its own it must be whole and alone.
    """
    if spec.length != "none":
        reader = FrameReader(spec)
        frames = reader.feed(data)
        if len(frames) != 1 or reader.mid_frame or reader.error is not None:
            raise FrameError(f"{len(data)} bytes are not one whole frame of {spec.length} length")
        return frames[0]
    least, most = bytes_min(spec), spec.frame_bytes_max
    if not least <= len(data) <= most:
        raise FrameError(f"frame of {len(data)} bytes where {least} to {most} are taken")
    return split_frame(spec, data)


def split_frame(spec: FramingSpec, content: bytes) -> Frame:
    """TPDU, header and body of what follows the length; long enough by `bytes_min`.

    Raises FrameError where a header that counts itself leaves no message, or is over its bound.
    """
    header = TPDU_BYTES if spec.tpdu else 0
    header_bytes = spec.header_bytes
    if spec.header_counts_itself:
        header_bytes = content[header]
        if not 1 <= header_bytes <= spec.header_bytes:
            raise FrameError(
                f"header says it has {header_bytes} bytes where 1 to {spec.header_bytes} are taken"
            )
        if header + header_bytes + _MTI_BYTES > len(content):
            raise FrameError(f"header of {header_bytes} bytes leaves no message in its frame")
    body = header + header_bytes
    if not body:
        return Frame(content)
    return Frame(content[body:], content[:header], content[header:body])


def bytes_min(spec: FramingSpec) -> int:
    """The least that follows a length: TPDU, header and a message type."""
    header = 1 if spec.header_counts_itself else spec.header_bytes
    return (TPDU_BYTES if spec.tpdu else 0) + header + _MTI_BYTES


def encode_frame(spec: FramingSpec, body: bytes, tpdu: bytes = b"", header: bytes = b"") -> bytes:
    """The bytes of one frame.

    Raises EncodeError where the frame is over the bound, or TPDU and header are not of the size
    that the framing asks for.
    """
    if spec.bare and not tpdu and not header:
        # The common case, nothing but a length and the body.
        length = len(body)
        if length <= spec.frame_bytes_max and length <= LENGTH_MAX["binary2"]:
            return length.to_bytes(2, "big") + body
    if len(tpdu) != (TPDU_BYTES if spec.tpdu else 0):
        raise EncodeError(f"TPDU of {len(tpdu)} bytes", field="TPDU")
    _check_header(spec, header)
    length = len(tpdu) + len(header) + len(body)
    if length > spec.frame_bytes_max:
        raise EncodeError(
            f"frame of {length} bytes is over the bound of {spec.frame_bytes_max}", field="length"
        )
    kind = spec.length
    if kind in _DELIMITED:
        return enclose(tpdu + header + body, counted=kind == "stx_bcd2")
    if kind == "none":
        return tpdu + header + body
    if spec.length_includes_itself:
        length += prefix_bytes(spec)
    if length > LENGTH_MAX[kind]:
        raise EncodeError(f"length {length} cannot be written as {kind}", field="length")
    if kind == "binary2":
        prefix = length.to_bytes(2, "big")
    elif kind == "binary4":
        prefix = length.to_bytes(4, "big")
    elif kind == "ascii4":
        prefix = b"%04d" % length
    else:
        prefix = bytes.fromhex(f"{length:04d}")
    return prefix + tpdu + header + body


def _check_header(spec: FramingSpec, header: bytes) -> None:
    if spec.header_counts_itself:
        if not 1 <= len(header) <= spec.header_bytes or header[0] != len(header):
            raise EncodeError(
                f"header of {len(header)} bytes does not count itself in its first",
                field="header",
            )
    elif len(header) != spec.header_bytes:
        raise EncodeError(
            f"header of {len(header)} bytes, expecting {spec.header_bytes}", field="header"
        )


def prefix_bytes(spec: FramingSpec) -> int:
    """How many bytes the length prefix takes; 0 where there is none."""
    return PREFIX_BYTES.get(spec.length, 0)


def answering_tpdu(tpdu: bytes) -> bytes:
    """The TPDU of the answer: identifier kept, destination and source swapped (2 bytes each)."""
    return tpdu[:1] + tpdu[3:5] + tpdu[1:3]
