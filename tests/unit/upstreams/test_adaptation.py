"""A message as one upstream gets it, and its answer in the terminal's own terms again."""

from __future__ import annotations

import pytest

from gateway.errors import NotSent
from gateway.settings.boarding import BoardedTerminal
from gateway.settings.schema_upstreams import Upstream
from gateway.upstreams.adaptation import Adaptation, CannotAdapt
from gateway.wire.message import Message

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
    return Adaptation(settings, terminals or {})


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
