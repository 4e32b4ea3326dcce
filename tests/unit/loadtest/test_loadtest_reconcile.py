"""The reconciliation finds each kind of fault in hand-made ledgers, and none in sound ones."""

from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.ledger import AcquirerLedger, Attempt, Entry, Outcome, TerminalLedger
from loadtest.reconcile import Fault, Reconciliation, reconcile, reconcile_files

ATTEMPT = Attempt(
    terminal_id="T0000001",
    sequence=1,
    stan="000001",
    transmitted="1121203000",
    reference="T0000001-0000000001",
    merchant_id="MERCHANT0000001",
    kind="purchase",
    amount_minor=1250,
    currency="978",
    outcome=Outcome.APPROVED,
    response_code="00",
    approval_code="000007",
    rrn="000000000007",
    started_ms=1,
    ended_ms=2,
)
ENTRY = Entry(
    entry_id=7,
    stan="004711",
    transmitted="1121203000",
    terminal_id="T0000001",
    merchant_id="MERCHANT0000001",
    mti="0200",
    kind="purchase",
    amount_minor=1250,
    currency="978",
    reference="T0000001-0000000001",
    rrn="000000000007",
    approval_code="000007",
    response_code="00",
    approved=True,
    double=False,
    received_ms=1,
)
REVERSED_ENTRY = replace(ENTRY, reversed_ms=5, reversed_amount_minor=1250)
DECLINED_ENTRY = replace(ENTRY, approved=False, response_code="51", approval_code="")


def faults(result: Reconciliation) -> list[Fault]:
    return [found.fault for found in result.disagreements]


def ended(outcome: Outcome) -> Attempt:
    if outcome is Outcome.APPROVED:
        return ATTEMPT
    return replace(ATTEMPT, outcome=outcome, approval_code="", rrn="")


@pytest.mark.parametrize(
    ("outcome", "entries"),
    [
        (Outcome.APPROVED, [ENTRY]),
        (Outcome.DECLINED, [DECLINED_ENTRY]),
        (Outcome.DECLINED, []),  # refused by the gateway itself
        (Outcome.DECLINED, [REVERSED_ENTRY]),  # timed out at the gateway, and reversed by it
        (Outcome.REVERSED, [REVERSED_ENTRY]),
        (Outcome.REVERSED, []),
        (Outcome.REVERSED, [DECLINED_ENTRY]),
        (Outcome.UNSENT, []),
        (Outcome.APPROVED, [REVERSED_ENTRY, replace(ENTRY, entry_id=8)]),  # a clean failover
    ],
)
def test_sound_ledgers_agree(outcome: Outcome, entries: list[Entry]) -> None:
    result = reconcile([ended(outcome)], [("a", entry) for entry in entries])
    assert result.agrees, result.disagreements


@pytest.mark.parametrize("outcome", [Outcome.DECLINED, Outcome.REVERSED, Outcome.UNSENT])
def test_money_held_for_a_terminal_without_an_approval_is_lost(outcome: Outcome) -> None:
    result = reconcile([ended(outcome)], [("a", ENTRY)])
    assert Fault.LOST in faults(result)
    assert result.summary()["lost"] == 1


@pytest.mark.parametrize("outcome", [Outcome.APPROVED, Outcome.REVERSED, Outcome.DECLINED])
def test_one_transaction_approved_at_two_acquirers_is_doubled(outcome: Outcome) -> None:
    result = reconcile([ended(outcome)], [("a", ENTRY), ("b", replace(ENTRY, stan="000009"))])
    assert faults(result).count(Fault.DOUBLED) == 1
    assert Fault.LOST not in faults(result)


def test_one_request_sent_twice_to_one_acquirer_is_doubled() -> None:
    result = reconcile([ATTEMPT], [("a", ENTRY), ("a", replace(ENTRY, entry_id=8, double=True))])
    assert result.count(Fault.DOUBLED) == 1


def test_a_request_that_came_twice_is_reported_even_if_both_were_declined() -> None:
    result = reconcile(
        [ended(Outcome.DECLINED)],
        [("a", DECLINED_ENTRY), ("a", replace(DECLINED_ENTRY, double=True))],
    )
    assert faults(result) == [Fault.UNEXPLAINED]


@pytest.mark.parametrize("entries", [[], [DECLINED_ENTRY], [REVERSED_ENTRY]])
def test_an_approval_that_no_acquirer_holds_is_unexplained(entries: list[Entry]) -> None:
    result = reconcile([ATTEMPT], [("a", entry) for entry in entries])
    assert faults(result) == [Fault.UNEXPLAINED]


@pytest.mark.parametrize("reference", ["", "T0000009-0000000001"])
def test_money_that_no_terminal_asked_for_is_unexplained(reference: str) -> None:
    result = reconcile([], [("a", replace(ENTRY, reference=reference))])
    assert faults(result) == [Fault.UNEXPLAINED]


@pytest.mark.parametrize(
    "entry",
    [
        replace(ENTRY, amount_minor=1251),
        replace(ENTRY, currency="840"),
        replace(ENTRY, merchant_id="MERCHANT0000002"),
        replace(ENTRY, terminal_id="T0000002"),
        replace(ENTRY, approval_code="000008"),
        replace(ENTRY, rrn="000000000008"),
    ],
)
def test_an_approval_with_another_content_is_unexplained(entry: Entry) -> None:
    assert faults(reconcile([ATTEMPT], [("a", entry)])) == [Fault.UNEXPLAINED]


def test_a_reversal_of_another_amount_is_unexplained() -> None:
    partly = replace(REVERSED_ENTRY, reversed_amount_minor=1000)
    assert faults(reconcile([ended(Outcome.REVERSED)], [("a", partly)])) == [Fault.UNEXPLAINED]


@pytest.mark.parametrize("outcome", [Outcome.OPEN, Outcome.REVERSING])
@pytest.mark.parametrize("entries", [[], [ENTRY], [REVERSED_ENTRY]])
def test_what_a_terminal_has_not_settled_is_unexplained(
    outcome: Outcome, entries: list[Entry]
) -> None:
    result = reconcile([ended(outcome)], [("a", entry) for entry in entries])
    assert faults(result) == [Fault.UNEXPLAINED]


def test_what_a_terminal_never_sent_must_not_be_at_an_acquirer() -> None:
    result = reconcile([ended(Outcome.UNSENT)], [("a", DECLINED_ENTRY)])
    assert faults(result) == [Fault.UNEXPLAINED]


def test_ledgers_in_files_give_the_same_and_the_counts_add_up(tmp_path: Path) -> None:
    terminals = TerminalLedger(tmp_path / "terminals.sqlite")
    for sequence, outcome in enumerate(Outcome, start=1):
        terminals.put(
            replace(ended(outcome), sequence=sequence, reference=f"T0000001-{sequence:010d}")
        )
    terminals.close()
    acquirer = AcquirerLedger(tmp_path / "a.sqlite")
    approved = list(Outcome).index(Outcome.APPROVED) + 1
    added = acquirer.add(
        replace(ENTRY, reference=f"T0000001-{approved:010d}", approval_code="", rrn="")
    )
    acquirer.close()

    result = reconcile_files([tmp_path / "terminals.sqlite"], {"a": tmp_path / "a.sqlite"})
    # The two that are open, and codes that the hand-made attempt cannot know.
    assert added.approval_code == "000001"
    assert result.count(Fault.UNEXPLAINED) == 4
    assert result.summary() == {
        "sent": 6,
        "approved": 1,
        "declined": 1,
        "errors": 4,
        "lost": 0,
        "doubled": 0,
        "unexplained": 4,
    }
    assert (result.unsent, result.reversed, result.unsettled) == (1, 1, 2)
