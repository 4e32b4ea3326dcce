"""The histogram of latencies: what a percentile means, and how the past fades."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams.latencies import Latencies


def test_nothing_added_is_nothing_known() -> None:
    latencies = Latencies()
    assert latencies.count == 0
    assert latencies.percentile(0.99) == 0.0


def test_every_latency_is_counted_at_once() -> None:
    latencies = Latencies()
    for number in range(1, 251):
        latencies.add(0.01)
        assert latencies.count == number


@given(st.lists(st.floats(1e-4, 400.0), min_size=1, max_size=300), st.floats(0.0, 0.999))
def test_a_percentile_is_never_too_short_and_hardly_too_long(
    seconds: list[float], share: float
) -> None:
    latencies = Latencies(fade_every=1_000)
    for value in seconds:
        latencies.add(value)
    found = latencies.percentile(share)
    # The nearest rank, and the next where the rank falls between two.
    ordered = sorted(seconds)
    below = max(0, int(share * len(ordered)) - 1)
    above = min(len(ordered) - 1, int(share * len(ordered)) + 1)
    assert ordered[below] <= found * 1.000001
    assert found <= ordered[above] * 2 ** (1 / 16) * 1.000001


def test_what_lies_beyond_the_range_counts_at_its_ends() -> None:
    latencies = Latencies()
    for value in (-1.0, 0.0, 1e-9):
        latencies.add(value)
    assert latencies.percentile(0.5) == pytest.approx(2.0**-15)
    slow = Latencies()
    slow.add(100_000.0)
    assert slow.percentile(0.5) == pytest.approx(512.0)


def test_old_evidence_fades() -> None:
    latencies = Latencies(fade_every=1_000)
    rng = random.Random(4)
    for _ in range(20_000):
        latencies.add(rng.uniform(0.5, 1.0))
    assert latencies.percentile(0.99) > 0.9
    for _ in range(8_000):
        latencies.add(rng.uniform(0.01, 0.02))
    assert latencies.percentile(0.5) < 0.025
    assert latencies.percentile(0.99) < 0.025
    # And the other way round, a new slowness is known after about a hundredth of the weight.
    for _ in range(50):
        latencies.add(0.3)
    assert latencies.percentile(0.99) > 0.28


def test_a_short_memory_fades_as_often_as_it_says() -> None:
    latencies = Latencies(fade_every=20)
    latencies.add(5.0)
    assert latencies.percentile(0.99) >= 5.0
    for _ in range(12):
        for _ in range(20):
            latencies.add(0.01)
        latencies.percentile(0.5)
    assert latencies.percentile(0.99) < 0.02
