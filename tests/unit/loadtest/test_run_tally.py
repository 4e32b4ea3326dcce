"""Counts of workers come together, and failures are laid at the door of the events that excuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.run.tally import FAULT_CODES, Ending, Tally, Windows


@pytest.mark.parametrize(
    ("from_s", "to_s", "excused"),
    [
        (0.0, 9.9, False),
        (9.0, 10.0, True),
        (11.0, 11.5, True),
        (15.0, 15.0, True),
        (15.1, 19.9, False),
        (0.0, 100.0, True),
        (31.0, 32.0, False),
    ],
)
def test_a_failure_is_excused_where_it_touches_a_window(
    from_s: float, to_s: float, excused: bool
) -> None:
    windows = Windows([(20.0, 30.0), (10.0, 12.0), (11.0, 15.0)])
    assert windows.excuse(from_s, to_s) is excused


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0, 5)), max_size=8),
    st.floats(0, 50),
    st.floats(0, 5),
)
def test_windows_excuse_what_any_of_them_would(
    windows: list[tuple[float, float]], from_s: float, lasts_s: float
) -> None:
    both = [(at_s, at_s + lasts) for at_s, lasts in windows]
    to_s = from_s + lasts_s
    wanted = any(start <= to_s and end >= from_s for start, end in both)
    assert Windows(both).excuse(from_s, to_s) is wanted


def test_what_workers_tell_is_added_up() -> None:
    whole = Tally()
    for disturbed in (False, True):
        one = Tally()
        one.ended("purchase", Ending.APPROVED, code="00", due_s=1.2, told_s=1.3, disturbed=False)
        one.ended("void", Ending.FAULT, code="91", due_s=2.9, told_s=4.0, disturbed=disturbed)
        one.counts["repeats"] += 1
        one.connecting.record(0.5)
        whole.merge(one.to_json())
    counts = whole.whole().counts
    assert counts[Ending.APPROVED] == 2
    assert (counts["error"], counts["disturbed"]) == (1, 1)
    assert sorted(whole.seconds) == [1, 2]
    assert whole.codes == {"00": 2, "91": 2}
    assert whole.kinds["void"].count == 2
    assert whole.connecting.count == 2
    # From the intended moment, whenever it was told.
    assert whole.seconds[2].latency.max_ms == pytest.approx(1_100, abs=0.01)


def test_what_customers_are_refused_for_is_no_fault() -> None:
    assert FAULT_CODES.isdisjoint(("00", "05", "14", "51", "54", "55", "61", "62", "65", "75"))


def test_failures_are_laid_anew_once_it_is_known_how_long_an_event_lasted() -> None:
    tally = Tally()
    for due_s in (1.0, 7.45, 20.0):
        tally.ended("void", Ending.FAULT, code="91", due_s=due_s, told_s=due_s, disturbed=False)
    tally.lay(Windows([(5.0, 7.5)]))
    assert [tally.seconds[second].counts["disturbed"] for second in (1, 7, 20)] == [0, 1, 0]
    assert tally.whole().counts["error"] == 2
    tally.lay(Windows([(0.0, 30.0)]))
    assert (tally.whole().counts["error"], tally.whole().counts["disturbed"]) == (0, 3)
