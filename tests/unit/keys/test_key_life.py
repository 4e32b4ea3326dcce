from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys.key_life import (
    TRANSITIONS,
    KeyEvent,
    check_usable,
    moved,
    succession,
    works,
)
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState

NOW_MS = 1_800_000_000_000
PENDING, ACTIVE, RETIRING, EXPIRED, DESTROYED = StoredKeyState


def a_key(version: int = 1, **changes: object) -> StoredKey:
    key = StoredKey(
        owner="terminal:T1",
        purpose=KeyPurpose.MAC,
        version=version,
        algorithm=KeyAlgorithm.TDES_2,
        state=ACTIVE,
        start_ms=NOW_MS - 1_000,
        wrapped=b"wrapped",
    )
    return replace(key, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("state", "event"), list(itertools.product(StoredKeyState, KeyEvent)))
def test_every_pair_of_state_and_event(state: StoredKeyState, event: KeyEvent) -> None:
    key = a_key(state=state, wrapped=b"" if state is DESTROYED else b"wrapped")
    expected = TRANSITIONS[state, event]
    if expected is None:
        with pytest.raises(OperatorError, match=f"mac.1 is {state}: it cannot be {event}"):
            moved(key, event, now_ms=NOW_MS)
        return
    after = moved(key, event, now_ms=NOW_MS, overlap_ms=500)
    assert after.state is expected
    assert (after.wrapped == b"") == (expected is DESTROYED)
    if expected in (PENDING, EXPIRED, DESTROYED):
        assert not works(after, NOW_MS)
    if after is not key and expected is RETIRING:
        assert after.end_ms == NOW_MS + 500
        assert works(after, NOW_MS + 499)
        assert not works(after, NOW_MS + 500)


def test_the_table_has_an_entry_for_each_pair() -> None:
    assert set(TRANSITIONS) == set(itertools.product(StoredKeyState, KeyEvent))


def test_nothing_leaves_destroyed_and_nothing_over_works_again() -> None:
    for (state, _), after in TRANSITIONS.items():
        if state is DESTROYED:
            assert after in (None, DESTROYED)
        if state is EXPIRED:
            assert after in (None, EXPIRED, DESTROYED)


def test_an_overlap_does_not_outlast_the_key() -> None:
    key = a_key(end_ms=NOW_MS + 100)
    after = moved(key, KeyEvent.SUPERSEDED, now_ms=NOW_MS, overlap_ms=500)
    assert after.end_ms == NOW_MS + 100


def test_a_key_works_between_its_start_and_its_end() -> None:
    key = a_key(start_ms=NOW_MS, end_ms=NOW_MS + 10)
    assert [works(key, NOW_MS + ms) for ms in (-1, 0, 9, 10)] == [False, True, True, False]
    with pytest.raises(KeyUnavailable, match=r"T1/mac\.1 ended at 2027-01-15T08:00:00"):
        check_usable(key, NOW_MS + 10)
    with pytest.raises(KeyUnavailable, match="starts at"):
        check_usable(key, NOW_MS - 1)
    check_usable(key, NOW_MS)


def test_a_successor_retires_what_was_active_and_ends_what_was_never_used() -> None:
    new = a_key(4, state=PENDING)
    known = [new, a_key(3, state=PENDING), a_key(2), a_key(1, state=EXPIRED, end_ms=NOW_MS - 1)]
    rows = succession(new, known, now_ms=NOW_MS, overlap_ms=60_000)
    assert [(row.version, row.state, row.end_ms) for row in rows] == [
        (4, ACTIVE, 0),
        (3, EXPIRED, NOW_MS),
        (2, RETIRING, NOW_MS + 60_000),
    ]


def test_one_handed_out_later_waits_on_when_an_earlier_one_is_proven() -> None:
    new = a_key(2, state=PENDING)
    rows = succession(new, [a_key(3, state=PENDING), new], now_ms=NOW_MS, overlap_ms=1)
    assert [row.version for row in rows] == [2]


def test_what_starts_later_leaves_the_one_before_it_in_use() -> None:
    new = a_key(2, state=PENDING, start_ms=NOW_MS + 1_000)
    rows = succession(new, [a_key(1)], now_ms=NOW_MS, overlap_ms=100)
    assert [(row.version, row.state, row.end_ms) for row in rows] == [
        (2, ACTIVE, 0),
        (1, ACTIVE, NOW_MS + 1_100),
    ]


def test_a_key_that_is_over_is_no_successor() -> None:
    with pytest.raises(OperatorError, match=r"mac\.2 is expired: it cannot be proven"):
        succession(a_key(2, state=EXPIRED), [], now_ms=NOW_MS, overlap_ms=0)
