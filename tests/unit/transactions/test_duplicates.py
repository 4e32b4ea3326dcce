"""The key and the content of a repeat."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from gateway.transactions import duplicates
from gateway.wire.message import Kind, Message

NOON = datetime(2026, 1, 3, 12, tzinfo=UTC)


def ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


BASE = {
    3: "000000",
    4: "000000000100",
    11: "000123",
    12: "115959",
    13: "0103",
    41: "T0000001",
    42: "MERCHANT0000001",
    49: "978",
}


def key(
    changes: dict[int, str] | None = None, kind: Kind = Kind.PURCHASE, activation: int = 1
) -> str:
    message = Message("0200", BASE | (changes or {}))
    return duplicates.repeat_key(message, kind, activation=activation, wall_ms=ms(NOON))


def test_a_repeat_has_the_same_key_whatever_its_other_fields() -> None:
    assert key() == key({4: "000000000999", 7: "0103115959", 37: "600312000123"})


@pytest.mark.parametrize(
    "changes",
    [{11: "000124"}, {12: "120000"}, {13: "0102"}, {41: "T0000002"}, {42: "MERCHANT0000002"}],
)
def test_each_part_of_the_key_counts(changes: dict[int, str]) -> None:
    assert key() != key(changes)


def test_kind_and_activation_count() -> None:
    assert key() != key(kind=Kind.CASH)
    assert key() != key(activation=2)


def test_a_batch_number_takes_the_place_of_date_and_time() -> None:
    assert key({60: "22000001"}) == key({60: "22000001", 12: "235959", 13: "0102"})
    assert key({60: "22000001"}) != key({60: "22000002"})


@pytest.mark.parametrize(
    ("now", "month_day", "expected"),
    [
        (datetime(2026, 1, 3, tzinfo=UTC), "0103", "20260103"),
        (datetime(2026, 1, 3, tzinfo=UTC), "1231", "20251231"),
        (datetime(2026, 12, 31, tzinfo=UTC), "0101", "20270101"),
        (datetime(2026, 12, 31, tzinfo=UTC), "1230", "20261230"),
        (datetime(2026, 6, 15, tzinfo=UTC), "0616", "20260616"),
        (datetime(2026, 6, 15, tzinfo=UTC), "0801", "20250801"),
        (datetime(2026, 6, 15, tzinfo=UTC), "", "20260615"),
        (datetime(2026, 6, 15, tzinfo=UTC), "x1y2", "20260615"),
    ],
)
def test_the_year_is_the_one_that_puts_the_date_nearest(
    now: datetime, month_day: str, expected: str
) -> None:
    message = Message("0200", {13: month_day} if month_day else {})
    assert duplicates.day_of(message, ms(now)) == expected


def test_the_emv_counter_is_part_of_the_content() -> None:
    one = Message("0200", BASE | {55: "9F360200019F2701809F"})
    two = Message("0200", BASE | {55: "9F360200029F2701809F"})
    assert duplicates.content_of(one) != duplicates.content_of(two)
    assert duplicates.content_of(one) == duplicates.content_of(one.changed({7: "0101010101"}))
