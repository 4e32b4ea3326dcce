"""Arrivals: at which moments customers come, as rates over time say (no I/O)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from random import Random

from loadtest.run.scenario import Amount, Arrival

# Pieces of a rate over time: from when to when (s), and the rates at both ends (1/s).
Piece = tuple[float, float, float, float]


def pieces_of(arrival: Arrival, *, seconds: float) -> list[Piece]:
    """The rate over the run, of all devices together; none of a closed loop."""
    if arrival.kind == "constant":
        return [(0.0, seconds, arrival.rate, arrival.rate)]
    if arrival.kind == "closed":
        return []
    return [
        (point.at * seconds, later.at * seconds, point.rate, later.rate)
        for point, later in pairwise(arrival.points)
        if later.at > point.at
    ]


def expected(pieces: Sequence[Piece]) -> float:
    """How many customers come in all, on average."""
    return sum((to_s - from_s) * (r0 + r1) / 2 for from_s, to_s, r0, r1 in pieces)


def moments(
    pieces: Sequence[Piece],
    *,
    spread: str,
    part: int,
    parts: int,
    random: Random,
) -> Iterator[float]:
    """The moments, in seconds from the start, of the customers of one part of the devices.

    Even: the customers of all parts together come as evenly as the rate allows. Random: each part
    is a Poisson process of its share of the rate. Either way they are known before the run, and do
    not wait for anybody: a count that grows by one a customer is mapped to the time at which so
    many were due.
    """
    due = (part + 0.5) if spread == "even" else parts * random.expovariate(1.0)
    done = 0.0
    for from_s, to_s, r0, r1 in pieces:
        in_piece = (to_s - from_s) * (r0 + r1) / 2
        while due < done + in_piece:
            yield from_s + _time_of(due - done, to_s - from_s, r0, r1)
            due += parts if spread == "even" else parts * random.expovariate(1.0)
        done += in_piece


def _time_of(count: float, lasts_s: float, r0: float, r1: float) -> float:
    """When so many have come, at a rate that goes straight from `r0` to `r1` meanwhile."""
    slope = (r1 - r0) / lasts_s
    if abs(slope) < 1e-9:
        return count / r0
    # count = r0 t + slope t^2 / 2, solved so that nothing cancels out.
    root = math.sqrt(max(0.0, r0 * r0 + 2 * slope * count))
    return min(lasts_s, 2 * count / (r0 + root))


def amount_minor(amount: Amount, random: Random) -> int:
    """What a customer pays, within the bounds."""
    if amount.distribution == "fixed":
        return amount.median_minor
    if amount.distribution == "list":
        return random.choice(amount.values_minor)
    if amount.distribution == "uniform":
        return random.randint(amount.min_minor, amount.max_minor)
    drawn = round(random.lognormvariate(math.log(amount.median_minor), amount.sigma))
    return min(max(drawn, amount.min_minor), amount.max_minor)
