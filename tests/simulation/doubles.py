"""Doubles: parts of the gateway that break a promise, to show that the simulation notices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.faults import CredulousReversals, ResendingUpstream
from gateway.store import rows
from gateway.store.store import Transaction
from gateway.store.writer import Ticket
from gateway.transactions.reversals import Reversals
from gateway.upstreams.upstream import Upstream
from tests.simulation.disk import SimulatedStore


@dataclass(frozen=True, slots=True)
class Doubles:
    """Which parts a simulated node is made of; by default the real ones."""

    store: type[SimulatedStore] = SimulatedStore
    reversals: type[Reversals] = Reversals
    upstream: type[Upstream] = Upstream


class HastyStore(SimulatedStore):
    """Says that an intent is durable before it is written (promise 1)."""

    async def intend(self, transaction: Transaction) -> Transaction | None:
        seen = await self.find_repeat(transaction.repeat_key)
        if seen is not None:
            return seen
        row, changes = rows.intent(transaction)
        count = 1
        if transaction.original_id:
            following, more = rows.follow_up(transaction)
            row, changes, count = row + following, changes + more, 2
        self._put(Ticket(row, rows=count, changes_max=changes, intent=transaction))
        return None


class UnsyncedStore(SimulatedStore):
    """Says that it is durable before the disk does."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.writer._connection.pragma("synchronous", "normal")


BROKEN = {
    "acknowledge-before-writing": Doubles(store=HastyStore),
    "no-sync": Doubles(store=UnsyncedStore),
    "resend": Doubles(upstream=ResendingUpstream),
    "25-is-done": Doubles(reversals=CredulousReversals),
}
