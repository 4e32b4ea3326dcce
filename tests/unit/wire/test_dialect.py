"""Dialect files: the shipped ones, extension, and every mistake found at once with its line."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from gateway.errors import GatewayError
from gateway.wire.dialect import (
    SHIPPED,
    DialectError,
    load_dialect,
    load_dialects,
    shipped_dialects,
)


def write(folder: Path, text: str, name: str = "own.toml") -> Path:
    file = folder / name
    file.write_text(dedent(text), encoding="utf-8")
    return file


def findings(*files: Path) -> list[str]:
    with pytest.raises(DialectError) as caught:
        load_dialects(files)
    assert isinstance(caught.value, GatewayError)
    texts = [str(finding) for finding in caught.value.findings]
    assert "\n".join(texts) == str(caught.value)
    assert all(text.isprintable() for text in texts)
    return [text.replace(f"{files[0].parent}/", "") for text in texts]


def test_shipped() -> None:
    dialects = shipped_dialects()
    assert tuple(dialects) == SHIPPED
    text, binary = dialects["iso87_ascii"], dialects["iso87_ascii_binbitmap"]
    assert set(text.fields) == set(binary.fields) == set(range(2, 129)) - {65}
    assert text.spec["p"]["data_enc"] == text.spec["52"]["data_enc"] == "ascii"
    assert text.spec["52"]["max_len"] == text.spec["128"]["max_len"] == 16
    raw = [n for n in binary.fields if binary.spec[str(n)]["data_enc"] == "b"]
    assert raw == [52, 55, 64, 96, 128]
    assert binary.spec["1"]["data_enc"] == "b"
    assert binary.spec["55"]["max_len"] == 999
    assert binary.fields[55].name == text.fields[55].name
    assert binary.fields[55].type == "b"
    assert text.fields[2].type == "n"


def test_the_fingerprint_follows_the_bytes_only(tmp_path: Path) -> None:
    base = shipped_dialects()["iso87_ascii"]
    same = write(
        tmp_path,
        """
        name = "same"
        extends = "iso87_ascii"
        [fields]
        2 = { name = "Card" }
        """,
    )
    other = write(
        tmp_path,
        """
        name = "other"
        extends = "iso87_ascii"
        [fields]
        2 = { max = 20 }
        """,
        "other.toml",
    )
    assert load_dialect(same).sha256 == base.sha256
    assert load_dialect(same).fields[2].name == "Card"
    assert load_dialect(other).sha256 != base.sha256


def test_all_keys_of_the_spec(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        name = "bcd"
        title = "BCD"
        [mti]
        data_enc = "b"
        [bitmap]
        data_enc = "b"
        [defaults]
        data_enc = "b"
        len_enc = "bcd"
        len_count = "nibbles"
        right_pad = "0"
        [fields]
        2 = { len = "LLVAR", max = 19, name = "Card", type = "n" }
        22 = { len = "fixed", max = 3 }
        23 = { len = "fixed", max = 3, left_pad = "0" }
        41 = { len = "fixed", max = 8, data_enc = "ascii" }
        48 = { len = "LLLVAR", max = 999, data_enc = "gb18030" }
        55 = { len = "LLLVAR", max = 255, len_count = "bytes", len_enc = "b" }
        60 = { len = "LLVAR", max = 255, len_enc = "b" }
        127 = { len = "LLLLLLVAR", max = 60000, data_enc = "ascii", len_enc = "ascii" }
        """,
    )
    dialect = load_dialect(file)
    assert (dialect.name, dialect.title) == ("bcd", "BCD")
    spec = {n: {k: v for k, v in keys.items() if k != "desc"} for n, keys in dialect.spec.items()}
    nibbles = {"data_enc": "b", "len_enc": "bcd", "len_count": "nibbles"}
    assert spec["2"] == nibbles | {"len_type": 1, "max_len": 19, "right_pad": "0"}
    assert spec["22"] == nibbles | {"len_type": 0, "max_len": 3, "right_pad": "0"}
    assert spec["23"] == nibbles | {"len_type": 0, "max_len": 3, "left_pad": "0"}
    assert spec["41"] == {
        "data_enc": "ascii",
        "len_enc": "bcd",
        "len_count": "bytes",
        "len_type": 0,
        "max_len": 8,
    }
    assert spec["48"]["len_type"] == 2
    assert spec["55"]["len_type"] == 2
    assert spec["60"]["len_type"] == 1
    assert spec["127"]["len_type"] == 6
    assert spec["t"]["max_len"] == 2
    assert spec["p"]["max_len"] == 8
    assert dialect.spec["2"]["desc"] == "Card"


def test_defaults_reach_inherited_fields(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        name = "ebcdic"
        extends = "iso87_ascii_binbitmap"
        [mti]
        data_enc = "cp037"
        [defaults]
        data_enc = "cp037"
        len_enc = "cp037"
        """,
    )
    spec = load_dialect(file).spec
    assert spec["2"]["data_enc"] == spec["2"]["len_enc"] == spec["t"]["data_enc"] == "cp037"
    assert spec["52"]["data_enc"] == "b"


def test_files_extend_each_other_in_any_order(tmp_path: Path) -> None:
    first = write(tmp_path, 'name = "first"\nextends = "second"\n', "first.toml")
    second = write(
        tmp_path,
        'name = "second"\nextends = "iso87_ascii"\nfields = { 2 = { max = 11 } }\n',
        "second.toml",
    )
    dialects = load_dialects([first, str(second)])
    assert set(dialects) == {*SHIPPED, "first", "second"}
    assert dialects["first"].spec["2"]["max_len"] == 11


def test_every_mistake_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """\
        name = "Bad One"
        titel = "x"
        extends = "iso87_ascii"
        [mti]
        data_enc = "utf-16"
        [bitmap]
        data_enc = "hex"
        [defaults]
        data_enc = "klingon"
        left_pad = "f"
        [fields]
        2 = { max = 0 }
        3 = { max = "six", len = "LLLVAR" }
        4 = { len = "LLVAR", max = 200 }
        65 = { max = 3 }
        200 = {}
        7 = 5
        9 = { data_enc = "b", len_count = "nibbles", max = 7 }
        10 = { left_pad = "0", color = "red", type = "q" }
        12 = { len = "LLWAR", len_count = "bits", name = 7 }
        13 = { len_enc = "rot13", len_type = 2 }
        14 = { data_enc = "b", len_count = "nibbles", left_pad = "0", right_pad = "F" }
        [fields.11]
        len_count = "nibbles"
        max = true
        """,
    )
    found = findings(file)
    places = [text.split(": ")[0] + " " + text.split(": ")[1] for text in found]
    assert places == [
        "own.toml:1 name",
        "own.toml:2 titel",
        "own.toml:5 mti.data_enc",
        "own.toml:7 bitmap.data_enc",
        "own.toml:9 defaults.data_enc",
        "own.toml:10 defaults.left_pad",
        "own.toml:12 fields.2.max",
        "own.toml:13 fields.3.max",
        "own.toml:14 fields.4.max",
        "own.toml:15 fields.65",
        "own.toml:16 fields.200",
        "own.toml:17 fields.7",
        "own.toml:18 fields.9.max",
        "own.toml:19 fields.10.color",
        "own.toml:19 fields.10.type",
        "own.toml:19 fields.10.left_pad",
        "own.toml:20 fields.12.name",
        "own.toml:20 fields.12.len_count",
        "own.toml:20 fields.12.len",
        "own.toml:21 fields.13.len_enc",
        "own.toml:21 fields.13.len_type",
        "own.toml:22 fields.14.right_pad",
        "own.toml:24 fields.11.len_count",
        "own.toml:25 fields.11.max",
    ]
    assert found[8].endswith("200 cannot be written as LLVAR in ascii; at most 99 can")


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("name = =", "own.toml:1: is not TOML: Invalid value (at line 1, column 8)"),
        ("", "own.toml: name: is missing; give lower-case letters"),
        ('name = "x"', "own.toml: mti.data_enc: is missing; write"),
        ('name = "x"\nextends = "y"', 'own.toml:2: extends: no dialect is named "y"; there are'),
        ('name = "x"\nextends = "x"', 'own.toml:2: extends: "x" extends this dialect in turn'),
        ('name = "x"\nextends = 5', "own.toml:2: extends: 5 is not text"),
        ('name = "x"\nextends = "iso87_ascii"\nfields = 5', "own.toml:3: fields: is not a table"),
        (
            'name = "x"\nextends = "iso87_ascii"\n[defaults]\nmax = 5',
            'own.toml:4: defaults.max: "max" is not known here',
        ),
        ('name = "iso87_ascii"', 'own.toml:1: name: "iso87_ascii" is the name of iso87_ascii.toml'),
        (
            'name = "x"\n[mti]\ndata_enc="ascii"\n[bitmap]\ndata_enc="b"',
            "own.toml: fields: has no field",
        ),
        (
            'name = "x"\n[mti]\ndata_enc="ascii"\n[bitmap]\ndata_enc="b"\n[fields]\n2 = {}',
            "own.toml:7: fields.2.data_enc: is missing",
        ),
    ],
)
def test_one_mistake(tmp_path: Path, text: str, finding: str) -> None:
    file = write(tmp_path, text)
    assert any(each.startswith(finding) for each in findings(file))


@pytest.mark.parametrize(
    "encoding",
    ["utf-16", "utf-8-sig", "rot13", "hex", "idna", "unicode_escape", "utf-7", "a\\u0000b"],
)
def test_impossible_encodings(tmp_path: Path, encoding: str) -> None:
    text = f'name = "x"\nextends = "iso87_ascii"\n[defaults]\ndata_enc = "{encoding}"\n'
    (finding,) = findings(write(tmp_path, text))
    assert finding.startswith("own.toml:4: defaults.data_enc: ")


def test_a_base_that_is_wrong_is_reported_once(tmp_path: Path) -> None:
    base = write(tmp_path, 'name = "base"\nextends = "iso87_ascii"\nsize = 5\n', "base.toml")
    heir = write(tmp_path, 'name = "heir"\nextends = "base"\n', "heir.toml")
    assert findings(base, heir) == findings(heir, base)
    assert len(findings(base, heir)) == 1


def test_unreadable(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b'name = "\xff"')
    absent = tmp_path / "absent.toml"
    found = findings(binary, absent)
    assert found == [
        "binary.toml: is not UTF-8 at byte 8; save it as UTF-8",
        "absent.toml: cannot be read: No such file or directory; give a readable file",
    ]


def test_types_say_how_all_fields_of_a_type_are_written(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        name = "packed"
        extends = "iso87_ascii"
        [defaults]
        len_enc = "bcd"
        [types]
        n = { data_enc = "b", len_count = "nibbles", left_pad = "0", other_pads = "F" }
        [fields]
        2 = { right_pad = "0" }
        49 = { data_enc = "ascii" }
        """,
    )
    spec = load_dialect(file).spec
    assert (spec["22"]["left_pad"], spec["22"]["other_pads"]) == ("0", "F")
    assert (spec["2"]["right_pad"], spec["2"]["len_enc"]) == ("0", "bcd")
    assert "left_pad" not in spec["2"]
    assert spec["49"]["len_count"] == "bytes"
    assert "other_pads" not in spec["49"]
    assert spec["37"]["data_enc"] == "ascii"
    # A dialect that extends it may put the pad on the other side.
    other = write(
        tmp_path, 'name = "o"\nextends = "packed"\nfields = { 2 = { left_pad = "0" } }\n', "o.toml"
    )
    extended = load_dialects([file, other])["o"].spec["2"]
    assert extended["left_pad"] == "0"
    assert "right_pad" not in extended


def test_the_frame_is_inherited_and_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    base = shipped_dialects()["unionpay_pos"]
    assert (base.frame.length, base.frame.tpdu, base.frame.header_bytes) == ("binary2", True, 6)
    file = write(tmp_path, 'name = "o"\nextends = "unionpay_pos"\nframe = { header_bytes = 0 }\n')
    own = load_dialect(file)
    assert (own.frame.tpdu, own.frame.header_bytes) == (True, 0)
    assert own.extends == "unionpay_pos"
    assert own.sha256 == base.sha256


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ('[types]\nq = { data_enc = "b" }', 'own.toml:4: types.q: "q" is not known here'),
        ("[types]\nn = 3", "own.toml:4: types.n: is not a table"),
        ("[types]\nn = { max = 3 }", 'own.toml:4: types.n.max: "max" is not known here'),
        ('[types]\nn = { data_enc = "bcd" }', 'own.toml:4: types.n.data_enc: "bcd" is no encoding'),
        ('[types]\nn = { other_pads = "x" }', "own.toml:4: types.n.other_pads: 'x' are no pads"),
        ('[frame]\nlength = "four"', "own.toml:4: frame.length: 'four' is no length"),
        ("[frame]\ntpdu = 1", "own.toml:4: frame.tpdu: 1 is not true or false"),
        ("[frame]\nheader_bytes = -1", "own.toml:4: frame.header_bytes: -1 is no size"),
        (
            '[fields]\n3 = { other_pads = "F", len_count = "nibbles", data_enc = "b" }',
            "own.toml:4: fields.3.other_pads: says which pads are read too; give left_pad",
        ),
    ],
)
def test_mistakes_in_types_frame_and_pads(tmp_path: Path, lines: str, found: str) -> None:
    file = write(tmp_path, f'name = "own"\nextends = "iso87_ascii"\n{lines}\n')
    (text,) = findings(file)
    assert text.startswith(found)
