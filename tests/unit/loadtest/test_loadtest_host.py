"""A simulated acquirer decides as its switches say, and its ledger shows what it did."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.clock import SystemClock
from gateway.wire.message import Message
from loadtest.host import Host, original_key
from loadtest.ledger import AcquirerLedger, Entry, read_entries
from loadtest.switches import Switches

PURCHASE = Message(
    "0200",
    {
        2: "9999990000010003",
        3: "000000",
        4: "000000001250",
        7: "1121203000",
        11: "004711",
        41: "T0000001",
        42: "MERCHANT0000001",
        48: "T0000001-0000000001",
        49: "978",
    },
)
REVERSAL = Message(
    "0420",
    {
        4: "000000001250",
        7: "1121203100",
        11: "004712",
        39: "68",
        41: "T0000001",
        49: "978",
        90: f"02000047111121203000{0:022d}",
    },
)
HEALTHY = Switches()


class Acquirer:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = AcquirerLedger(path)
        self.host = Host(self.ledger, SystemClock())

    def answer(self, request: Message, **switches: object) -> Message:
        return self.host.answer(request, HEALTHY.changed(switches))

    @property
    def entries(self) -> list[Entry]:
        return list(read_entries(self.path))


@pytest.fixture
def acquirer(tmp_path: Path) -> Iterator[Acquirer]:
    acquirer = Acquirer(tmp_path / "ledger.sqlite")
    yield acquirer
    acquirer.ledger.close()


def test_a_purchase_is_approved_with_rrn_and_approval_code(acquirer: Acquirer) -> None:
    answer = acquirer.answer(PURCHASE)
    assert (answer.mti, answer.response_code) == ("0210", "00")
    for number in (3, 4, 7, 11, 41, 42, 49):
        assert answer.get(number) == PURCHASE.get(number)
    assert 2 not in answer
    [entry] = acquirer.entries
    assert (answer.rrn, answer.get(38)) == (entry.rrn, entry.approval_code)
    assert len(answer.rrn) == 12
    assert (entry.amount_minor, entry.reference, entry.holds_money) == (
        1250,
        "T0000001-0000000001",
        True,
    )


def test_an_rrn_is_echoed(acquirer: Acquirer) -> None:
    assert acquirer.answer(PURCHASE.changed({37: "533912000042"})).rrn == "533912000042"


@pytest.mark.parametrize(
    ("switches", "code"),
    [
        ({"response_code": "91"}, "91"),
        ({"response_code": "08"}, "08"),
        ({"decline": "51:amount>=1250"}, "51"),
        ({"decline": "51:amount>=1251"}, "00"),
        ({"decline": "05:bin=999999"}, "05"),
        ({"decline": "05:bin=4,54:amount%10=0"}, "54"),
        ({"decline": "54:amount%10=1"}, "00"),
    ],
)
def test_switches_decide(acquirer: Acquirer, switches: dict[str, str], code: str) -> None:
    answer = acquirer.answer(PURCHASE, **switches)
    approved = code in ("00", "08")
    assert answer.response_code == code
    assert (38 in answer) is approved
    assert [entry.holds_money for entry in acquirer.entries] == [approved]


@pytest.mark.parametrize("mti", ["0400", "0401", "0420", "0421"])
def test_a_reversal_finds_its_original_and_repeats_change_nothing(
    acquirer: Acquirer, mti: str
) -> None:
    acquirer.answer(PURCHASE)
    answers = [acquirer.answer(REVERSAL.changed({}, mti=mti)) for _ in range(3)]
    assert {(a.mti, a.response_code, a.stan) for a in answers} == {
        ("0410" if mti < "0410" else "0430", "00", "004712")
    }
    [entry] = acquirer.entries
    assert entry.reversed_ms
    assert entry.reversed_amount_minor == 1250


def test_a_reversal_without_original_data_goes_by_stan_and_terminal(acquirer: Acquirer) -> None:
    acquirer.answer(PURCHASE)
    bare = REVERSAL.without([90]).changed({11: "004711"})
    assert acquirer.answer(bare).response_code == "00"
    assert acquirer.entries[0].reversed_ms


@pytest.mark.parametrize(
    "changes",
    [
        {41: "T0000002"},
        {90: f"02000047121121203000{0:022d}"},
        {90: f"02000047111121203001{0:022d}"},
    ],
)
def test_a_reversal_of_something_else_touches_nothing(
    acquirer: Acquirer, changes: dict[int, str]
) -> None:
    acquirer.answer(PURCHASE)
    assert acquirer.answer(REVERSAL.changed(changes)).response_code == "25"
    assert acquirer.entries[0].holds_money


def test_a_reversal_that_overtakes_its_original_keeps_it_from_being_approved(
    acquirer: Acquirer,
) -> None:
    assert acquirer.answer(REVERSAL).response_code == "25"
    assert acquirer.answer(PURCHASE).response_code == "12"
    assert acquirer.answer(REVERSAL).response_code == "00"
    assert not acquirer.entries[0].holds_money


def test_without_tombstones_the_overtaken_original_is_approved(acquirer: Acquirer) -> None:
    acquirer.answer(REVERSAL)
    assert acquirer.answer(PURCHASE, tombstones=False).response_code == "00"


def test_a_request_that_comes_twice_unmarked_is_a_double_in_the_ledger(acquirer: Acquirer) -> None:
    acquirer.answer(PURCHASE)
    assert acquirer.answer(PURCHASE).response_code == "00"
    assert [entry.double for entry in acquirer.entries] == [False, True]
    # One reversal undoes one of them.
    acquirer.answer(REVERSAL)
    acquirer.answer(REVERSAL.changed({}, mti="0421"))
    assert [entry.holds_money for entry in acquirer.entries] == [False, True]


def test_a_marked_repeat_gets_the_same_answer_and_no_second_entry(acquirer: Acquirer) -> None:
    first = acquirer.answer(PURCHASE)
    again = acquirer.answer(PURCHASE.changed({}, mti="0201"), response_code="91")
    assert again.mti == "0210"
    assert again.fields == first.fields
    assert len(acquirer.entries) == 1


def test_network_messages_and_unknown_ones_are_answered(acquirer: Acquirer) -> None:
    echo = acquirer.answer(Message("0800", {7: "1121203000", 11: "000001", 70: "301"}))
    assert (echo.mti, echo.response_code, echo.get(70)) == ("0810", "00", "301")
    settlement = acquirer.answer(Message("0500", {11: "000002", 41: "T0000001"}))
    assert (settlement.mti, settlement.response_code) == ("0510", "12")
    assert acquirer.entries == []


def test_the_ledger_outlives_its_process(tmp_path: Path) -> None:
    before = Acquirer(tmp_path / "ledger.sqlite")
    before.answer(PURCHASE)
    before.ledger.close()
    after = Acquirer(tmp_path / "ledger.sqlite")
    assert after.answer(REVERSAL).response_code == "00"
    assert after.answer(PURCHASE.changed({11: "004713"})).rrn == "000000000002"
    after.ledger.close()


def test_original_data_of_zeros_names_nothing() -> None:
    key = original_key(REVERSAL.changed({90: "0" * 42}))
    assert (key.stan, key.transmitted) == ("004712", "")
