"""Message -> the upstreams that may take it, best first (no I/O)."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.settings.schema import Group, Route
from gateway.wire.message import Kind


class _Balancer:
    """Orders the members of one group.

    Weighted groups take turns by smooth weighted round robin: each turn every member gains its
    weight, the richest goes first and pays the sum, so that shares are exact and never bunched.
    """

    def __init__(self, group: Group) -> None:
        self._weights = {member.upstream: member.weight for member in group.members}
        self._names = tuple(self._weights)
        self._weighted = group.strategy == "weighted" and len(self._names) > 1
        self._credit = dict.fromkeys(self._names, 0)
        self._total = sum(self._weights.values())

    def order(self) -> tuple[str, ...]:
        if not self._weighted:
            return self._names
        credit = self._credit
        for name, weight in self._weights.items():
            credit[name] += weight
        first = max(credit, key=credit.__getitem__)
        credit[first] -= self._total
        return (first, *(name for name in self._names if name != first))


class Router:
    """The routes and groups of one configuration."""

    def __init__(self, routes: Iterable[Route], groups: Iterable[Group]) -> None:
        balancers = {group.name: _Balancer(group) for group in groups}
        self._routes = [
            (frozenset(route.kinds), route.name, balancers[route.group]) for route in routes
        ]

    def candidates(self, kind: Kind) -> tuple[str, ...]:
        """Names of the upstreams for a request of this kind, best first; empty: no route fits."""
        for kinds, _, balancer in self._routes:
            if not kinds or kind in kinds:
                return balancer.order()
        return ()
