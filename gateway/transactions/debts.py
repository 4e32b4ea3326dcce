"""Debts: the open reversals of one upstream, each with its turn."""

from __future__ import annotations

import heapq

import trio

from gateway.clock import Clock
from gateway.store.store import OwedReversal, Transaction
from gateway.wire.message import ADVICE_KINDS, REVERSIBLE_KINDS


def is_sent_again(transaction: Transaction) -> bool:
    """Whether its reversal, or the advice itself, is sent until it is answered."""
    return transaction.kind in REVERSIBLE_KINDS | ADVICE_KINDS


def has_own_stan(owed: OwedReversal, transaction: Transaction) -> bool:
    """Whether what is owed goes under another STAN than its original: an advice does not."""
    return owed.upstream_stan not in (0, transaction.upstream_stan)


class Queue:
    """The open reversals of one upstream; the one that is due first is taken first."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, int]] = []  # heap of (due, created, transaction)
        self._owed: dict[int, OwedReversal] = {}  # waiting or under way
        self._changed = trio.Event()

    @property
    def open(self) -> int:
        return len(self._owed)

    @property
    def oldest_ms(self) -> int | None:
        return min((owed.created_ms for owed in self._owed.values()), default=None)

    def __contains__(self, transaction_id: object) -> bool:
        return transaction_id in self._owed

    def add(self, owed: OwedReversal) -> None:
        """A new debt; one for a transaction that has one already is the same debt."""
        if owed.transaction_id not in self._owed:
            self._push(owed)

    def note(self, owed: OwedReversal) -> None:
        """What is under way has a STAN now, and counts one attempt more."""
        self._owed[owed.transaction_id] = owed

    def get(self, transaction_id: int) -> OwedReversal | None:
        return self._owed.get(transaction_id)

    def current(self, owed: OwedReversal) -> OwedReversal:
        return self._owed[owed.transaction_id]

    def ended(self, transaction_id: int) -> None:
        """Nothing of the debt is left, on disk: from here on another may be added."""
        del self._owed[transaction_id]

    def again(self, owed: OwedReversal) -> None:
        """An attempt is over, and what is left of the debt waits for its next turn."""
        self._push(owed)

    def _push(self, owed: OwedReversal) -> None:
        self._owed[owed.transaction_id] = owed
        entry = (owed.next_attempt_ms, owed.created_ms, owed.transaction_id)
        heapq.heappush(self._waiting, entry)
        self._changed.set()

    async def next(self, clock: Clock) -> OwedReversal:
        """Wait for the reversal that is due first and take it."""
        while True:
            self._changed = trio.Event()
            if not self._waiting:
                await self._changed.wait()
                continue
            due_ms, _, transaction_id = self._waiting[0]
            wait_s = (due_ms - clock.wall_ms()) / 1000
            if wait_s > 0:
                with trio.move_on_after(wait_s):
                    await self._changed.wait()
                continue
            heapq.heappop(self._waiting)
            return self._owed[transaction_id]
