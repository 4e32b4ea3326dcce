"""Nothing of a card is seen of a frame that could not be read, whatever wrote it and read it."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import EncodeError, ParseError
from gateway.wire.codec import Codec
from gateway.wire.dialect import SHIPPED, shipped_dialects
from gateway.wire.masked_dump import (
    MaskedFrame,
    looks_like,
    masked_frame,
    masked_start,
    may_be_card_numbers,
)
from gateway.wire.message import Message
from tests.support import canaries

CODECS = {name: Codec(dialect) for name, dialect in shipped_dialects().items()}
_OTHERS = {
    3: "000000",
    4: "000000001250",
    11: "000123",
    12: "123456",
    13: "1121",
    22: "051",
    25: "00",
    37: "RRN000000123",
    41: "T0000001",
    42: "MERCHANT0000001",
    49: "978",
    60: "22000001000",
}


def body_of(codec: Codec) -> bytes:
    """A purchase with all card data that the dialect can write."""
    fields: dict[int, str] = {}
    for number, value in sorted((_OTHERS | canaries.CARD_FIELDS).items()):
        for form in (value, value.encode().hex().upper(), value.replace("=", "D")):
            try:
                codec.encode(Message("0200", {**fields, number: form}))
            except EncodeError:
                continue
            fields[number] = form
            break
    return codec.encode(Message("0200", fields))


BODIES = {name: body_of(codec) for name, codec in CODECS.items()}


def seen(frame: MaskedFrame) -> dict[int, int]:
    """The bytes that are shown, by their place."""
    found = {}
    for line in frame.lines:
        offset, _, cells = line.partition("  ")
        for index, cell in enumerate(cells.split(" ")):
            if cell != "**":
                found[int(offset, 16) + index] = int(cell, 16)
    return found


def assert_nothing_shown(frame: MaskedFrame, data: bytes) -> None:
    shown = seen(frame)
    assert all(data[place] == byte for place, byte in shown.items())
    for secret, value in canaries.SECRETS.items():
        forms = [*canaries.forms(value), ("EBCDIC", value.encode("cp037"))]
        for form, needle in forms:
            start = data.find(needle)
            while start >= 0:
                visible = [at for at in range(start, start + len(needle)) if at in shown]
                # Two at the place of the error; of a card number's digits none.
                assert len(visible) <= 2, (secret, form)
                if secret.startswith("card number") and form != "UTF-16":
                    assert not visible, (secret, form)
                start = data.find(needle, start + 1)
    text = " ".join(frame.fields.values())
    assert not canaries.search("fields", text.encode())


@pytest.mark.parametrize("written", SHIPPED)
@pytest.mark.parametrize("read", SHIPPED)
def test_another_dialects_message(written: str, read: str) -> None:
    body = BODIES[written]
    for cut in (len(body), len(body) - 1, len(body) * 2 // 3, len(body) // 2):
        try:
            CODECS[read].decode(body[:cut])
        except ParseError as error:
            frame = masked_frame(CODECS[read], b"", body[:cut], error)
            assert_nothing_shown(frame, body[:cut])


@settings(deadline=None, max_examples=400)
@example("iso87_ebcdic", "iso87_ebcdic", [(197, b"\x00\x00\x00", 0)], 0)  # into chip data
@given(
    st.sampled_from(SHIPPED),
    st.sampled_from(SHIPPED),
    st.lists(
        st.tuples(st.integers(0, 2_000), st.binary(max_size=3), st.integers(0, 3)), max_size=4
    ),
    st.integers(0, 50),
)
def test_a_garbled_message(
    written: str, read: str, edits: list[tuple[int, bytes, int]], heading: int
) -> None:
    body = BODIES[written]
    for at, come, gone in edits:
        at %= len(body)
        body = body[:at] + come + body[at + gone :]
    # A header of the wrong size takes the message for itself.
    codec, head, rest = CODECS[read], body[:heading], body[heading:]
    try:
        codec.decode(rest)
    except ParseError as error:
        assert_nothing_shown(masked_frame(codec, head, rest, error), body)
    assert_nothing_shown(masked_start(body[heading:]), rest)


@pytest.mark.parametrize("before", [b"", b"\x01", b"A", b"0", b"\xf1"])
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("form", ["ascii", "ebcdic", "packed", "track", "packed track"])
def test_runs_of_digits_are_found_in_every_form(before: bytes, odd: bool, form: str) -> None:
    text = canaries.PAN + ("=" + "49072017315920486" if "track" in form else "")
    if form.startswith("packed"):
        digits = "A" * odd + text.replace("=", "D")
        card = bytes.fromhex(digits + "F" * (len(digits) % 2))
    else:
        card = text.encode("cp037" if form == "ebcdic" else "ascii")
    data = before + card + b"\xff\xff"
    found = may_be_card_numbers(data, packed=form.startswith("packed"))
    assert all(found[len(before) : len(before) + len(card)])
    assert not found[-1]


@pytest.mark.parametrize("encoding", ["ascii", "cp037"])
@pytest.mark.parametrize("between", ["^", "/", "^/", "/^ ^", "^^^^"])
def test_names_one_behind_the_other_are_hidden_to_the_last_letter(
    between: str, encoding: str
) -> None:
    text = between.join(["NIELSEN", "ANNE-MARIE O'HARA", "A" * 26] * 12).encode(encoding)
    found = may_be_card_numbers(b"\x00" + text + b"\x00", packed=False)
    assert found == b"\x00" + b"\x01" * len(text) + b"\x00"


def test_what_tells_of_the_frame_is_shown() -> None:
    """Heading, type, bitmap, fields of the allow-list, and where it stopped."""
    codec = CODECS["unionpay_pos"]
    body = BODIES["unionpay_pos"]
    heading = bytes.fromhex("6000010002") + bytes.fromhex("600100310000")
    cut = body[:-3]
    with pytest.raises(ParseError) as caught:
        codec.decode(cut)
    frame = masked_frame(codec, heading, cut, caught.value)
    assert frame.length == len(heading) + len(cut)
    assert frame.lines[0].startswith("0000  60 00 01 00 02 60 01 00 31 00 00 ")
    assert frame.fields[41] == "T0000001"
    assert frame.fields[42] == "MERCHANT0000001"
    assert not {2, 35, 36, 45, 52, 55} & frame.fields.keys()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes.fromhex("1603010200010001fc"), "TLS"),
        (b"GET /metrics HTTP/1.1\r\n", "HTTP"),
        (b"SSH-2.0-x\r\n", "SSH"),
        (b"\xff\xff0200", ""),
    ],
)
def test_what_is_no_frame_is_guessed(data: bytes, words: str) -> None:
    assert (words in looks_like(data)) if words else not looks_like(data)
    assert len(seen(masked_start(data))) == 2
