"""One link's traffic in simulated time: requests, answers, echoes and looks."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from math import inf

from gateway.settings.schema_upstreams import Health as HealthSettings
from gateway.upstreams.health import Health
from gateway.upstreams.latencies import Latencies
from gateway.upstreams.link_health import LinkHealth


@dataclass
class Wire:
    """Runs a `LinkHealth` as a link does: one timer, a look when it fires or the health asks.

    `latency` gives the time that an acquirer takes for a request, `echo_latency` for an echo;
    infinity is never. Both are asked with the moment at which it gets it.
    """

    latency: Callable[[float], float]
    echo_latency: Callable[[float], float] = lambda _: 0.01
    settings: HealthSettings = field(default_factory=HealthSettings)
    latencies: Latencies = field(default_factory=Latencies)
    changes: list[tuple[float, Health, Health, str]] = field(default_factory=list)
    lag_s: float = 0.0  # every look comes so much late
    looks: int = 0
    echoes: int = 0
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.health = LinkHealth(self.settings, self.latencies, changed=self._changed)
        self._pending: dict[int, float] = {}
        self._queue: list[tuple[float, int, int, str, int]] = []
        self._order = count()
        self._timer_s = inf
        self._stalls: list[tuple[float, float]] = []
        self.health.ready(0.0, proved_in_s=self.echo_latency(0.0))
        self._look(0.0)

    def at(self, when_s: float, what: str, number: int = 0, *, first: bool = False) -> None:
        heapq.heappush(self._queue, (when_s, 0 if first else 1, next(self._order), what, number))

    def ask(self, times_s: list[float]) -> None:
        for when_s in times_s:
            self.at(when_s, "ask", next(self._order))

    def stall(self, from_s: float, until_s: float) -> None:
        """Our process does nothing meanwhile; what was due comes after it, timers first."""
        self._stalls.append((from_s, until_s))

    def run(self, until_s: float) -> None:
        while True:
            due_s = self._queue[0][0] if self._queue else inf
            fires_s = self._timer_s + self.lag_s
            next_s = min(due_s, fires_s)
            if next_s > until_s:
                self.now_s = until_s
                return
            self.now_s = self._after_stalls(max(next_s, self.now_s))
            if fires_s <= self.now_s:
                self._look(self._timer_s)
                continue
            _, _, _, what, number = heapq.heappop(self._queue)
            getattr(self, f"_{what}")(number)

    def _after_stalls(self, when_s: float) -> float:
        return next((end for start, end in self._stalls if start <= when_s < end), when_s)

    def _ask(self, number: int) -> None:
        if self.health.state is Health.DOWN:
            return
        self._pending[number] = self.now_s
        self.at(self.now_s + self.latency(self.now_s), "answer", number)
        if self.health.idle:
            self._look(self.now_s)

    def _answer(self, number: int) -> None:
        asked_s = self._pending.pop(number, None)
        if asked_s is not None and self.health.answered(asked_s, self.now_s):
            self._look(self.now_s)

    def _echo(self, _: int) -> None:
        self.health.echo_answered(self.now_s)

    def _look(self, due_s: float) -> None:
        self.looks += 1
        look = self.health.look(self.now_s, due_s=due_s, pending=self._pending.values())
        assert look.next_s > self.now_s
        self._timer_s = look.next_s
        if look.echo:
            self.echoes += 1
            self.at(self.now_s + self.echo_latency(self.now_s), "echo")
        if look.down:
            assert self.health.state is Health.DOWN
            self._pending.clear()
            self.health.lost(self.now_s, "closed by us")

    def _changed(self, before: Health, now: Health, why: str) -> None:
        self.changes.append((self.now_s, before, now, why))

    def became(self, state: Health) -> list[float]:
        """When the link became so."""
        return [when_s for when_s, _, now, _ in self.changes if now is state]
