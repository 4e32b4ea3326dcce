"""Frames: prefixes, bounds, TPDU and header, and what is refused before it is held."""

from __future__ import annotations

import pytest

from gateway.errors import EncodeError, FrameError
from gateway.settings.schema_base import Framing
from gateway.wire.framing import Frame, FrameReader, FramingSpec, answering_tpdu, encode_frame

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
    ],
)
def test_length_prefix(spec: FramingSpec, prefix: bytes) -> None:
    wire = encode_frame(spec, BODY)
    assert wire == prefix + BODY
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
