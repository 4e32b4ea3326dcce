"""Message -> the upstreams that may take it, best first, and why (no I/O)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import gcd
from typing import NamedTuple

from gateway.settings.boarding import BoardedTerminals
from gateway.settings.schema_base import OpeningHours
from gateway.settings.schema_upstreams import Group, Route, TerminalGroup
from gateway.settings.schema_upstreams import Upstream as UpstreamSettings
from gateway.upstreams.conditions import (
    Conditions,
    IsOpen,
    OpeningTimes,
    Subject,
    subject_of,
)
from gateway.wire.id_patterns import MerchantSet
from gateway.wire.message import Kind, Message

# How many requests an upstream has under way, and how much of its share it is given: 1 all, less
# while it starts slowly, 0 nothing as long as there is another.
Pending = Callable[[str], int]
Share = Callable[[str], float]


class Choice(NamedTuple):
    """Where a request may go."""

    route: str  # its name; empty where none fits
    upstreams: tuple[str, ...]  # best first; empty: nobody may take it
    why: str  # for operators


@dataclass(frozen=True, slots=True)
class RouteStep:
    """One route, and what it says to a request."""

    route: str
    fits: bool
    why: str  # the first condition that is not met; empty where it fits


@dataclass(frozen=True, slots=True)
class UpstreamStep:
    """One upstream of the group that was chosen."""

    upstream: str
    weight: int
    boarded: bool
    why: str  # why it is no candidate; empty where it is


@dataclass(frozen=True, slots=True)
class Explanation:
    """How the upstreams of a request come about."""

    route: str  # the first that fits; empty where none does
    group: str
    strategy: str
    routes: tuple[RouteStep, ...]  # all, in their order
    upstreams: tuple[UpstreamStep, ...]  # candidates first, best first; then those that are none


class Boarding:
    """Whose requests one upstream takes."""

    def __init__(self, settings: UpstreamSettings, terminals: BoardedTerminals) -> None:
        """Raises ValueError where a pattern is none."""
        self._merchants = MerchantSet.parse(settings.merchants) if settings.merchants else None
        self._terminals = terminals if settings.knows_terminals == "one_by_one" else None

    @property
    def is_open(self) -> bool:
        """Whether it takes everybody's."""
        return self._merchants is None and self._terminals is None

    def takes(self, merchant_id: str, terminal_id: str) -> bool:
        return (self._merchants is None or merchant_id in self._merchants) and (
            self._terminals is None or terminal_id in self._terminals
        )

    def refusal(self, merchant_id: str, terminal_id: str) -> str:
        """Why it does not take this one's, in words; empty where it does."""
        if self._merchants is not None and merchant_id not in self._merchants:
            named = merchant_id.rstrip()
            return f"merchant {named} is not boarded there" if named else "no merchant is named"
        if self._terminals is not None and terminal_id not in self._terminals:
            return f"terminal {terminal_id.rstrip()} is not in its terminals_file"
        return ""


def boardings(
    upstreams: Iterable[UpstreamSettings], terminals: Mapping[str, BoardedTerminals]
) -> dict[str, Boarding]:
    """The boarding of each upstream by name; `terminals` are those of the terminals files."""
    return {one.name: Boarding(one, terminals.get(one.name, {})) for one in upstreams}


class _Balancer:
    """Orders the members of one group.

    Weighted groups take turns by smooth weighted round robin: each turn every member gains its
    weight, the richest goes first and pays the sum, so that shares are exact and never bunched.
    Those that are no candidates this turn gain nothing. Where the least pending goes first, those
    that are equal take turns so.
    """

    def __init__(self, group: Group, *, pending: Pending, share: Share | None) -> None:
        self.strategy = group.strategy
        self.name = group.name
        self.weights = {member.upstream: member.weight for member in group.members}
        self.names = tuple(self.weights)
        # The usual turn is taken among all members.
        self._led_by = {
            name: (name, *(one for one in self.names if one != name)) for name in self.names
        }
        self._pending = pending
        self._share = share
        self._credit: dict[str, float] = dict.fromkeys(self.names, 0)
        self._turns = self._all_turns()

    def _all_turns(self) -> Iterator[tuple[str, ...]] | None:
        """The turns of a weighted group in which everybody takes part, for ever.

        They come round again after as many as the weights' sum, and so are worked out once; None
        where that is too many.
        """
        divisor = gcd(*self.weights.values())
        period = sum(self.weights.values()) // divisor if divisor else 0
        if self.strategy != "weighted" or not 0 < period <= _TURNS_MAX:
            return None
        turns = [self._turn(self.names, self.weights) for _ in range(period)]
        self._credit = dict.fromkeys(self.names, 0)
        return cycle(turns)

    def order(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Some of the members, best first; each call is a turn."""
        if len(names) < 2:
            return names
        share = self._share
        if share is None:
            if self.strategy == "priority":
                return names
            if self._turns is not None and len(names) == len(self.names):
                return next(self._turns)
            return self._turn(names, self.weights)
        weights = {name: self.weights[name] * share(name) for name in names}
        usable = tuple(name for name in names if weights[name] > 0)
        if not usable or self.strategy == "priority":
            ordered = usable
        else:
            ordered = self._turn(usable, weights)
        return ordered + tuple(name for name in names if name not in usable)

    def _turn(self, names: tuple[str, ...], weights: Mapping[str, float]) -> tuple[str, ...]:
        credit = self._credit
        total = 0.0
        for name in names:
            credit[name] += weights[name]
            total += weights[name]
        if self.strategy == "weighted":
            first = max(names, key=credit.__getitem__)
            ordered = self._led_by[first]
            if len(names) != len(ordered):
                ordered = tuple(name for name in ordered if name in names)
        else:
            ordered = self._by_pending(names, weights)
        credit[ordered[0]] -= total
        return ordered

    def _by_pending(self, names: tuple[str, ...], weights: Mapping[str, float]) -> tuple[str, ...]:
        pending, credit = self._pending, self._credit
        load = {name: (pending(name) / weights[name], -credit[name]) for name in names}
        return tuple(sorted(names, key=load.__getitem__))

    def preview(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The order as it is on the whole; no turn is taken."""
        if self.strategy == "weighted":
            return tuple(sorted(names, key=lambda name: -self.weights[name]))
        return names if self.strategy == "priority" else self._by_pending(names, self.weights)


class Router:
    """The routes and groups of one configuration."""

    def __init__(
        self,
        routes: Sequence[Route],
        groups: Iterable[Group],
        *,
        terminal_groups: Iterable[TerminalGroup] = (),
        boarding: Mapping[str, Boarding] | None = None,
        opening_times: OpeningTimes | None = None,
        pending: Pending | None = None,
        share: Share | None = None,
    ) -> None:
        """Raises ValueError where a pattern is none, or hours are asked without opening times."""
        balancers = {
            group.name: _Balancer(group, pending=pending or _none_pending, share=share)
            for group in groups
        }
        self._boarding = {name: one for name, one in (boarding or {}).items() if not one.is_open}
        self._routes = routes
        self._names = [route.name for route in routes]
        self._conditions = Conditions(routes, terminal_groups, opening_times or _no_hours)
        self._groups = [balancers[route.group] for route in routes]
        # Groups whose members all take everybody's need no look at any of them.
        self._narrowed = [
            any(name in self._boarding for name in group.names) for group in self._groups
        ]
        self._asks_something = self._conditions.ask_something or any(self._narrowed)
        self._why = [
            f"route {route.name}, group {group.name}"
            for route, group in zip(routes, self._groups, strict=True)
        ]

    def choose(self, subject: Subject) -> Choice:
        """The route of a request and its upstreams, best first; each call is a turn of the group.

        The first route that fits decides: where none of its upstreams takes this merchant's or
        terminal's requests, no other route is tried.
        """
        index = self._conditions.first(subject)
        if index < 0:
            return _NO_ROUTE
        group = self._groups[index]
        names = group.names
        if self._narrowed[index]:
            names = self._boarded(names, subject)
            if not names:
                why = f"{self._why[index]}: none of its upstreams takes this merchant or terminal"
                return Choice(self._routes[index].name, (), why)
        return Choice(self._names[index], group.order(names), self._why[index])

    def choose_for(self, message: Message, kind: Kind, wall_ms: int) -> Choice:
        """As `choose`, for a message that came at `wall_ms`."""
        asked = self._asks_something
        return self.choose(subject_of(message, kind, wall_ms) if asked else _ANYBODY)

    def _boarded(self, names: tuple[str, ...], subject: Subject) -> tuple[str, ...]:
        boarding, merchant, terminal = self._boarding, subject.merchant_id, subject.terminal_id
        return tuple(
            name
            for name in names
            if name not in boarding or boarding[name].takes(merchant, terminal)
        )

    def explain(self, subject: Subject) -> Explanation:
        """What `choose` would do, and why, for operators; takes no turn."""
        first = self._conditions.first(subject)
        steps = []
        for index, route in enumerate(self._routes):
            why = self._conditions.refusal(index, subject)
            fits = not why
            if fits and index != first:
                why = f"it fits too, but {self._routes[first].name} comes first"
            steps.append(RouteStep(route.name, fits, why))
        if first < 0:
            return Explanation("", "", "", tuple(steps), ())
        group = self._groups[first]
        boarded = self._boarded(group.names, subject)
        ordered = group.preview(boarded)
        others = tuple(name for name in group.names if name not in boarded)
        return Explanation(
            self._routes[first].name,
            group.name,
            group.strategy,
            tuple(steps),
            tuple(self._step(group, name, subject) for name in ordered + others),
        )

    def _step(self, group: _Balancer, name: str, subject: Subject) -> UpstreamStep:
        boarding = self._boarding.get(name)
        why = boarding.refusal(subject.merchant_id, subject.terminal_id) if boarding else ""
        return UpstreamStep(name, group.weights[name], not why, why)


_TURNS_MAX = 1_000
_ANYBODY = Subject(Kind.UNKNOWN)
_NO_ROUTE = Choice("", (), "no route fits")


def _none_pending(upstream: str) -> int:
    return 0


def _no_hours(hours: Sequence[OpeningHours], time_zone: str) -> IsOpen:
    raise ValueError("routes with hours need opening times")
