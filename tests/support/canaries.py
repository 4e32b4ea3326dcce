"""Canaries: card data that every test sends, and the search that must never find them at rest."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from loadtest.cards import luhn_digit

# Cards nobody has: major industry 9 is for national use, and no country is numbered 999. Of 19
# digits, so that the nine which no mask may show occur nowhere by accident.
_PAN_BODY = "999999" + "407183526" + "814"
PAN = _PAN_BODY + luhn_digit(_PAN_BODY)
PAN_HIDDEN = PAN[6:-4]
PAN_MASKED = PAN[:6] + "*" * len(PAN_HIDDEN) + PAN[-4:]

EXPIRY = "4907"
SERVICE_CODE = "201"
_DISCRETIONARY_1 = "58206394170025"
_DISCRETIONARY_2 = "7315920486"
_DISCRETIONARY_3 = "60482917355019283746"
NAME = "ZYVEXHOLM/QUILLON"
TRACK_1 = f"B{PAN}^{NAME}^{EXPIRY}{SERVICE_CODE}{_DISCRETIONARY_1}"
TRACK_2 = f"{PAN}={EXPIRY}{SERVICE_CODE}{_DISCRETIONARY_2}"
TRACK_3 = f"01{PAN}={_DISCRETIONARY_3}"
PIN_BLOCK = "9B3FE6A17C52D048"
CVV = "CVC2=907431528664"  # longer than any, so that it occurs nowhere by accident either


def _tag(name: str, value: str) -> str:
    value += "F" * (len(value) % 2)
    return f"{name}{len(value) // 2:02X}{value}"


# Track 2 equivalent, card number, expiry, track 1 discretionary data; and what is no secret.
CHIP_DATA = "".join(
    (
        _tag("57", TRACK_2.replace("=", "D")),
        _tag("5A", PAN),
        _tag("5F24", EXPIRY + "31"),
        _tag("82", "1980"),
        _tag("9F1F", _DISCRETIONARY_1.encode().hex().upper()),
        _tag("9F36", "0042"),
    )
)

CARD_FIELDS = {
    2: PAN,
    14: EXPIRY,
    35: TRACK_2,
    36: TRACK_3,
    45: TRACK_1,
    48: CVV,
    52: PIN_BLOCK,
    55: CHIP_DATA,
}

# What identifies, without the neighbours that may be shown (first six, last four digits).
SECRETS = {
    "card number": PAN_HIDDEN,
    "card number, longer": PAN[5:-3],
    "card number, whole": PAN,
    "track 1": _DISCRETIONARY_1,
    "track 1, name": NAME,
    "track 2": _DISCRETIONARY_2,
    "track 3": _DISCRETIONARY_3,
    "track 2, expiry": f"={EXPIRY}{SERVICE_CODE}",
    "track 2 equivalent": f"D{EXPIRY}{SERVICE_CODE}{_DISCRETIONARY_2}",
    "track 2 equivalent, expiry": f"D{EXPIRY}{SERVICE_CODE}",
    "track 1, expiry": f"^{EXPIRY}{SERVICE_CODE}",
    "expiry of the chip": _tag("5F24", EXPIRY + "31"),
    "expiry, as JSON": f'"14":"{EXPIRY}"',
    "PIN block": PIN_BLOCK,
    "CVV": CVV.partition("=")[2],
}


class Sighting(NamedTuple):
    """Where a secret was found, and how it was written."""

    place: str
    secret: str
    form: str


def forms(value: str) -> Iterator[tuple[str, bytes]]:
    """How a value might be written: text, hex, packed digits, base64 at each alignment."""
    text = value.encode()
    yield "text", text
    yield "text, lower case", text.lower()
    yield "UTF-16", value.encode("utf-16-le")
    yield "hex of its text", text.hex().encode()
    yield "hex of its text, upper case", text.hex().upper().encode()
    yield from _base64("text", text)
    for name, digits in (("even", value), ("odd", value[1:])):
        packed = digits[: len(digits) // 2 * 2]
        # Of less than five bytes it would be found somewhere by accident.
        if len(packed) >= 10 and set(packed) <= set("0123456789ABCDEF"):
            yield f"packed, {name}", bytes.fromhex(packed)
            yield from _base64(f"packed, {name}", bytes.fromhex(packed))


def _base64(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Base64 of something that holds the data, wherever in it the data begins."""
    for before in range(3):
        encoded = b64encode(bytes(before) + data)
        # The characters at both ends depend on the neighbours too.
        first = (before * 8 + 5) // 6
        last = (before + len(data)) * 8 // 6
        if last - first >= 8:
            yield f"base64 of its {name}, {before}", encoded[first:last]


_NEEDLES = [(secret, *form) for secret, value in SECRETS.items() for form in forms(value)]


def search(place: str, data: bytes) -> list[Sighting]:
    """Each secret that the data holds, in each form that it is found in."""
    return [Sighting(place, secret, form) for secret, form, needle in _NEEDLES if needle in data]


def search_files(folder: Path) -> list[Sighting]:
    """Each secret in any regular file under a folder, or in the name of one."""
    return [
        sighting
        for place, content in contents_under(folder)
        for data in (content, place.encode())
        for sighting in search(place, data)
    ]


def contents_under(folder: Path) -> Iterator[tuple[str, bytes]]:
    """All regular files, hidden ones too, by their paths from there; less those that a program
    that runs takes away meanwhile."""
    for path in sorted(folder.rglob("*")):
        try:
            content = path.read_bytes() if path.is_file() else None
        except FileNotFoundError:
            continue
        if content is not None:
            yield str(path.relative_to(folder)), content
