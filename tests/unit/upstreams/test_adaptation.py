"""A message as one upstream gets it, and its answer in the terminal's own terms again."""

from __future__ import annotations

import pytest

from gateway.errors import NotSent
from gateway.settings.boarding import BoardedTerminal
from gateway.settings.schema_upstreams import Upstream
from gateway.upstreams.adaptation import Adaptation, CannotAdapt
from gateway.wire.dialect import shipped_dialects
from gateway.wire.message import Kind, Message, kind_of

REQUEST = Message(
    "0200",
    {
        3: "000000",
        4: "000000010000",
        11: "000007",
        18: "5411",
        22: "051",
        32: "11111",
        41: "T0000001",
        42: "M1             ",
        48: "private",
        60: "22000001",
    },
)


def adaptation(terminals: dict[str, BoardedTerminal] | None = None, **values: object) -> Adaptation:
    settings = Upstream.model_validate(
        {
            "name": "bank",
            "addresses": ["127.0.0.1:1"],
            "dialect": "iso87_ascii",
            "plain": True,
            **values,
        }
    )
    return Adaptation(settings, terminals or {}, shipped_dialects())


def echo(sent: Message, **more: str) -> Message:
    fields = {int(number[2:]): value for number, value in more.items()}
    return Message("0210", {**sent.fields, 39: "00", **fields})


def test_without_rules_a_message_is_passed_as_it_is() -> None:
    plain = adaptation()
    assert plain.refusal(REQUEST) == ""
    assert plain.outgoing(REQUEST) is REQUEST
    answer = echo(REQUEST)
    assert plain.incoming(answer, request=REQUEST, sent=REQUEST) is answer


def test_the_gateway_s_own_identity() -> None:
    found = adaptation(terminal_id="GW1", merchant_id="GATEWAY")
    sent = found.outgoing(REQUEST)
    assert sent.get(41) == "GW1     "
    assert sent.get(42) == "GATEWAY        "
    back = found.incoming(echo(sent), request=REQUEST, sent=sent)
    assert (back.get(41), back.get(42)) == ("T0000001", "M1             ")
    assert REQUEST.get(41) == "T0000001"  # a message is a value


def test_each_terminal_under_the_name_that_the_upstream_gave_it() -> None:
    found = adaptation(
        {"T0000001": BoardedTerminal("90000001", "M900".ljust(15), "000042")},
        knows_terminals="one_by_one",
        terminals_file="t.csv",
    )
    assert found.refusal(REQUEST) == ""
    sent = found.outgoing(REQUEST)
    assert (sent.get(41), sent.get(42), sent.get(60)) == (
        "90000001",
        "M900           ",
        "22000042",
    )
    back = found.incoming(echo(sent, de37="000000000001"), request=REQUEST, sent=sent)
    assert back == Message("0210", {**REQUEST.fields, 39: "00", 37: "000000000001"})


def test_the_batch_of_an_original_is_the_upstream_s_too() -> None:
    found = adaptation(
        {"T0000001": BoardedTerminal("90000001", batch="000042")},
        knows_terminals="one_by_one",
        terminals_file="t.csv",
    )
    void = REQUEST.changed({61: "0000010000091121"})
    assert found.outgoing(void).get(61) == "0000420000091121"
    assert found.outgoing(void).get(42) == "M1             "  # the terminal's own
    for other in ("free text", "12345678901x", "00000100000"):
        assert found.outgoing(REQUEST.changed({61: other})).get(61) == other
    assert found.outgoing(REQUEST.changed({60: "22"})).get(60) == "22"


def test_a_terminal_that_is_not_boarded_is_refused_in_words() -> None:
    found = adaptation(knows_terminals="one_by_one", terminals_file="t.csv")
    why = "terminal T0000001 is not in the terminals_file of upstream bank"
    assert found.refusal(REQUEST) == why
    with pytest.raises(CannotAdapt, match=why):
        found.outgoing(REQUEST)
    assert issubclass(CannotAdapt, NotSent)


def test_fields_are_dropped_set_and_mapped() -> None:
    found = adaptation(
        fields={
            "drop": [48, 63],
            "set": {"32": "22222", "33": "33333"},
            "map": {"18": {"5411": "5999"}, "22": {"*": "011"}, "25": {"00": "08"}},
        }
    )
    sent = found.outgoing(REQUEST)
    assert 48 not in sent
    assert (sent.get(32), sent.get(33)) == ("22222", "33333")
    assert (sent.get(18), sent.get(22)) == ("5999", "011")
    assert 25 not in sent  # a map changes what is there


def test_answers_say_what_the_request_said_and_keep_what_is_the_upstream_s_own() -> None:
    found = adaptation(
        fields={
            "drop": [48],
            "set": {"32": "22222", "33": "33333"},
            "map": {"18": {"5411": "5999"}},
        }
    )
    sent = found.outgoing(REQUEST)
    back = found.incoming(echo(sent, de48="a script", de38="A1"), request=REQUEST, sent=sent)
    assert back.get(32) == "11111"
    assert 33 not in back  # the terminal sent none
    assert back.get(18) == "5411"
    assert back.get(48) == "a script"
    assert back.get(38) == "A1"
    other = found.incoming(echo(sent, de32="99999"), request=REQUEST, sent=sent)
    assert other.get(32) == "99999"  # no echo: the upstream's own word


def test_a_value_that_no_map_names_stays() -> None:
    found = adaptation(fields={"map": {"18": {"5411": "5999"}}})
    assert found.outgoing(REQUEST.changed({18: "7011"})).get(18) == "7011"


def test_what_is_required_is_there_or_set() -> None:
    found = adaptation(fields={"require": [18, 33, 55], "set": {"33": "1"}})
    assert found.refusal(REQUEST) == "upstream bank requires DE55, which is absent"
    assert found.refusal(REQUEST.changed({55: "9F36"})) == ""
    # What is left of a request for its reversal lacks what is never kept.
    assert found.outgoing(REQUEST).get(33) == "1"


# --- dialects ------------------------------------------------------------------------------------

POS_PURCHASE = Message(
    "0200",
    {
        2: "4000000000000002",
        3: "000000",
        4: "000000010000",
        11: "000007",
        22: "051",
        25: "00",
        35: "4000000000000002D4912201",
        41: "T0000001",
        42: "M1             ",
        49: "156",
        55: "9f360200aa",
        60: "22000001000",
        64: "0011223344556677",
    },
)
NOON_MS = 1_795_348_800_000  # 22 November 2026, 12:00 UTC


def test_a_unionpay_purchase_for_an_acquirer_of_1987() -> None:
    found = adaptation()
    sent = found.outgoing(POS_PURCHASE, "unionpay_pos", at_ms=NOON_MS)
    expected = dict(POS_PURCHASE.fields) | {
        7: "1122120000",
        35: "4000000000000002=4912201",
        55: "9F360200AA",
    }
    # What only UnionPay knows stays there, and so does its MAC.
    del expected[60], expected[64]
    assert sent == Message("0200", expected)
    said = found.incoming(
        Message("0210", {**sent.fields, 37: "000000000001", 39: "00", 54: "0" * 20}),
        request=POS_PURCHASE,
        sent=sent,
        dialect="unionpay_pos",
    )
    assert said.get(35) == "4000000000000002D4912201"
    assert said.get(55) == "9f360200aa"
    assert 7 not in said
    assert said.get(60) == "22000001000"
    assert (said.get(37), said.get(54)) == ("000000000001", "0" * 20)


@pytest.mark.parametrize(
    ("kind", "mti", "code", "condition", "private", "sent_mti", "sent_code"),
    [
        (Kind.PURCHASE, "0200", "000000", "00", "22", "0200", "000000"),
        (Kind.VOID, "0200", "200000", "00", "23", "0200", "020000"),
        (Kind.REFUND, "0220", "200000", "00", "25", "0220", "200000"),
        (Kind.BALANCE, "0200", "310000", "00", "01", "0200", "310000"),
        (Kind.PREAUTHORISATION, "0100", "030000", "06", "10", "0100", "000000"),
        (Kind.PREAUTHORISATION_VOID, "0100", "200000", "06", "11", "0100", "020000"),
        (Kind.COMPLETION, "0200", "000000", "06", "20", "0200", "000000"),
        (Kind.COMPLETION_VOID, "0200", "200000", "06", "21", "0200", "020000"),
        (Kind.OFFLINE, "0220", "000000", "00", "30", "0220", "000000"),
        (Kind.ADJUSTMENT, "0221", "000000", "00", "34", "0221", "020000"),
    ],
)
def test_each_kind_is_asked_for_as_the_other_side_does(
    kind: Kind, mti: str, code: str, condition: str, private: str, sent_mti: str, sent_code: str
) -> None:
    asked = {3: code, 25: condition, 60: private + "000001000"}
    request = Message(mti, {**POS_PURCHASE.fields, **asked})
    assert kind_of(request) is kind
    sent = adaptation().outgoing(request, "unionpay_pos")
    assert (sent.mti, sent.get(3), kind_of(sent)) == (sent_mti, sent_code, kind)
    back = adaptation(dialect="unionpay_pos").outgoing(sent, "iso87_ascii")
    assert (back.get(3), back.get(25), back.get(60)[:2]) == (code, condition, private)
    assert kind_of(back) is kind


def test_what_the_other_side_cannot_be_asked_for() -> None:
    found = adaptation(dialect="unionpay_pos")
    cash = Message("0200", {3: "010000", 4: "000000000100", 41: "T0000001"})
    why = "upstream bank cannot get DE3: dialect unionpay_pos has no cash"
    assert found.refusal(cash, "iso87_ascii").startswith(why)
    with pytest.raises(CannotAdapt, match=why):
        found.outgoing(cash, "iso87_ascii")
    track_1 = Message("0200", {3: "000000", 45: "B4000000000000002^X^4912"})
    assert "DE45" in found.refusal(track_1, "iso87_ascii")
    assert "4000000000000002" not in found.refusal(track_1, "iso87_ascii")
    dropping = adaptation(dialect="unionpay_pos", fields={"drop": [45]})
    assert dropping.refusal(track_1, "iso87_ascii") == ""
    assert 45 not in dropping.outgoing(track_1, "iso87_ascii")


def test_what_is_kept_says_again_what_was_sent() -> None:
    found = adaptation(dialect="iso93_ascii", fields={"message_types": {"purchase": "0100"}})
    told = found.changes(POS_PURCHASE, "unionpay_pos", at_ms=NOON_MS)
    sent = found.outgoing(POS_PURCHASE, "unionpay_pos", at_ms=NOON_MS)
    # Nothing of a card is among what may be kept of it.
    assert not {2, 14, 34, 35, 36, 45, 52, 55} & told.keys()
    kept = POS_PURCHASE.without([35, 55])
    again = found.again(kept, told)
    assert again == sent.without([35, 55])
    assert (again.mti, again.get(7), len(again.get(22))) == ("0100", "1122120000", 12)
    # Whatever is edited meanwhile.
    assert adaptation().again(kept, told) == again


def test_answers_may_say_other_codes() -> None:
    found = adaptation(fields={"codes": {"N7": "55"}})
    answer = Message("0210", {39: "N7"})
    assert found.incoming(answer, request=REQUEST, sent=REQUEST).response_code == "55"
    # Of UnionPay's codes others know their own.
    unionpay = adaptation(dialect="unionpay_pos")
    request = Message("0200", {3: "000000", 11: "000001"})
    sent = unionpay.outgoing(request, "iso87_ascii")
    for code, told in (("A0", "63"), ("97", "58"), ("00", "00"), ("51", "51"), ("A2", "00")):
        answer = Message("0210", {**sent.fields, 39: code})
        said = unionpay.incoming(answer, request=request, sent=sent, dialect="iso87_ascii")
        assert said.response_code == told


def test_requests_without_a_local_time_get_one() -> None:
    found = adaptation(fields={"time_zone": "Asia/Shanghai"})
    sent = found.outgoing(POS_PURCHASE, "unionpay_pos", at_ms=NOON_MS)
    assert (sent.get(7), sent.get(12), sent.get(13)) == ("1122120000", "200000", "1122")
    told = found.changes(POS_PURCHASE, "unionpay_pos", at_ms=NOON_MS)
    assert found.again(POS_PURCHASE, told) == sent.changed({55: POS_PURCHASE.get(55)}).changed(
        {35: POS_PURCHASE.get(35)}
    )
    answer = Message("0210", {**sent.fields, 39: "00"})
    back = found.incoming(answer, request=POS_PURCHASE, sent=sent, dialect="unionpay_pos")
    assert (back.get(12), back.get(13)) == ("200000", "1122")
    own = POS_PURCHASE.changed({12: "111111", 13: "1121"})
    assert found.outgoing(own, "unionpay_pos", at_ms=NOON_MS).get(12) == "111111"


def test_a_field_is_filled_from_another() -> None:
    found = adaptation(fields={"copy_from": {"26": 18}})
    assert found.outgoing(REQUEST).get(26) == "5411"
    assert 26 not in found.outgoing(REQUEST.without([18]))


def test_what_the_gateway_makes_itself_fits_the_dialect() -> None:
    reversal = Message("0400", {3: "000000", 7: "1122120000", 11: "000007", 61: "0000010000071122"})
    assert adaptation(dialect="unionpay_pos").made(reversal) == reversal.without([7])
    assert adaptation().made(reversal) is reversal


def test_a_response_code_is_never_an_echo() -> None:
    """A reversal has a DE39 too, and its answer may have the very same."""
    rules = adaptation(fields={"map": {39: {"Y1": "00"}}})
    advice = Message("0220", {3: "000000", 39: "Y1"})
    sent = rules.outgoing(advice)
    assert sent.get(39) == "00"
    answer = rules.incoming(Message("0230", {39: "00"}), request=advice, sent=sent)
    assert answer.response_code == "00"


def test_an_action_code_that_no_row_names_can_be_told_to_a_terminal_of_1987() -> None:
    """Silence would leave an approval that the terminal never heard of."""
    newer = adaptation(dialect="iso93_ascii")
    request = Message("0200", {3: "000000", 4: "000000000100", 11: "000001"})
    sent = newer.outgoing(request, "iso87_ascii")
    answer = Message("0210", {11: "000001", 39: "777", 1039: "777"})
    told = newer.incoming(answer, request=request, sent=sent, dialect="iso87_ascii")
    assert told.response_code == "09"


def test_what_a_map_does_not_name_is_not_kept() -> None:
    """Text in another form is no word of the configuration: it may hold data of a card."""
    rules = adaptation(dialect="iso87_ebcdic", fields={"map": {48: {"A": "B"}}, "copy_from": {}})
    assert rules.changes(Message("0200", {48: "A"}))[48] == "B"
    message = Message("0200", {48: "4111111111111111=2512"})
    sent = Message("0200", {48: "4111111111111111D2512"})
    rules.outgoing = lambda *_a, **_k: sent  # type: ignore[method-assign]
    assert 48 not in rules.changes(message)
