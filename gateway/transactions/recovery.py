"""What a restart owes: every intent without an outcome gets what its kind is owed."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.clock import Clock
from gateway.store.store import OweReversal, Settle, State, Store, Transaction
from gateway.telemetry.events import Emit, Event
from gateway.transactions.states import Happening, after
from gateway.wire.message import ADVICE_KINDS, REVERSIBLE_KINDS, Kind

_BATCH = 500
_NO_ANSWER_REASON = "68"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What recovery found and marked."""

    reversals: int
    closed: int
    for_operators: int


async def recover(store: Store, *, clock: Clock, emit: Emit) -> Recovered:
    """Mark what is owed; to be finished before the first new request is taken.

    Each batch is one commit, and a marked intent is found no second time: a crash within recovery
    is recovered from by running it again.
    """
    reversals = closed = for_operators = 0
    while found := await store.unsettled(_BATCH):
        operations: list[OweReversal | Settle] = []
        for transaction in found:
            operation = _owed(transaction, clock.wall_ms())
            reversals += isinstance(operation, OweReversal)
            closed += operation.state in (State.CLOSED, State.NOTHING_SENT)
            for_operators += operation.state is State.GIVEN_UP
            operations.append(operation)
        await store.commit(*operations)
    recovered = Recovered(reversals, closed, for_operators)
    emit(
        Event.RECOVERY_DONE,
        reversals=reversals,
        closed=closed,
        for_operators=for_operators,
    )
    return recovered


def _owed(transaction: Transaction, now_ms: int) -> OweReversal | Settle:
    """What an intent without an outcome becomes, by its kind."""
    if not transaction.upstream:
        # Nothing can have been sent: it was never meant for an upstream (the close of a batch).
        return _ended(transaction, after(State.INTENDED, Happening.NOTHING_SENT))
    doubt = after(State.INTENDED, Happening.IN_DOUBT)
    if transaction.kind in REVERSIBLE_KINDS | ADVICE_KINDS:
        advice = transaction.kind in ADVICE_KINDS
        owing = Happening.ADVICE_OWED if advice else Happening.REVERSAL_OWED
        return OweReversal(
            transaction.transaction_id,
            transaction.upstream,
            _NO_ANSWER_REASON,
            now_ms,
            state=after(doubt, owing),
            advice=advice,
        )
    enquiry = transaction.kind is Kind.BALANCE
    return _ended(transaction, after(doubt, Happening.OVER if enquiry else Happening.HANDED_ON))


def _ended(transaction: Transaction, state: State) -> Settle:
    return Settle(
        transaction.transaction_id,
        state,
        response_code="",
        approval_code="",
        answer=b"",
        answered_ms=0,
        wipe_image=state is not State.GIVEN_UP,
    )
