"""Good messages of every shipped dialect, framed as their links frame them, to begin from."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import EncodeError
from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.framing import FramingSpec, encode_frame
from gateway.wire.message import Message
from tests.support import canaries

_TPDU = bytes.fromhex("6000010002")
_MESSAGES = {
    "0800": {7: "1121203354", 11: "000001", 60: "00000001003", 70: "301"},
    "0200": {
        3: "000000",
        4: "000000001250",
        7: "1121203354",
        11: "000123",
        12: "203354",
        13: "1121",
        22: "051",
        23: "001",
        25: "00",
        32: "00000000001",
        37: "RRN000000123",
        41: "T0000001",
        42: "MERCHANT0000001",
        49: "978",
        60: "22000001000",
        64: "0011223344556677",
        **canaries.CARD_FIELDS,
    },
    "0210": {3: "000000", 4: "000000001250", 11: "000123", 38: "A1B2C3", 39: "00", 41: "T0000001"},
    "0420": {
        3: "000000",
        4: "000000001250",
        11: "000124",
        39: "68",
        41: "T0000001",
        90: "0200" + "000123" + "1121203354" + "0" * 22,
        95: "0" * 42,
        102: "00112233",
    },
}


@dataclass(frozen=True, slots=True)
class Link:
    """A codec and a framing: what one listener reads with."""

    codec: Codec
    spec: FramingSpec


@dataclass(frozen=True, slots=True)
class Seed:
    """A message's body, for a link that reads it."""

    link: int
    body: bytes


def links() -> list[Link]:
    """Each shipped dialect under its usual framing, and one of them under every other."""
    codecs = {name: Codec(dialect) for name, dialect in shipped_dialects().items()}
    found = [Link(codec, codec.dialect.frame) for codec in codecs.values()]
    plain = codecs["iso87_bcd"]
    specs = (
        FramingSpec(length="binary4"),
        FramingSpec(length="ascii4", length_includes_itself=True),
        FramingSpec(length="bcd2", tpdu=True),
        FramingSpec(length="stx_bcd2"),
        FramingSpec(header_bytes=26, header_counts_itself=True),
    )
    found += [Link(plain, spec) for spec in specs]
    return [*found, Link(codecs["iso87_ascii"], FramingSpec(length="stx_etx"))]


def seeds(all_links: list[Link]) -> list[Seed]:
    """Every message under every link."""
    return [
        Seed(number, _written(link.codec, mti, fields))
        for number, link in enumerate(all_links)
        for mti, fields in _MESSAGES.items()
    ]


def _written(codec: Codec, mti: str, fields: dict[int, str]) -> bytes:
    """The body with as many of the fields as the dialect can write."""
    kept: dict[int, str] = {}
    if codec.dialect.name.startswith("iso93"):
        mti = "1" + mti[1:]
    for number, value in sorted(fields.items()):
        for form in (value, value.replace("=", "D"), value.encode().hex().upper()):
            try:
                codec.encode(Message(mti, {number: form}))
            except EncodeError:
                continue
            kept[number] = form
            break
    return codec.encode(Message(mti, kept))


def framed(spec: FramingSpec, body: bytes) -> bytes:
    """The frame of a body. Raises EncodeError where this framing cannot carry it."""
    header = bytes(spec.header_bytes)
    if spec.header_counts_itself:
        header = bytes((len(header),)) + header[1:]
    return encode_frame(spec, body, _TPDU if spec.tpdu else b"", header)
