"""Working keys as they stand in a field: wrapped, each with its check value, or as key blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.errors import ParseError
from gateway.wire.dialect import Dialect

CHECK_BYTES = 4
# What the field holds in all: keys of 8, 16 or 24 bytes, two of them or three with a track key
# (UnionPay: DE62 of the answer to a sign-on). By the size alone they are told apart.
SIZES = {24: (8, 2), 40: (16, 2), 60: (16, 3), 56: (24, 2), 84: (24, 3)}
_BLOCK_LENGTH = slice(1, 5)  # of a key block: four digits behind the letter of its version
_BLOCK_BYTES_MIN = 32


@dataclass(frozen=True, slots=True)
class CarriedKey:
    """One key as it travels: wrapped, and the check value beside it (none beside a key block)."""

    wrapped: bytes
    check_value: bytes = b""


def packed(keys: Iterable[CarriedKey]) -> bytes:
    """The keys one after the other, each with its check value.

    Each is filled up with zeros to the length of the longest: a single-length MAC key beside a
    double-length PIN key, as UnionPay has it. Key blocks stand as they are.
    """
    carried = list(keys)
    longest = max((len(one.wrapped) for one in carried if one.check_value), default=0)
    return b"".join(
        one.wrapped.ljust(longest, b"\0") + one.check_value if one.check_value else one.wrapped
        for one in carried
    )


def unpacked(data: bytes, lengths: Sequence[int]) -> list[CarriedKey]:
    """The keys of a field, of which the first is as long as `lengths` says, and so on.

    Shorter ones are filled up to the longest. Raises ParseError where they cannot be these.
    """
    longest = max(lengths)
    if len(data) != len(lengths) * (longest + CHECK_BYTES):
        expected = len(lengths) * (longest + CHECK_BYTES)
        raise _wrong(f"{len(data)} bytes where {len(lengths)} keys take {expected}")
    found = []
    for index, length in enumerate(lengths):
        at = index * (longest + CHECK_BYTES)
        check = data[at + longest : at + longest + CHECK_BYTES]
        found.append(CarriedKey(data[at : at + length], check))
    return found


def unpacked_blocks(data: bytes, count: int) -> list[CarriedKey]:
    """The key blocks of a field, each as long as it says (ANSI X9.143). Raises ParseError."""
    found: list[CarriedKey] = []
    at = 0
    while at < len(data):
        digits = data[at:][_BLOCK_LENGTH]
        length = int(digits) if digits.isdigit() else 0
        if length < _BLOCK_BYTES_MIN or at + length > len(data):
            raise _wrong(f"no key block at byte {at}")
        found.append(CarriedKey(data[at : at + length]))
        at += length
    if len(found) != count:
        raise _wrong(f"{len(found)} key blocks where {count} are expected")
    return found


def as_value(data: bytes, dialect: Dialect, number: int) -> str:
    """Bytes as the value of a field: hexadecimal where it is binary, else text if they are."""
    if not is_binary(dialect, number) and data.isascii() and data.decode().isprintable():
        return data.decode()
    return data.hex().upper()


def as_bytes(value: str, dialect: Dialect, number: int) -> bytes:
    """The bytes of such a value again: key blocks as they are. Raises ParseError."""
    if not is_binary(dialect, number) and value[:1] in ("B", "D") and value[1:5].isdigit():
        try:
            if int(value[1:5]) <= len(value):
                return value.encode("ascii")
        except UnicodeEncodeError:
            raise _wrong("keys are not ASCII") from None
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise _wrong("is not hexadecimal") from None


def is_binary(dialect: Dialect, number: int) -> bool:
    """Whether values of a field are written as hexadecimal digits for bytes."""
    spec = dialect.spec.get(str(number), {})
    return spec.get("data_enc") == "b"


def _wrong(reason: str) -> ParseError:
    return ParseError(reason, field="keys", position=0)
