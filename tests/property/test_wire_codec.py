"""The codec against pyiso8583: value for value, byte for byte, error for error."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import EncodeError, ParseError
from gateway.wire.codec import Codec
from gateway.wire.dialect import Dialect, load_dialects
from gateway.wire.message import Message

# What later dialects need: BCD with pads and counted nibbles, EBCDIC, lengths of all sorts.
OTHERS = {
    "bcd": """
        name = "bcd"
        mti = { data_enc = "b" }
        bitmap = { data_enc = "b" }
        [defaults]
        data_enc = "b"
        len_enc = "bcd"
        len_count = "nibbles"
        right_pad = "0"
        [fields]
        2 = { len = "LLVAR", max = 19 }
        3 = { len = "fixed", max = 6 }
        4 = { len = "fixed", max = 12 }
        11 = { len = "fixed", max = 6 }
        22 = { len = "fixed", max = 3 }
        23 = { len = "fixed", max = 3, left_pad = "0" }
        35 = { len = "LLVAR", max = 37, right_pad = "F" }
        41 = { len = "fixed", max = 8, data_enc = "ascii" }
        42 = { len = "fixed", max = 15, data_enc = "ascii" }
        43 = { len = "LLVAR", max = 40, data_enc = "gb18030" }
        48 = { len = "LLLVAR", max = 999, data_enc = "ascii" }
        52 = { len = "fixed", max = 8, len_count = "bytes" }
        55 = { len = "LLLVAR", max = 255, len_count = "bytes" }
        60 = { len = "LLLVAR", max = 17 }
        70 = { len = "fixed", max = 3 }
        """,
    "mixed": """
        name = "mixed"
        extends = "iso87_ascii"
        [bitmap]
        data_enc = "cp500"
        [defaults]
        data_enc = "cp037"
        len_enc = "ascii"
        [fields]
        35 = { len_enc = "b", data_enc = "b", len_count = "nibbles", left_pad = "0" }
        37 = { data_enc = "latin-1" }
        43 = { data_enc = "utf-8" }
        48 = { data_enc = "latin-1", len = "LLLLVAR", max = 9999 }
        60 = { len_enc = "b", max = 60000, len_type = 2, len = "LLLLLVAR" }
        """,
    "ebcdic": """
        name = "ebcdic"
        extends = "iso87_ascii"
        mti = { data_enc = "cp037" }
        bitmap = { data_enc = "cp037" }
        defaults = { data_enc = "cp037", len_enc = "cp037" }
        """,
}


def dialects() -> dict[str, Dialect]:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{name}.toml") for name in OTHERS]
        for file, text in zip(files, OTHERS.values(), strict=True):
            file.write_text(text, encoding="utf-8")
        return load_dialects(files)


# The first examples build tables, and a shared machine may be slow.
unhurried = settings(deadline=None)

# One codec for all examples: what is learnt from one must be right for every other.
CODECS = {name: Codec(dialect) for name, dialect in dialects().items()}
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)


def values(keys: dict[str, Any]) -> st.SearchStrategy[str]:
    """Values that the field can hold."""
    longest = keys["max_len"]
    shortest = 0 if keys["len_type"] else longest
    nibbles = keys.get("len_count") == "nibbles"
    longest = max(shortest, min(longest, 40))
    if keys["data_enc"] == "b" and nibbles:
        return st.text("0123456789ABCDEF", min_size=shortest, max_size=longest)
    if keys["data_enc"] == "b":
        return st.binary(min_size=shortest, max_size=longest).map(lambda data: data.hex().upper())
    letters = "0123456789=D ^AZaz~\x00\n" + ("é" if keys["data_enc"] == "latin-1" else "")
    return st.text(letters, min_size=shortest, max_size=longest)


@st.composite
def messages(draw: st.DrawFn, dialect: Dialect) -> Message:
    numbers = draw(st.lists(st.sampled_from(sorted(dialect.fields)), unique=True, max_size=20))
    mti = draw(st.sampled_from(["0100", "0200", "0210", "0421", "0800", "0920", "7204"]))
    return Message(mti, {n: draw(values(dialect.spec[str(n)])) for n in numbers})


def decoded(codec: Codec, body: bytes, *, reference: bool) -> tuple[object, ...]:
    try:
        message = codec.reference_decode(body) if reference else codec.decode(body)
    except ParseError as error:
        return (error.reason, error.field, error.position, error.mti, error.stan, str(error))
    return (message.mti, list(message.fields.items()), message.raw, dict(message.pads))


def encoded(codec: Codec, message: Message, *, reference: bool) -> object:
    try:
        return codec.reference_encode(message) if reference else codec.encode(message)
    except EncodeError as error:
        return (error.reason, error.field)


def reads_like_the_reference(codec: Codec, body: bytes) -> None:
    expected = decoded(codec, body, reference=True)
    # The first time may be the reference's, the second the layout's that it learnt.
    assert decoded(codec, body, reference=False) == expected
    assert decoded(codec, body, reference=False) == expected


def writes_like_the_reference(codec: Codec, message: Message) -> None:
    expected = encoded(codec, message, reference=True)
    assert encoded(codec, message, reference=False) == expected
    assert encoded(codec, message, reference=False) == expected


@every_codec
@unhurried
@given(data=st.data())
def test_round_trip(codec: Codec, data: st.DataObject) -> None:
    message = data.draw(messages(codec.dialect))
    writes_like_the_reference(codec, message)
    body = codec.encode(message)
    reads_like_the_reference(codec, body)
    read = codec.decode(body)
    assert read == message
    assert codec.encode(read) == body


with_other_pads = {
    name: codec
    for name, codec in CODECS.items()
    if any(keys.get("other_pads") for keys in codec.dialect.spec.values())
}


@pytest.mark.parametrize("codec", with_other_pads.values(), ids=with_other_pads)
@unhurried
@given(data=st.data())
def test_any_pad_that_a_dialect_allows_comes_back(codec: Codec, data: st.DataObject) -> None:
    message = data.draw(messages(codec.dialect))
    pads = {
        number: data.draw(st.sampled_from(keys["other_pads"]))
        for number in message.fields
        if (keys := codec.dialect.spec[str(number)]).get("other_pads")
        and len(message.fields[number]) % 2
        and data.draw(st.booleans())
    }
    body = codec.encode(Message(message.mti, message.fields, pads=pads))
    assert (body == codec.encode(message)) is not bool(pads)
    reads_like_the_reference(codec, body)
    read = codec.decode(body)
    assert read == message
    assert dict(read.pads) == pads
    assert codec.encode(read) == body


@every_codec
@unhurried
@given(data=st.data())
def test_mutated_bodies(codec: Codec, data: st.DataObject) -> None:
    body = codec.encode(data.draw(messages(codec.dialect)))
    codec.decode(body)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(body)))
        stop = data.draw(st.integers(start, min(len(body), start + 4)))
        ordinary = st.sampled_from([b"0", b"1", b"9", b" ", b"+", b"a", b"\xff", b"\xf1", b"\x00"])
        body = body[:start] + data.draw(ordinary | st.binary(max_size=4)) + body[stop:]
    reads_like_the_reference(codec, body)


@every_codec
@unhurried
@given(
    data=st.data(),
    head=st.binary(min_size=8, max_size=24),
    rest=st.text("0123456789 ", max_size=200),
)
def test_random_bitmaps(codec: Codec, data: st.DataObject, head: bytes, rest: str) -> None:
    spec = codec.dialect.spec
    mti = (
        bytes.fromhex("0200")
        if spec["t"]["data_enc"] == "b"
        else "0200".encode(spec["t"]["data_enc"])
    )
    if spec["p"]["data_enc"] != "b":
        text = head.hex() if data.draw(st.booleans()) else head.hex().upper()
        if data.draw(st.booleans()):
            text = text.replace("0", " ")
        head = text.encode(spec["p"]["data_enc"])
    encoding = next(k["data_enc"] for k in spec.values() if k["data_enc"] != "b")
    reads_like_the_reference(codec, mti + head + rest.encode(encoding))


@every_codec
@unhurried
@given(body=st.binary(max_size=300))
def test_garbage_raises_only_the_parse_error(codec: Codec, body: bytes) -> None:
    reads_like_the_reference(codec, body)
    reads_like_the_reference(codec, b"0200" + body)


@every_codec
@unhurried
@given(data=st.data())
def test_values_that_do_not_fit(codec: Codec, data: st.DataObject) -> None:
    message = data.draw(messages(codec.dialect))
    codec.encode(message)
    numbers = st.sampled_from(sorted(message.fields)) if message.fields else st.just(2)
    wrong = st.text(max_size=20) | st.text("0123456789abcdefABCDEF ", max_size=120)
    changes = data.draw(st.dictionaries(numbers, wrong, min_size=1, max_size=2))
    writes_like_the_reference(codec, message.changed(changes))
    writes_like_the_reference(codec, message.changed({data.draw(st.integers(-1, 200)): "1"}))
    writes_like_the_reference(codec, message.changed({}, mti=data.draw(st.text(max_size=5))))


@unhurried
@given(
    pan=st.text("0123456789", min_size=13, max_size=19), other=st.integers(2, 128), mti=st.text()
)
def test_repr_never_shows_a_card_number(pan: str, other: int, mti: str) -> None:
    # Fields that are shown as they are have no place for one.
    hidden = other if other in (14, 34, 35, 36, 45, 48, 52, 54, 55, 60, 62, 63, 102, 120) else 2
    shown = repr(Message("0200", {2: pan, hidden: pan}))
    assert pan not in shown
    assert pan[:-4] not in shown
    assert pan[6:] not in shown
    assert repr(Message(mti, {})).isprintable()
