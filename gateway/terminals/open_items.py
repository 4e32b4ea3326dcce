"""What is open of a device: its batch, what is owed for it, and what may still follow."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.store.store import Batch, BatchTotals, Criteria, State, Transaction
from gateway.terminals.surroundings import Surroundings
from gateway.wire.message import VOID_KINDS, Kind

_DAY_MS = 86_400_000
_CLOCK_SET_MS = 3_600_000  # a batch's first transactions may bear an earlier time than it
_PAGE = 1_000
_PAGES_MAX = 50  # looked through for pre-authorisations
_ENDED = (*VOID_KINDS, Kind.COMPLETION)


@dataclass(slots=True, kw_only=True)
class OpenItems:
    """What is open of one terminal id; lists are the newest first, and bounded."""

    batch: Batch | None = None
    totals: BatchTotals = field(default_factory=lambda: BatchTotals(0, 0, 0, 0))
    under_way: list[Transaction] = field(default_factory=list)  # without an outcome yet
    reversals: list[Transaction] = field(default_factory=list)  # owed to an upstream
    advices: list[Transaction] = field(default_factory=list)
    given_up: list[Transaction] = field(default_factory=list)  # an operator's
    unsettled: list[Transaction] = field(default_factory=list)  # approvals of the open batch
    preauthorisations: list[Transaction] = field(default_factory=list)  # neither completed nor void

    @property
    def batch_is_empty(self) -> bool:
        """Whether nothing counts in the open batch."""
        totals = self.totals
        return self.batch is None or not (totals.debits or totals.credits)

    def in_the_way(self) -> list[str]:
        """Why the device cannot be deregistered, each with how to end it; empty: it can."""
        found = []
        if self.batch is not None and not self.batch_is_empty:
            name = self.batch.terminal_id.rstrip()
            found.append(
                f"batch {self.batch.number} is open with {self.totals.debits} debits and"
                f" {self.totals.credits} credits: close it at the terminal, or by"
                f" `gateway terminals close-batch {name}`"
            )
        several = (
            (self.under_way, "under way", "wait until it is answered"),
            (self.reversals, "owed a reversal", "`gateway reversals list` shows how it goes"),
            (self.advices, "advices not delivered", "`gateway reversals list` shows how it goes"),
            (self.given_up, "waiting for an operator", "`gateway reversals resolve` settles it"),
        )
        for transactions, what, remedy in several:
            if transactions:
                ids = ", ".join(str(one.transaction_id) for one in transactions[:5])
                more = f" and {len(transactions) - 5} more" if len(transactions) > 5 else ""
                found.append(f"{len(transactions)} {what} (transaction {ids}{more}): {remedy}")
        return found


async def open_items(around: Surroundings, terminal_id: str, *, limit: int, days: int) -> OpenItems:
    """What is open of a terminal id (eight characters); raises StoreError.

    At most `limit` of each; pre-authorisations of the last `days`.
    """
    store = around.store
    items = OpenItems(batch=around.batches.open_of(terminal_id))
    for state, found in (
        (State.INTENDED, items.under_way),
        (State.TIMED_OUT, items.under_way),
        (State.REVERSAL_OWED, items.reversals),
        (State.ADVICE_OWED, items.advices),
        (State.GIVEN_UP, items.given_up),
    ):
        found += await store.select(Criteria(terminal_id=terminal_id, state=state), limit)
    if items.batch is not None:
        items.totals = await store.batch_totals(terminal_id, items.batch.number)
    since_ms = around.clock.wall_ms() - days * _DAY_MS
    if items.batch is not None:
        since_ms = min(since_ms, items.batch.opened_ms - _CLOCK_SET_MS)
    before_id = 0
    for _ in range(_PAGES_MAX):
        criteria = Criteria(terminal_id=terminal_id, from_ms=since_ms, before_id=before_id)
        page = await store.select(criteria, _PAGE)
        for one in page:
            await _sort_in(around, items, one, limit)
        if len(page) < _PAGE:
            break
        before_id = page[-1].transaction_id
    return items


async def _sort_in(
    around: Surroundings, items: OpenItems, transaction: Transaction, limit: int
) -> None:
    if not around.stands(transaction):
        return
    if transaction.kind is Kind.PREAUTHORISATION:
        if len(items.preauthorisations) < limit:
            followed = await around.store.follow_ups(transaction.transaction_id)
            if not any(one.kind in _ENDED and around.stands(one) for one in followed):
                items.preauthorisations.append(transaction)
    elif (
        items.batch is not None
        and transaction.batch == items.batch.number
        and transaction.kind not in (Kind.SETTLEMENT, Kind.BALANCE)
        and len(items.unsettled) < limit
    ):
        items.unsettled.append(transaction)
