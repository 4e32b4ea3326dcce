"""Histogram: latencies counted in buckets of equal relative width, merged without loss.

An HDR histogram (Tene) in plain Python: the packages that there are bring a compiled extension or
numbers as objects, no types, and an encoding of their own, where one list increment and JSON do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_SUB_BITS = 7  # 128 buckets to each doubling: a value is known to 0.8 %
_SUBS = 1 << _SUB_BITS


def bucket_of(value_us: int) -> int:
    """The bucket that a value of microseconds falls into; values up to 255 have one each."""
    if value_us < 2 * _SUBS:
        return max(value_us, 0)
    shift = value_us.bit_length() - _SUB_BITS - 1
    return shift * _SUBS + (value_us >> shift)


def highest_of(bucket: int) -> int:
    """The highest value of microseconds that falls into a bucket."""
    if bucket < 2 * _SUBS:
        return bucket
    shift = bucket // _SUBS - 1
    return ((bucket - shift * _SUBS + 1) << shift) - 1


class Histogram:
    """Counts of durations; `max_us` and the sum are exact, percentiles to 0.8 %."""

    __slots__ = ("count", "counts", "max_us", "sum_us")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.count = 0
        self.sum_us = 0
        self.max_us = 0

    def record(self, seconds: float) -> None:
        """Count one duration; a negative one counts as none."""
        value_us = int(seconds * 1_000_000)
        if value_us < 0:
            value_us = 0
        bucket = bucket_of(value_us)
        counts = self.counts
        counts[bucket] = counts.get(bucket, 0) + 1
        self.count += 1
        self.sum_us += value_us
        if value_us > self.max_us:
            self.max_us = value_us

    def add(self, other: Histogram) -> None:
        """Count all that another has counted."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.count += other.count
        self.sum_us += other.sum_us
        self.max_us = max(self.max_us, other.max_us)

    def percentile_ms(self, percent: float) -> float:
        """Milliseconds that so many percent do not exceed, to 0.8 %; 0 of none."""
        return self.percentiles_ms((percent,))[0]

    def percentiles_ms(self, percents: Sequence[float]) -> list[float]:
        """As `percentile_ms`, for several in rising order, in one pass."""
        found: list[float] = []
        ranks = [max(1, -int(-self.count * percent // 100)) for percent in percents]
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            while len(found) < len(ranks) and seen >= ranks[len(found)]:
                found.append(min(highest_of(bucket), self.max_us) / 1000)
        return found + [0.0] * (len(ranks) - len(found))

    @property
    def mean_ms(self) -> float:
        return self.sum_us / self.count / 1000 if self.count else 0.0

    @property
    def max_ms(self) -> float:
        return self.max_us / 1000

    def share_over(self, seconds: float) -> float:
        """The share of durations above a bound, to the width of its bucket; 0 of none."""
        if not self.count:
            return 0.0
        bound = bucket_of(int(seconds * 1_000_000))
        over = sum(count for bucket, count in self.counts.items() if bucket > bound)
        return over / self.count

    def to_json(self) -> list[int]:
        """Sum, maximum, then bucket and count in turn."""
        flat = [self.sum_us, self.max_us]
        for bucket, count in self.counts.items():
            flat += (bucket, count)
        return flat

    @classmethod
    def of_json(cls, flat: Sequence[int]) -> Histogram:
        """The histogram that `to_json` wrote; raises ValueError for what it did not write."""
        if len(flat) < 2 or len(flat) % 2 or any(number < 0 for number in flat):
            raise ValueError("not a histogram")
        made = cls()
        made.sum_us, made.max_us = flat[0], flat[1]
        made.counts = dict(zip(flat[2::2], flat[3::2], strict=True))
        made.count = sum(made.counts.values())
        return made


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """All of them as one."""
    whole = Histogram()
    for one in histograms:
        whole.add(one)
    return whole
