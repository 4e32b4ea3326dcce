"""Figures of a failover run, from sales, logs and stores that were made up for it."""

import json
import sqlite3
from pathlib import Path

import pytest

from loadtest.failover_cases import ALWAYS, BY_NAME, CASES, Act, Target
from loadtest.failover_evidence import listen, read_taken, without_acquirers
from loadtest.failover_measures import Taken, back_after_s, percentile, purchases, shares
from loadtest.failover_result import CaseResult
from loadtest.ledger import Attempt, Outcome, TerminalLedger
from loadtest.terminal import Sale

ATTEMPT = Attempt(
    terminal_id="T0000001",
    sequence=1,
    stan="000001",
    transmitted="1121203000",
    reference="T0000001-1",
    merchant_id="M",
    kind="purchase",
    amount_minor=100,
    currency="978",
    started_ms=0,
)


def attempt(sequence: int, outcome: Outcome, code: str = "") -> Attempt:
    values = {name: getattr(ATTEMPT, name) for name in ATTEMPT.__slots__}
    return Attempt(
        **values
        | {
            "sequence": sequence,
            "stan": f"{sequence:06d}",
            "reference": f"T0000001-{sequence}",
            "outcome": outcome,
            "response_code": code,
        }
    )


def sale(due_s: float, took_s: float, outcome: Outcome, code: str = "") -> Sale:
    told_s = due_s + took_s
    return Sale(attempt(1, outcome, code), due_s, due_s, told_s + 9, told_s)


def test_purchases_are_counted_from_the_moment_their_customer_came() -> None:
    sales = [
        sale(9.99, 5, Outcome.REVERSED),  # before
        sale(10, 0.010, Outcome.APPROVED, "00"),
        sale(11, 0.020, Outcome.APPROVED, "00"),
        sale(12.9, 0.800, Outcome.DECLINED, "91"),
        sale(13.1, 0.850, Outcome.DECLINED, "91"),
        sale(13.3, 0.040, Outcome.DECLINED, "96"),
        sale(14, 1.0, Outcome.REVERSED),
        sale(15, 0.1, Outcome.UNSENT),
        sale(16, 0.010, Outcome.APPROVED, "00"),  # after
    ]
    found = purchases(sales, from_s=10, to_s=16, sick_s=13, unsettled=1)
    assert (found.transactions, found.approved, found.failed) == (8, 2, 6)
    assert (found.timed_out, found.unsent) == (2, 1)
    assert found.declined == {"91": 2, "96": 1}
    assert (found.first_failure_s, found.last_failure_s) == (-0.1, 2.0)
    assert found.failed_after_200_ms == 4  # 13.3, 14, 15 and the one that never ended
    assert found.max_ms == 1000
    assert found.refusal_p99_ms == 850
    assert found.failed_percent == 75


def test_nothing_bought_is_all_failed() -> None:
    found = purchases([], from_s=0, to_s=1, sick_s=0)
    assert found.failed_percent == 100
    assert (found.first_failure_s, found.p99_ms) == (None, 0.0)


def test_a_percentile_is_a_value_that_was_there() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, p) for p in (50, 99, 100)] == [50, 99, 100]
    assert percentile([7.0], 1) == 7


def half_and_half(from_s: float, to_s: float) -> list[Taken]:
    count = round((to_s - from_s) * 100)
    return [Taken(from_s + n / 100, "ab"[n % 2]) for n in range(count)]


def only_a(from_s: float, to_s: float) -> list[Taken]:
    return [Taken(from_s + n / 100, "a") for n in range(round((to_s - from_s) * 100))]


def test_shares_and_the_moment_of_being_back() -> None:
    taken = half_and_half(0, 2) + only_a(2, 5) + half_and_half(5, 8)
    assert shares(taken, "b", from_s=0, to_s=9) == [0.5, 0.5, 0, 0, 0, 0.5, 0.5, 0.5, None]
    # Well at 4: back a second later, less what 90 % allow.
    assert back_after_s(taken, "b", healed_s=4, to_s=8, fair=0.5) == pytest.approx(0.9)
    assert back_after_s(only_a(0, 8), "b", healed_s=4, to_s=8, fair=0.5) is None


# --- cases ---------------------------------------------------------------------------------------


def test_the_sick_one_is_well_again_at_the_end_of_every_case() -> None:
    assert list(BY_NAME["mute"].acts(6)) == [Act(3, "sicken"), Act(6, "heal")]
    assert list(BY_NAME["flapping"].acts(9)) == [
        Act(2, "sicken"),
        Act(4, "heal"),
        Act(6, "sicken"),
        Act(8, "heal"),
    ]
    assert list(BY_NAME["natural"].acts(6)) == []
    for case in CASES:
        acts = list(case.acts(case.measured_s(6, 61)))
        assert not acts or acts[-1].what == "heal"


def test_every_target_names_a_figure() -> None:
    bought = purchases([], from_s=0, to_s=1, sick_s=0)
    for case in CASES:
        result = CaseResult(case=case.name, purchases=bought)
        for target in (*ALWAYS, *case.targets):
            result.figure(target.figure)


def test_a_missed_target_says_by_how_much() -> None:
    result = CaseResult(case="mute", doubled=1)
    result.judge([Target("lost", 0), Target("doubled", 0)])
    assert result.missed == ["doubled 1, at most 0"]
    assert not result.passed


# --- evidence ------------------------------------------------------------------------------------


def test_the_log_tells_of_attempts_and_suspicions(tmp_path: Path) -> None:
    lines = [
        ("00", "link_failed", {"link": "b/127.0.0.1:1/1"}),  # before
        ("10", "upstream_suspect", {"upstream": "a"}),  # of another
        ("11.25", "upstream_suspect", {"upstream": "b", "reason": "silence"}),
        ("12", "link_down", {"link": "b/127.0.0.1:1/1"}),
        ("13", "link_failed", {"link": "b/127.0.0.1:1/1", "reason": "refused"}),
        ("14", "link_up", {"link": "b/127.0.0.1:1/1"}),
        ("15", "transaction", {"upstream": "b"}),
    ]
    log = tmp_path / "gateway.log"
    stamps = [
        {"time": f"2026-11-21T20:00:{float(second):06.3f}Z", "event": event, **more}
        for second, event, more in lines
    ]
    text = "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in stamps)
    log.write_text(text + '{"time":"2026-11-21T20:00:16', encoding="utf-8")
    heard = listen(log, ["b"], from_ms=1795291210_000)
    assert (heard.attempts, heard.suspicions, heard.suspected_after_s) == (2, 1, 1.25)
    assert heard.events == {"link_down": 1, "link_failed": 1, "link_up": 1, "upstream_suspect": 1}
    assert heard.first[0] == {
        "s": 1.25,
        "event": "upstream_suspect",
        "upstream": "b",
        "reason": "silence",
    }


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """What the view `ledger` of a gateway's store shows."""
    path = tmp_path / "gateway.db"
    database = sqlite3.connect(path)
    database.execute(
        "CREATE TABLE ledger (transaction_id, created, terminal_id, stan, amount_minor, upstream,"
        " upstream_stan, state, response_code)"
    )
    rows = [
        (1, "2026-11-21T20:00:00.000Z", "T0000001", "000001", 100, "a", 1, "answered", "00"),
        (2, "2026-11-21T20:00:01.500Z", "T0000001", "000002", 100, "b", 1, "reversed", "91"),
        (3, "2026-11-21T20:00:02.000Z", "T0000001", "000003", 100, "b", 2, "nothing_sent", "91"),
    ]
    database.executemany("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    database.commit()
    database.close()
    return path


def test_the_store_tells_who_got_what(store: Path) -> None:
    taken = read_taken(store, zero_ms=1795291200_000)
    assert [(round(one.at_s, 3), one.upstream) for one in taken] == [(0, "a"), (1.5, "b")]


@pytest.mark.parametrize(
    ("outcomes", "received", "found"),
    [
        ((Outcome.APPROVED, Outcome.DECLINED), {"a": 1, "b": None}, (0, 0, 0)),
        ((Outcome.DECLINED, Outcome.DECLINED), {"a": 1, "b": 1}, (1, 0, 0)),
        ((Outcome.APPROVED, Outcome.APPROVED), {"a": 1, "b": 1}, (0, 0, 1)),
        ((Outcome.APPROVED, Outcome.REVERSED), {"a": 2, "b": 3}, (0, 3, 0)),
    ],
)
def test_acquirers_that_only_count_are_compared_by_count(
    tmp_path: Path,
    store: Path,
    outcomes: tuple[Outcome, Outcome],
    received: dict[str, int | None],
    found: tuple[int, int, int],
) -> None:
    path = tmp_path / "terminals.db"
    ledger = TerminalLedger(path)
    for sequence, outcome in enumerate(outcomes, start=1):
        ledger.put(attempt(sequence, outcome))
    ledger.close()
    verdict = without_acquirers(terminals=path, store=store, received=received)
    assert (verdict.lost, verdict.doubled, verdict.unexplained) == found
    assert verdict.agrees is not any(found)
