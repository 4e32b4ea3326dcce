"""What a restart owes: every intent without an outcome gets what its kind is owed."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.clock import Clock
from gateway.store.store import OweReversal, Settle, State, Store
from gateway.telemetry.events import Emit, Event
from gateway.wire.message import REVERSIBLE_KINDS, Kind

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
            if transaction.kind in REVERSIBLE_KINDS:
                reversals += 1
                operations.append(
                    OweReversal(
                        transaction.transaction_id,
                        transaction.upstream,
                        _NO_ANSWER_REASON,
                        clock.wall_ms(),
                    )
                )
                continue
            state = State.CLOSED if transaction.kind is Kind.BALANCE else State.GIVEN_UP
            closed += state is State.CLOSED
            for_operators += state is State.GIVEN_UP
            operations.append(
                Settle(
                    transaction.transaction_id,
                    state,
                    response_code="",
                    approval_code="",
                    answer=b"",
                    answered_ms=0,
                    wipe_image=state is State.CLOSED,
                )
            )
        await store.commit(*operations)
    recovered = Recovered(reversals, closed, for_operators)
    emit(
        Event.RECOVERY_DONE,
        reversals=reversals,
        closed=closed,
        for_operators=for_operators,
    )
    return recovered
