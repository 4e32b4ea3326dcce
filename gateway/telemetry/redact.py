"""The last look at an event's values: card numbers masked, everything made safe to write."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Values that are long numbers by nature, or that the gateway itself made of nothing secret: a
# merchant number or a clock reading that happens to pass the check digit stays as it is.
SAFE_FIELDS = frozenset(
    (
        "address",
        "certificate_sha256",
        "config_version",
        "dialect",
        "fingerprint",
        "kind",
        "link",
        "listener",
        "merchant",
        "merchant_id",
        "peer",
        "rrn",
        "sha256",
        "stan",
        "terminal",
        "terminal_id",
        "time",
        "transaction",
        "transaction_id",
        "upstream",
        "upstream_stan",
    )
)
_SAFE_ENDINGS = ("_ms", "_us", "_ns")

# Names under which no value is ever written, whoever asks.
HIDDEN_FIELDS = frozenset(
    (
        "card_number",
        "cvc",
        "cvv",
        "pan",
        "password",
        "pin",
        "pin_block",
        "secret",
        "track",
        "track_1",
        "track_2",
        "track_3",
    )
)
# Names that a line gives a meaning of its own.
RESERVED_FIELDS = frozenset(("time", "level", "event", "node"))

_SPECIAL_FIELDS = HIDDEN_FIELDS | RESERVED_FIELDS

PAN_DIGITS_MIN, PAN_DIGITS_MAX = 13, 19
SAFE_CHARACTERS_MAX = 80  # a value of a safe field longer than this is looked at all the same
VALUE_CHARACTERS_MAX = 8_192
RUN_DIGITS_MAX = 64  # a longer run is masked unseen: looking at it would take too long
NESTING_MAX = 4
ITEMS_MAX = 100

_SMALLEST_PAN = 10 ** (PAN_DIGITS_MIN - 1)
_DIGIT_RUN = re.compile(r"[0-9](?:[ -]?[0-9]){12,}")
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def redact(fields: dict[str, object]) -> None:
    """Make an event's fields safe to write, in place.

    Card numbers in text and in whole numbers are masked, but for the fields in `SAFE_FIELDS`;
    bytes are told by their number only; what is not text, a number or a truth value becomes text.
    """
    if not _SPECIAL_FIELDS.isdisjoint(fields):
        _rename_special(fields)
    for name, value in fields.items():
        if type(value) is str:
            length = len(value)
            if length >= PAN_DIGITS_MIN and (
                name not in SAFE_FIELDS or length > SAFE_CHARACTERS_MAX
            ):
                fields[name] = _text(value)
        elif type(value) is int:
            if not -_SMALLEST_PAN < value < _SMALLEST_PAN and not _is_safe(name):
                fields[name] = _number(value)
        elif type(value) is float or type(value) is bool or value is None:
            pass
        elif isinstance(value, str):
            # An enumeration: as text, or both renderers would have to know it.
            text = str.__str__(value)
            fields[name] = text if len(text) < PAN_DIGITS_MIN else _text(text)
        else:
            fields[name] = tame(value)


def tame(value: object, depth: int = 0) -> object:
    """The value as text, numbers and containers of them, masked, bounded and encodable."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return _number(int(value))
    if isinstance(value, str):
        return _text(str.__str__(value).encode("utf-8", "backslashreplace").decode())
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if depth < NESTING_MAX:
        if isinstance(value, Mapping):
            return {
                str(tame(str(name))): "[hidden]" if name in HIDDEN_FIELDS else tame(item, depth + 1)
                for name, item in list(value.items())[:ITEMS_MAX]
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [tame(item, depth + 1) for item in list(value)[:ITEMS_MAX]]
    try:
        return tame(str(value))
    except Exception:
        # Whatever its `__str__` did, the rest of the event is still worth writing.
        return f"<{type(value).__name__}>"


def printable(text: str) -> str:
    """Text with every character that could break a line or a terminal escaped; always ASCII."""
    if text.isascii() and text.isprintable():
        return text
    return text.encode("ascii", "backslashreplace").decode().translate(_CONTROLS)


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


def mask_card_numbers(text: str) -> str:
    """The text with every run of digits that may be a card number masked."""
    return _DIGIT_RUN.sub(_mask_run, text) if _DIGIT_RUN.search(text) else text


def _rename_special(fields: dict[str, object]) -> None:
    for name in HIDDEN_FIELDS.intersection(fields):
        fields[name] = "[hidden]"
    for name in RESERVED_FIELDS.intersection(fields):
        fields[f"{name}_"] = fields.pop(name)


def _is_safe(name: str) -> bool:
    return name in SAFE_FIELDS or name.endswith(_SAFE_ENDINGS)


def _text(text: str) -> str:
    if len(text) > VALUE_CHARACTERS_MAX:
        # Masked before it is cut, or the cut could leave a card number too short to be seen.
        masked = mask_card_numbers(text[: 2 * VALUE_CHARACTERS_MAX])
        return f"{masked[:VALUE_CHARACTERS_MAX]}[cut, {len(text)} characters]"
    return mask_card_numbers(text)


def _number(value: int) -> int | str:
    if -_SMALLEST_PAN < value < _SMALLEST_PAN:
        return value
    if not -(1 << 63) <= value < 1 << 64:
        return f"[integer of {value.bit_length()} bits]"
    text = str(value)
    masked = mask_card_numbers(text)
    return value if masked == text else masked


def _mask_run(found: re.Match[str]) -> str:
    run = found.group()
    groups = re.split("[ -]", run)
    return _masked("".join(groups)) if _holds_card_number(groups) else run


def _holds_card_number(groups: list[str]) -> bool:
    """Whether neighbouring groups of digits, put together, may be a card number."""
    if sum(map(len, groups)) > RUN_DIGITS_MAX:
        return True
    for first in range(len(groups)):
        digits = ""
        for group in groups[first:]:
            digits += group
            if len(digits) > PAN_DIGITS_MAX:
                # Longer than a card number and in one piece: track data or a raw message.
                if len(group) > PAN_DIGITS_MAX:
                    return True
                break
            if len(digits) >= PAN_DIGITS_MIN and passes_luhn(digits):
                return True
    return False


def _masked(digits: str) -> str:
    return digits[:6] + "*" * (len(digits) - 10) + digits[-4:]


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before it (ISO/IEC 7812-1, annex B)."""
    values = [ord(digit) - 48 for digit in reversed(digits)]
    return (sum(values[::2]) + sum(_DOUBLED[value] for value in values[1::2])) % 10 == 0
