"""Dumps: every way in which people paste bytes gives the bytes back."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.dumps import read_dump
from gateway.wire.framing import FramingSpec, encode_frame

BODY = bytes.fromhex("02003020048020C0801100000000000010000000010510") + b"T0000001ABCDEF0156"


def hexdump(data: bytes, line: str, group: int = 1) -> str:
    """A dump with an offset and the characters in each line, as the usual tools print it."""
    lines = []
    for start in range(0, len(data), 16):
        part = data[start : start + 16]
        hexes = part.hex(" ", group)
        letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(line.format(start=start, hexes=hexes, letters=letters))
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        BODY.hex(),
        BODY.hex().upper() + "\n",
        BODY.hex(" "),
        BODY.hex(":"),
        "0x" + BODY.hex(),
        "\\x" + BODY.hex("|").replace("|", "\\x"),
        ", ".join(f"0x{byte:02X}" for byte in BODY),
        "\n".join(BODY.hex()[i : i + 32] for i in range(0, 2 * len(BODY), 32)),
        hexdump(BODY, "{start:08x}  {hexes:47}  |{letters}|") + f"\n{len(BODY):08x}\n",
        hexdump(BODY, "{start:08x}: {hexes:39}  {letters}", -2),
        hexdump(BODY, "{start:04x}   {hexes:47}   {letters}"),
        hexdump(BODY, "\t0x{start:04x}:  {hexes:39}  {letters}", -2),
        hexdump(BODY, "{start:06x} {hexes}") + f"\n{len(BODY):06x}\n",
    ],
)
def test_pastes(text: str) -> None:
    assert read_dump(text.encode())[0] == BODY


def test_raw_bytes_and_text_stay_themselves() -> None:
    assert read_dump(BODY) == [BODY]
    text = b"0800" + b"8220000000000000" + b"0400000000000000" + b"1121203354000001301"
    assert read_dump(text + b"\n")[-1] == text
    assert read_dump(b"") == []
    assert read_dump(b" \n") == []


@given(data=st.binary(min_size=1, max_size=80))
def test_any_bytes_come_back_from_a_dump(data: bytes) -> None:
    assert read_dump(hexdump(data, "{start:08x}  {hexes:47}  |{letters}|").encode())[0] == data
    assert read_dump(data.hex().encode())[0] == data


@given(data=st.binary(max_size=200))
def test_anything_is_read_without_an_error(data: bytes) -> None:
    assert bool(read_dump(data)) is bool(data.strip())


FRAME = bytes.fromhex("0800002000000080000000000154303030303030 31".replace(" ", ""))


@pytest.mark.parametrize(
    "pasted",
    [
        repr(FRAME).encode(),
        repr(FRAME).replace("'", '"').encode(),
        b64encode(FRAME),
        b64encode(FRAME)[:12] + b"\n" + b64encode(FRAME)[12:] + b"\n",
        b"POST /unp/webtrans HTTP/1.1\r\nContent-Length: 20\r\n\r\n" + FRAME,
        b"HTTP/1.1 200 OK\nContent-Length: 20\n\n" + FRAME,
        encode_frame(FramingSpec(length="stx_bcd2"), FRAME),
        encode_frame(FramingSpec(length="stx_etx"), FRAME),
        encode_frame(FramingSpec(length="stx_bcd2"), FRAME).hex().encode(),
    ],
)
def test_what_programs_write_and_what_carries_frames(pasted: bytes) -> None:
    assert FRAME in read_dump(pasted)


@pytest.mark.parametrize("pasted", [b"b'\\x4'", b"b'" + b"a" * 50, b"AAAA", b"POST / HTTP/1.1\r\n"])
def test_what_only_looks_like_it_is_taken_as_it_is(pasted: bytes) -> None:
    assert read_dump(pasted)[-1] == pasted.strip(b"\r\n")
