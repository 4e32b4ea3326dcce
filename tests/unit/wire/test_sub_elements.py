"""Fields taken apart by the layouts of a dialect, and put together again byte for byte."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.dialect import Dialect, DialectError, dialect_of, shipped_dialects
from gateway.wire.inspection import parts
from gateway.wire.message import Message
from gateway.wire.sub_elements import Layout, SubElementError, find
from tests.support import canaries

DIALECTS = shipped_dialects()
POS = DIALECTS["unionpay_pos"]
OWN = dialect_of(
    """
name = "own"
extends = "iso87_ascii"

[fields]
63 = { type = "b", data_enc = "b", max = 255 }

# A customer's transaction category, then tags and lengths of two digits each.
[[layouts]]
field = 48
mti = ["02"]
form = "tlv"
tag = 2
length = 2
elements = [{ id = "42", name = "Security level", shown = true }, { id = "92", name = "CVC 2" }]

# Tags of two characters, lengths of three, in another type of message.
[[layouts]]
field = 48
mti = ["0800"]
form = "tlv"
tag = 2
length = 3

# Length in two packed bytes, then the tag in ASCII.
[[layouts]]
field = 63
form = "tlv"
tag = 1
length = 2
numbers = "bcd"
""",
    "own.toml",
)


def layout(dialect: Dialect, number: int, mti: str, value: str) -> Layout:
    found = dialect.layout_of(number, mti, value)
    assert found is not None
    return found


def values_of(dialect: Dialect, number: int, mti: str, value: str) -> dict[str, str]:
    return {one.id: one.value for one in layout(dialect, number, mti, value).parse(value)}


def test_positions() -> None:
    assert values_of(POS, 60, "0200", "22000001000") == {"1": "22", "2": "000001", "3": "000"}
    original = "0200000007" + "1121120000" + "00000001111" + "0" * 11
    found = values_of(DIALECTS["iso87_bcd"], 90, "0420", original)
    assert found["2"] == "000007"
    assert found["4"] == "00000001111"
    # What comes after what is known stays.
    assert values_of(POS, 60, "0200", "22000001000601000" + "77")["rest"] == "77"


def test_amounts_repeat() -> None:
    balance = "0002156C000000012500" + "1002156D000000000100"
    found = [one.value for one in layout(POS, 54, "0210", balance).parse(balance) if one.id == "5"]
    assert found == ["000000012500", "000000000100"]


@pytest.mark.parametrize(("size", "keys"), [(24, 2), (40, 2), (56, 2), (60, 3), (84, 3)])
def test_working_keys_by_the_length_of_the_answer(size: int, keys: int) -> None:
    value = bytes(range(size)).hex().upper()
    found = layout(POS, 62, "0810", value).parse(value)
    assert len(found) == 2 * keys
    assert [len(one.value) for one in found[1::2]] == [8] * keys
    assert not any(one.shown for one in found[::2])
    assert POS.layout_of(62, "0200", value) is None
    assert POS.layout_of(62, "0810", value[2:]) is None


def test_tags_by_message_type() -> None:
    purchase = "4203210" + "9203123" + "01" + "00"
    assert values_of(OWN, 48, "0200", purchase) == {"42": "210", "92": "123", "01": ""}
    assert values_of(OWN, 48, "0800", "01005HELLO") == {"01": "HELLO"}
    assert OWN.layout_of(48, "0100", purchase) is None
    packed = "31" + "0002" + "AABB" + "32" + "0000"
    assert values_of(OWN, 63, "0200", packed) == {"31": "AABB", "32": ""}


def test_another_value_gets_a_length_of_its_own() -> None:
    found = layout(OWN, 48, "0200", "4203210")
    (one,) = found.parse("4203210")
    assert found.write([replace(one, value="21")]) == "420221"
    with pytest.raises(SubElementError, match="is too long"):
        found.write([replace(one, value="2" * 100)])
    chip = layout(POS, 55, "0200", "82021980")
    (one,) = chip.parse("82021980")
    assert chip.write([replace(one, value="AA" * 130)]) == "828182" + "AA" * 130
    (fixed, *_) = layout(POS, 60, "0200", "22000001").parse("22000001")
    with pytest.raises(SubElementError, match="sub-element 1, byte 0: has to be 2 long"):
        layout(POS, 60, "0200", "22").write([replace(fixed, value="222")])


def test_chip_data_and_what_is_inside_a_template() -> None:
    value = "7107" + "9F1802AABB" + "5003"
    with pytest.raises(SubElementError, match="DE55, sub-element 50, byte 7: 3 of its 3"):
        layout(POS, 55, "0210", value).parse(value)
    value = "7109" + "9F1802AABB" + "50020000" + "00"
    found = layout(POS, 55, "0210", value).parse(value)
    inner = find(found, "9F18")
    assert inner is not None
    assert (inner.value, inner.position) == ("AABB", 2)
    assert layout(POS, 55, "0210", value).write(found) == value


@pytest.mark.parametrize(
    ("number", "value", "said"),
    [
        (60, "2", "DE60, sub-element 1, byte 0: 1 of its 2 are missing"),
        (60, "2200", "DE60, sub-element 2, byte 2: 4 of its 6 are missing"),
        (55, "9F3602", "DE55, sub-element 9F36, byte 0: 2 of its 2 are missing"),
        (55, "82021980" + "9F", "DE55, byte 4: its tag has no end"),
        (55, "82021980" + "95", "DE55, sub-element 95, byte 5: its length is missing"),
        (55, "82", "DE55, sub-element 82, byte 1: its length is missing"),
        (55, "8280", "DE55, sub-element 82, byte 1: its length cannot be read"),
        (55, "82021", "DE55, byte 2: is not two hex digits"),
    ],
)
def test_errors_name_field_sub_element_and_byte(number: int, value: str, said: str) -> None:
    with pytest.raises(SubElementError, match=f"^{re.escape(said)}$"):
        layout(POS, number, "0200", value).parse(value)


@given(st.text("0123456789ABCDEFxyz", max_size=60))
def test_what_can_be_taken_apart_is_put_together_as_it_was(value: str) -> None:
    for dialect, mti in ((POS, "0210"), (POS, "0810"), (OWN, "0200"), (OWN, "0800")):
        for layouts in dialect.layouts.values():
            for one in layouts:
                if not one.fits(mti, value):
                    continue
                with contextlib.suppress(SubElementError):
                    assert one.write(one.parse(value)) == value


def test_of_a_card_nothing_is_shown() -> None:
    message = Message("0200", {55: canaries.CHIP_DATA, 60: "22000001000"})
    shown = {one.id: one.value for one in parts(POS, message, 55, certain=True)}
    assert shown["9F36"] == "0042"
    assert shown["57"] == f"[{len(canaries.TRACK_2) + len(canaries.TRACK_2) % 2}]"
    for value in shown.values():
        assert not canaries.search("shown", value.encode())
    # Under a dialect that was only guessed a card number may stand anywhere.
    message = Message("0200", {60: canaries.PAN[:17]})
    covered = "".join(one.value for one in parts(POS, message, 60, certain=False))
    assert covered == canaries.PAN[:6] + "*******" + canaries.PAN[13:17]
    assert parts(POS, message, 41, certain=True) == []


def test_what_is_wrong_in_a_layout_is_said() -> None:
    text = """
name = "wrong"
extends = "iso87_ascii"

[[layouts]]
field = 60
form = "tvl"
mti = ["x"]
tag = 9
other = 1
elements = [{ len = 2 }]

[[layouts]]
field = 130
form = "ber_tlv"

[[layouts]]
field = 61
form = "positional"
elements = [{ id = "1" }, { id = "2", len = 3 }]
"""
    with pytest.raises(DialectError) as caught:
        dialect_of(text, "wrong.toml")
    said = str(caught.value)
    for part in (
        "layouts.60.form: 'tvl' is none; write one of positional, ber_tlv, tlv, none",
        "layouts.60.mti: is no list of message types",
        "layouts.60.tag: is no size; give 1 to 8",
        'layouts.60.other: "other" is not known here',
        "layouts.60.elements: the 1. has no id of its own",
        "layouts: 130 is no field of the dialect",
        "layouts.61.elements: 1 has no len; only the last may be all the rest",
    ):
        assert part in said
    with pytest.raises(DialectError, match="is no list of tables"):
        dialect_of('name = "wrong"\nextends = "iso87_ascii"\nlayouts = 1\n', "wrong.toml")
