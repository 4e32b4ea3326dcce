"""How many requests may move to another upstream: so many each second, and a share (no I/O)."""

from __future__ import annotations


class MoveBudget:
    """A bucket of moves, filled by time and by each request that is served.

    Without it, a failing upstream would turn its whole load on the next one at once, which may then
    fail as well. What is in the bucket is bounded by what ten seconds fill in.
    """

    _KEPT_S = 10.0

    def __init__(self, *, per_s: float, share: float, now_s: float) -> None:
        self._per_s = per_s
        self._share = share
        self._moves_max = max(1.0, per_s * self._KEPT_S)
        self._moves = self._moves_max
        self._filled_s = now_s

    def served(self) -> None:
        """A request came: its share of a move is earned."""
        self._moves = min(self._moves + self._share, self._moves_max)

    def take(self, now_s: float) -> bool:
        """Whether one more request may move."""
        filled = self._moves + (now_s - self._filled_s) * self._per_s
        self._moves, self._filled_s = min(filled, self._moves_max), now_s
        if self._moves < 1:
            return False
        self._moves -= 1
        return True
