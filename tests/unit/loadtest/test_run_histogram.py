"""Latencies in buckets: percentiles to 0.8 %, merged as if they had been counted together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.run.histogram import Histogram, bucket_of, highest_of, merged

MICROSECONDS = st.integers(0, 3_600_000_000)


def of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value / 1_000_000)
    return histogram


@given(MICROSECONDS)
def test_a_bucket_holds_its_value_within_a_hundred_and_twenty_eighth(value: int) -> None:
    bucket = bucket_of(value)
    highest = highest_of(bucket)
    assert value <= highest <= value + value // 128
    assert bucket_of(highest) == bucket
    assert bucket_of(highest + 1) == bucket + 1


@given(st.lists(MICROSECONDS, min_size=1, max_size=200), st.floats(0.1, 100))
def test_percentiles_are_those_of_a_sorted_list(values: list[int], percent: float) -> None:
    rank = max(1, -int(-len(values) * percent // 100))
    exact_ms = sorted(values)[rank - 1] / 1000
    found_ms = of(values).percentile_ms(percent)
    # A second's float may be a microsecond less than it was.
    assert exact_ms - 0.0011 <= found_ms <= exact_ms * (1 + 1 / 128) + 0.0011


@given(st.lists(MICROSECONDS, max_size=100), st.lists(MICROSECONDS, max_size=100))
def test_merged_is_as_counted_together(some: list[int], others: list[int]) -> None:
    together = of(some + others)
    added = merged([of(some), Histogram.of_json(of(others).to_json())])
    assert added.counts == together.counts
    assert (added.count, added.max_us, added.sum_us) == (
        together.count,
        together.max_us,
        together.sum_us,
    )


def test_nothing_counted_is_nothing_said() -> None:
    empty = Histogram()
    assert empty.percentiles_ms((50, 99)) == [0.0, 0.0]
    assert (empty.mean_ms, empty.max_ms, empty.share_over(1.0)) == (0.0, 0.0, 0.0)


def test_what_took_no_time_or_less_counts_as_none() -> None:
    histogram = Histogram()
    histogram.record(-0.5)
    assert (histogram.count, histogram.max_us) == (1, 0)


def test_a_share_is_over_a_bound() -> None:
    assert of([1_000] * 3 + [900_000]).share_over(0.5) == 0.25


@pytest.mark.parametrize("flat", [[], [1], [1, 2, 3], [0, 0, -1, 4]])
def test_what_is_not_a_histogram_is_refused(flat: list[int]) -> None:
    with pytest.raises(ValueError, match="not a histogram"):
        Histogram.of_json(flat)
