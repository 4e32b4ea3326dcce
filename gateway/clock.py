"""The only reader of wall time and monotonic time."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

import trio


class Clock(Protocol):
    """What the rest of the gateway knows of time."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds on the clock that deadlines are set by; it never goes back."""
        ...


class SystemClock:
    """The machine's clock; its monotonic time is trio's, so that deadlines can be set by it."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return trio.current_time()


class VirtualClock:
    """Wall time that follows trio's clock from a set start: for tests under `MockClock`."""

    def __init__(self, start_ms: int) -> None:
        self._start_ms = start_ms
        self._zero_s: float | None = None

    def wall_ms(self) -> int:
        if self._zero_s is None:
            self._zero_s = trio.current_time()
        return self._start_ms + round((trio.current_time() - self._zero_s) * 1000)

    def monotonic_s(self) -> float:
        return trio.current_time()


def utc(wall_ms: int) -> datetime:
    """The UTC date and time of a wall-clock reading."""
    return datetime.fromtimestamp(wall_ms / 1000, UTC)


def iso_time(wall_ms: int) -> str:
    """A wall-clock reading as people and programs read it: `2026-11-21T20:33:54.125Z`."""
    return utc(wall_ms).strftime("%Y-%m-%dT%H:%M:%S.") + f"{wall_ms % 1000:03d}Z"
