"""A patched frame is the frame that the codec would have written, for every kind and dialect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.message import Message, kind_of
from loadtest.run.messages import Deal, Requests, Template, Totals
from loadtest.wire import shipped_wire

KINDS = ("purchase", "void", "refund", "preauthorisation", "completion", "balance")
ASCII = shipped_wire()


def deal_of(kind: str, *, number: int = 1, amount_minor: int = 1_234) -> Deal:
    deal = Deal(
        kind=kind,
        sequence=number,
        stan=f"{number:06d}",
        transmitted="0714153001",
        reference=f"T0000001-{number:010d}",
        pan="9999990000010010",
        amount_minor=amount_minor,
        started_ms=0,
    )
    if kind in ("void", "refund", "completion"):
        deal.original = f"0200{number:06d}0714153000{'0' * 22}"
    return deal


@given(st.sampled_from(KINDS), st.integers(1, 999_999), st.integers(0, 10**12 - 1), st.booleans())
def test_patched_is_as_encoded(kind: str, number: int, amount: int, repeated: bool) -> None:
    requests = Requests(ASCII, currency="978")
    requests.frame(deal_of(kind), "T0000009", "MERCHANT0000009")  # the template is another's
    deal = deal_of(kind, number=number, amount_minor=amount)
    frame = requests.frame(deal, "T0000001", "MERCHANT0000001", repeated=repeated)
    message = requests.message(deal, "T0000001", "MERCHANT0000001")
    if repeated:
        message = message.changed({}, mti=message.mti[:3] + "1")
    assert frame == ASCII.pack(message)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_what_the_gateway_takes_it_for(kind: str) -> None:
    message = Requests(ASCII, currency="978").message(deal_of(kind), "T0000001", "M")
    assert kind_of(message).value == kind


@pytest.mark.parametrize("dialect", ["iso87_ascii", "iso87_bcd", "iso87_ebcdic"])
def test_a_dialect_that_packs_its_digits_is_encoded_each_time(dialect: str) -> None:
    try:
        wire = shipped_wire(dialect)
    except ValueError as error:
        pytest.skip(str(error))
    message = Requests(wire, currency="978").message(
        deal_of("purchase"), "T0000001", "MERCHANT0000001"
    )
    template = Template(wire, message.mti, message.fields, [4, 11])
    assert template.is_patched is (dialect == "iso87_ascii")
    changed = message.changed({4: "000000009999", 11: "000777"})
    assert template.fill(("000000009999", "000777")) == wire.pack(changed)


def test_a_percent_sign_in_a_field_is_a_percent_sign() -> None:
    message = Message("0800", {11: "000001", 41: "T0000001", 48: "100% of it"})
    template = Template(ASCII, message.mti, message.fields, [11])
    assert template.is_patched
    assert template.fill(("000002",)) == ASCII.pack(message.changed({11: "000002"}))


def test_a_reversal_names_its_original_and_a_second_one_says_so() -> None:
    requests, deal = Requests(ASCII, currency="978"), deal_of("preauthorisation", number=42)
    first = requests.reversal(deal, "T0000001", "M", reason="98", now="0714153105")
    deal.reversals_sent = 1
    second = requests.reversal(deal, "T0000001", "M", reason="98", now="0714153110")
    assert (first.mti, second.mti) == ("0400", "0401")
    assert first.get(90) == f"0100{42:06d}0714153001{'0' * 22}"
    assert first.stan == deal.stan
    assert 52 not in first


def test_totals_are_those_of_what_stands() -> None:
    totals = Totals()
    totals.count("purchase", 500)
    totals.count("purchase", 700)
    totals.count("purchase", 700, sign=-1)  # voided
    totals.count("refund", 100)
    totals.count("preauthorisation", 9_000)  # only its completion is money
    totals.count("completion", 800)
    assert totals == Totals(debits=2, debits_minor=1_300, credits=1, credits_minor=100)


def test_no_card_number_is_in_a_repr() -> None:
    assert "9999990000010010" not in repr(deal_of("purchase"))
