"""Given up: what was handed to an operator, and what they, or a late approval, make of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from gateway.clock import Clock
from gateway.errors import OperatorError
from gateway.policy.response_codes import may_be_approved
from gateway.store.store import Criteria, EndReversal, OweReversal, State, Store, Transaction
from gateway.telemetry.events import Emit, Event
from gateway.transactions.debts import is_sent_again
from gateway.transactions.states import Happening, after
from gateway.upstreams.pool import Pool
from gateway.wire.message import ADVICE_KINDS, REVERSIBLE_KINDS, Message

_PAGE = 500

Owe = Callable[[int, OweReversal], Awaitable[bool]]


class GivenUp:
    """Reversals, advices and refunds in doubt that wait for somebody to settle them.

    While one waits its STAN stands for nothing else: sent again it must name what it named. They
    are looked at one at a time: two who find the same one given up would both have it sent.
    """

    def __init__(self, *, store: Store, pool: Pool, clock: Clock, emit: Emit, owe: Owe) -> None:
        """`owe` makes a debt durable and has it delivered, and says whether it is a new one."""
        self._store = store
        self._pool = pool
        self._clock = clock
        self._emit = emit
        self._owe = owe
        self._one_at_a_time = trio.Lock()
        self.count = 0

    async def restore(self) -> None:
        """Take over what earlier runs gave up. Raises StoreError."""
        self.count = (await self._store.count_by_state()).get(State.GIVEN_UP, 0)
        before_id = 0
        while True:
            criteria = Criteria(state=State.GIVEN_UP, before_id=before_id)
            found = await self._store.select(criteria, _PAGE)
            for transaction in found:
                upstream = self._pool.get(transaction.upstream)
                if upstream is not None and is_sent_again(transaction):
                    upstream.stans.hold(transaction.upstream_stan)
            if len(found) < _PAGE:
                return
            before_id = found[-1].transaction_id

    def add(self, transaction_id: int, upstream: str, *, attempts: int, why: str) -> None:
        """It is an operator's now, on disk; its STAN, where it is sent again, is held already."""
        self.count += 1
        self._emit(
            Event.REVERSAL_GIVEN_UP,
            transaction=transaction_id,
            upstream=upstream,
            attempts=attempts,
            reason=why,
        )

    async def judge(self, transaction_id: int, answer: Message) -> None:
        """A late approval of what was given up opens its reversal again. Raises StoreError."""
        async with self._one_at_a_time:
            transaction = await self._store.transaction(transaction_id)
            if transaction is None or transaction.kind not in REVERSIBLE_KINDS:
                return
            upstream = self._pool.get(transaction.upstream)
            approving = upstream.settings.approving_codes if upstream is not None else ()
            if not may_be_approved(answer.response_code, approving):
                return
            state = after(transaction.state, Happening.LATE_APPROVAL)
            if state is not transaction.state:
                await self._owe_again(transaction, state)

    async def retry(self, transaction_id: int) -> None:
        """An operator has what was given up sent again. Raises OperatorError and StoreError."""
        async with self._one_at_a_time:
            transaction = await self._found(transaction_id)
            if not is_sent_again(transaction):
                raise OperatorError(
                    f"a {transaction.kind} is never sent again; settle it with the acquirer, then"
                    " resolve it"
                )
            await self._owe_again(transaction, after(transaction.state, Happening.RETRIED))

    async def resolve(
        self, transaction_id: int, reason: str, *, booked: bool | None = None
    ) -> None:
        """An operator has settled it by hand; `booked` says whether the acquirer has it.

        That must be said of a refund: one that was booked counts against what may still be
        refunded. Raises OperatorError and StoreError.
        """
        async with self._one_at_a_time:
            transaction = await self._found(transaction_id)
            if booked is None and not is_sent_again(transaction):
                raise OperatorError(
                    f"transaction {transaction_id} is a {transaction.kind}: say whether the"
                    " acquirer has it booked (--booked or --not-booked)"
                )
            happening = Happening.FOUND_BOOKED if booked else Happening.RESOLVED
            state = after(transaction.state, happening)
            await self._store.commit(EndReversal(transaction_id, state))
            self._over(transaction)
        self._emit(
            Event.REVERSAL_DONE, transaction=transaction_id, resolved=reason, booked=bool(booked)
        )

    async def _found(self, transaction_id: int) -> Transaction:
        transaction = await self._store.transaction(transaction_id)
        if transaction is None:
            raise OperatorError(f"there is no transaction {transaction_id}")
        if transaction.state is not State.GIVEN_UP:
            raise OperatorError(
                f"transaction {transaction_id} is {transaction.state}: only one that was given up"
                " can be retried or resolved"
            )
        return transaction

    async def _owe_again(self, transaction: Transaction, state: State) -> None:
        advice = transaction.kind in ADVICE_KINDS
        upstream = self._pool.get(transaction.upstream)
        is_new = await self._owe(
            transaction.upstream_stan,
            OweReversal(
                transaction.transaction_id,
                transaction.upstream,
                upstream.settings.reversal_reason if upstream is not None else "68",
                self._clock.wall_ms(),
                state=State.ADVICE_OWED if advice else state,
                advice=advice,
                amount_minor=transaction.left_minor,
            ),
        )
        if is_new:
            self._over(transaction)

    def _over(self, transaction: Transaction) -> None:
        """It waits no more; whoever sends it again holds its STAN on his own account."""
        self.count = max(0, self.count - 1)
        upstream = self._pool.get(transaction.upstream)
        if upstream is not None and is_sent_again(transaction):
            upstream.stans.release(transaction.upstream_stan)
