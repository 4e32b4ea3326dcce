"""Which concentrator a connection is, by its certificate's name or its address."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.settings.schema_terminals import Concentrator
from gateway.terminals.identity import (
    ConcentratorRule,
    Network,
    in_networks,
    parse_networks,
)
from gateway.wire.id_patterns import TerminalSet


class Concentrators:
    """The concentrators of a configuration; raises ValueError where a pattern is none."""

    def __init__(self, concentrators: Iterable[Concentrator]) -> None:
        rules = [
            (
                concentrator,
                ConcentratorRule(concentrator.name, TerminalSet.parse(concentrator.terminals)),
            )
            for concentrator in concentrators
        ]
        self._by_name = {
            concentrator.certificate_name: (_networks(concentrator), rule)
            for concentrator, rule in rules
            if concentrator.certificate_name
        }
        self._by_network = [
            (_networks(concentrator), rule)
            for concentrator, rule in rules
            if not concentrator.certificate_name
        ]

    def use(self, other: Concentrators) -> None:
        """From now on find what another set of them finds."""
        self._by_name = other._by_name
        self._by_network = other._by_network

    def find(self, common_name: str, address: str, /) -> ConcentratorRule | None:
        """By the certificate's name where there is a certificate, else by the address alone.

        A concentrator that has a certificate is known by nothing less; its networks narrow it.
        """
        if common_name:
            networks, rule = self._by_name.get(common_name, ((), None))
            return rule if not networks or in_networks(address, networks) else None
        for networks, rule in self._by_network:
            if in_networks(address, networks):
                return rule
        return None


def _networks(concentrator: Concentrator) -> tuple[Network, ...]:
    return parse_networks(" ".join(concentrator.networks))
