"""What may be shown of a frame that could not be read: where it stopped, and no card data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gateway.errors import ParseError
from gateway.wire.codec import Codec
from gateway.wire.message import is_mti, mask_pan, printable

# What PCI DSS 3.4.1 hides of the longest card number (19 digits, ISO/IEC 7812-1; the first six and
# the last four may be seen): a byte spoilt at either end of them leaves no longer run.
_RUN_MIN: Final = 9
_CHARACTER_RUNS: Final = (
    re.compile(rb"[0-9=^?;]{%d,}" % _RUN_MIN),
    re.compile(rb"[\xf0-\xf9\x7e\xb0]{%d,}" % _RUN_MIN),  # EBCDIC, with "=" and "^"
)
# A cardholder's name (ISO/IEC 7813: 2 to 26 characters between two "^", the surname before a "/").
# One of its marks may be spoilt, so that each alone hides what is beside it. Names one behind the
# other are one match, and nothing is tried twice ("++"): a frame of marks alone costs no more.
_LETTERS: Final = " '-.ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NAMES: Final = tuple(
    (marks, re.compile(rb"[%b]{0,26}+[%b][%b%b]*+" % (letters, either, letters, either)))
    for encoding, said in (("ascii", "/^"), ("cp037", "/^¬"))  # some write "^" as 5F
    for marks in [said.encode(encoding)]
    for letters, either in [(re.escape(_LETTERS.encode(encoding)), re.escape(marks))]
)
_NIBBLE_RUN: Final = re.compile(rb"[0-9d]{%d,}" % _RUN_MIN)
# Of each frame; and what tells of itself, "h", "t", "p" and "1" being header, type and bitmaps.
_STRUCTURE: Final = frozenset(("h", "t", "p", "1"))
_SHOWN: Final = frozenset(
    (3, 4, 7, 11, 12, 13, 15, 18, 19, 22, 23, 24, 25, 32, 33, 37, 38, 39, 41, 42, 49, 70)
)
_AT_ERROR_BYTES: Final = 2
_TPDU: Final = b"\x60"
_TPDU_AND_HEADER_BYTES: Final = 11
_SHOWN_BYTES_MAX: Final = 1_024  # of a frame: time and memory are bounded for each
_RUN_LOOKED_BYTES: Final = 64
_LINE_BYTES: Final = 16
_HIDDEN: Final = "**"


@dataclass(frozen=True, slots=True)
class MaskedFrame:
    """A frame as it may be kept and shown: lines of hex with `**` for what may not be seen."""

    length: int
    lines: tuple[str, ...]
    fields: dict[int, str]


def masked_frame(codec: Codec, heading: bytes, body: bytes, error: ParseError) -> MaskedFrame:
    """What may be seen of a body that its dialect cannot read, and of TPDU and header before it.

    Shown are the bytes of the structure, two bytes at the error, and fields of an allow-list, as
    long as what was read makes sense. Nothing is shown of a run of 9 digits or more, whatever the
    dialect makes of it (text, EBCDIC, or half bytes at any offset), nor of a cardholder's name.
    """
    size = len(heading) + len(body)
    # A run of digits that goes on behind what may be shown of a long frame is seen for what it is.
    data = (heading + body)[: _SHOWN_BYTES_MAX + _RUN_LOOKED_BYTES]
    aligned = is_mti(error.mti)
    characters = may_be_card_numbers(data, packed=False)
    digits = packed = _with_packed(data, characters)
    if aligned and not _has_packed(codec):
        digits = characters[:]
    # A heading of the wrong size may be the message itself, in any form: only one that says what it
    # is may be seen, and no run of digits after what a TPDU and UnionPay's header take.
    said = heading[:1] == _TPDU or heading[:1] == bytes((len(heading) & 0xFF,))
    exempt = min(_TPDU_AND_HEADER_BYTES, len(heading)) if said else 0
    inside = slice(exempt, len(heading))
    digits[inside] = packed[inside]
    digits[:exempt] = bytes(exempt)
    visible = bytearray(len(data))
    fields: dict[int, str] = {}
    if aligned:
        visible[: len(heading)] = bytes((said,)) * len(heading)
        for key, start, end, value in codec.spans(body):
            here = slice(len(heading) + start, len(heading) + end)
            if here.stop > _SHOWN_BYTES_MAX:
                break
            if key in _STRUCTURE:
                visible[here] = b"\x01" * (end - start)
            elif int(key) in _SHOWN:
                if not _makes_sense(codec, int(key), value):
                    break  # The fields are not where the dialect has them.
                visible[here] = b"\x01" * (end - start)
                is_packed = codec.dialect.spec[key]["data_enc"] == "b"
                if not any((digits if is_packed else characters)[here]):
                    fields[int(key)] = printable(mask_pan(value) if len(value) > 16 else value)
    # Where it stopped may be anywhere, in raw chip data as well.
    there = slice(len(heading) + error.position, len(heading) + error.position + _AT_ERROR_BYTES)
    visible[there] = b"\x01" * len(visible[there])
    digits[there] = packed[there]
    visible[_SHOWN_BYTES_MAX:] = bytes(len(visible[_SHOWN_BYTES_MAX:]))
    # As numbers, since a loop over the bytes would cost more than all the rest.
    shown = int.from_bytes(visible, "big") & ~int.from_bytes(digits, "big")
    return MaskedFrame(size, _lines(data, shown.to_bytes(len(data), "big")), fields)


def masked_start(data: bytes) -> MaskedFrame:
    """What may be seen of bytes that are no frame: the first two, which tell TLS and HTTP."""
    known = bool(looks_like(data))
    start = data[:_AT_ERROR_BYTES]
    # What follows a frame that was cut wrongly may begin within a card number.
    shown = bytes(known or not _may_be_digits(byte) for byte in start)
    return MaskedFrame(len(data), _lines(start, shown), {})


def looks_like(data: bytes) -> str:
    """What bytes that are no frame rather are, in words; empty where nothing is known."""
    if data[:1] == b"\x16" and data[1:2] == b"\x03":
        return "TLS, on a listener that wants none"
    if re.match(rb"(GET|POST|PUT|HEAD|OPTIONS|CONNECT|DELETE|PRI) ", data):
        return "HTTP, on a listener that wants bare frames"
    if data[:4] == b"SSH-":
        return "SSH"
    return ""


def may_be_card_numbers(data: bytes, *, packed: bool) -> bytearray:
    """For each byte 1 where it belongs to a run of digits as long as a card number's, else 0.

    `packed`: digits may be half bytes, of which letters are some as well.
    """
    found = bytearray(len(data))
    names = [pattern for marks, pattern in _NAMES if any(mark in data for mark in marks)]
    for pattern in (*_CHARACTER_RUNS, *names):
        for run in pattern.finditer(data):
            found[run.start() : run.end()] = b"\x01" * (run.end() - run.start())
    return _with_packed(data, found) if packed else found


def _with_packed(data: bytes, characters: bytearray) -> bytearray:
    """What was found as characters, and beside it the runs of digits that are half bytes."""
    found = characters[:]
    for run in _NIBBLE_RUN.finditer(data.hex().encode()):
        first, last = run.start() // 2, (run.end() + 1) // 2
        # Digits as characters are runs of such nibbles as well: they are judged as characters.
        if not _are_characters(data[first:last]):
            found[first:last] = b"\x01" * (last - first)
    return found


def _may_be_digits(byte: int) -> bool:
    """Whether a byte is a digit in ASCII or EBCDIC, or two of them."""
    return 0xF0 <= byte <= 0xF9 or (byte >> 4 <= 9 and byte & 0xF <= 9)


def _has_packed(codec: Codec) -> bool:
    return any(keys.get("len_count") == "nibbles" for keys in codec.dialect.spec.values())


def _are_characters(data: bytes) -> bool:
    inner = data[1:-1]
    return inner.isdigit() or not inner


def _makes_sense(codec: Codec, number: int, value: str) -> bool:
    kind = codec.dialect.fields[number].type
    if kind == "n":
        return value.isascii() and value.isdigit()
    return value.isascii() and value.isprintable()


def _lines(data: bytes, shown: bytes) -> tuple[str, ...]:
    """The lines of which any byte may be seen, with their offsets."""
    lines = []
    first = shown.find(1)
    while first >= 0:
        offset = first - first % _LINE_BYTES
        row = slice(offset, offset + _LINE_BYTES)
        cells = (
            f"{byte:02X}" if seen else _HIDDEN
            for byte, seen in zip(data[row], shown[row], strict=True)
        )
        lines.append(f"{offset:04X}  {' '.join(cells)}")
        first = shown.find(1, offset + _LINE_BYTES)
    return tuple(lines)
