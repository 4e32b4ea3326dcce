"""Plan: what a seed stands for: who takes part, how they are set, and what goes wrong how often."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

# A quiet noon, the last seconds of a day, and of a year: DE13 has no year, keys have a day.
_STARTS = (
    datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC),
    datetime(2026, 11, 21, 23, 59, 45, tzinfo=UTC),
    datetime(2026, 12, 31, 23, 59, 45, tzinfo=UTC),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What a network does to connections; shares are of 1."""

    latency_s: float = 0.005
    slow: float = 0.0  # share of chunks that take up to `slow_s`
    slow_s: float = 0.0
    split: float = 0.0  # share of chunks that come in pieces
    stall: float = 0.0  # share of sends that pause halfway
    stall_s: float = 0.0
    cut: float = 0.0  # share of connections that are reset at some byte
    mute: float = 0.0  # share of connections that fall silent at some byte
    lifetime_bytes: float = 1_000.0  # the mean of that byte
    refuse: float = 0.0  # share of connections not accepted


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPlan:
    """How the store's disk does."""

    commit_s: float = 0.002
    read_s: float = 0.05
    slow: float = 0.0  # share of commits that take up to `slow_s`
    slow_s: float = 0.0
    trouble_every_s: float = 0.0  # mean time between times in which writes fail; 0: never
    trouble_s: float = 0.0  # mean length of those
    sync_fails: float = 0.0  # share of those that are one failed sync: the node has to stop


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashPlan:
    """When the gateway's process dies."""

    steps: float = 0.0  # mean number of the scheduler's steps from one crash to the next; 0: never
    point: float = 0.0  # share of commits and sends at which it dies, just before or just after
    stops_every_s: float = 0.0  # mean time between orderly stops; 0: never
    down_s: float = 1.0  # mean time until it is started again
    power: float = 0.0  # share of crashes that take the machine along: peers are told nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquirerPlan:
    """How the acquirers behave; shares are of 1."""

    lose: float = 0.0  # requests never seen
    hold: float = 0.0  # requests looked at late: what comes after them overtakes them
    answer_lost: float = 0.0
    answer_late: float = 0.0
    answer_twice: float = 0.0
    answer_odd: float = 0.0  # another amount, no DE39, or bytes that are no message
    decline: float = 0.1
    unknown_code: float = 0.0  # the money is held, and DE39 says what nobody knows
    not_now: float = 0.0  # 91 or 96 to requests and reversals alike
    reversal_odd: float = 0.0  # 12 or an unknown code to a reversal
    restart_every_s: float = 0.0  # mean; 0: never
    restart_s: float = 2.0
    dies_after_commit: float = 0.0
    tombstones: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalPlan:
    """How the terminals behave; shares are of 1."""

    think_s: float = 1.0  # mean pause between two transactions
    answer_s: float = 8.0
    repeats_max: int = 2
    plain_repeats: float = 0.3  # share of repeats that do not say that they are
    redial: float = 0.5  # share of unanswered requests after which another line is taken
    linger: float = 0.3  # share of lines given up without hanging up
    regret: float = 0.1  # share of approvals reversed all the same
    ask_again: float = 0.1  # share of ended transactions that are asked for once more
    impatient: float = 0.0  # share of requests whose terminal leaves before the answer
    power_cut_every_s: float = 0.0  # mean; 0: never
    own_stan: bool = False  # a reversal has a STAN of its own, and names its original in DE90


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that is decided before a run begins."""

    seed: int
    start_ms: int
    active_s: float  # then everything heals
    terminals: int
    outside: Weather  # between terminals and gateway
    inside: Weather  # between gateway and acquirers
    disk: DiskPlan
    crashes: CrashPlan
    acquirers: AcquirerPlan
    shops: TerminalPlan
    answer_s: float
    late_max_s: float
    grace_s: float
    links: int
    weighted: bool
    keeps_advices: bool
    reversal_mti: str
    reversal_attempts_max: int
    queue_max: int
    under_way_max: int
    pending_max: int


class _Dice:
    """Swarm testing: each fault is left out of many seeds, so that others meet undisturbed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(f"plan/{seed}")

    def some(self, share: float, low: float, high: float) -> float:
        """0 in all but this share of seeds; a value between the bounds there."""
        chosen = self.random.random() < share
        value = self.random.uniform(low, high)
        return value if chosen else 0.0

    def weather(self, latency_s: float, slow_s: float) -> Weather:
        return Weather(
            latency_s=latency_s,
            slow=self.some(0.5, 0.01, 0.2),
            slow_s=slow_s,
            split=self.some(0.4, 0.05, 0.5),
            stall=self.some(0.3, 0.01, 0.1),
            stall_s=slow_s / 2,
            cut=self.some(0.5, 0.1, 0.8),
            mute=self.some(0.3, 0.05, 0.4),
            lifetime_bytes=self.random.choice((300.0, 1_000.0, 4_000.0)),
            refuse=self.some(0.3, 0.05, 0.4),
        )


def plan_of(seed: int) -> Plan:
    """What this seed stands for; the same for ever."""
    dice = _Dice(seed)
    random = dice.random
    answer_s = random.uniform(1.5, 4.0)
    late_max_s = random.uniform(8.0, 16.0)
    return Plan(
        seed=seed,
        start_ms=round(random.choice(_STARTS).timestamp() * 1000),
        active_s=random.uniform(15.0, 30.0),
        terminals=random.randint(2, 4),
        outside=dice.weather(0.02, random.uniform(1.0, 6.0)),
        inside=dice.weather(0.004, late_max_s * 0.4),
        disk=DiskPlan(
            slow=dice.some(0.4, 0.01, 0.15),
            slow_s=random.uniform(0.5, 8.0),
            trouble_every_s=dice.some(0.4, 4.0, 15.0),
            trouble_s=random.uniform(0.5, 5.0),
            sync_fails=dice.some(0.5, 0.1, 0.6),
        ),
        crashes=CrashPlan(
            steps=dice.some(0.6, 300.0, 3_000.0),
            point=dice.some(0.6, 0.005, 0.04),
            stops_every_s=dice.some(0.3, 8.0, 20.0),
            down_s=random.uniform(0.1, 4.0),
            power=dice.some(0.5, 0.2, 1.0),
        ),
        acquirers=AcquirerPlan(
            lose=dice.some(0.4, 0.02, 0.15),
            hold=dice.some(0.5, 0.02, 0.25),
            answer_lost=dice.some(0.5, 0.02, 0.2),
            answer_late=dice.some(0.5, 0.02, 0.2),
            answer_twice=dice.some(0.3, 0.02, 0.2),
            answer_odd=dice.some(0.3, 0.01, 0.1),
            decline=random.uniform(0.0, 0.2),
            unknown_code=dice.some(0.3, 0.02, 0.1),
            not_now=dice.some(0.4, 0.02, 0.2),
            reversal_odd=dice.some(0.3, 0.05, 0.3),
            restart_every_s=dice.some(0.4, 5.0, 20.0),
            restart_s=random.uniform(0.2, 5.0),
            dies_after_commit=dice.some(0.3, 0.01, 0.05),
            tombstones=random.random() < 0.5,
        ),
        shops=TerminalPlan(
            think_s=random.uniform(0.2, 1.5),
            answer_s=random.uniform(1.0, answer_s * 2.5),
            repeats_max=random.randint(0, 3),
            plain_repeats=random.random(),
            redial=random.random(),
            linger=random.random(),
            regret=dice.some(0.6, 0.02, 0.2),
            ask_again=dice.some(0.6, 0.05, 0.3),
            impatient=dice.some(0.5, 0.02, 0.2),
            power_cut_every_s=dice.some(0.3, 5.0, 20.0),
            own_stan=random.random() < 0.5,
        ),
        answer_s=answer_s,
        late_max_s=late_max_s,
        grace_s=random.uniform(2.0, 12.0),
        links=random.randint(1, 3),
        weighted=random.random() < 0.5,
        keeps_advices=random.random() < 0.7,
        reversal_mti=random.choice(("0400", "0420")),
        reversal_attempts_max=random.choice((3, 8, 50)),
        queue_max=random.choice((10, 1_000, 1_000)),
        under_way_max=random.choice((2, 1_000, 1_000)),
        pending_max=random.choice((1, 1_000, 1_000)),
    )
