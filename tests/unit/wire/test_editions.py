"""ISO 8583:1993 on the wire, and the terms of 1987 inside: each pair of values by hand."""

from __future__ import annotations

import pytest

from gateway.errors import EncodeError
from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.dialect_meaning import NATIVE
from gateway.wire.editions import EditionCodec, codec_of
from gateway.wire.message import Kind, Message, kind_of

NEW_YEAR_MS = 1_798_761_700_000  # 1 January 2027, 00:01:40 UTC
DIALECTS = shipped_dialects()
WIRE = Codec(DIALECTS["iso93_ascii"])
CODEC = codec_of(DIALECTS["iso93_ascii"], lambda: NEW_YEAR_MS)


def written(message: Message) -> Message:
    """What a host of 1993 reads."""
    return WIRE.decode(CODEC.encode(message))


def read(mti: str, fields: dict[int, str]) -> Message:
    """What is made of what a host of 1993 writes."""
    return CODEC.decode(WIRE.encode(Message(mti, fields)))


def test_only_links_of_1993_are_translated() -> None:
    assert type(codec_of(DIALECTS["iso87_ascii"], lambda: 0)) is Codec
    assert isinstance(CODEC, EditionCodec)


def test_a_purchase_is_written_with_the_year_and_its_function() -> None:
    purchase = {3: "000000", 4: "000000001250", 11: "000001", 12: "235959", 13: "1231", 25: "00"}
    assert written(Message("0200", purchase)) == Message(
        "1200",
        {3: "000000", 4: "000000001250", 11: "000001", 12: "261231235959", 24: "200"},
    )
    completion = written(Message("0220", {**purchase, 25: "06"}))
    assert (completion.mti, completion.get(24)) == ("1220", "202")
    assert kind_of(read(completion.mti, completion.fields)) is Kind.COMPLETION


def test_an_answer_says_its_action_code() -> None:
    for action, code in (("000", "00"), ("116", "51"), ("117", "55"), ("907", "91"), ("909", "96")):
        assert read("1210", {11: "000001", 39: action}).response_code == code
    # Of what no row names the first digit decides.
    assert read("1210", {39: "199"}).response_code == "05"
    assert read("1210", {39: "299"}).response_code == "04"
    assert read("1210", {39: "999"}).response_code == "96"
    # What is unknown stays so: it may be an approval.
    assert read("1210", {39: "777"}).response_code == "777"
    assert written(Message("0210", {39: "51"})).get(39) == "116"
    assert written(Message("0210", {39: "Z9"})).get(39) == "909"


def test_what_was_read_goes_on_as_it_was() -> None:
    fields = {11: "000001", 12: "250102030405", 13: "2601", 15: "250103", 25: "1510", 39: "907"}
    answer = read("1210", fields)
    assert (answer.get(12), answer.get(13), answer.get(15)) == ("030405", "0102", "0103")
    assert answer.get(NATIVE + 39) == "907"
    assert written(answer) == Message("1210", fields)
    # Changed since, the old value says nothing.
    assert written(answer.changed({39: "00", 12: "111111"})).get(39) == "000"


def test_a_reversal_names_its_original_in_de56_and_says_why_in_de25() -> None:
    reversal = {4: "000000001250", 11: "000009", 39: "68", 56: "0200000007261231235959041111"}
    sent = written(Message("0420", reversal))
    assert sent == Message(
        "1420",
        {
            4: "000000001250",
            11: "000009",
            24: "400",
            25: "4021",
            56: "1200000007261231235959041111",
        },
    )
    heard = read("1430", {11: "000009", 39: "400", 56: sent.get(56)})
    assert heard.response_code == "00"
    assert heard.get(90) == "0200000007" + "0" * 10 + "00000001111" + "0" * 11


def test_de90_becomes_de56_where_nothing_better_is_known() -> None:
    original = "0200000007" + "1231235959" + "00000001111" + "0" * 11
    assert written(Message("0200", {90: original})).get(56) == "1200000007261231235959041111"
    timeless = "0200000007" + "0" * 32
    named = written(Message("0200", {13: "1230", 12: "101112", 90: timeless})).get(56)
    assert named == "120000000726123000000000"


def test_what_a_partial_reversal_leaves() -> None:
    partial = {4: "000000001250", 11: "000009", 95: "000000000250".ljust(42, "0")}
    sent = written(Message("0420", partial))
    assert (sent.get(4), sent.get(30)) == ("000000000250", "000000001250" + "0" * 12)
    assert (sent.get(24), 95 in sent) == ("401", False)
    assert read("1420", sent.fields).get(4) == "000000001250"
    assert read("1420", sent.fields).get(95)[:12] == "000000000250"


def test_a_full_reversal_may_say_what_the_amount_was() -> None:
    """It leaves nothing, though DE30 is there."""
    amounts = {4: "000000001250", 30: "000000001250" + "0" * 12}
    whole = read("1420", {11: "000009", 24: "400", **amounts})
    assert (whole.get(4), 95 in whole) == ("000000001250", False)


def test_no_refusal_of_an_administrative_answer_is_an_approval() -> None:
    assert read("1614", {39: "600"}).response_code == "00"
    assert read("1614", {39: "601"}).response_code == "25"
    assert read("1614", {39: "606"}).response_code == "606"


@pytest.mark.parametrize(
    ("code", "function", "kind"),
    [
        ("001", "801", Kind.SIGN_ON),
        ("002", "802", Kind.SIGN_OFF),
        ("161", "811", Kind.KEY_CHANGE),
        ("301", "831", Kind.ECHO),
    ],
)
def test_network_messages_say_what_for_in_de24(code: str, function: str, kind: Kind) -> None:
    sent = written(Message("0800", {7: "0101000140", 11: "000001", 70: code}))
    assert (sent.mti, sent.get(24), 70 in sent) == ("1800", function, False)
    assert kind_of(read("1800", sent.fields)) is kind
    both = {24: function, 70: code}
    assert written(read("1800", both)).fields == both


def test_what_cannot_be_written_names_its_field() -> None:
    with pytest.raises(EncodeError, match="12"):
        CODEC.encode(Message("0200", {12: "1"}))
