"""Customers come as the rates say, whoever serves them and however slowly."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.run.arrivals import Piece, amount_minor, expected, moments, pieces_of
from loadtest.run.scenario import Amount, Arrival, Point

RATES = st.floats(0, 200)


@st.composite
def curves(draw: st.DrawFn) -> list[Piece]:
    rates = draw(st.lists(RATES, min_size=2, max_size=6))
    lasts_s = draw(st.lists(st.floats(0.1, 10), min_size=len(rates) - 1, max_size=len(rates) - 1))
    pieces, at_s = [], 0.0
    for (r0, r1), lasts in zip(pairwise(rates), lasts_s, strict=True):
        pieces.append((at_s, at_s + lasts, r0, r1))
        at_s += lasts
    return pieces


@given(curves(), st.integers(1, 4), st.sampled_from(["even", "random"]), st.integers(1, 99))
def test_moments_are_in_order_and_within_the_run(
    pieces: list[Piece], parts: int, spread: str, seed: int
) -> None:
    for part in range(parts):
        found = list(moments(pieces, spread=spread, part=part, parts=parts, random=Random(seed)))
        assert found == sorted(found)
        assert all(0 <= at_s <= pieces[-1][1] + 1e-9 for at_s in found)


@given(curves(), st.integers(1, 4))
def test_evenly_all_parts_together_are_as_many_as_the_rate_says(
    pieces: list[Piece], parts: int
) -> None:
    count = sum(
        len(list(moments(pieces, spread="even", part=part, parts=parts, random=Random(1))))
        for part in range(parts)
    )
    assert abs(count - expected(pieces)) <= 1


def test_at_random_they_are_as_many_on_average() -> None:
    pieces = [(0.0, 100.0, 50.0, 50.0)]
    found = list(moments(pieces, spread="random", part=0, parts=1, random=Random(7)))
    assert 4_700 < len(found) < 5_300
    gaps = [after - before for before, after in pairwise(found)]
    # Of a Poisson process a share of 1/e of the gaps is longer than the mean one.
    assert 0.33 < sum(gap > 0.02 for gap in gaps) / len(gaps) < 0.41


def test_a_rising_rate_brings_most_of_them_late() -> None:
    pieces = [(0.0, 10.0, 0.0, 100.0)]
    found = list(moments(pieces, spread="even", part=0, parts=1, random=Random(1)))
    assert len(found) == 500
    assert sum(at_s < 5 for at_s in found) == 125


def test_a_curve_is_stretched_over_the_run() -> None:
    arrival = Arrival(
        kind="curve",
        points=[Point(at=0.0, rate=1.0), Point(at=0.5, rate=3.0), Point(at=1.0, rate=2.0)],
    )
    assert pieces_of(arrival, seconds=20.0) == [(0.0, 10.0, 1.0, 3.0), (10.0, 20.0, 3.0, 2.0)]
    assert pieces_of(Arrival(kind="closed"), seconds=20.0) == []


@pytest.mark.parametrize("distribution", ["fixed", "uniform", "lognormal", "list"])
def test_amounts_are_within_their_bounds(distribution: str) -> None:
    amount = Amount(
        distribution=distribution,  # type: ignore[arg-type]
        min_minor=200,
        max_minor=4_000,
        median_minor=1_000,
        sigma=1.5,
        values_minor=[300, 700] if distribution == "list" else [],
    )
    random = Random(3)
    drawn = [amount_minor(amount, random) for _ in range(2_000)]
    assert all(200 <= one <= 4_000 for one in drawn)
    if distribution == "lognormal":
        assert 800 < sorted(drawn)[1_000] < 1_250
