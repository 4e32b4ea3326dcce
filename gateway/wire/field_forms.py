"""How one dialect writes a field, and the value of another dialect's field in that form."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from gateway.errors import GatewayError
from gateway.wire.dialect_meaning import EDITION_1993, NATIVE
from gateway.wire.dialect_spec import Dialect
from gateway.wire.message import EMV_DATA, ENTRY_MODE, ORIGINAL_DATA

# A value in, the same one in another form out; raises ValueError, which says why not.
Convert = Callable[[str], str]

_TRACK: Final = re.compile(r"[0-9=D]*\Z")
_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2})*\Z")
_SIGNED: Final = re.compile(r"[A-Z][0-9]*\Z")
# The fields of 1993 of which what was read stays with the message, under another number.
LIFTED: Final = (4, 12, 13, 15, 25, 39, 56, 70, ORIGINAL_DATA, 95)
# What the fields of 1993 that are read in the terms of 1987 are like there: digits, or 39.
_READ_AS_1987: Final = {12: 6, 13: 4, 15: 4, 25: 2, 39: 2, 70: 3, ORIGINAL_DATA: 42, 95: 42}


class Untranslatable(GatewayError):
    """A field of a message has no place, or its value no form, in the other dialect."""

    def __init__(self, number: int, why: str) -> None:
        self.number = number
        super().__init__(f"DE{number}: {why}")


class Shape(Enum):
    """What the text that stands for a value is."""

    DIGITS = auto()
    TRACK = auto()  # packed: the separator is the nibble D
    TRACK_TEXT = auto()  # the separator is =
    SIGNED = auto()  # a sign in one byte before packed digits, kept as hex
    SIGNED_TEXT = auto()
    BYTES = auto()  # as hex
    TEXT = auto()


@dataclass(frozen=True, slots=True)
class FieldForm:
    """A field as a dialect has it; `size` is its greatest length, in what `shape` counts."""

    shape: Shape
    size: int
    fixed: bool
    encoding: str  # of its text, or of the text that its bytes may be
    codes: bool = False  # digits that are positions and no number: they begin at the left
    packed: bool = False  # nothing but digits can be written


def forms_of(dialect: Dialect) -> dict[int, FieldForm]:
    """Every field of a dialect by number, as messages have it inside the gateway.

    Those of 1993 are in the terms of 1987, and under their number plus NATIVE as they were read.
    """
    written = dialect.spec
    text = next(
        (
            keys["data_enc"]
            for number, keys in written.items()
            if number in ("41", "42", "43") and keys["data_enc"] != "b"
        ),
        "ascii",
    )
    forms = {number: _form(dialect, number, text) for number in dialect.fields}
    if dialect.meaning.edition == EDITION_1993:
        forms |= {NATIVE + number: forms[number] for number in LIFTED if number in forms}
        for number, size in _READ_AS_1987.items():
            shape = Shape.TEXT if number in (39, 95) else Shape.DIGITS
            forms[number] = FieldForm(shape, size, fixed=True, encoding="ascii")
    return forms


def _form(dialect: Dialect, number: int, text: str) -> FieldForm:
    keys, kind = dialect.spec[str(number)], dialect.fields[number].type
    encoding, size, fixed = keys["data_enc"], keys["max_len"], not keys["len_type"]
    packed = encoding == "b"
    nibbles = keys.get("len_count") == "nibbles"
    if kind == "n":
        digits = size if nibbles or not packed else 2 * size
        codes = number == ENTRY_MODE
        return FieldForm(Shape.DIGITS, digits, fixed, "ascii", codes=codes, packed=packed)
    if kind == "z" and nibbles:
        return FieldForm(Shape.TRACK, size, fixed, text)
    if kind == "z" and not packed:
        return FieldForm(Shape.TRACK_TEXT, size, fixed, encoding)
    if kind == "x+n":
        if packed:
            return FieldForm(Shape.SIGNED, 2 * size - 1, fixed, text)
        return FieldForm(Shape.SIGNED_TEXT, size, fixed, encoding)
    if packed:
        return FieldForm(Shape.BYTES, (size + 1) // 2 if nibbles else size, fixed, text)
    if kind == "b" or number == EMV_DATA:
        # As hex text; chip data too where a dialect has text for it, as is customary.
        return FieldForm(Shape.BYTES, size // 2, fixed, encoding)
    return FieldForm(Shape.TEXT, size, fixed, encoding)


def conversion(one: FieldForm, other: FieldForm, number: int) -> Convert | None:
    """What makes a value of one form one of the other; None where it is the same in both."""
    if number in (35, 36):
        one, other = _as_track(one), _as_track(other)
    steps: list[Convert | None] = []
    if one.shape is not other.shape or (
        one.shape is Shape.SIGNED and one.encoding != other.encoding
    ):
        steps += (_read(one), _written(other))
    elif one.shape is Shape.BYTES:
        steps.append(_hex)
    elif other.packed and not one.packed:
        steps.append(_digits)
    steps.append(_fitted(one, other))
    found = [step for step in steps if step is not None]
    if len(found) < 2:
        return found[0] if found else None

    def convert(value: str) -> str:
        for step in found:
            value = step(value)
        return value

    return convert


def _as_track(form: FieldForm) -> FieldForm:
    """A track in a field of plain text is a track as well."""
    if form.shape is Shape.TEXT:
        return replace(form, shape=Shape.TRACK_TEXT)
    return form


def _read(form: FieldForm) -> Convert | None:
    """The step to plain text."""
    match form.shape:
        case Shape.TRACK:
            return lambda value: value.replace("D", "=")
        case Shape.SIGNED:
            return _signed_text(form.encoding)
        case Shape.BYTES:
            return _text_of(form.encoding)
    return None


def _written(form: FieldForm) -> Convert | None:
    """The step from plain text."""
    match form.shape:
        case Shape.TRACK:
            return _packed_track
        case Shape.SIGNED:
            return _signed_bytes(form.encoding)
        case Shape.BYTES:
            return _bytes_of(form.encoding)
        case Shape.DIGITS:
            return _digits
    return None


def _fitted(one: FieldForm, other: FieldForm) -> Convert | None:
    """The step that makes a value as long as the other form wants it and checks its characters."""
    size = other.size
    same = (one.shape, one.size, one.fixed) == (other.shape, size, other.fixed)
    match other.shape:
        case Shape.DIGITS:
            if other.fixed:
                step = _code_positions(size) if other.codes else _number(size)
                return None if same else step
            return None if one.shape is other.shape and one.size <= size else _at_most(size)
        case Shape.BYTES:
            return None if same else _byte_count(size, fixed=other.fixed)
        case Shape.TRACK:
            return None if one.size <= size else _at_most(size)
        case Shape.SIGNED_TEXT:
            return _signed(size)
        case Shape.SIGNED:
            return _signed_size(size)
    if same and _holds_all(other.encoding, one.encoding):
        return None
    return _in_characters(other.encoding, size, fixed=other.fixed)


def _holds_all(encoding: str, other: str) -> bool:
    """Whether every character of the other encoding has one byte in this one."""
    return encoding == other or (other == "ascii" and encoding in ("cp037", "cp500", "latin-1"))


# --- steps -------------------------------------------------------------------------------------


def _packed_track(value: str) -> str:
    packed = value.upper().replace("=", "D")
    if not _TRACK.match(packed):
        raise ValueError("has characters that a packed track cannot have; only 0-9 and = or D fit")
    return packed


def _signed_text(encoding: str) -> Convert:
    def convert(value: str) -> str:
        return bytes.fromhex(value[:2]).decode(encoding, "replace") + value[2:]

    return convert


def _signed_bytes(encoding: str) -> Convert:
    def convert(value: str) -> str:
        if not _SIGNED.match(value):
            raise ValueError("is not a sign (C or D) and digits")
        return value[:1].encode(encoding).hex().upper() + value[1:]

    return convert


def _signed(size: int) -> Convert:
    def convert(value: str) -> str:
        if not _SIGNED.match(value):
            raise ValueError("is not a sign (C or D) and digits")
        return value[:1] + _number(size - 1)(value[1:])

    return convert


def _signed_size(size: int) -> Convert:
    """`value` is the sign's byte in hex and digits; `size` counts the sign as one."""

    def convert(value: str) -> str:
        return value[:2] + _number(size - 1)(value[2:])

    return convert


def _text_of(encoding: str) -> Convert:
    def convert(value: str) -> str:
        try:
            return bytes.fromhex(value).decode(encoding)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"its bytes are no text in {encoding} (byte {error.start + 1} is not)"
            ) from None

    return convert


def _bytes_of(encoding: str) -> Convert:
    def convert(value: str) -> str:
        return _encoded(value, encoding).hex().upper()

    return convert


def _encoded(value: str, encoding: str) -> bytes:
    try:
        return value.encode(encoding)
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start + 1} (U+{ord(value[error.start]):04X}) is not in {encoding}"
        ) from None


def _hex(value: str) -> str:
    if not _HEX.match(value):
        raise ValueError("is not hex digits, two for each byte")
    return value.upper()


def _digits(value: str) -> str:
    if not (value.isascii() and value.isdigit()) and value:
        raise ValueError("has other characters than digits")
    return value


def _number(size: int) -> Convert:
    def convert(value: str) -> str:
        if len(value) > size:
            surplus = len(value) - size
            if value[:surplus].strip("0"):
                raise ValueError(f"has {len(value)} digits, and {size} is the length there")
            return value[surplus:]
        return value.zfill(size)

    return convert


def _code_positions(size: int) -> Convert:
    """Positions that one side has more of are zero: nothing is said by them."""

    def convert(value: str) -> str:
        if len(value) > size and value[size:].strip("0"):
            raise ValueError(f"has {len(value)} positions, and {size} is the length there")
        return value[:size].ljust(size, "0")

    return convert


def _at_most(size: int) -> Convert:
    def convert(value: str) -> str:
        if len(value) > size:
            raise ValueError(f"is {len(value)} long; at most {size} fit there")
        return value

    return convert


def _byte_count(size: int, *, fixed: bool) -> Convert:
    def convert(value: str) -> str:
        count = len(value) // 2
        if count > size or (fixed and count != size):
            at_most = "" if fixed else "at most "
            raise ValueError(f"has {count} bytes; {at_most}{size} fit there")
        return value

    return convert


def _in_characters(encoding: str, size: int, *, fixed: bool) -> Convert:
    """Text of one character set in another; blanks at the end fill a fixed length."""

    def convert(value: str) -> str:
        written = _encoded(value, encoding)
        if len(written) > size:
            value = value.rstrip(" ")
            written = _encoded(value, encoding)
            if len(written) > size:
                raise ValueError(f"has {len(written)} bytes in {encoding}; {size} fit there")
        if fixed and len(written) < size:
            value += " " * (size - len(written))
        return value

    return convert
