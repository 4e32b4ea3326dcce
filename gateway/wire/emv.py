"""Chip data (DE55, BER-TLV) less some of its tags; quick, since every purchase by chip needs it."""

from __future__ import annotations

from collections.abc import Collection

_DEPTH_MAX = 8


def without_tags(data: bytes, tags: Collection[bytes], *, depth: int = 0) -> bytes:
    """The data objects less those of these tags, inside others too; what is left is as it was.

    What held nothing else is gone with it. Raises ValueError where it cannot be read as BER-TLV
    (ISO/IEC 8825-1, 8.1, in the form that EMV book 3, annex B allows): then nothing is known of
    what it holds.
    """
    if depth > _DEPTH_MAX:
        raise ValueError("nested too deeply")
    kept: list[bytes] = []
    at, end = 0, len(data)
    while at < end:
        start, first = at, data[at]
        if not first:
            at += 1
            continue  # filling between data objects
        try:
            tag_end, at, length = _head(data, start)
        except IndexError:
            raise ValueError("a tag or a length that is cut off") from None
        stop = at + length
        if stop > end:
            raise ValueError("a value that is cut off")
        tag = data[start:tag_end]
        if tag not in tags:
            if first & 0x20:
                inner = without_tags(data[at:stop], tags, depth=depth + 1)
                if len(inner) == length:
                    kept.append(data[start:stop])
                elif inner:
                    kept.append(tag + _length(len(inner)) + inner)
            else:
                kept.append(data[start:stop])
        at = stop
    return b"".join(kept)


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Where the tag ends, where the value begins, and how long it is. May raise IndexError."""
    many = data[at] & 0x1F == 0x1F
    at += 1
    if many:
        while data[at] & 0x80:
            at += 1
        at += 1
    tag_end, length = at, data[at]
    at += 1
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 3 or at + size > len(data):
            raise ValueError("a length that cannot be read")
        length = int.from_bytes(data[at : at + size], "big")
        at += size
    return tag_end, at, length


def _length(count: int) -> bytes:
    if count < 0x80:
        return bytes((count,))
    size = (count.bit_length() + 7) // 8
    return bytes((0x80 | size,)) + count.to_bytes(size, "big")
