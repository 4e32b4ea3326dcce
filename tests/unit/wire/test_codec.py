"""The codec: typed errors, what the fast path leaves to pyiso8583, and its bounds."""

from __future__ import annotations

import logging
import random
import traceback
from pathlib import Path

import iso8583
import pytest

from gateway.errors import EncodeError, ParseError
from gateway.wire import codec as codec_module
from gateway.wire.codec import Codec
from gateway.wire.dialect import load_dialect, shipped_dialects
from gateway.wire.message import Message

PAN = "4761739001010010"
PURCHASE = {
    2: PAN,
    3: "000000",
    4: "000000001000",
    7: "1121203354",
    11: "000001",
    12: "203354",
    13: "1121",
    14: "2912",
    22: "051",
    24: "100",
    25: "00",
    35: PAN + "=29122011143804400000",
    37: "000000000001",
    41: "T0000001",
    42: "MERCHANT0000001",
    49: "840",
}
FULL = PURCHASE | {52: "0123456789ABCDEF", 55: "9F2608", 64: "FEDCBA9876543210", 90: "0" * 42}


def make(name: str = "iso87_ascii") -> Codec:
    return Codec(shipped_dialects()[name])


@pytest.fixture(params=["iso87_ascii", "iso87_ascii_binbitmap"])
def codec(request: pytest.FixtureRequest) -> Codec:
    return make(request.param)


def test_known_bytes() -> None:
    message = Message("0800", {7: "1121203354", 11: "000001", 70: "301"})
    text = b"0800" + b"8220000000000000" + b"0400000000000000" + b"1121203354" + b"000001" + b"301"
    assert make().encode(message) == text
    raw = b"0800" + bytes.fromhex("82200000000000000400000000000000") + text[36:]
    assert make("iso87_ascii_binbitmap").encode(message) == raw


@pytest.mark.parametrize("fields", [PURCHASE, FULL, {39: "00"}, {2: ""}, {}])
def test_round_trip_by_both_paths(codec: Codec, fields: dict[int, str]) -> None:
    message = Message("0200", fields)
    body = codec.reference_encode(message)
    for _ in range(2):
        assert codec.encode(message) == body
        decoded = codec.decode(body)
        assert decoded == message
        assert list(decoded.fields) == sorted(fields)
        assert decoded.raw is body


def test_the_order_of_the_fields_does_not_matter(codec: Codec) -> None:
    backwards = Message("0200", dict(reversed(FULL.items())))
    for _ in range(2):
        assert codec.encode(backwards) == codec.encode(Message("0200", FULL))


def test_the_library_is_asked_once_for_each_layout(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = Message("0200", FULL)
    body = codec.encode(message)
    codec.decode(body)
    monkeypatch.setattr(iso8583, "decode", None)
    monkeypatch.setattr(iso8583, "encode", None)
    other = Message("0420", FULL | {2: "4" * 19, 11: "000002", 55: "5F" * 20})
    assert codec.decode(codec.encode(other)) == other


def test_binary_fields_are_upper_case_hex() -> None:
    codec = make("iso87_ascii_binbitmap")
    body = codec.encode(Message("0200", {52: "abcdef0123456789"}))
    for _ in range(2):
        assert codec.decode(body).fields == {52: "ABCDEF0123456789"}


@pytest.mark.parametrize(
    ("body", "field", "position", "mti", "stan"),
    [
        (b"", "t", 0, "", ""),
        (b"02", "t", 0, "", ""),
        (b"\xff200", "t", 0, "", ""),
        (b"0200", "p", 4, "0200", ""),
        (b"0200XX00000000000000", "p", 4, "0200", ""),
        (b"02000020000000000000", "11", 20, "0200", ""),
        (b"0200002000000000000000001", "11", 20, "0200", ""),
        (b"02000030000000000000000001", "12", 26, "0200", "000001"),
        (b"02000020000000000000000001extra", "11", 26, "0200", "000001"),
        (b"02004020000000000000" + b"99", "2", 20, "0200", ""),
        (b"02004020000000000000" + b"xx", "2", 20, "0200", ""),
        (b"02000020000000000001000001short", "64", 26, "0200", "000001"),
    ],
)
def test_what_cannot_be_read(body: bytes, field: str, position: int, mti: str, stan: str) -> None:
    with pytest.raises(ParseError) as caught:
        make().decode(body)
    error = caught.value
    assert (error.field, error.position, error.mti, error.stan) == (field, position, mti, stan)


def test_a_field_that_the_dialect_lacks(codec: Codec) -> None:
    # Bits 11, 65 and, in the third bitmap, 129: no dialect has that field.
    spec = codec.dialect.spec
    bits = ["8020000000000000", "8000000000000000", "8000000000000000"]
    raw = spec["p"]["data_enc"] == "b"
    bitmaps = b"".join(bytes.fromhex(bit) if raw else bit.encode() for bit in bits)
    body = b"0200" + bitmaps + b"000001" + b"more"
    with pytest.raises(ParseError) as caught:
        codec.decode(body)
    assert caught.value.reason == "is not in the dialect"
    assert (caught.value.field, caught.value.mti, caught.value.stan) == ("129", "0200", "000001")
    assert caught.value.position == len(body) - 4


@pytest.mark.parametrize("number", [0, 1, 65, 129, 193, -1])
def test_no_such_field_can_be_written(codec: Codec, number: int) -> None:
    for _ in range(2):
        with pytest.raises(EncodeError) as caught:
            codec.encode(Message("0200", PURCHASE | {number: "1"}))
        assert caught.value.field == str(number)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({3: "00000"}, "3"),
        ({3: "0000000"}, "3"),
        ({2: "4" * 20}, "2"),
        ({41: "T000000é"}, "41"),
        ({48: "é"}, "48"),
        ({52: "0123"}, "52"),
    ],
)
def test_what_cannot_be_written(codec: Codec, fields: dict[int, str], field: str) -> None:
    codec.encode(Message("0200", FULL | {48: "x"}))
    for message in (Message("0200", fields), Message("0200", FULL | {48: "x"} | fields)):
        with pytest.raises(EncodeError) as caught:
            codec.encode(message)
        assert caught.value.field == field


@pytest.mark.parametrize("mti", ["", "020", "02000", "020é"])
def test_a_type_that_cannot_be_written(codec: Codec, mti: str) -> None:
    codec.encode(Message("0200", PURCHASE))
    with pytest.raises(EncodeError) as caught:
        codec.encode(Message(mti, PURCHASE))
    assert caught.value.field == "t"


def test_unusual_lengths_and_bitmaps_are_the_library_s_to_judge() -> None:
    codec = make()
    plain = b"0200" + b"4020000000000000" + b"0712345670" + b"00001"
    assert codec.decode(plain).fields == {2: "1234567", 11: "000001"}
    for odd in (b" 7", b"+7", b"7 "):
        assert codec.decode(plain[:20] + odd + plain[22:]) == codec.decode(plain)
    lower = b"0200" + b"400000000000c000" + b"001" + b"2" + b"51"
    assert codec.decode(b"0200400000000000c00000" + b"123" + b"456") == codec.decode(
        b"0200400000000000C00000" + b"123" + b"456"
    )
    with pytest.raises(ParseError):
        codec.decode(lower)
    blanks = b"0200" + b"4020000000000  0" + b"07123456" + b"7000001"
    for _ in range(2):
        with pytest.raises(ParseError):
            codec.decode(blanks)
    blanks = b"0200" + b"40200000000000  " + b"07123456" + b"7000001"
    for _ in range(2):
        assert codec.decode(blanks) == codec.decode(plain)


def test_an_empty_third_bitmap_is_read_by_the_library(codec: Codec) -> None:
    raw = codec.dialect.spec["p"]["data_enc"] == "b"
    bits = ["8020000000000000", "8000000000000000", "0000000000000000"]
    bitmaps = b"".join(bytes.fromhex(bit) if raw else bit.encode() for bit in bits)
    for _ in range(2):
        assert codec.decode(b"0200" + bitmaps + b"000001").fields == {11: "000001"}


def test_layouts_are_bounded(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_module, "_LAYOUTS_MAX", 8)
    source = random.Random(2)
    names = sorted(FULL)
    for _ in range(200):
        message = Message("0200", {n: FULL[n] for n in source.sample(names, 4)})
        assert codec.decode(codec.encode(message)) == message
        assert len(codec._readers) <= 8
        assert len(codec._writers) <= 8


def test_garbage_is_never_learnt(codec: Codec) -> None:
    source = random.Random(2)
    for _ in range(300):
        with pytest.raises(ParseError):
            codec.decode(b"0200" + source.randbytes(60))
    assert not codec._readers


def test_errors_hold_no_card_data(codec: Codec, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    body = codec.encode(Message("0200", PURCHASE)) + b"extra"
    with pytest.raises(ParseError) as read:
        codec.decode(body)
    with pytest.raises(EncodeError) as written:
        codec.encode(Message("0200", PURCHASE | {2: PAN * 2}))
    for error in (read.value, written.value):
        text = "".join(traceback.format_exception(error))
        assert PAN not in text + repr(vars(error)) + str(error)
        assert error.__context__ is None
    assert PAN not in caplog.text


def extended(folder: Path, text: str) -> Codec:
    file = folder / "extended.toml"
    file.write_text('name = "extended"\nextends = "iso87_ascii"\n' + text, encoding="utf-8")
    return Codec(load_dialect(file))


def test_a_bitmap_with_blanks_is_never_learnt() -> None:
    # Two blanks and seven bytes: the first bit says that a second bitmap follows, though the first
    # character does not. Read as if none did, its digits would pass for the length of field 46.
    body = b"0200" + b"  80000000000400" + b"1000000000000000" + b"081" + b"x" * 81 + b"840"
    codec = make()
    for _ in range(2):
        assert codec.decode(body).fields == {46: "x" * 81, 68: "840"}
    assert not codec._readers


PADDED = """
[defaults]
len_count = "nibbles"
[fields]
2 = { data_enc = "b", len = "LLVAR", max = 19, right_pad = "F" }
22 = { data_enc = "b", max = 3, right_pad = "0" }
23 = { data_enc = "b", max = 3, left_pad = "0" }
32 = { data_enc = "b", len = "LLVAR", max = 11, left_pad = "A" }
"""


def test_pads_are_written_and_checked(tmp_path: Path) -> None:
    codec = extended(tmp_path, PADDED)
    message = Message("0200", {2: "12345", 22: "051", 23: "001", 32: "123"})
    body = b"02004000060100000000" + b"05\x12\x34\x5f" + b"\x05\x10\x00\x01" + b"03\xa1\x23"
    for _ in range(2):
        assert codec.encode(message) == body
        assert codec.decode(body) == message
    for good, bad in ((b"\x5f", b"\x50"), (b"\x05\x10", b"\x05\x11"), (b"\xa1", b"\x01")):
        wrong = body.replace(good, bad)
        assert wrong != body
        with pytest.raises(ParseError):
            codec.decode(wrong)


def test_lengths_are_bytes_where_letters_take_more(tmp_path: Path) -> None:
    text = '[fields]\n41 = { data_enc = "utf-8" }\n42 = { data_enc = "utf-8" }\n'
    codec = extended(tmp_path, text)
    ordinary = Message("0200", {41: "T0000001", 42: "MERCHANT0000001"})
    letters = Message("0200", {41: "éééé", 42: "é" * 7 + "1"})
    for message in (ordinary, letters):
        for _ in range(2):
            body = codec.encode(message)
            assert len(body) == 20 + 23
            assert codec.decode(body) == message
    with pytest.raises(EncodeError):
        codec.encode(Message("0200", {41: "é" * 8, 42: "é" * 15}))


TRACK_2 = "6258090000000751D200520100000000000000"[:37]


def test_either_pad_is_read_and_written_again() -> None:
    codec = make("unionpay_pos")
    message = Message("0200", {2: "6258090000000000751", 11: "000001", 35: TRACK_2})
    zero = codec.encode(message)
    packed = bytes.fromhex(TRACK_2 + "0")
    assert zero.endswith(packed)
    other = zero.removesuffix(packed) + bytes.fromhex(TRACK_2 + "F")
    for _ in range(2):  # by the reference, then by the layout that it learnt
        assert not codec.decode(zero).pads
        read = codec.decode(other)
        assert read == message
        assert dict(read.pads) == {35: "F"}
        assert codec.encode(read) == other
        # It stays with the message as it goes through the gateway, and out of other dialects.
        onward = read.changed({11: "000002"}).without([2])
        assert codec.encode(onward).endswith(b"\x0f")
        assert make().encode(onward).endswith(TRACK_2.encode())
    wrong = zero[:-1] + bytes.fromhex("0A")
    for _ in range(2):
        with pytest.raises(ParseError) as caught:
            codec.decode(wrong)
        assert (caught.value.field, caught.value.stan) == ("35", "000001")


def test_pads_of_fixed_fields_have_a_side_each() -> None:
    codec = make("unionpay_pos")
    message = Message("0200", {22: "021", 23: "001"})
    body = bytes.fromhex("0200" + "0000060000000000" + "0210" + "0001")
    for _ in range(2):
        assert codec.encode(message) == body
        assert codec.decode(body) == message
    both = body[:-4] + bytes.fromhex("021F" + "F001")
    for _ in range(2):
        read = codec.decode(both)
        assert read == message
        assert dict(read.pads) == {22: "F", 23: "F"}
        assert codec.encode(read) == both


def test_text_of_unionpay_may_be_chinese() -> None:
    codec = make("unionpay_pos")
    name = "\u58a8\u6587\u54f2" + " " * 34
    message = Message("0810", {43: name, 56: "\u6210\u529f"})
    for _ in range(2):
        body = codec.encode(message)
        assert codec.decode(body) == message
    assert name.encode("gb18030") in body
