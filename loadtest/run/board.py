"""Board: where a run stands, for whoever shows it and for its result."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from loadtest.run.events import Happened
from loadtest.run.histogram import Histogram
from loadtest.run.samples import Samples
from loadtest.run.scenario import Scenario
from loadtest.run.tally import Tally


@dataclass(slots=True)
class Crew:
    """What one worker last told of itself."""

    in_flight: int = 0
    waiting: int = 0
    queued: int = 0
    away: int = 0
    failed: int = 0  # devices that could not connect at first
    busy_s: float = 0.0  # processor time while customers came
    settled: bool = False


@dataclass(slots=True)
class Board:
    """All that is known of a run; written by the conductor."""

    scenario: Scenario
    phase: str = "starting"
    start_s: float = 0.0  # on trio's clock; 0 before customers come
    tally: Tally = field(default_factory=Tally)
    opening: Histogram = field(default_factory=Histogram)  # of the first connections
    opening_counts: dict[str, int] = field(default_factory=dict)
    crews: dict[int, Crew] = field(default_factory=dict)
    samples: dict[str, Samples] = field(default_factory=dict)  # gateway, tool, acquirers
    # By acquirer: how many requests it had received at a second.
    received: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    upstreams: dict[str, str] = field(default_factory=dict)  # their state, as the gateway says
    happened: list[Happened] = field(default_factory=list)

    @property
    def at_s(self) -> float:
        """Seconds since the first customer was due; 0 before."""
        return trio.current_time() - self.start_s if self.start_s else 0.0

    @property
    def in_flight(self) -> int:
        return sum(crew.in_flight + crew.waiting for crew in self.crews.values())

    def per_second(self, name: str) -> float:
        """How many requests an acquirer received, a second, by its last two readings."""
        readings = self.received.get(name, [])[-2:]
        if len(readings) < 2 or readings[1][0] <= readings[0][0]:
            return 0.0
        (from_s, before), (to_s, after) = readings
        return max(0, after - before) / (to_s - from_s)
