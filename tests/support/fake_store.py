"""FakeStore: the whole Store protocol in memory, with switches for failure and delay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import trio

from gateway.errors import StoreError, StoreOverloaded
from gateway.store.store import (
    Device,
    EndReversal,
    MarkDelivered,
    NoteAttempt,
    Operation,
    OwedReversal,
    OweReversal,
    PutDevice,
    Reroute,
    ReserveStans,
    Settle,
    StanBlock,
    State,
    StoreHealth,
    TouchDevice,
    Transaction,
)

FINAL_STATES = frozenset((State.DELIVERED, State.REVERSED, State.CLOSED, State.NOTHING_SENT))


@dataclass
class FakeStore:
    """What was committed is in the public dictionaries; `commits` is every call, in order.

    `failing` makes each coroutine raise StoreError, `commit_s` makes each commit take that long,
    and `fail_after` lets that many more commits and intents through and then fails.
    """

    failing: bool = False
    commit_s: float = 0.0
    fail_after: int | None = None
    queue_max: int = 10_000
    transactions: dict[int, Transaction] = field(default_factory=dict)
    reversals: dict[int, OwedReversal] = field(default_factory=dict)
    devices_by_id: dict[int, Device] = field(default_factory=dict)
    blocks: dict[tuple[str, int], StanBlock] = field(default_factory=dict)
    commits: list[tuple[Operation, ...]] = field(default_factory=list)
    intents: list[Transaction] = field(default_factory=list)
    posted: list[Operation] = field(default_factory=list)
    closed: bool = False

    async def intend(self, transaction: Transaction) -> Transaction | None:
        await self._write()
        known = self._repeat(transaction.repeat_key)
        if known is not None:
            return known
        self.intents.append(transaction)
        self.transactions[transaction.transaction_id] = transaction
        return None

    async def commit(self, *operations: Operation) -> None:
        await self._write()
        self.commits.append(operations)
        for operation in operations:
            self._apply(operation)

    def post(self, operation: Operation) -> None:
        if len(self.posted) >= self.queue_max:
            raise StoreOverloaded("the queue is full")
        self.posted.append(operation)

    async def transaction(self, transaction_id: int) -> Transaction | None:
        await self._read()
        return self.transactions.get(transaction_id)

    async def find_repeat(self, repeat_key: str) -> Transaction | None:
        await self._read()
        return self._repeat(repeat_key)

    async def find_by_key_prefix(self, prefix: str, limit: int) -> list[Transaction]:
        await self._read()
        found = [t for t in self.transactions.values() if t.repeat_key.startswith(prefix)]
        return sorted(found, key=lambda t: -t.transaction_id)[:limit]

    async def unsettled(self, limit: int) -> list[Transaction]:
        await self._read()
        return [t for t in self._in_order() if t.state is State.INTENDED][:limit]

    async def owed_reversals(self) -> list[OwedReversal]:
        await self._read()
        return [r for r in self._reversals_in_order() if not r.given_up]

    async def given_up_reversals(self, limit: int) -> list[OwedReversal]:
        await self._read()
        return [r for r in self._reversals_in_order() if r.given_up][:limit]

    async def stan_blocks(self, upstream: str) -> Sequence[StanBlock]:
        await self._read()
        return [block for block in self.blocks.values() if block.upstream == upstream]

    async def devices(self) -> list[Device]:
        await self._read()
        return list(self.devices_by_id.values())

    async def last_transaction_id(self) -> int:
        await self._read()
        return max(self.transactions, default=0)

    async def count_by_state(self) -> dict[State, int]:
        await self._read()
        counts: dict[State, int] = {}
        for transaction in self.transactions.values():
            if transaction.state not in FINAL_STATES:
                counts[transaction.state] = counts.get(transaction.state, 0) + 1
        return counts

    def health(self) -> StoreHealth:
        return StoreHealth(
            kind="fake",
            healthy=not self.failing,
            queue_depth=len(self.posted),
            queue_max=self.queue_max,
            last_error="told to fail" if self.failing else "",
            commits=len(self.commits),
            operations=sum(map(len, self.commits)),
        )

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self._apply_posted()
        self.closed = True

    # --- helpers ----------------------------------------------------------------------------------

    async def _read(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.failing or self.closed:
            raise StoreError("the store was told to fail" if self.failing else "closed")
        self._apply_posted()

    async def _write(self) -> None:
        if self.commit_s:
            await trio.sleep(self.commit_s)
        await self._read()
        if self.fail_after is not None:
            if self.fail_after <= 0:
                raise StoreError("the store was told to fail after some commits")
            self.fail_after -= 1

    def _apply_posted(self) -> None:
        posted, self.posted = self.posted, []
        for operation in posted:
            self._apply(operation)

    def _repeat(self, repeat_key: str) -> Transaction | None:
        return next((t for t in self.transactions.values() if t.repeat_key == repeat_key), None)

    def _in_order(self) -> list[Transaction]:
        return sorted(self.transactions.values(), key=lambda t: t.transaction_id)

    def _reversals_in_order(self) -> list[OwedReversal]:
        return sorted(self.reversals.values(), key=lambda r: (r.created_ms, r.transaction_id))

    def _change(self, transaction_id: int, **changes: object) -> None:
        known = self.transactions.get(transaction_id)
        if known is not None:
            self.transactions[transaction_id] = replace(known, **changes)  # type: ignore[arg-type]

    def _apply(self, operation: Operation) -> None:
        match operation:
            case Reroute():
                self._change(
                    operation.transaction_id,
                    upstream=operation.upstream,
                    upstream_stan=operation.upstream_stan,
                )
            case Settle():
                wiped = {"image": b""} if operation.wipe_image else {}
                self._change(
                    operation.transaction_id,
                    state=operation.state,
                    response_code=operation.response_code,
                    approval_code=operation.approval_code,
                    answer=operation.answer,
                    answered_ms=operation.answered_ms,
                    **wiped,
                )
            case MarkDelivered():
                known = self.transactions.get(operation.transaction_id)
                if known is not None:
                    delivered = known.state is State.ANSWERED
                    self._change(
                        operation.transaction_id,
                        delivered_ms=operation.delivered_ms,
                        state=State.DELIVERED if delivered else known.state,
                    )
            case PutDevice():
                self.devices_by_id[operation.device.device_id] = operation.device
            case TouchDevice():
                device = self.devices_by_id.get(operation.device_id)
                if device is not None:
                    self.devices_by_id[operation.device_id] = replace(
                        device, last_seen_ms=operation.last_seen_ms
                    )
            case ReserveStans():
                block = StanBlock(operation.upstream, operation.first, operation.reserved_ms)
                self.blocks[operation.upstream, operation.first] = block
            case OweReversal() | NoteAttempt() | EndReversal():
                self._apply_to_reversal(operation)

    def _apply_to_reversal(self, operation: OweReversal | NoteAttempt | EndReversal) -> None:
        transaction_id = operation.transaction_id
        match operation:
            case OweReversal():
                self.reversals[transaction_id] = OwedReversal(
                    transaction_id=transaction_id,
                    upstream=operation.upstream,
                    upstream_stan=0,
                    reason=operation.reason,
                    created_ms=operation.created_ms,
                )
                told = (
                    {"response_code": operation.response_code, "answer": operation.answer}
                    if operation.response_code
                    else {}
                )
                self._change(transaction_id, state=operation.state, **told)
            case NoteAttempt():
                self.reversals[transaction_id] = replace(
                    self.reversals[transaction_id],
                    upstream_stan=operation.upstream_stan,
                    attempts=operation.attempts,
                    next_attempt_ms=operation.next_attempt_ms,
                )
            case EndReversal():
                if operation.state is State.GIVEN_UP:
                    owed = self.reversals[transaction_id]
                    self.reversals[transaction_id] = replace(owed, given_up=True)
                else:
                    del self.reversals[transaction_id]
                self._change(transaction_id, state=operation.state)
