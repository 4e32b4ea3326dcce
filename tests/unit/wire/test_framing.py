"""Frames: prefixes, bounds, TPDU and header, and what is refused before it is held."""

from __future__ import annotations

import pytest

from gateway.errors import EncodeError, FrameError
from gateway.settings.schema_base import Framing
from gateway.wire.framing import (
    Frame,
    FrameReader,
    FramingSpec,
    answering_tpdu,
    encode_frame,
    frame_of,
)

BODY = b"0800" + b"0" * 16
TPDU = b"\x60\x00\x01\x00\x02"


def test_names_are_those_of_the_settings() -> None:
    assert FramingSpec(**Framing(header_bytes=6, tpdu=True).model_dump()) == FramingSpec(
        header_bytes=6, tpdu=True
    )


@pytest.mark.parametrize(
    ("spec", "prefix"),
    [
        (FramingSpec(), b"\x00\x14"),
        (FramingSpec(length_includes_itself=True), b"\x00\x16"),
        (FramingSpec(length="ascii4"), b"0020"),
        (FramingSpec(length="ascii4", length_includes_itself=True), b"0024"),
        (FramingSpec(length="bcd2"), b"\x00\x20"),
        (FramingSpec(length="bcd2", length_includes_itself=True), b"\x00\x22"),
        (FramingSpec(length="binary4"), b"\x00\x00\x00\x14"),
        (FramingSpec(length="binary4", length_includes_itself=True), b"\x00\x00\x00\x18"),
        (FramingSpec(length="none"), b""),
    ],
)
def test_length_prefix(spec: FramingSpec, prefix: bytes) -> None:
    wire = encode_frame(spec, BODY)
    assert wire == prefix + BODY
    assert frame_of(spec, wire) == Frame(BODY)
    if not prefix:
        return
    reader = FrameReader(spec)
    assert reader.feed(wire) == [Frame(BODY)]
    assert not reader.mid_frame


def test_tpdu_and_header_are_cut_off_and_put_back() -> None:
    spec = FramingSpec(tpdu=True, header_bytes=6)
    wire = encode_frame(spec, BODY, TPDU, b"header")
    assert FrameReader(spec).feed(wire) == [Frame(BODY, TPDU, b"header")]
    spec = FramingSpec(header_bytes=6)
    wire = encode_frame(spec, BODY, header=b"header")
    assert FrameReader(spec).feed(wire) == [Frame(BODY, b"", b"header")]


def test_answering_tpdu_swaps_destination_and_source() -> None:
    assert answering_tpdu(TPDU) == b"\x60\x00\x02\x00\x01"


def test_several_frames_and_a_part_in_one_chunk() -> None:
    reader = FrameReader(FramingSpec())
    wire = encode_frame(FramingSpec(), BODY)
    assert reader.feed(wire + wire + wire[:5]) == [Frame(BODY), Frame(BODY)]
    assert reader.mid_frame
    assert reader.feed(wire[5:]) == [Frame(BODY)]
    assert not reader.mid_frame


def test_bytearray_gives_bytes() -> None:
    (frame,) = FrameReader(FramingSpec()).feed(bytearray(encode_frame(FramingSpec(), BODY)))
    assert type(frame.body) is bytes


@pytest.mark.parametrize("itself", [False, True])
@pytest.mark.parametrize("length", ["binary2", "ascii4", "bcd2"])
def test_keep_alive_is_skipped(length: str, itself: bool) -> None:
    spec = FramingSpec(length=length, length_includes_itself=itself, tpdu=True)  # type: ignore[arg-type]
    wire = encode_frame(spec, BODY, TPDU)
    zero = b"0000" if length == "ascii4" else b"\x00\x00"
    assert FrameReader(spec).feed(zero + wire + zero) == [Frame(BODY, TPDU)]


@pytest.mark.parametrize(
    ("spec", "wire"),
    [
        (FramingSpec(frame_bytes_max=100), b"\xff\xff"),
        (FramingSpec(frame_bytes_max=100), b"\x00\x65"),
        (FramingSpec(), b"\x00\x03"),
        (FramingSpec(tpdu=True), b"\x00\x08"),
        (FramingSpec(header_bytes=6), b"\x00\x09"),
        (FramingSpec(length_includes_itself=True), b"\x00\x01"),
        (FramingSpec(length="ascii4"), b"00 9"),
        (FramingSpec(length="ascii4"), b"+099"),
        (FramingSpec(length="ascii4"), b"\xb200"),
        (FramingSpec(length="bcd2"), b"\x0a\x00"),
    ],
)
def test_a_bad_prefix_is_refused_at_once_and_for_good(spec: FramingSpec, wire: bytes) -> None:
    wire = wire.ljust(4 if spec.length == "ascii4" else 2, b"0")
    reader = FrameReader(spec)
    with pytest.raises(FrameError):
        reader.feed(wire + BODY)
    assert not reader.mid_frame
    with pytest.raises(FrameError):
        reader.feed(encode_frame(FramingSpec(), BODY))
    assert not reader.mid_frame


def test_frames_before_a_bad_one_are_not_lost() -> None:
    reader = FrameReader(FramingSpec())
    wire = encode_frame(FramingSpec(), BODY)
    assert reader.feed(wire + wire + b"\xff\xff") == [Frame(BODY), Frame(BODY)]
    assert isinstance(reader.error, FrameError)
    with pytest.raises(FrameError):
        reader.feed(b"")


def test_no_more_than_one_frame_is_held() -> None:
    spec = FramingSpec(frame_bytes_max=32)
    reader = FrameReader(spec)
    wire = encode_frame(spec, BODY + b"0" * 12)
    for index in range(len(wire) - 1):
        assert reader.feed(wire[index : index + 1]) == []
        assert len(reader._held) == index + 1 <= 34
    assert len(reader.feed(wire[-1:])) == 1


@pytest.mark.parametrize(
    ("spec", "body", "tpdu", "header", "field"),
    [
        (FramingSpec(frame_bytes_max=32), b"0" * 33, b"", b"", "length"),
        (FramingSpec(length="bcd2", frame_bytes_max=65_535), b"0" * 10_000, b"", b"", "length"),
        (FramingSpec(length="ascii4", frame_bytes_max=65_535), b"0" * 10_000, b"", b"", "length"),
        (
            FramingSpec(length_includes_itself=True, frame_bytes_max=65_535),
            b"0" * 65_534,
            b"",
            b"",
            "length",
        ),
        (FramingSpec(tpdu=True), BODY, b"", b"", "TPDU"),
        (FramingSpec(), BODY, TPDU, b"", "TPDU"),
        (FramingSpec(header_bytes=6), BODY, b"", b"short", "header"),
    ],
)
def test_what_cannot_be_framed(
    spec: FramingSpec, body: bytes, tpdu: bytes, header: bytes, field: str
) -> None:
    with pytest.raises(EncodeError) as caught:
        encode_frame(spec, body, tpdu, header)
    assert caught.value.field == field


@pytest.mark.parametrize("count", [b"", b"\x00\x20"])
def test_a_serial_frame_has_a_check_character_over_its_content_and_etx(count: bytes) -> None:
    spec = FramingSpec(length="stx_bcd2" if count else "stx_etx")
    wire = encode_frame(spec, BODY)
    check = 0
    for byte in count + BODY + b"\x03":
        check ^= byte
    assert wire == b"\x02" + count + BODY + b"\x03" + bytes((check,))
    # What lines say between frames (ACK, NAK, EOT) is none of them.
    assert FrameReader(spec).feed(b"\x06\x15" + wire + b"\x04" + wire) == [Frame(BODY)] * 2


def test_only_a_counted_serial_frame_carries_an_etx() -> None:
    body = BODY + b"\x03\x02"
    with pytest.raises(EncodeError, match="stx_bcd2"):
        encode_frame(FramingSpec(length="stx_etx"), body)
    spec = FramingSpec(length="stx_bcd2")
    assert FrameReader(spec).feed(encode_frame(spec, body)) == [Frame(body)]


@pytest.mark.parametrize(
    ("length", "wire", "reason"),
    [
        ("stx_etx", b"0800", "byte 30 where STX"),
        ("stx_etx", b"\x020800\x03\x00", "check character"),
        ("stx_etx", b"\x02" + b"0" * 101, "no ETX"),
        ("stx_bcd2", b"\x02\x0a\x00", "not BCD"),
        ("stx_bcd2", b"\x02\x01\x01", "over the bound"),
        ("stx_bcd2", b"\x02\x00\x040800\x04\x00", "byte 04 where ETX"),
    ],
)
def test_a_garbled_serial_frame_is_refused(length: str, wire: bytes, reason: str) -> None:
    reader = FrameReader(FramingSpec(length=length, frame_bytes_max=100))  # type: ignore[arg-type]
    with pytest.raises(FrameError, match=reason):
        reader.feed(wire)
    with pytest.raises(FrameError):
        reader.feed(b"")


def test_a_header_that_counts_itself_may_be_longer_or_shorter() -> None:
    """As the 22 bytes of an ordinary message and the 26 of one that was rejected."""
    spec = FramingSpec(header_bytes=26, header_counts_itself=True)
    for size in (22, 26):
        header = bytes((size,)) + b"h" * (size - 1)
        wire = encode_frame(spec, BODY, header=header)
        assert FrameReader(spec).feed(wire) == [Frame(BODY, header=header)]
    for header in (b"", b"\x16h", b"\x1b" + b"h" * 26):
        with pytest.raises(EncodeError):
            encode_frame(spec, BODY, header=header)


@pytest.mark.parametrize("first", [0, 17, 27, 255])
def test_a_header_that_counts_itself_wrongly_is_refused(first: int) -> None:
    spec = FramingSpec(header_bytes=26, header_counts_itself=True)
    with pytest.raises(FrameError, match="header"):
        FrameReader(spec).feed(b"\x00\x14" + bytes((first,)) + BODY[1:])


@pytest.mark.parametrize("data", [b"", b"080", b"0" * 101])
def test_a_frame_without_a_length_is_bounded_too(data: bytes) -> None:
    with pytest.raises(FrameError):
        frame_of(FramingSpec(length="none", frame_bytes_max=100), data)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x140800", b"\x00\x040800\x00"])
def test_what_is_not_one_whole_frame_is_none(data: bytes) -> None:
    with pytest.raises(FrameError):
        frame_of(FramingSpec(), data)


def test_a_stream_needs_lengths() -> None:
    with pytest.raises(ValueError, match="frame_of"):
        FrameReader(FramingSpec(length="none"))
