"""moov specifications: what they say in the words of a dialect, and what is named, not guessed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gateway.cli.main import build_app
from gateway.wire.codec import Codec
from gateway.wire.dialect import dialect_of
from gateway.wire.message import Message
from gateway.wire.moov import dialect_text
from gateway.wire.packager import PACKAGER_BYTES_MAX, PackagerError


def field(kind: str, length: int, enc: str, prefix: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "length": length, "enc": enc, "prefix": prefix} | more


MTI = field("String", 4, "ASCII", "ASCII.Fixed", description="Message Type Indicator")
BITMAP = field("Bitmap", 8, "Binary", "Binary.Fixed")


def specification(fields: dict[str, Any], **more: Any) -> bytes:
    document = {"name": "Acme", "fields": {"0": MTI, "1": BITMAP} | fields} | more
    return json.dumps(document).encode()


ACME = specification(
    {
        "2": field("String", 19, "BCD", "BCD.LL", description="PAN"),
        "3": field("Numeric", 6, "ASCII", "ASCII.Fixed", padding={"type": "Left", "pad": "0"}),
        "22": field("String", 3, "BCD", "BCD.Fixed"),
        "23": field("String", 3, "LBCD", "BCD.Fixed"),
        "35": field("String", 37, "BCD", "Binary.L"),
        "41": field("String", 8, "EBCDIC", "EBCDIC.Fixed"),
        "43": field("String", 40, "EBCDIC", "EBCDIC.LLL"),
        "48": {
            "type": "Composite",
            "length": 999,
            "prefix": "ASCII.LLL",
            "tag": {"length": 2, "enc": "ASCII", "sort": "StringsByInt"},
            "subfields": {"01": field("String", 99, "ASCII", "ASCII.LL")},
        },
        "52": field("Binary", 8, "HexToASCII", "Hex.Fixed"),
        "53": field("String", 8, "ASCIIToHex", "Binary.Fixed"),
        "55": {
            "type": "Composite",
            "length": 255,
            "prefix": "Binary.LL",
            "tag": {"enc": "BerTLVTag", "sort": "StringsByHex"},
            "subfields": {"9F36": field("Hex", 2, "Binary", "BerTLV")},
        },
        "64": field("Binary", 8, "Binary", "Binary.Fixed"),
        "65": field("Bitmap", 8, "Binary", "Binary.Fixed"),
        "130": field("Binary", 8, "Binary", "Binary.Fixed"),
    }
)


def test_a_specification_becomes_a_dialect() -> None:
    text = dialect_text(ACME, "acme")
    assert 'title = "Acme"' in text
    dialect = dialect_of(text, "acme.toml")
    assert list(dialect.fields) == [2, 3, 22, 23, 35, 41, 43, 48, 52, 53, 55, 64]
    assert dialect.fields[2].name == "PAN"
    # What moov writes: right-aligned digits, or left-aligned ones; binary lengths; hex as text.
    message = Message(
        "0200",
        {
            2: "4000123",
            3: "000000",
            22: "051",
            23: "001",
            35: "4000123D4912",
            41: "T0000001",
            43: "SHOP",
            48: "0103ABC",
            52: "0102030405060708",
            53: "A102030405060708",
            55: "9F36020042",
            64: "B102030405060708",
        },
    )
    body = Codec(dialect).encode(message)
    assert body[:4] == b"0200"
    assert body[12:] == b"".join(
        (
            bytes.fromhex("07" + "04000123"),
            b"000000",
            bytes.fromhex("0051"),
            bytes.fromhex("0010"),
            bytes.fromhex("0C" + "4000123D4912"),
            "T0000001".encode("cp037"),
            "004SHOP".encode("cp037"),
            b"0070103ABC",
            b"0102030405060708",
            bytes.fromhex("A102030405060708"),
            bytes.fromhex("0005" + "9F36020042"),
            bytes.fromhex("B102030405060708"),
        )
    )
    assert Codec(dialect).decode(body) == message


@pytest.mark.parametrize(
    ("mti", "bitmap", "body"),
    [
        ("ASCII", "HexToASCII", b"0800" + b"2000000000000000" + b"11"),
        ("ASCII", "Hex", b"0800" + b"2000000000000000" + b"11"),
        ("BCD", "Binary", bytes.fromhex("08002000000000000000") + b"11"),
        ("EBCDIC", "Binary", "0800".encode("cp037") + bytes.fromhex("2000000000000000") + b"11"),
    ],
)
def test_message_type_and_bitmap(mti: str, bitmap: str, body: bytes) -> None:
    fields = {
        "0": field("String", 4, mti, "ASCII.Fixed"),
        # As old specifications have it: the characters, where new ones count bytes.
        "1": field("Bitmap", 16 if bitmap == "Hex" else 8, bitmap, "Hex.Fixed"),
        "3": field("String", 2, "ASCII", "ASCII.Fixed"),
    }
    dialect = dialect_of(dialect_text(specification(fields), "acme"), "acme.toml")
    assert Codec(dialect).encode(Message("0800", {3: "11"})) == body


SOUND = field("String", 4, "ASCII", "ASCII.LL")


@pytest.mark.parametrize(
    ("number", "wrong", "said"),
    [
        ("48", SOUND | {"enc": "EBCDIC1047"}, "enc 'EBCDIC1047'"),
        ("48", SOUND | {"enc": "HexToASCII"}, "enc 'HexToASCII' of a length that varies"),
        ("48", SOUND | {"enc": "ASCIIToHex"}, "enc 'ASCIIToHex' of a length that varies"),
        ("48", SOUND | {"prefix": "Hex.LL"}, "prefix Hex.LL"),
        ("48", SOUND | {"prefix": "BerTLV"}, "prefix 'BerTLV'"),
        ("48", SOUND | {"prefix": "None.LL"}, "prefix None.LL"),
        ("48", SOUND | {"type": "Track9"}, "type 'Track9'"),
        ("48", SOUND | {"length": "4"}, "length '4'"),
        ("48", SOUND | {"length": True}, "length True"),
        ("48", SOUND | {"packer": "x"}, "key 'packer'"),
        ("48", {"type": "String", "length": 4, "prefix": "ASCII.LL"}, "has no enc"),
        ("48", SOUND | {"padding": {"type": "Left", "pad": "0"}}, "padding 'Left' of a length"),
        (
            "48",
            SOUND | {"prefix": "ASCII.Fixed", "padding": {"type": "Both", "pad": "0"}},
            "padding 'Both'",
        ),
        ("48", {"type": "Composite", "length": 4, "prefix": "ASCII.LL"}, "no subfields"),
        ("0", MTI | {"enc": "HexToASCII"}, "for a message type"),
        ("1", BITMAP | {"disableautoexpand": True}, "disableautoexpand"),
        ("1", BITMAP | {"length": 16}, "a bitmap of 16 bytes"),
        ("1", BITMAP | {"enc": "EBCDIC"}, "for a bitmap"),
    ],
)
def test_what_has_no_equal_is_named_with_its_field(
    number: str, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(PackagerError) as caught:
        dialect_text(specification({number: wrong}), "acme")
    assert f"field {number}: " in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "line 1: not JSON"),
        (b'{\n"fields": {\n]', "line 3: not JSON"),
        (b"[]", "no specification"),
        (b'{"fields": []}', "no specification"),
        (b'{"fields": {}}', "no field 0 or 1"),
        (b'{"fields": {"0": {}, "00": {}}}', "field 0: is there twice"),
        (b'{"fields": {"0": {}, "0": {}}}', "field '0': is there twice"),
        (b'{"fields": {"x": {}}}', "field 'x'"),
        (b'{"fields": {"0": 1}}', "field '0'"),
        (b'{"fields": {}, "version": 1}', "'version' is not known"),
        (b"[" * 100_000, "not JSON"),
        (b'{"name": "\xff"}', "not JSON"),
        (b"{" + b" " * PACKAGER_BYTES_MAX, "longer than"),
    ],
)
def test_what_is_no_specification_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(PackagerError, match=said):
        dialect_text(content, "acme")


def test_a_key_twice_among_very_many_is_found_at_once() -> None:
    keys = ",".join(f'"{number}": 1' for number in range(60_000))
    began_s = time.thread_time()
    with pytest.raises(PackagerError, match="field '59999': is there twice"):
        dialect_text(f'{{{keys}, "59999": 1}}'.encode(), "acme")
    assert time.thread_time() - began_s < 10  # each key counted anew would take a minute


@pytest.mark.parametrize("length", [0, 1_000_000, 10**4_000])
def test_a_length_that_none_can_have_is_refused(length: int) -> None:
    wrong = field("Hex", 8, "HexToASCII", "Hex.Fixed") | {"length": length}
    with pytest.raises(PackagerError, match=r"field 2: length [0-9]+ is no length"):
        dialect_text(specification({"2": wrong}), "acme")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70_000) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.sampled_from([*SOUND, "padding", "tag", "subfields", "bitmap"]), values)
def test_whatever_stands_there_is_a_dialect_or_an_error(key: str, value: Any) -> None:
    try:
        said = dialect_text(specification({"48": SOUND | {key: value}}), "acme")
    except PackagerError as error:
        said = str(error)
        is_text = said.isascii() and said.isprintable()
    else:
        is_text = "48 = {" in said
    assert is_text


def test_the_command_knows_it_by_its_content(tmp_path: Path) -> None:
    file, made = tmp_path / "Acme Bank.json", tmp_path / "acme.toml"
    file.write_bytes(b"\n " + ACME)
    result = CliRunner().invoke(build_app(), ["dialect", "import", str(file), "-o", str(made)])
    assert result.exit_code == 0, result.output
    assert 'name = "acme_bank"' in made.read_text()
    file.write_bytes(specification({"48": SOUND | {"enc": "Morse"}}))
    result = CliRunner().invoke(build_app(), ["dialect", "import", str(file)])
    assert result.exit_code == 1
    assert f"{file}: field 48: enc 'Morse'" in result.output
