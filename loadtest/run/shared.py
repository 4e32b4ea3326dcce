"""Shared: what all devices of a worker have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random

from loadtest import requests
from loadtest.run.journal import Journal
from loadtest.run.messages import Requests
from loadtest.run.scenario import Mixed, Scenario
from loadtest.run.tally import Tally, Windows
from loadtest.wire import Wire


@dataclass(slots=True)
class Shared:
    """What a worker's devices use together, and where they stand together."""

    scenario: Scenario
    wire: Wire
    requests: Requests
    journal: Journal
    tally: Tally
    windows: Windows
    random: Random
    wall_ms: Callable[[], int]
    start_s: float = 0.0  # of the run, on trio's clock
    in_flight: int = 0
    _second: int = -1
    _transmitted: str = ""
    _weights: list[float] = field(default_factory=list)  # added up

    def transmitted(self, wall_ms: int) -> str:
        """DE7 of a moment; made once a second."""
        second = wall_ms // 1000
        if second != self._second:
            self._second = second
            self._transmitted = requests.transmission_time(wall_ms)
        return self._transmitted

    def draw(self) -> Mixed:
        """The kind of a customer's transaction, by the weights."""
        mix = self.scenario.mix
        if len(mix) == 1:
            return mix[0]
        if not self._weights:
            self._weights = list(accumulate(mixed.weight for mixed in mix))
        return self.random.choices(mix, cum_weights=self._weights)[0]
