"""Figures: what a row of the benchmark found, its target, and the bare echo's figure beside it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number of a row; without a bound it is told, and neither passes nor fails."""

    name: str
    unit: str
    value: float
    at_most: float | None = None
    at_least: float | None = None
    echo: float | None = None  # the bare echo's, of the same load, in the same minute
    compare: str = ""  # what others take for the same work, as it was given to us

    @property
    def met(self) -> bool | None:
        """Whether the target is; None where there is none."""
        if self.at_most is not None and self.value > self.at_most:
            return False
        if self.at_least is not None and self.value < self.at_least:
            return False
        return None if self.at_most is None and self.at_least is None else True

    @property
    def times_echo(self) -> float | None:
        """The figure as a multiple of the echo's; None where that has none."""
        return None if not self.echo else self.value / self.echo

    @property
    def target(self) -> str:
        """The bound in words, "" where there is none."""
        if self.at_most is not None:
            return f"<= {self.at_most:,g}"
        return "" if self.at_least is None else f">= {self.at_least:,g}"

    def to_json(self) -> dict[str, Any]:
        times = self.times_echo
        return asdict(self) | {
            "met": self.met,
            "times_echo": None if times is None else round(times, 3),
        }


@dataclass(slots=True, kw_only=True)
class Measured:
    """What came of one row."""

    key: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    errors: int = 0  # transactions that failed
    failure: str = ""  # why there is nothing to show
    seconds: float = 0.0
    raw: dict[str, Any] = field(default_factory=dict)  # what the tools said

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "title": self.title,
            "figures": [one.to_json() for one in self.figures],
            "errors": self.errors,
            "failure": self.failure,
            "seconds": round(self.seconds, 1),
            "raw": self.raw,
        }


def spread_percent(values: list[float]) -> float:
    """By how much the largest is more than the smallest; 0 of fewer than two."""
    if len(values) < 2 or min(values) <= 0:
        return 0.0
    return 100 * (max(values) / min(values) - 1)
