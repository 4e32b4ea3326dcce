"""Message: typed access, kinds, response types, and what is never shown."""

from __future__ import annotations

import pytest

from gateway.wire.message import (
    NETWORK_KINDS,
    REVERSIBLE_KINDS,
    Kind,
    Message,
    kind_of,
    mask_pan,
    printable,
    repeat_mti,
    response_mti,
)

PAN = "4761739001010010"

# The rules' table: kind, DE3, DE25, MTI, first two digits of DE60, reversible.
UNIONPAY = [
    (Kind.BALANCE, "310000", "00", "0200", "01", False),
    (Kind.PREAUTHORISATION, "030000", "06", "0100", "10", True),
    (Kind.PREAUTHORISATION_VOID, "200000", "06", "0100", "11", True),
    (Kind.COMPLETION, "000000", "06", "0200", "20", True),
    (Kind.COMPLETION_VOID, "200000", "06", "0200", "21", True),
    (Kind.PURCHASE, "000000", "00", "0200", "22", True),
    (Kind.VOID, "200000", "00", "0200", "23", True),
    (Kind.REFUND, "200000", "00", "0220", "25", False),
    (Kind.OFFLINE, "000000", "00", "0220", "30", False),
    (Kind.ADJUSTMENT, "000000", "00", "0220", "32", False),
    (Kind.ADJUSTMENT, "000000", "00", "0220", "34", False),
]


@pytest.mark.parametrize(("kind", "code", "condition", "mti", "private", "reversible"), UNIONPAY)
def test_unionpay_kinds(
    kind: Kind, code: str, condition: str, mti: str, private: str, reversible: bool
) -> None:
    fields = {3: code, 25: condition, 60: private + "000001000"}
    assert kind_of(Message(mti, fields)) is kind
    assert kind_of(Message(repeat_mti(mti), fields)) is kind
    assert (kind in REVERSIBLE_KINDS) is reversible


@pytest.mark.parametrize(
    ("mti", "fields", "kind"),
    [
        ("0200", {3: "000000"}, Kind.PURCHASE),
        ("0201", {3: "000000"}, Kind.PURCHASE),
        ("0200", {3: "010000"}, Kind.CASH),
        ("0200", {3: "020000"}, Kind.VOID),
        ("0200", {3: "090000"}, Kind.CASHBACK),
        ("0200", {3: "200000"}, Kind.REFUND),
        ("0200", {3: "300000"}, Kind.BALANCE),
        ("0200", {3: "310000"}, Kind.BALANCE),
        ("0200", {3: "000000", 25: "06"}, Kind.COMPLETION),
        ("0220", {3: "000000", 25: "06"}, Kind.COMPLETION),
        ("0200", {3: "020000", 25: "06"}, Kind.COMPLETION_VOID),
        ("0220", {3: "000000"}, Kind.OFFLINE),
        ("0220", {3: "020000"}, Kind.ADJUSTMENT),
        ("0220", {3: "200000"}, Kind.REFUND),
        ("0100", {3: "000000"}, Kind.PREAUTHORISATION),
        ("0100", {3: "020000"}, Kind.PREAUTHORISATION_VOID),
        ("0100", {3: "310000"}, Kind.BALANCE),
        ("0200", {3: "000000", 60: "anything"}, Kind.PURCHASE),
        ("0200", {3: "990000"}, Kind.UNKNOWN),
        ("0200", {}, Kind.UNKNOWN),
        ("0320", {}, Kind.BATCH_UPLOAD),
        ("0400", {3: "000000"}, Kind.REVERSAL),
        ("0421", {3: "000000"}, Kind.REVERSAL),
        ("0500", {}, Kind.SETTLEMENT),
        ("0800", {70: "001"}, Kind.SIGN_ON),
        ("0800", {70: "002"}, Kind.SIGN_OFF),
        ("0800", {70: "161"}, Kind.KEY_CHANGE),
        ("0800", {70: "301"}, Kind.ECHO),
        ("0800", {70: "999"}, Kind.NETWORK),
        ("0800", {}, Kind.NETWORK),
        ("0920", {}, Kind.UNKNOWN),
        ("7200", {}, Kind.UNKNOWN),
        ("", {}, Kind.UNKNOWN),
        ("    ", {}, Kind.UNKNOWN),
    ],
)
def test_iso_kinds(mti: str, fields: dict[int, str], kind: Kind) -> None:
    assert kind_of(Message(mti, fields)) is kind


def test_network_kinds_are_not_reversible() -> None:
    assert not NETWORK_KINDS & REVERSIBLE_KINDS


@pytest.mark.parametrize(
    ("request_mti", "answer"),
    [
        ("0100", "0110"),
        ("0200", "0210"),
        ("0201", "0210"),
        ("0203", "0212"),
        ("0220", "0230"),
        ("0221", "0230"),
        ("0400", "0410"),
        ("0401", "0410"),
        ("0420", "0430"),
        ("0421", "0430"),
        ("0800", "0810"),
        ("1804", "1814"),
        ("020X", "021X"),
    ],
)
def test_response_mti(request_mti: str, answer: str) -> None:
    assert Message(request_mti, {}).is_request
    assert response_mti(request_mti) == answer
    assert not Message(answer, {}).is_request


@pytest.mark.parametrize(
    ("mti", "repeat"), [("0200", False), ("0201", True), ("0421", True), ("0420", False)]
)
def test_is_repeat(mti: str, repeat: bool) -> None:
    assert Message(mti, {}).is_repeat is repeat
    assert Message(repeat_mti(mti), {}).is_repeat


def test_is_request_of_a_broken_type() -> None:
    assert not Message("", {}).is_request
    assert not Message("020", {}).is_request
    assert not Message("02A0", {}).is_request


@pytest.mark.parametrize(
    ("pan", "masked"),
    [
        (PAN, "476173******0010"),
        ("4761739001010", "476173***1010"),
        ("4761739001010010123", "476173*********0123"),
        ("476173900101", "************"),
        ("1234", "****"),
        ("", ""),
    ],
)
def test_mask_pan(pan: str, masked: str) -> None:
    assert mask_pan(pan) == masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("T0000001", "T0000001"),
        ("a\r\nb", "a\\x0d\\x0ab"),
        ("\x1b[2J\x7f", "\\x1b[2J\\x7f"),
        ("\x9b\u2028é", "\\x9b\\u2028\\xe9"),
        ("", ""),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_repr_shows_no_card_data() -> None:
    secret = {
        2: PAN,
        14: "2912",
        35: PAN + "=2912",
        36: PAN,
        45: "B" + PAN,
        48: PAN,
        52: "0123456789ABCDEF",
        55: "5A08" + PAN,
        62: PAN,
        64: "0123456789ABCDEF",
        90: "0200",
        102: PAN,
    }
    shown = repr(Message("0200", {**secret, 11: "000001", 41: "T0000001"}))
    assert PAN not in shown
    assert PAN[6:12] not in shown
    assert "0123456789ABCDEF" not in shown
    assert "2912" not in shown
    assert "2=476173******0010" in shown
    assert "11=000001" in shown
    assert "35=[21]" in shown


def test_repr_stays_on_one_line() -> None:
    nasty = "\n\r\x1b[31m" + "x" * 10
    fields = dict.fromkeys(range(2, 129), nasty)
    shown = repr(Message("02\n0", fields))
    assert shown.isprintable()
    assert shown.isascii()


def test_access() -> None:
    message = Message(
        "0210", {4: "000000001050", 11: "000001", 37: "R", 39: "00", 41: "T", 42: "M"}, b"raw"
    )
    assert message.amount_minor == 1050
    assert (message.stan, message.rrn, message.response_code) == ("000001", "R", "00")
    assert (message.terminal_id, message.merchant_id) == ("T", "M")
    assert message.get(2) == ""
    assert message.get(2, "-") == "-"
    assert 4 in message
    assert 2 not in message


@pytest.mark.parametrize("text", ["", "12a", "-1", "+1", " 1", "\u0661"])
def test_amount_that_is_none(text: str) -> None:
    assert Message("0200", {4: text}).amount_minor is None


@pytest.mark.parametrize(
    ("fields", "pan"),
    [
        ({2: PAN}, PAN),
        ({2: PAN, 35: "1=2"}, PAN),
        ({35: PAN + "=29121010"}, PAN),
        ({35: PAN + "D29121010"}, PAN),
        ({35: PAN + "d29121010"}, PAN),
        ({2: "", 35: PAN + "=2912"}, PAN),
        ({35: "nothing"}, ""),
        ({}, ""),
    ],
)
def test_pan(fields: dict[int, str], pan: str) -> None:
    assert Message("0200", fields).pan == pan


def test_a_change_makes_a_new_message() -> None:
    message = Message("0200", {3: "000000", 11: "000001"}, b"raw")
    changed = message.changed({11: "000002", 39: "00"}, mti="0210")
    assert (changed.mti, changed.fields) == ("0210", {3: "000000", 11: "000002", 39: "00"})
    assert message.fields == {3: "000000", 11: "000001"}
    assert changed.raw == b""
    assert message.changed({}).mti == "0200"
    assert message.without([3, 77]).fields == {11: "000001"}
    assert message == Message("0200", dict(message.fields))
    assert message != changed
    assert message != "0200"
