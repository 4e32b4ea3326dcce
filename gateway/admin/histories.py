"""A transaction and what is owed for it, as operators read them: views, and the timeline of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.admin.ledger import ReversalView, Step, TransactionView
from gateway.clock import iso_time
from gateway.store.store import OwedReversal, State, Transaction
from gateway.wire.message import printable

_ENDS = {
    State.NOTHING_SENT: ("nothing sent", "no byte left for any upstream"),
    State.TIMED_OUT: ("in doubt", "what is owed for it is not on disk yet"),
    State.REVERSED: ("reversed", "acknowledged by the upstream"),
    State.ADVISED: ("advice done", "acknowledged by the upstream"),
    State.BOOKED: ("found booked", "settled by an operator: the upstream has it"),
    State.CLOSED: ("closed", "nothing is owed for it any more"),
}
_NEVER_SENT = (State.INTENDED, State.NOTHING_SENT)


def time_or_never(wall_ms: int) -> str:
    return iso_time(wall_ms) if wall_ms else ""


def transaction_view(transaction: Transaction) -> TransactionView:
    """What is shown of a transaction; what terminals sent cannot break a line."""
    t = transaction
    return {
        "transaction_id": t.transaction_id,
        "created": iso_time(t.created_ms),
        "terminal_id": printable(t.terminal_id.rstrip()),
        "merchant_id": printable(t.merchant_id.rstrip()),
        "kind": str(t.kind),
        "mti": t.mti,
        "stan": printable(t.stan),
        "rrn": printable(t.rrn),
        "amount_minor": t.amount_minor,
        "currency": printable(t.currency),
        "card": t.card_masked,
        "state": str(t.state),
        "response_code": printable(t.response_code),
        "approval_code": printable(t.approval_code),
        "upstream": t.upstream,
        "upstream_stan": t.upstream_stan,
        "answered": time_or_never(t.answered_ms),
        "delivered": time_or_never(t.delivered_ms),
        "original_id": t.original_id,
        "batch": t.batch,
    }


def reversal_view(
    transaction: Transaction, owed: OwedReversal | None, *, now_ms: int
) -> ReversalView:
    """What is owed for a transaction; without a row it waits for an operator alone."""
    t = transaction
    since_ms = t.created_ms if owed is None else owed.created_ms
    return {
        "transaction_id": t.transaction_id,
        "terminal_id": printable(t.terminal_id.rstrip()),
        "stan": printable(t.stan),
        "rrn": printable(t.rrn),
        "kind": str(t.kind),
        "card": t.card_masked,
        "amount_minor": t.amount_minor,
        "left_minor": -1 if owed is None else owed.amount_minor,
        "currency": printable(t.currency),
        "owed": "nothing" if owed is None else "advice" if owed.advice else "reversal",
        "state": "given_up" if owed is None or owed.given_up else "owed",
        "upstream": t.upstream if owed is None else owed.upstream,
        "reason": "" if owed is None else owed.reason,
        "since": iso_time(since_ms),
        "age_s": max(0, now_ms - since_ms) / 1000,
        "attempts": 0 if owed is None else owed.attempts,
        "upstream_stan": 0 if owed is None else owed.upstream_stan,
        "next_attempt": ""
        if owed is None or owed.given_up
        else time_or_never(owed.next_attempt_ms),
    }


def timeline(
    transaction: Transaction, owed: OwedReversal | None, follow_ups: Sequence[Transaction]
) -> list[Step]:
    """What happened to a transaction, in order."""
    return [
        *_course(transaction),
        *_debt(transaction, owed),
        *(
            _step(one.created_ms, str(one.kind), f"transaction {one.transaction_id}, {one.state}")
            for one in follow_ups
        ),
    ]


def _course(t: Transaction) -> Iterator[Step]:
    follows = f", follows transaction {t.original_id}" if t.original_id else ""
    yield _step(t.created_ms, "intended", f"{t.mti} {t.kind}, on disk before it is sent{follows}")
    if t.upstream:
        sent = "planned" if t.state in _NEVER_SENT else "sent"
        yield _step(0, sent, f"to {t.upstream} under STAN {t.upstream_stan:06d}")
    if t.answered_ms:
        approval = f", approval code {printable(t.approval_code)}" if t.approval_code else ""
        rrn = f", RRN {printable(t.rrn)}" if t.rrn else ""
        code = printable(t.response_code) or "none"
        yield _step(t.answered_ms, "answered", f"response code {code}{approval}{rrn}")
    elif t.response_code:
        told = f"the terminal was told {printable(t.response_code)}"
        yield _step(0, "not answered", told)
    if t.delivered_ms:
        yield _step(t.delivered_ms, "delivered", "handed to the terminal's connection")


def _debt(t: Transaction, owed: OwedReversal | None) -> Iterator[Step]:
    if owed is not None:
        what = "advice" if owed.advice else "reversal"
        part = f", {owed.amount_minor} is left" if owed.amount_minor >= 0 else ""
        yield _step(
            owed.created_ms, f"{what} owed", f"to {owed.upstream}, reason {owed.reason}{part}"
        )
        if owed.attempts:
            times = "once" if owed.attempts == 1 else f"{owed.attempts} times"
            yield _step(0, f"{what} sent", f"{times}, last under STAN {owed.upstream_stan:06d}")
        if owed.next_attempt_ms and not owed.given_up:
            yield _step(owed.next_attempt_ms, "next attempt", "unless it is acknowledged before")
    if t.state is State.GIVEN_UP:
        yield _step(0, "given up", "waits for an operator: `gateway reversals`")
    elif t.state in _ENDS:
        yield _step(0, *_ENDS[t.state])


def _step(at_ms: int, what: str, detail: str) -> Step:
    return {"at": time_or_never(at_ms), "what": what, "detail": detail}
