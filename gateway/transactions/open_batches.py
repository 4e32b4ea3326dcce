"""OpenBatches: which batch is open for each terminal, in memory and in the store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.store.store import (
    Batch,
    BatchTotals,
    Operation,
    PutBatch,
    Store,
    Transaction,
)


class OpenBatches:
    """The open batch of each terminal; counted by the gateway, opened by its first transaction or
    its device's first activation."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._open: dict[str, Batch] = {}
        self.closing: dict[str, trio.Event] = {}  # by terminal; set once the close is over

    async def restore(self) -> None:
        """Take up what is open; raises StoreError."""
        for batch in await self._store.open_batches():
            self._open[batch.terminal_id] = batch

    def open_of(self, terminal_id: str) -> Batch | None:
        """The terminal's open batch; None where it has none yet."""
        return self._open.get(terminal_id)

    def put(self, batch: Batch) -> None:
        """Take up what the store has of a batch by now."""
        if not batch.closed_ms:
            self._open[batch.terminal_id] = batch
            return
        known = self._open.get(batch.terminal_id)
        if known is not None and known.number == batch.number:
            del self._open[batch.terminal_id]

    def is_one(self, transaction: Transaction, terminal_id: str, number: int) -> bool:
        """Whether a transaction is of a terminal's batch, or of one that this batch carries."""
        if (transaction.terminal_id, transaction.batch) == (terminal_id, number):
            return True
        batch = self._open.get(terminal_id)
        name = f"{transaction.terminal_id.rstrip()}/{transaction.batch}"
        return batch is not None and batch.number == number and name in batch.carried

    def ends(
        self, terminal_id: str, totals: BatchTotals, *, balanced: bool, reported: str
    ) -> tuple[Batch, Batch]:
        """The terminal's open batch as it is closed, and the one that follows it."""
        now_ms = self._clock.wall_ms()
        batch = self._open[terminal_id]
        closed = replace(
            batch,
            closed_ms=now_ms,
            debits=totals.debits,
            debits_minor=totals.debits_minor,
            credits=totals.credits,
            credits_minor=totals.credits_minor,
            balanced=balanced,
            reported=reported,
        )
        return closed, Batch(terminal_id=terminal_id, number=batch.number + 1, opened_ms=now_ms)

    async def close_for(self, terminal_id: str, *also: Operation) -> Batch:
        """Close the batch of a terminal that cannot do so itself, with what goes with it.

        Returns it with its totals, which are the gateway's. Raises StoreError.
        """
        async with self.held(terminal_id):
            number = self.number(terminal_id)
            ours = await self._store.batch_totals(terminal_id, number)
            closed, following = self.ends(terminal_id, ours, balanced=True, reported="")
            await self._store.commit(PutBatch(closed), PutBatch(following), *also)
            self.put(following)
        return closed

    def number(self, terminal_id: str) -> int:
        """The number of the terminal's open batch; opens its first where it has none yet."""
        batch = self._open.get(terminal_id)
        if batch is None:
            batch = Batch(terminal_id=terminal_id, number=1, opened_ms=self._clock.wall_ms())
            self._open[terminal_id] = batch
            # Lost in a crash, it is opened again with the same number.
            try:
                self._store.post(PutBatch(batch))
            except StoreError:
                return batch.number
        return batch.number

    @asynccontextmanager
    async def held(self, terminal_id: str) -> AsyncIterator[None]:
        """While its batch is closed nothing new of the terminal begins; one close at a time."""
        await self.until_open(terminal_id)
        self.closing[terminal_id] = trio.Event()
        try:
            yield
        finally:
            self.closing.pop(terminal_id).set()

    async def until_open(self, terminal_id: str) -> None:
        """Wait until no close of the terminal's batch is under way."""
        while (closing := self.closing.get(terminal_id)) is not None:
            await closing.wait()
