"""How long an upstream's answers usually take: a histogram that forgets (no I/O)."""

from __future__ import annotations

from bisect import bisect_left

# Each bucket reaches to 2 ** (1/16) of the last, so that a percentile is at most 4.5 % too long.
_BUCKETS_PER_OCTAVE = 16
_LOWEST_S = 2.0**-15  # 31 microseconds: what is faster counts as that
_OCTAVES = 24  # up to 512 s; what is slower counts as that
_EDGES_S = tuple(
    _LOWEST_S * 2.0 ** (index / _BUCKETS_PER_OCTAVE)
    for index in range(_OCTAVES * _BUCKETS_PER_OCTAVE + 1)
)
_EDGES_DOWN_S = _EDGES_S[::-1]
_FRESH_MAX = 100


class Latencies:
    """Counts latencies in buckets of equal ratio, and halves all counts every so many.

    What was usual a while ago so loses its weight: an upstream that became slower, or faster, is
    judged by what it does now.
    """

    __slots__ = ("_counted", "_counts", "_fade_every", "_fresh", "_until_fade", "_weight")

    def __init__(self, *, fade_every: int = 1_000) -> None:
        self._counts = [0.0] * len(_EDGES_S)
        self._weight = 0.0  # the sum of the counts
        self._counted = 0
        # Latencies are put into buckets many at a time, which takes half the time.
        self._fresh: list[float] = []
        self._fade_every = fade_every
        self._until_fade = fade_every

    @property
    def count(self) -> int:
        """How many were ever added."""
        return self._counted + len(self._fresh)

    def add(self, seconds: float) -> None:
        """Count one latency; on the main path of every answer."""
        fresh = self._fresh
        fresh.append(seconds)
        if len(fresh) >= _FRESH_MAX:
            self._fold()

    def _fold(self) -> None:
        """Put what is fresh into its buckets."""
        counts, edges_s, last = self._counts, _EDGES_S, len(_EDGES_S) - 1
        for seconds in self._fresh:
            counts[bisect_left(edges_s, seconds, 0, last)] += 1.0
        self._weight += len(self._fresh)
        self._counted += len(self._fresh)
        self._until_fade -= len(self._fresh)
        self._fresh.clear()
        if self._until_fade <= 0:
            self._counts = [count * 0.5 for count in counts]
            self._weight *= 0.5
            self._until_fade = self._fade_every

    def percentile(self, share: float) -> float:
        """The latency, in seconds, that this share (0 to 1) of the answers kept within.

        It is the upper edge of a bucket: at most 4.5 % too long and never too short, within the
        histogram's range of 31 microseconds to 512 seconds. 0.0 while nothing was added.
        """
        self._fold()
        if not self._counted:
            return 0.0
        above = self._weight * (1.0 - share)
        found_s = _LOWEST_S
        # From the top, since the percentiles that matter are up there; most buckets are empty.
        for edge_s, count in zip(_EDGES_DOWN_S, reversed(self._counts), strict=True):
            if count:
                found_s = edge_s
                above -= count
                if above < 0:
                    break
        return found_s
