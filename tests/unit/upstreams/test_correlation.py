"""Answers are matched by MTI, STAN and terminal, and cross-checked by amount."""

from __future__ import annotations

import pytest

from gateway.errors import InvariantBroken
from gateway.upstreams.correlation import (
    LateRequests,
    Match,
    Pending,
    PendingTable,
    answer_key,
)
from gateway.wire.message import Message


def request(
    stan: str = "000001", terminal: str = "T0000001", amount: str = "000000000100"
) -> Message:
    return Message("0200", {4: amount, 11: stan, 41: terminal})


def answer(
    stan: str = "000001", terminal: str = "T0000001", amount: str = "000000000100"
) -> Message:
    return Message("0210", {4: amount, 11: stan, 39: "00", 41: terminal})


def pending(message: Message, *, at_s: float = 0.0, wait_s: float = 10.0) -> Pending:
    return Pending(message, transaction_id=1, asked_s=at_s, wait_s=wait_s)


def test_an_answer_finds_its_request_once() -> None:
    table = PendingTable(count_max=10)
    waiting = pending(request())
    table.add(waiting)
    assert table.match(answer()) is waiting
    assert table.match(answer()) is Match.UNKNOWN


@pytest.mark.parametrize(
    "other",
    [
        answer(stan="000002"),
        answer(terminal="T0000002"),
        Message("0110", dict(answer().fields)),
        Message("0230", dict(answer().fields)),
    ],
)
def test_an_answer_with_another_key_is_unknown(other: Message) -> None:
    table = PendingTable(count_max=10)
    table.add(pending(request()))
    assert table.match(other) is Match.UNKNOWN
    assert len(table) == 1


def test_an_answer_with_another_amount_proves_nothing() -> None:
    table = PendingTable(count_max=10)
    waiting = pending(request())
    table.add(waiting)
    assert table.match(answer(amount="000000009999")) is Match.MISMATCHED
    assert table.match(answer()) is waiting


def test_the_same_stan_of_two_terminals_is_two_requests() -> None:
    table = PendingTable(count_max=10)
    one, two = pending(request()), pending(request(terminal="T0000002"))
    table.add(one)
    table.add(two)
    assert table.match(answer(terminal="T0000002")) is two
    assert table.match(answer()) is one


def test_two_requests_with_one_key_are_refused() -> None:
    table = PendingTable(count_max=10)
    table.add(pending(request()))
    with pytest.raises(InvariantBroken):
        table.add(pending(request()))


def test_requests_expire_in_order() -> None:
    table = PendingTable(count_max=10)
    waiting = [pending(request(stan=f"{n:06d}"), at_s=float(n)) for n in range(3)]
    for one in waiting:
        table.add(one)
    assert table.next_deadline_s() == 10.0
    assert table.expired(9.9) == []
    assert table.expired(11.0) == waiting[:2]
    assert table.next_deadline_s() == 12.0
    assert table.clear() == waiting[2:]
    assert table.next_deadline_s() is None


def test_the_table_is_full_at_its_bound() -> None:
    table = PendingTable(count_max=1)
    assert not table.full
    waiting = pending(request())
    table.add(waiting)
    assert table.full
    table.discard(waiting)
    assert not table.full


def test_late_answers_are_known_for_their_time_and_within_a_bound() -> None:
    late = LateRequests(count_max=2)
    for number in range(3):
        late.add(
            Pending(request(stan=f"{number:06d}"), transaction_id=number, asked_s=0.0, wait_s=1.0),
            until_s=float(10 + number),
        )
    assert len(late) == 2
    assert late.pop(answer_key(answer(stan="000000")), now_s=5.0) is None
    assert late.pop(answer_key(answer(stan="000001")), now_s=5.0) == 1
    assert late.pop(answer_key(answer(stan="000001")), now_s=5.0) is None
    assert late.pop(answer_key(answer(stan="000002")), now_s=12.0) is None


def test_those_that_wait_less_expire_first() -> None:
    table = PendingTable(count_max=10)
    patient, hasty = pending(request()), pending(request(stan="000002"), at_s=1.0, wait_s=2.0)
    table.add(patient)
    table.add(hasty)
    assert table.next_deadline_s() == 3.0
    assert table.expired(3.0) == [hasty]
    assert table.next_deadline_s() == 10.0
