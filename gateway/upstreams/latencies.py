"""How long an upstream's answers usually take: a histogram that forgets (no I/O)."""

from __future__ import annotations

from math import frexp, ldexp

# 16 buckets to each doubling of time, so that a percentile is at most 1/16 above the truth.
_BUCKETS_PER_OCTAVE = 16
_LOWEST_EXPONENT = -14  # 2 ** -15 s, 31 microseconds: what is faster counts as that
_OCTAVES = 24  # up to 2 ** 9 s; what is slower counts as that
_SIZE = _OCTAVES * _BUCKETS_PER_OCTAVE
# frexp's mantissa is 0.5 to 1, so that 32 times it is 16 to 32.
_SHIFT = -_LOWEST_EXPONENT * _BUCKETS_PER_OCTAVE - _BUCKETS_PER_OCTAVE


class Latencies:
    """Counts latencies in buckets of equal ratio, and halves all counts every so many.

    What was usual a while ago so loses its weight: an upstream that became slower, or faster, is
    judged by what it does now.
    """

    __slots__ = ("_counts", "_fade_every", "_until_fade", "count")

    def __init__(self, *, fade_every: int = 1_000) -> None:
        self.count = 0  # latencies ever added
        self._counts = [0.0] * _SIZE
        self._fade_every = fade_every
        self._until_fade = fade_every

    def add(self, seconds: float) -> None:
        """Count one latency; on the main path of every answer."""
        mantissa, exponent = frexp(seconds)
        index = (exponent << 4) + int(mantissa * 32) + _SHIFT
        if index < 0 or seconds <= 0:
            index = 0
        elif index >= _SIZE:
            index = _SIZE - 1
        self._counts[index] += 1.0
        self.count += 1
        self._until_fade -= 1
        if not self._until_fade:
            self._fade()

    def _fade(self) -> None:
        self._counts = [count * 0.5 for count in self._counts]
        self._until_fade = self._fade_every

    def percentile(self, share: float) -> float:
        """The latency, in seconds, that this share (0 to 1) of the answers kept within.

        It is the upper edge of a bucket, so at most 1/16 too long and never too short, within the
        histogram's range of 31 microseconds to 512 seconds. 0.0 while nothing was added.
        """
        if not self.count:
            return 0.0
        counts = self._counts
        above = sum(counts) * (1.0 - share)
        # From the top: the percentiles that matter are up there.
        for index in range(_SIZE - 1, -1, -1):
            above -= counts[index]
            if above < 0:
                return _upper_edge_s(index)
        return _upper_edge_s(next(index for index, count in enumerate(counts) if count))


def _upper_edge_s(index: int) -> float:
    octave, part = divmod(index, _BUCKETS_PER_OCTAVE)
    return ldexp((part + 17) / 32, octave + _LOWEST_EXPONENT)
