"""The gateway's store is the third ledger: each way it can disagree with an acquirer is found."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.store.store import State
from loadtest.chaos import ChaosResult
from loadtest.chaos_evidence import Found
from loadtest.gateway_ledger import Record, compare
from loadtest.ledger import Attempt, Entry, Outcome
from loadtest.reconcile import Fault

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
DECLINED = replace(ENTRY, approved=False, response_code="51", approval_code="")
REVERSED = replace(ENTRY, reversed_ms=5, reversed_amount_minor=1250)
RECORD = Record(
    transaction_id=3,
    terminal_id="T0000001",
    stan="000001",
    amount_minor=1250,
    upstream="acquirer-a",
    upstream_stan=4711,
    state=State.DELIVERED,
    response_code="00",
)


def odds(record: Record | None, entry: Entry | None, at: str = "acquirer-a") -> list[str]:
    found = compare(
        [] if record is None else [record],
        [] if entry is None else [(at, entry)],
        {"T0000001/000001": "T0000001-0000000001"},
    )
    told = list(found)
    assert {one.fault for one in told} <= {Fault.UNEXPLAINED}
    assert {one.reference for one in told} <= {"T0000001-0000000001"}
    return [one.reason for one in told]


@pytest.mark.parametrize(
    ("record", "entry"),
    [
        (RECORD, ENTRY),
        (replace(RECORD, state=State.ANSWERED), ENTRY),
        (replace(RECORD, response_code="51"), DECLINED),
        (replace(RECORD, state=State.REVERSED, response_code="91"), REVERSED),
        (replace(RECORD, state=State.REVERSED, response_code="91"), None),
        (replace(RECORD, state=State.REVERSED, response_code="91"), DECLINED),
        (replace(RECORD, state=State.NOTHING_SENT, response_code="91"), None),
    ],
)
def test_what_fits_is_not_told(record: Record, entry: Entry | None) -> None:
    assert odds(record, entry) == []


@pytest.mark.parametrize(
    ("record", "entry", "told"),
    [
        (None, ENTRY, "knows nothing of that"),
        (None, DECLINED, "knows nothing of that"),
        (RECORD, None, "holds no money"),
        (RECORD, REVERSED, "holds no money"),
        (replace(RECORD, state=State.REVERSED), ENTRY, "holds money for it"),
        (replace(RECORD, state=State.NOTHING_SENT, response_code="91"), ENTRY, "holds money"),
        (replace(RECORD, response_code="51"), ENTRY, "is delivered (51)"),
        (replace(RECORD, amount_minor=1), ENTRY, "is about 1, 1250 at acquirer-a"),
        (replace(RECORD, state=State.INTENDED, response_code=""), ENTRY, "still intended"),
        (replace(RECORD, state=State.REVERSAL_OWED), ENTRY, "still reversal_owed"),
        (replace(RECORD, state=State.GIVEN_UP), ENTRY, "still given_up"),
    ],
)
def test_what_does_not_fit_is_told(record: Record | None, entry: Entry | None, told: str) -> None:
    [reason] = odds(record, entry)
    assert told in reason


def test_another_acquirer_than_the_one_on_record_is_told_from_both_sides() -> None:
    reasons = odds(RECORD, ENTRY, at="acquirer-b")
    assert len(reasons) == 2
    assert "holds no money" in reasons[0]
    assert "acquirer-b got it" in reasons[1]


def test_a_disagreement_of_terminals_and_acquirers_counts_once() -> None:
    reversed_ = replace(ATTEMPT, outcome=Outcome.REVERSED, reversal_code="00")
    record = replace(RECORD, state=State.REVERSED)
    found = Found([reversed_], [record], [("acquirer-a", ENTRY)])
    assert (found.lost, found.doubled, found.unexplained) == (1, 0, 0)


def test_the_gateways_record_and_log_are_told_with_a_disagreement(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    lines = [{"event": "reversal_done", "transaction": 3}, {"event": "other", "transaction": 4}]
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"transaction": 3, "ev'
    log.write_text(text, encoding="utf-8")
    reversed_ = replace(ATTEMPT, outcome=Outcome.REVERSED, reversal_code="00")
    record = replace(RECORD, state=State.REVERSED)
    told = list(Found([reversed_], [record], [("acquirer-a", ENTRY)]).lines(log))
    assert told[0].startswith("lost: T0000001-0000000001")
    assert any(line.strip().startswith("terminal: Attempt(") for line in told)
    assert any(line.strip().startswith("acquirer-a: Entry(") for line in told)
    assert any(line.strip().startswith("gateway: Record(") for line in told)
    assert sum("reversal_done" in line for line in told) == 1
    assert not any("other" in line for line in told)


def test_sound_ledgers_have_nothing_to_tell(tmp_path: Path) -> None:
    found = Found([ATTEMPT], [RECORD], [("acquirer-a", ENTRY)])
    assert found.agrees
    assert list(found.lines(tmp_path / "no.log")) == []


@pytest.mark.parametrize("wrong", ["lost", "doubled", "unexplained", "reversals_open"])
def test_a_run_passes_only_with_nothing_wrong_and_something_bought(wrong: str) -> None:
    assert ChaosResult(seed=1, approved=5).passed
    assert not ChaosResult(seed=1, approved=0).passed
    assert not ChaosResult(seed=1, approved=5, **{wrong: 1}).passed
    assert not ChaosResult(seed=1, approved=5, reversals_open=-1).passed
