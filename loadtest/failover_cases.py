"""Failover cases: what befalls an acquirer in each, when, and what the gateway is held to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

FLAP_S = 2.0  # so long up, so long down


class Sickness(StrEnum):
    """What an acquirer can suffer from."""

    MUTE = "mute"  # takes everything, answers nothing
    ECHO_WHILE_MUTE = "echo-while-mute"  # its front end lives, its host does not
    DEAD = "dead"  # its process is killed
    RESET = "reset"  # every connection is reset, open ones and new ones
    BUSY = "busy"  # 96 to everything financial
    SLOW = "slow"  # answers, but later than anybody waits for
    LONG_TAIL = "long-tail"  # not sick at all: 300 ms to 2 s is how it is
    DRAINED = "drained"  # not sick either: an operator takes it out


class Act(NamedTuple):
    """Something that is done to the sick one, so long after the start."""

    at_s: float
    what: Literal["sicken", "heal"]


@dataclass(frozen=True, slots=True)
class Target:
    """A figure of the result, and the most that it may be."""

    figure: str
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing that happens to acquirers while terminals buy."""

    name: str
    sickness: Sickness
    everybody: bool = False  # not one of them, all
    flaps: bool = False
    from_start: bool = False  # and to the end
    answer_s: float = 1.0  # how long a till waits
    targets: tuple[Target, ...]

    def measured_s(self, seconds: float, flapping_s: float) -> float:
        """How long purchases count."""
        if self.flaps:
            return flapping_s
        return 2 * seconds if self.from_start else seconds

    def acts(self, measured_s: float) -> Iterator[Act]:
        """What is done to the sick one, in order; at the end of what is measured it is well."""
        if self.from_start:
            return
        if not self.flaps:
            yield Act(measured_s / 2, "sicken")
            yield Act(measured_s, "heal")
            return
        at_s = FLAP_S
        while at_s < measured_s:
            yield Act(at_s, "sicken")
            at_s += FLAP_S
            yield Act(min(at_s, measured_s), "heal")
            at_s += FLAP_S


# Whatever happens: the ledgers agree, nothing stays open, and no till is left without an answer.
ALWAYS = tuple(
    Target(figure, 0)
    for figure in ("lost", "doubled", "unexplained", "reversals_open", "timed_out", "unsent")
)
_ONE_PERCENT = (Target("failed_percent", 0.99),)
# 15 times down in a minute, over 2 links: somewhat more than one attempt for each link each time,
# and less than two a second.
_NO_STORM = (Target("attempts_per_s", 2.0),)

CASES = (
    Case(name="mute", sickness=Sickness.MUTE, targets=_ONE_PERCENT),
    Case(name="echo-while-mute", sickness=Sickness.ECHO_WHILE_MUTE, targets=_ONE_PERCENT),
    Case(name="dead", sickness=Sickness.DEAD, targets=(Target("failed", 2),)),
    Case(name="reset", sickness=Sickness.RESET, targets=(*_ONE_PERCENT, *_NO_STORM)),
    Case(name="busy", sickness=Sickness.BUSY, targets=_ONE_PERCENT),
    Case(name="slow", sickness=Sickness.SLOW, targets=_ONE_PERCENT),
    Case(
        name="all-down",
        sickness=Sickness.DEAD,
        everybody=True,
        targets=(Target("refusal_p99_ms", 100),),
    ),
    Case(name="drain", sickness=Sickness.DRAINED, targets=(Target("failed", 0),)),
    Case(
        name="natural",
        sickness=Sickness.LONG_TAIL,
        from_start=True,
        answer_s=5.0,
        targets=(Target("failed", 0), Target("suspicions", 0)),
    ),
    Case(
        name="flapping",
        sickness=Sickness.RESET,
        flaps=True,
        targets=(*_ONE_PERCENT, *_NO_STORM),
    ),
    Case(
        name="flapping-mute",
        sickness=Sickness.MUTE,
        flaps=True,
        targets=(*_ONE_PERCENT, *_NO_STORM),
    ),
)
BY_NAME = {case.name: case for case in CASES}
