"""`gateway dialect` and `gateway inspect`: what they print, what they mask, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.main import build_app
from gateway.wire.codec import Codec
from gateway.wire.dialect import SHIPPED, shipped_dialects
from gateway.wire.framing import FramingSpec, encode_frame
from gateway.wire.message import Message

PAN = "4761739001010010"
TPDU, HEADER = bytes.fromhex("6000010002"), bytes.fromhex("602200000000")


def run(*arguments: str, stdin: str | bytes = "") -> Result:
    return CliRunner().invoke(build_app(), arguments, input=stdin)


def unionpay() -> bytes:
    message = Message(
        "0200",
        {
            2: PAN,
            3: "000000",
            4: "000000001000",
            11: "000001",
            22: "051",
            25: "00",
            35: PAN + "D29122011143804400001",
            41: "T0000001",
            42: "MERCHANT0000001",
            49: "156",
            60: "22000001",
        },
        pads={35: "F"},
    )
    body = Codec(shipped_dialects()["unionpay_pos"]).encode(message)
    return encode_frame(FramingSpec(tpdu=True, header_bytes=6), body, TPDU, HEADER)


def test_inspect_guesses_and_masks(tmp_path: Path) -> None:
    file = tmp_path / "frame.bin"
    file.write_bytes(unionpay())
    for result in (
        run("inspect", unionpay().hex()),
        run("inspect", *unionpay().hex(" ").split()),
        run("inspect", str(file)),
        run("inspect", stdin=unionpay().hex()),
        run("inspect", "-", "-d", "unionpay_pos", stdin=unionpay()),
    ):
        assert result.exit_code == 0, result.output
        assert "unionpay_pos" in result.stdout
        assert "financial request: purchase" in result.stdout
        assert "476173******0010" in result.stdout
        assert "MERCHANT0000001" in result.stdout
        assert PAN not in result.output
        assert PAN[6:] not in result.output


def test_inspect_json() -> None:
    answer = json.loads(run("inspect", "--json", unionpay().hex()).stdout)
    assert answer["dialect"] == "unionpay_pos"
    assert answer["tpdu"] == TPDU.hex()
    assert answer["header"] == HEADER.hex()
    assert answer["fields"]["2"] == {"name": "Primary account number", "value": "476173******0010"}
    assert answer["fields"]["35"] == {"name": "Track 2", "value": "[37]", "pad": "F"}
    assert answer["fields"]["22"]["meaning"] == "chip"
    assert "error" not in answer
    open_ = json.loads(run("inspect", "--json", "--unmasked", unionpay().hex()).stdout)
    assert open_["fields"]["2"]["value"] == PAN


def test_inspect_names_the_first_error_and_its_byte() -> None:
    broken = unionpay()[:-2]
    result = run("inspect", "-d", "unionpay_pos", broken[2:].hex())
    assert result.exit_code == 1
    assert "field 60" in result.stdout
    assert PAN not in result.output
    answer = json.loads(run("inspect", "-d", "unionpay_pos", "--json", broken[2:].hex()).stdout)
    # The field's two bytes of length can be read, of its four others only two.
    assert answer["error"]["position"] == len(broken) - 2 - 2
    assert answer["error"]["name"] == "Type, batch, network code, reader"
    assert answer["fields"]["49"]["value"] == "156"
    assert "60" not in answer["fields"]


def test_inspect_without_anything_to_read() -> None:
    assert run("inspect", stdin="").exit_code == 1
    result = run("inspect", "-d", "klingon", "00")
    assert result.exit_code == 1
    assert 'no dialect is named "klingon"' in result.output


@pytest.mark.parametrize("name", SHIPPED)
def test_every_dialect_is_guessed_from_an_ordinary_message(name: str) -> None:
    dialect = shipped_dialects()[name]
    own = {2: PAN, 4: "000000001000", 11: "000001", 41: "T0000001"}
    if "93" in name:
        own[12] = "261122010203"
    message = Message("1200" if "93" in name else "0200", own)
    body = Codec(dialect).encode(message)
    header = bytes(dialect.frame.header_bytes)
    if dialect.frame.header_counts_itself:
        header = bytes((len(header),)) + header[1:]
    tpdu = TPDU if dialect.frame.tpdu else b""
    frame = encode_frame(dialect.frame, body, tpdu, header)
    answer = json.loads(run("inspect", "--json", "--unmasked", frame.hex()).stdout)
    values = {number: field["value"] for number, field in answer["fields"].items()}
    assert values == {str(number): value for number, value in own.items()}
    assert answer["mti"] == message.mti


def test_list_and_show() -> None:
    result = run("dialect", "list")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in SHIPPED)
    shown = run("dialect", "show", "unionpay_pos")
    assert "right pad 0 (also F)" in shown.stdout
    fields = json.loads(run("dialect", "show", "iso87_bcd", "--json").stdout)["fields"]
    assert fields["2"]["len_count"] == "nibbles"


def test_own_dialects_check_and_diff(tmp_path: Path) -> None:
    good = tmp_path / "own.toml"
    good.write_text('name = "own"\nextends = "iso87_bcd"\nfields = { 48 = { max = 100 } }\n')
    assert run("dialect", "check", str(good)).exit_code == 0
    result = run("dialect", "diff", "iso87_bcd", "own", "--dialects", str(tmp_path))
    assert result.exit_code == 1
    assert "48" in result.stdout
    assert run("dialect", "diff", "own", "own", "--dialects", str(good)).exit_code == 0
    bad = tmp_path / "bad.toml"
    bad.write_text('name = "bad"\nextends = "none"\n')
    result = run("dialect", "check", str(bad))
    assert result.exit_code == 1
    assert f'{bad}:2: extends: no dialect is named "none"' in result.stdout


def test_decode_and_encode_are_inverse() -> None:
    body = unionpay()[13:].hex().upper()
    masked = run("dialect", "decode", "unionpay_pos", body)
    assert PAN not in masked.output
    decoded = run("dialect", "decode", "--unmasked", "unionpay_pos", body)
    encoded = run("dialect", "encode", "unionpay_pos", stdin=decoded.stdout)
    assert encoded.stdout.strip() == body
    assert run("dialect", "decode", "unionpay_pos", "0200").exit_code == 1
    assert run("dialect", "decode", "unionpay_pos", "xx").exit_code == 1
    assert run("dialect", "encode", "unionpay_pos", stdin="[]").exit_code == 1


def test_what_is_inside_a_field_is_shown_and_masked() -> None:
    chip = "5708" + PAN[:15] + "D" + "9F36020042" + "5A08" + PAN
    message = Message("0200", {11: "000001", 55: chip, 60: "22000001000"})
    body = Codec(shipped_dialects()["unionpay_pos"]).encode(message).hex()
    result = run("inspect", "-d", "unionpay_pos", body)
    assert result.exit_code == 0, result.output
    assert "Application transaction counter" in result.stdout
    assert PAN[:15] not in result.stdout
    fields = json.loads(run("inspect", "-d", "unionpay_pos", "--json", body).stdout)["fields"]
    assert fields["60"]["elements"][1] == {
        "id": "2",
        "name": "Batch",
        "value": "000001",
        "byte": 2,
    }
    inside = {one["id"]: one["value"] for one in fields["55"]["elements"]}
    assert inside == {"57": "[16]", "9F36": "0042", "5A": "[16]"}
    decoded = json.loads(run("dialect", "decode", "unionpay_pos", body).stdout)
    assert {one["id"]: one["value"] for one in decoded["elements"]["55"]} == inside
    unmasked = json.loads(run("dialect", "decode", "unionpay_pos", body, "--unmasked").stdout)
    assert unmasked["elements"]["55"][2]["value"] == PAN


def test_what_cannot_be_taken_apart_is_said() -> None:
    message = Message("0200", {11: "000001", 55: "9F3602", 60: "2"})
    body = Codec(shipped_dialects()["unionpay_pos"]).encode(message).hex()
    result = run("inspect", "-d", "unionpay_pos", "--json", body)
    assert result.exit_code == 0
    fields = json.loads(result.stdout)["fields"]
    said = "DE55, sub-element 9F36, byte 0: 2 of its 2 are missing"
    assert fields["55"]["elements_error"] == said
    assert said in run("dialect", "decode", "unionpay_pos", body).stdout


def test_diff_shows_what_translation_does() -> None:
    result = run("dialect", "diff", "--translation", "--json", "unionpay_pos", "iso93_ascii")
    assert result.exit_code == 1
    effects = {row["field"]: row["effect"] for row in json.loads(result.stdout)}
    assert effects[35] == "written otherwise"
    assert effects[60] == effects[64] == "left out"
    shown = run("dialect", "diff", "--translation", "iso87_ascii", "unionpay_pos").stdout
    assert "unionpay_pos has no DE45" in shown
    same = run("dialect", "diff", "--translation", "iso87_ascii", "iso87_ascii")
    assert "each side computes its own" in same.stdout
