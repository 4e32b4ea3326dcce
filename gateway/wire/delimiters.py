"""Frames of serial lines: STX, the content, ETX, and a check character over it."""

from __future__ import annotations

from functools import reduce
from operator import xor
from typing import Final

from gateway.errors import EncodeError, FrameError

STX: Final = 0x02
ETX: Final = 0x03
# What lines carry between frames: idle, and the control characters of ISO 1745 that ask or confirm.
IDLE: Final = frozenset((0x00, 0x04, 0x05, 0x06, 0x15, 0x16, 0xFF))  # NUL EOT ENQ ACK NAK SYN
_OVERHEAD: Final = 3  # STX, ETX, LRC
COUNT_BYTES: Final = 2


def longitudinal_check(data: bytes) -> int:
    """The LRC over the content, its count where there is one, and ETX: all bytes XORed.

    ISO 1155 computes it so over a block, the character that starts the block left out.
    """
    return reduce(xor, data, 0)


def enclose(content: bytes, *, counted: bool) -> bytes:
    """The content between STX and ETX, and its LRC; counted: behind its length in two BCD bytes.

    Raises EncodeError where content that is not counted holds an ETX, at which it would be cut.
    """
    if counted:
        content = bytes.fromhex(f"{len(content):04d}") + content
    elif ETX in content:
        raise EncodeError(
            'holds an ETX, at which the other side would cut it; use length = "stx_bcd2"',
            field="length",
        )
    closed = content + bytes((ETX,))
    return bytes((STX,)) + closed + bytes((longitudinal_check(closed),))


def next_content(
    data: bytes, position: int, *, counted: bool, bytes_max: int, searched: int = 0
) -> tuple[int, int, int]:
    """Where the first frame's content begins and ends, and where the next frame may begin.

    What may stand between frames is skipped. Where the frame is not there whole, the content's end
    is -1, and the third is how many bytes from its STX on are needed at least. `searched` of them
    were looked through for an ETX before. Raises FrameError.
    """
    available = len(data)
    while position < available and data[position] in IDLE:
        position += 1
    if position == available:
        return position, -1, 1
    if data[position] != STX:
        raise FrameError(f"byte {data[position]:02x} where STX (02) begins a frame")
    find = _counted_end if counted else _marked_end
    content, end, wanted = find(data, position, bytes_max, searched)
    if wanted:
        return position, -1, wanted
    if longitudinal_check(data[position + 1 : end + 1]) != data[end + 1]:
        raise FrameError("the check character (LRC) does not fit: the frame was garbled on its way")
    return content, end, end + 2


def _counted_end(data: bytes, position: int, bytes_max: int, _: int) -> tuple[int, int, int]:
    """Content and end of a frame that says its length, and 0 or how many bytes are wanted."""
    start = position + 1
    content = start + COUNT_BYTES
    if len(data) < content:
        return 0, 0, 1 + COUNT_BYTES
    digits = data[start:content].hex()
    if not digits.isdigit():
        raise FrameError(f"length {digits} after STX is not BCD")
    content_bytes = int(digits)
    if content_bytes > bytes_max:
        raise FrameError(f"frame of {content_bytes} bytes is over the bound of {bytes_max}")
    end = content + content_bytes
    if len(data) < end + 2:
        return 0, 0, COUNT_BYTES + content_bytes + _OVERHEAD
    if data[end] != ETX:
        raise FrameError(f"byte {data[end]:02x} where ETX (03) ends a frame")
    return content, end, 0


def _marked_end(data: bytes, position: int, bytes_max: int, searched: int) -> tuple[int, int, int]:
    """The same of a frame that only its ETX ends."""
    start = position + 1
    end = data.find(ETX, max(start, position + searched), start + bytes_max + 1)
    if end < 0:
        if len(data) - start > bytes_max:
            raise FrameError(f"no ETX (03) within the bound of {bytes_max} bytes")
        return 0, 0, len(data) - position + 1
    if len(data) < end + 2:
        return 0, 0, end - position + 2
    return start, end, 0
