"""Chaos plan: what is done to whom and when, drawn from a seed before anything is started."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

# What a gateway's life costs beside the time it is left alone: measured, and not exact.
_START_S = 2.2
_KILLS_PER_MINUTE = 22
_STARTING_SHARE = 0.3  # of the kills come while the gateway starts, recovery included
_HASTY_SHARE = 0.3  # come when terminals are just back
_HASTY_S_MAX = 0.6
_ACQUIRER_KILLS_PER_MINUTE = 6  # of each
_FLEET_KILLS_PER_MINUTE = 2  # of each
_FRONT_PERIOD_S = 2.5
_BACK_PERIOD_S = 4.0
_DISK_PERIOD_S = 15.0

# Nothing that is held back may come later than this: it bounds how long a late answer is possible.
HELD_S_MAX = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One life of the gateway: what happens in it, and the kill that ends it.

    Times are in seconds after its start where it dies `starting`, else after it was ready.
    """

    starting: bool
    kill_s: float
    stops: tuple[tuple[float, float], ...] = ()  # SIGSTOP: when, and how long until SIGCONT
    reloads: tuple[float, ...] = ()  # SIGHUP

    def __str__(self) -> str:
        told = [f"stopped at {at_s:.2f} s for {lasts_s:.2f} s" for at_s, lasts_s in self.stops]
        told += [f"reload at {at_s:.2f} s" for at_s in self.reloads]
        since = "after its start" if self.starting else "after it was ready"
        return ", ".join([*told, f"killed {self.kill_s:.2f} s {since}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something done to one actor, and undone after a while."""

    at_s: float  # after the beginning
    action: str
    lasts_s: float = 0.0
    share: float = 1.0  # of the connections
    direction: str = ""
    amount: float = 0.0  # of what the action is about: seconds, bytes/s, milliseconds, a chance
    abrupt: bool = False  # ends what it held, refuses whoever calls meanwhile

    def __str__(self) -> str:
        told = [f"{self.at_s:7.2f} s  {self.action}"]
        told += [self.direction] if self.direction else []
        told += [f"{self.amount:g}"] if self.amount else []
        told += [f"for {self.lasts_s:.2f} s"] if self.lasts_s else []
        told += [f"to {self.share:.0%}"] if self.share < 1 else []
        told += ["abruptly"] if self.abrupt else []
        return " ".join(told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that will happen; the steps of each actor follow each other."""

    seed: int
    seconds: float
    lives: tuple[Life, ...]
    acquirers: tuple[tuple[Step, ...], ...]
    fleets: tuple[tuple[Step, ...], ...]
    front: tuple[Step, ...]  # the network between terminals and gateway
    backs: tuple[tuple[Step, ...], ...]  # and to each acquirer
    disk: tuple[Step, ...]

    def lines(self) -> Iterator[str]:
        """The plan for people."""
        yield f"seed {self.seed}, {self.seconds:g} s"
        for number, life in enumerate(self.lives, start=1):
            yield f"gateway, life {number}: {life}"
        for who, steps in self._actors():
            for step in steps:
                yield f"{who}: {step}"

    def _actors(self) -> Iterator[tuple[str, tuple[Step, ...]]]:
        for kind, actors in (
            ("acquirer", self.acquirers),
            ("terminals", self.fleets),
            ("network to acquirer", self.backs),
        ):
            for number, steps in enumerate(actors, start=1):
                yield f"{kind} {number}", steps
        yield "network of terminals", self.front
        yield "disk", self.disk


def plan_of(seed: int, *, seconds: float, acquirers: int = 2, fleets: int = 2) -> Plan:
    """The plan of a seed: the same arguments give the same plan."""

    def random(actor: str) -> Random:
        return Random(f"{seed}/{actor}")

    return Plan(
        seed=seed,
        seconds=seconds,
        lives=_lives(random("gateway"), seconds),
        acquirers=tuple(
            _acquirer(random(f"acquirer {number}"), seconds) for number in range(acquirers)
        ),
        fleets=tuple(_fleet(random(f"fleet {number}"), seconds) for number in range(fleets)),
        front=_network(random("front"), seconds, _FRONT_PERIOD_S),
        backs=tuple(
            _network(random(f"back {number}"), seconds, _BACK_PERIOD_S)
            for number in range(acquirers)
        ),
        disk=_disk(random("disk"), seconds),
    )


def _count(seconds: float, per_minute: float) -> int:
    return max(1, math.ceil(seconds * per_minute / 60))


def _lives(random: Random, seconds: float) -> tuple[Life, ...]:
    count = _count(seconds, _KILLS_PER_MINUTE)
    starting, hasty = int(count * _STARTING_SHARE), int(count * _HASTY_SHARE)
    fates: list[Callable[[Random], Life]] = [_starting for _ in range(starting)]
    fates += [_hasty for _ in range(hasty)]
    # What starting and hasty lives leave of the time belongs to those in which much is sold.
    left_s = seconds - _START_S * (count - starting / 2) - _HASTY_S_MAX / 2 * hasty
    long_ = count - starting - hasty
    mean_s = max(0.5, left_s / long_)
    fates += [partial(_long, mean_s=mean_s)] * long_
    random.shuffle(fates)
    return tuple(fate(random) for fate in fates)


def _starting(random: Random) -> Life:
    return Life(starting=True, kill_s=random.uniform(0.1, _START_S))


def _hasty(random: Random) -> Life:
    return Life(starting=False, kill_s=random.uniform(0.0, _HASTY_S_MAX))


def _long(random: Random, *, mean_s: float) -> Life:
    kill_s = random.uniform(0.5 * mean_s, 1.5 * mean_s)
    stops = []
    if random.random() < 0.4:
        stops.append((random.uniform(0, kill_s), random.uniform(0.1, min(1.5, mean_s))))
    reloads = [random.uniform(0, kill_s)] if random.random() < 0.5 else []
    return Life(starting=False, kill_s=kill_s, stops=tuple(stops), reloads=tuple(reloads))


def _spread(
    random: Random, seconds: float, makers: list[Callable[[Random, float], Step]]
) -> tuple[Step, ...]:
    """One step of each maker, evenly spread and none before the last is over."""
    period_s = seconds / len(makers)
    steps: list[Step] = []
    free_s = 0.0
    for number, make in enumerate(makers):
        at_s = max(free_s, (number + random.random() * 0.6) * period_s)
        step = make(random, at_s)
        steps.append(step)
        free_s = step.at_s + step.lasts_s
    return tuple(steps)


# --- acquirers and terminals ---------------------------------------------------------------------


def _kill(random: Random, at_s: float) -> Step:
    # The time of its start comes on top.
    lasts_s = random.uniform(0.0, 0.8)
    return Step(at_s=at_s, action="kill", lasts_s=lasts_s, abrupt=random.random() < 0.5)


def _stop(random: Random, at_s: float) -> Step:
    return Step(at_s=at_s, action="stop", lasts_s=random.uniform(0.2, HELD_S_MAX))


def _hold(random: Random, at_s: float) -> Step:
    # Longer than the gateway waits: its reversals overtake the originals.
    amount_ms = float(random.randrange(1_050, 1_800))
    return Step(at_s=at_s, action="hold_ms", lasts_s=random.uniform(0.8, 2.0), amount=amount_ms)


def _chance(action: str) -> Callable[[Random, float], Step]:
    def make(random: Random, at_s: float) -> Step:
        amount = round(random.uniform(0.1, 0.6), 2)
        return Step(at_s=at_s, action=action, lasts_s=random.uniform(0.5, 2.5), amount=amount)

    return make


def _for_a_while(action: str) -> Callable[[Random, float], Step]:
    def make(random: Random, at_s: float) -> Step:
        return Step(at_s=at_s, action=action, lasts_s=random.uniform(0.3, 2.0))

    return make


def _disconnect(random: Random, at_s: float) -> Step:
    return Step(at_s=at_s, action="disconnect")


_MISBEHAVIOURS = (
    _stop,
    _hold,
    _chance("drop"),
    _chance("lose"),
    _for_a_while("mute"),
    _disconnect,
)


def _acquirer(random: Random, seconds: float) -> tuple[Step, ...]:
    kills = _count(seconds, _ACQUIRER_KILLS_PER_MINUTE)
    order = list(_MISBEHAVIOURS)
    random.shuffle(order)
    makers = [_kill] * kills + [order[number % len(order)] for number in range(kills)]
    random.shuffle(makers)
    return _spread(random, seconds, makers)


def _fleet(random: Random, seconds: float) -> tuple[Step, ...]:
    return _spread(random, seconds, [_kill] * _count(seconds, _FLEET_KILLS_PER_MINUTE))


# --- networks and the disk -----------------------------------------------------------------------


def _latency(random: Random, at_s: float) -> Step:
    return _weather(random, at_s, "latency", round(random.uniform(0.02, 0.4), 2))


def _slow(random: Random, at_s: float) -> Step:
    return _weather(random, at_s, "slow", float(random.randrange(200, 5_000)))


def _weather(random: Random, at_s: float, action: str, amount: float) -> Step:
    return Step(
        at_s=at_s,
        action=action,
        lasts_s=random.uniform(0.5, 2.0),
        share=random.choice((0.3, 0.6, 1.0)),
        amount=amount,
    )


def _held(action: str) -> Callable[[Random, float], Step]:
    def make(random: Random, at_s: float) -> Step:
        return Step(
            at_s=at_s,
            action=action,
            lasts_s=random.uniform(0.5, HELD_S_MAX),
            share=random.choice((0.2, 0.5, 1.0)),
            direction=random.choice(("up", "down")) if action == "half-open" else "",
            abrupt=random.random() < 0.4,
        )

    return make


def _sudden(action: str) -> Callable[[Random, float], Step]:
    def make(random: Random, at_s: float) -> Step:
        share = random.choice((0.1, 0.3, 0.7, 1.0))
        return Step(at_s=at_s, action=action, share=share)

    return make


def _refuse(random: Random, at_s: float) -> Step:
    return Step(at_s=at_s, action="refuse", lasts_s=random.uniform(0.2, 1.0))


_NETWORK_FAULTS = (
    _latency,
    _slow,
    _held("half-open"),
    _held("mute"),
    _sudden("reset"),
    _sudden("cut"),
    _refuse,
)


def _network(random: Random, seconds: float, period_s: float) -> tuple[Step, ...]:
    makers: list[Callable[[Random, float], Step]] = []
    for _ in range(max(2, math.ceil(seconds / period_s))):
        if not makers or len(makers) % len(_NETWORK_FAULTS) == 0:
            order = list(_NETWORK_FAULTS)
            random.shuffle(order)
        makers.append(order[len(makers) % len(order)])
    return _spread(random, seconds, makers)


def _full(random: Random, at_s: float) -> Step:
    return Step(at_s=at_s, action="full", lasts_s=random.uniform(2.0, 4.0))


def _disk(random: Random, seconds: float) -> tuple[Step, ...]:
    return _spread(random, seconds, [_full] * max(1, round(seconds / _DISK_PERIOD_S)))
