"""What bytes of unknown origin are: frame, dialect, fields, and the first error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.errors import ParseError
from gateway.wire.codec import Codec
from gateway.wire.dialect import Dialect
from gateway.wire.entry_mode import EntryMode, entry_mode
from gateway.wire.framing import TPDU_BYTES, FramingSpec
from gateway.wire.masked_dump import masked_frame
from gateway.wire.message import (
    ENTRY_MODE,
    MERCHANT_ID,
    PAN,
    Kind,
    Message,
    is_mti,
    kind_of,
    mask_pan,
    printable,
)
from gateway.wire.sub_elements import Layout, SubElement

# Fields that hold nothing of a card or a customer where the dialect is the right one.
_SHOWN: Final = frozenset((*range(3, 14), *range(15, 34), *range(37, 45), 49, 50, 51, 54, 60, 70))
_LONG_NUMBER: Final = re.compile(r"[0-9]{13,}")
_TRACK: Final = re.compile(r"[0-9]{6,19}[=D][0-9=DF]*")
_ORDINARY_HEADERS: Final = (0, 6, 10, 12, 22, 46)
_CONTEXT_BYTES: Final = 16
_LINE_BYTES: Final = 16
_DATES: Final = {
    7: r"(0[1-9]|1[0-2])([0-2]\d|3[01])([01]\d|2[0-3])[0-5]\d[0-5]\d",
    13: r"(0[1-9]|1[0-2])([0-2]\d|3[01])",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """Some bytes as one dialect reads them under one framing.

    `message` holds what could be read, which is all of it where `error` is None. The position of
    the error counts from the first byte of `data`, frame included.
    """

    dialect: Dialect
    data: bytes
    prefix: bytes
    tpdu: bytes
    header: bytes
    message: Message
    error: ParseError | None

    @property
    def start(self) -> int:
        """Where the message begins."""
        return len(self.prefix) + len(self.tpdu) + len(self.header)

    @property
    def error_position(self) -> int:
        """The byte at which reading stopped."""
        return self.start + self.error.position if self.error is not None else len(self.data)


def read(candidates: Sequence[bytes], dialects: Iterable[Dialect]) -> Reading:
    """The likeliest reading of the first of the candidates that can be read, else of the first.

    Raises ValueError where there is no candidate and no dialect to read it with.
    """
    codecs = [Codec(dialect) for dialect in dialects]
    best: tuple[float, Reading] | None = None
    for preference, data in enumerate(candidates):
        for codec in codecs:
            for reading in _readings(data, codec):
                score = _likelihood(reading) - preference
                if best is None or score > best[0]:
                    best = (score, reading)
    if best is None:
        raise ValueError("nothing to read")
    return best[1]


def shown(number: int, value: str) -> str:
    """A value as it may be seen by anyone: of card data at most what PCI DSS 3.4.1 leaves."""
    if number == PAN:
        return printable(mask_pan(value))
    if number not in _SHOWN:
        return f"[{len(value)}]"
    if number == MERCHANT_ID and not _may_be_a_card(value):
        return printable(value)
    # Under a wrong dialect a card number may stand anywhere.
    return printable(_LONG_NUMBER.sub(lambda found: mask_pan(found[0]), value))


@dataclass(frozen=True, slots=True)
class Part:
    """One sub-element as it may be printed; `depth` counts the ones it is in, `position` bytes."""

    id: str
    name: str
    value: str
    position: int
    depth: int = 0


def parts(
    dialect: Dialect, message: Message, number: int, *, certain: bool, unmasked: bool = False
) -> list[Part]:
    """What is inside a field, as far as its dialect says; masked unless all may be seen.

    `certain` is whether somebody named the dialect: under a guessed one the digits of a card number
    may stand anywhere. Raises SubElementError.
    """
    value = message.get(number)
    layout = dialect.layout_of(number, message.mti, value)
    if layout is None:
        return []
    covered = value if unmasked or certain else _LONG_NUMBER.sub(_masked, value)
    return list(_parts(layout.parse(value), covered, layout, unmasked=unmasked, depth=0))


def _masked(found: re.Match[str]) -> str:
    return mask_pan(found[0])


def _parts(
    elements: Iterable[SubElement], covered: str, layout: Layout, *, unmasked: bool, depth: int
) -> Iterator[Part]:
    for one in elements:
        begins = one.position * (2 if layout.is_hex else 1) + len(one.head)
        text = covered[begins : begins + len(one.value)]
        if one.children:
            text = ""
        elif not (one.shown or unmasked):
            text = f"[{len(one.value)}]"
        elif not unmasked:
            text = _LONG_NUMBER.sub(_masked, text)
        yield Part(one.id, one.name, printable(text), one.position, depth)
        yield from _parts(one.children, covered, layout, unmasked=unmasked, depth=depth + 1)


def _may_be_a_card(digits: str) -> bool:
    """Whether the check digit is right (ISO/IEC 7812-1, annex B), as in one number of ten."""
    if not (digits.isascii() and digits.isdigit()):
        return True
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (doubled + sum(map(int, digits[::-2]))) % 10 == 0


def surroundings(reading: Reading, *, unmasked: bool) -> tuple[str, ...]:
    """The lines of hex around the byte where reading stopped, with their offsets. Unless all may be
    seen, what might be of a card is `**`, and lines with nothing else lack."""
    if reading.error is None:
        return ()
    data, position = reading.data, reading.error_position
    first = max(0, position // _LINE_BYTES - 1) * _LINE_BYTES
    rows = range(first, min(first + 3 * _LINE_BYTES, len(data)), _LINE_BYTES)
    if unmasked:
        return tuple(f"{at:04X}  {data[at : at + _LINE_BYTES].hex(' ').upper()}" for at in rows)
    heading, body = data[: reading.start], data[reading.start :]
    lines = {
        int(line[:4], 16): line
        for line in masked_frame(Codec(reading.dialect), heading, body, reading.error).lines
    }
    return tuple(lines[at] for at in rows if at in lines)


def context(reading: Reading, *, unmasked: bool) -> str:
    """The bytes where reading stopped, in hex; only the first two, unless all may be seen."""
    position = reading.error_position
    if not unmasked:
        return reading.data[position : position + 2].hex(" ").upper() or "the end"
    before = reading.data[max(0, position - _CONTEXT_BYTES) : position].hex(" ").upper()
    after = reading.data[position : position + _CONTEXT_BYTES].hex(" ").upper()
    return f"{before} >> {after or 'the end'}"


def _readings(data: bytes, codec: Codec) -> Iterator[Reading]:
    for prefix, tpdu, header in _frames(data, codec.dialect.frame):
        start = prefix + tpdu + header
        error: ParseError | None = None
        try:
            message = codec.decode(data[start:])
        except ParseError as caught:
            error = caught.with_traceback(None)
            message = codec.decode_part(data[start:])
        middle = prefix + tpdu
        parts = data[:prefix], data[prefix:middle], data[middle:start]
        yield Reading(codec.dialect, data, *parts, message, error)


def _frames(data: bytes, usual: FramingSpec) -> Iterator[tuple[int, int, int]]:
    """Bytes of length prefix, TPDU and header that the data may begin with."""
    headers = dict.fromkeys((usual.header_bytes, *_ORDINARY_HEADERS))
    for prefix in _prefixes(data):
        for tpdu in (0, TPDU_BYTES):
            if tpdu and not 0x60 <= data[prefix : prefix + 1].ljust(1)[0] <= 0x6F:
                continue
            for header in headers:
                if prefix + tpdu + header < len(data) or not header:
                    yield prefix, tpdu, header


def _prefixes(data: bytes) -> Iterator[int]:
    """Sizes of a length prefix that says how much follows it (or how much there is with it)."""
    yield 0
    for size in (2, 4):
        lengths = {int.from_bytes(data[:size], "big")}
        text = data[:size].decode("ascii", "replace") if size == 4 else data[:size].hex()
        if text.isascii() and text.isdigit():
            lengths.add(int(text))
        # Published dumps often have a wrong length; a TPDU after it tells as well.
        if lengths & {len(data), len(data) - size} or (size == 2 and data[2:3] == b"\x60"):
            yield size


def _likelihood(reading: Reading) -> float:
    """Greater where more speaks for a reading: what can be read whole is above all else."""
    usual = reading.dialect.frame
    frame = 2.0 * bool(reading.prefix) + 1.0 * (len(reading.header) == usual.header_bytes)
    frame += 1.0 * (bool(reading.tpdu) == usual.tpdu)
    message, error = reading.message, reading.error
    points = [_plausible(reading.dialect, number, message) for number in message.fields]
    # A message of no field at all is hardly one.
    average = sum(points) / len(points) if points else -1.0
    if error is not None:
        # How far a wrong dialect gets is chance: what it made of the fields tells more.
        known = 40.0 * is_mti(error.mti) + 10.0 * bool(error.stan) + 30.0 * average
        return known + frame + 20.0 * error.position / max(1, len(reading.data))
    year = {"0": "87", "1": "93"}.get(message.mti[:1], "")
    edition = 3.0 * (year not in reading.dialect.name and reading.dialect.name.startswith("iso"))
    return 100.0 + 30.0 * is_mti(message.mti) + 60.0 * average + frame - edition


def _plausible(dialect: Dialect, number: int, message: Message) -> float:
    """1 where a value looks like what its field holds, below 0 where it cannot be that."""
    value, kind = message.fields[number], dialect.fields[number].type
    if number in _DATES and len(value) in (4, 10):
        return 1.0 if re.fullmatch(_DATES[number], value) else -1.0
    if kind == "n":
        return 1.0 if not value or (value.isascii() and value.isdigit()) else -1.0
    if kind == "z":
        return 1.0 if _TRACK.fullmatch(value) else 0.0
    if kind == "b":
        return 0.5
    return 1.0 if value.isprintable() else -0.5


# --- meanings ----------------------------------------------------------------------------------

_CLASSES: Final = {
    "1": "authorisation",
    "2": "financial",
    "3": "file or batch",
    "4": "reversal",
    "5": "settlement",
    "6": "administrative",
    "7": "fee collection",
    "8": "network management",
}
_FUNCTIONS: Final = {
    "0": "request",
    "1": "response",
    "2": "advice",
    "3": "advice response",
    "4": "notification",
}
_CODES: Final[Mapping[int, Mapping[str, str]]] = {
    25: {"00": "normal", "06": "pre-authorisation", "08": "mail or telephone", "59": "e-commerce"},
    39: {
        "00": "approved",
        "05": "do not honour",
        "12": "invalid transaction",
        "13": "invalid amount",
        "14": "no such card",
        "25": "original not found",
        "30": "format error",
        "51": "not enough funds",
        "54": "expired card",
        "55": "wrong PIN",
        "57": "not permitted to the card",
        "58": "not permitted to the terminal",
        "61": "over the amount limit",
        "63": "security violation",
        "65": "over the count limit",
        "68": "answer came too late",
        "75": "too many wrong PINs",
        "91": "issuer unavailable",
        "94": "duplicate",
        "96": "malfunction",
        "97": "no such terminal",
        "98": "no answer in time",
        "A0": "wrong MAC",
    },
    49: {"156": "CNY", "344": "HKD", "392": "JPY", "826": "GBP", "840": "USD", "978": "EUR"},
    70: {"001": "sign-on", "002": "sign-off", "161": "key change", "301": "echo"},
}


def meaning_of_mti(message: Message) -> str:
    """What the message type says, and the kind of transaction where that is known."""
    mti = message.mti
    words = [_CLASSES.get(mti[1:2], ""), _FUNCTIONS.get(mti[2:3], "")]
    if message.is_repeat:
        words.append("(repeat)")
    kind = kind_of(message)
    said = " ".join(filter(None, words))
    return f"{said}: {kind.value}" if kind is not Kind.UNKNOWN and message.is_request else said


def meaning(number: int, value: str) -> str:
    """What a code stands for; empty where it is no code, or not a common one."""
    if number == ENTRY_MODE:
        mode = entry_mode(Message("", {ENTRY_MODE: value}))
        return "" if mode is EntryMode.UNKNOWN else mode.value
    return _CODES.get(number, {}).get(value, "")
