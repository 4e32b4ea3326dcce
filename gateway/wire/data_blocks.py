"""Which part of a field is encrypted, and the field again with that part exchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_BLOCK_DIGITS: Final = 16
_TAIL_DIGITS: Final = 2  # the last byte of a track stays clear
_PAD: Final = 0x80  # ISO 9797-1, padding method 2

# Whole blocks in, as many out.
Crypt = Callable[[bytes], bytes]


def track_block(value: str, crypt: Crypt) -> str:
    """A track with the 16 digits before its last byte exchanged (Q/CUP 009: the TDB).

    A track of an odd number of digits ends with half a byte. One that has no such block is given
    back as it is. Raises ValueError where it has characters that are no digits of a track.
    """
    end = len(value) + len(value) % 2 - _TAIL_DIGITS
    start = end - _BLOCK_DIGITS
    if start < 0:
        return value
    block = bytes.fromhex(value[start:end].replace("=", "D"))
    return value[:start] + crypt(block).hex().upper() + value[end:]


def whole_encrypted(value: str, crypt: Crypt, *, block_bytes: int, binary: bool) -> str:
    """All of a field, padded by method 2 to whole blocks, as hexadecimal digits.

    Raises ValueError where a text is not ASCII.
    """
    clear = bytes.fromhex(value) if binary else value.encode("ascii")
    padded = clear + bytes((_PAD,))
    return crypt(padded + bytes(-len(padded) % block_bytes)).hex().upper()


def whole_decrypted(value: str, crypt: Crypt, *, binary: bool) -> str:
    """The field again; raises ValueError where it does not end in the padding."""
    clear = crypt(bytes.fromhex(value)).rstrip(b"\0")
    if clear[-1:] != bytes((_PAD,)):
        raise ValueError("what was decrypted has no padding: it is under another key")
    return clear[:-1].hex().upper() if binary else clear[:-1].decode("ascii")
