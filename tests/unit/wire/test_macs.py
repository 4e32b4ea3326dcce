"""MACs in messages: what they cover, and bodies with them."""

from __future__ import annotations

import pytest

from gateway.errors import EncodeError, ParseError
from gateway.wire.codec import Codec
from gateway.wire.data_blocks import track_block, whole_decrypted, whole_encrypted
from gateway.wire.dialect import shipped_dialects
from gateway.wire.macs import MacPlace
from gateway.wire.message import Kind, Message, kind_of
from gateway.wire.requirements import requirement_of, with_requirement
from gateway.wire.working_keys import (
    SIZES,
    CarriedKey,
    as_bytes,
    as_value,
    packed,
    unpacked,
    unpacked_blocks,
)

DIALECTS = shipped_dialects()
MAC = bytes.fromhex("0123456789ABCDEF")
FIELDS = {3: "000000", 4: "000000001250", 11: "000001", 41: "T0000001", 42: "MERCHANT0000001"}


@pytest.mark.parametrize("name", sorted(set(DIALECTS) - {"visa_like"}))
@pytest.mark.parametrize("second", [False, True])
def test_what_is_sealed_is_covered_to_the_byte(name: str, second: bool) -> None:
    codec = Codec(DIALECTS[name])
    if second and ("128" not in codec.dialect.spec or "70" not in codec.dialect.spec):
        pytest.skip("has no second bitmap")
    place = MacPlace(codec)
    seen: list[bytes] = []

    def compute(data: bytes) -> bytes:
        seen.append(data)
        return MAC

    message = Message("0200", FIELDS | ({70: "301"} if second else {}))
    body = place.sealed(message, compute)
    got = codec.decode(body)
    assert got.get(128 if second else 64) == MAC.hex().upper()
    covered = place.covered(got)
    assert covered == (seen[0], MAC)
    assert body.startswith(covered.data)
    assert place.sealed(got, compute) == body  # one that it had is made anew


def test_a_message_without_a_mac_covers_nothing() -> None:
    codec = Codec(DIALECTS["iso87_ascii"])
    assert MacPlace(codec).covered(codec.decode(codec.encode(Message("0200", FIELDS)))) is None


def test_a_mac_that_is_no_hexadecimal_is_none() -> None:
    codec = Codec(DIALECTS["iso87_ascii"])
    body = MacPlace(codec).sealed(Message("0200", FIELDS), lambda _: MAC)
    message = codec.decode(body)
    spoilt = Message(message.mti, message.fields, body[:-1] + b"G")
    assert MacPlace(codec).covered(spoilt) is None


def test_a_mac_of_another_length_is_refused() -> None:
    with pytest.raises(EncodeError, match="MAC of 7 bytes"):
        MacPlace(Codec(DIALECTS["iso87_ascii"])).sealed(Message("0200", FIELDS), lambda _: MAC[:7])


def test_requirements_are_a_nibble_of_the_header() -> None:
    header = bytes.fromhex("602250000000")
    assert with_requirement(header, 3).hex() == "602253000000"
    assert requirement_of(with_requirement(header, 3)) == 3
    assert with_requirement(b"\x60", 3) == b"\x60"
    assert requirement_of(b"") == 0


@pytest.mark.parametrize(("size", "shape"), sorted(SIZES.items()))
def test_working_keys_fill_their_sizes(size: int, shape: tuple[int, int]) -> None:
    length, count = shape
    keys = [CarriedKey(bytes([number]) * length, b"CHEK") for number in range(1, count + 1)]
    field = packed(keys)
    assert len(field) == size
    assert unpacked(field, [length] * count) == keys


def test_a_shorter_mac_key_is_filled_up() -> None:
    keys = [CarriedKey(b"P" * 16, b"1111"), CarriedKey(b"M" * 8, b"2222")]
    field = packed(keys)
    assert field == b"P" * 16 + b"1111" + b"M" * 8 + bytes(8) + b"2222"
    assert unpacked(field, [16, 8]) == keys


@pytest.mark.parametrize("size", [0, 39, 41, 60])
def test_keys_of_another_size_are_refused(size: int) -> None:
    with pytest.raises(ParseError, match="2 keys take 40"):
        unpacked(bytes(size), [16, 16])


def test_key_blocks_say_how_long_they_are() -> None:
    blocks = [b"B0040".ljust(40, b"0"), b"D0048".ljust(48, b"1")]
    field = packed(CarriedKey(block) for block in blocks)
    assert [one.wrapped for one in unpacked_blocks(field, 2)] == blocks
    for spoilt in (field[:-1], field + b"x", b"B9999", b"Bxxxx".ljust(40)):
        with pytest.raises(ParseError):
            unpacked_blocks(spoilt, 2)
    with pytest.raises(ParseError, match="2 key blocks where 3"):
        unpacked_blocks(field, 3)


@pytest.mark.parametrize("name", ["iso87_ascii", "unionpay_pos"])
def test_keys_are_values_of_text_and_of_binary_fields(name: str) -> None:
    dialect = DIALECTS[name]
    for data in (bytes(range(40)), b"B0040".ljust(40, b"0")):
        assert as_bytes(as_value(data, dialect, 62), dialect, 62) == data
    with pytest.raises(ParseError):
        as_bytes("no keys", dialect, 62)


@pytest.mark.parametrize("digits", range(12, 38))
def test_of_a_track_sixteen_digits_before_its_last_byte_change(digits: int) -> None:
    track = ("6217001234567890123D4912201" + "0" * 20)[:digits]
    changed = track_block(track, lambda block: bytes(byte ^ 0xFF for byte in block))
    last = digits + digits % 2 - 2
    assert len(changed) == digits
    assert changed[last:] == track[last:]
    assert changed[: max(0, last - 16)] == track[: max(0, last - 16)]
    if last >= 16:
        assert all(
            a != b for a, b in zip(changed[last - 16 : last], track[last - 16 :], strict=False)
        )
    again = track_block(changed, lambda block: bytes(byte ^ 0xFF for byte in block))
    assert again == track


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("block_bytes", [8, 16])
def test_a_whole_field_comes_back(block_bytes: int, binary: bool) -> None:
    value = "9F26080123456789ABCDEF" if binary else "B621700^NAME/OF^4912"

    def flip(data: bytes) -> bytes:
        assert len(data) % block_bytes == 0
        return bytes(byte ^ 0x5A for byte in data)

    hidden = whole_encrypted(value, flip, block_bytes=block_bytes, binary=binary)
    assert value not in hidden
    assert whole_decrypted(hidden, flip, binary=binary) == value
    with pytest.raises(ValueError, match="no padding"):
        whole_decrypted(hidden, lambda data: data, binary=binary)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("001", Kind.SIGN_ON),
        ("003", Kind.SIGN_ON),
        ("004", Kind.SIGN_ON),
        ("002", Kind.SIGN_OFF),
        ("301", Kind.ECHO),
        ("951", Kind.NETWORK),
    ],
)
def test_unionpay_says_in_de60_what_a_network_message_is_for(code: str, kind: Kind) -> None:
    assert kind_of(Message("0800", {60: f"00000001{code}"})) is kind
    assert kind_of(Message("0800", {60: f"00000001{code}", 70: "161"})) is Kind.KEY_CHANGE
