"""What the header of a UnionPay answer tells its terminal to do next."""

from __future__ import annotations

from typing import Final

# Class, version, terminal state and processing requirement (a nibble each), sub-version (Q/CUP
# 009).
HEADER_BYTES: Final = 6
_AT: Final = 2

SIGN_ON_AGAIN: Final = 3


def with_requirement(header: bytes, requirement: int) -> bytes:
    """The header with this processing requirement (0 to 15); one of another length as it is."""
    if len(header) != HEADER_BYTES:
        return header
    nibbles = bytes((header[_AT] & 0xF0 | requirement,))
    return header[:_AT] + nibbles + header[_AT + 1 :]


def requirement_of(header: bytes) -> int:
    """What a header asks for; 0, which is nothing, where it is of another length."""
    return header[_AT] & 0x0F if len(header) == HEADER_BYTES else 0
