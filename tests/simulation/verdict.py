"""Verdict: whether terminals, gateway and acquirers agree once all has healed, and what is open."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.store.store import OwedReversal, State, Transaction
from gateway.wire.message import Kind
from loadtest.ledger import Attempt, Entry, Outcome
from loadtest.reconcile import Fault, reconcile
from tests.simulation.trace import About

if TYPE_CHECKING:
    from tests.simulation.node import Life
    from tests.simulation.world import World

_OPEN = frozenset(
    (
        State.INTENDED,
        State.SENT,
        State.TIMED_OUT,
        State.REVERSAL_OWED,
        State.ADVICE_OWED,
        State.GIVEN_UP,
    )
)
_MONEYLESS = frozenset((Kind.BALANCE, Kind.SETTLEMENT))
_ADVICES = ("offline", "adjustment")
_NOT_RECONCILED = ("balance", "settlement")

LOST, DOUBLED, UNEXPLAINED = Fault.LOST.value, Fault.DOUBLED.value, Fault.UNEXPLAINED.value


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be."""

    what: str
    why: str
    about: About | None = None

    @classmethod
    def of_error(cls, what: str, error: BaseException) -> Finding:
        frames = traceback.extract_tb(error.__traceback__)
        places = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-4:]))
        return cls(what, f"{type(error).__name__}: {error} at {places}")

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


class _Books:
    """Everything that everybody has written down."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.attempts: dict[str, Attempt] = {}
        self.originals: dict[str, str] = {}
        for terminal in world.terminals:
            self.attempts |= terminal.book.attempts
            self.originals |= terminal.book.originals
        self.entries: list[tuple[str, Entry]] = [
            (acquirer.name, entry)
            for acquirer in world.acquirers
            for entry in acquirer.ledger.entries.values()
        ]
        self.by_reference: dict[str, list[Entry]] = {}
        for _, entry in self.entries:
            self.by_reference.setdefault(entry.reference, []).append(entry)

    def about(self, reference: str) -> About | None:
        """Which lines of the trace tell of a transaction."""
        attempt = self.attempts.get(reference)
        if attempt is None:
            return None
        about = About(attempt.terminal_id, {attempt.stan})
        for one in self.world.transactions:
            if (one.terminal_id, one.stan) == (attempt.terminal_id, attempt.stan):
                about.transactions.add(one.transaction_id)
                about.upstream.add((one.upstream, f"{one.upstream_stan:06d}"))
        about.upstream |= {
            (name, entry.stan) for name, entry in self.entries if entry.reference == reference
        }
        return about

    def finding(self, what: str, why: str, reference: str = "") -> Finding:
        return Finding(what, f"{reference} {why}".strip(), self.about(reference))


def judge(world: World, life: Life, *, open_reversals: Sequence[OwedReversal]) -> Iterator[Finding]:
    """All that is not as it must be at the end of a run."""
    books = _Books(world)
    yield from _ledgers(books)
    yield from _store(books)
    yield from _bounds(books)
    for terminal in world.terminals:
        for reference, why in terminal.book.objections:
            yield books.finding("answer", why, reference)
    for reversal in open_reversals:
        yield Finding("open", f"a reversal of transaction {reversal.transaction_id} is owed")
    yield from _node(life)


def _ledgers(books: _Books) -> Iterator[Finding]:
    """What terminals and acquirers hold of each transaction."""
    settled = {
        _reference(one)
        for one in books.world.transactions
        if one.transaction_id in books.world.settled_by_operator
    }
    attempts = [
        _acknowledged(attempt, books.by_reference.get(attempt.reference, []))
        for attempt in books.attempts.values()
        if attempt.kind not in _NOT_RECONCILED
    ]
    for found in reconcile(attempts, books.entries).disagreements:
        attempt = books.attempts.get(found.reference)
        if found.fault is Fault.LOST and attempt is not None:
            if attempt.kind == "refund" and found.reference in settled:
                continue  # An operator knew of it, and has settled it.
            if attempt.kind in _ADVICES:
                continue  # The sale it tells of has happened, whatever its till was answered.
        yield books.finding(found.fault.value, found.reason, found.reference)


def _reference(transaction: Transaction) -> str:
    """What the terminal calls it."""
    return f"{int(transaction.terminal_id[1:]):03d}{int(transaction.stan):09d}"


def _acknowledged(attempt: Attempt, entries: list[Entry]) -> Attempt:
    """An advice that the gateway has acknowledged has no approval code of its acquirer's."""
    if attempt.kind in _ADVICES and not attempt.approval_code and entries:
        entry = entries[0]
        return replace(attempt, approval_code=entry.approval_code, rrn=entry.rrn)
    return attempt


def _store(books: _Books) -> Iterator[Finding]:
    """What the store says of each transaction, and what its acquirer says."""
    held: dict[tuple[str, str], list[Entry]] = {}
    for name, entry in books.entries:
        held.setdefault((name, entry.stan), []).append(entry)
    known = set()
    for one in books.world.transactions:
        key = (one.upstream, f"{one.upstream_stan:06d}")
        known.add(key)
        reference = _reference(one)
        if one.state in _OPEN:
            yield books.finding("open", f"{one.transaction_id} is {one.state}", reference)
        elif one.kind not in _MONEYLESS:
            why = _odd(one, held.get(key, []))
            if why:
                yield books.finding(
                    UNEXPLAINED, f"{one.transaction_id} is {one.state}, and {why}", reference
                )
    for name, entry in books.entries:
        if (name, entry.stan) not in known:
            yield books.finding(
                UNEXPLAINED, f"{name} has {entry.stan}, the store does not", entry.reference
            )
    for acquirer in books.world.acquirers:
        for stan, uses in acquirer.stans_seen.items():
            if len(uses) > 1:
                yield Finding(UNEXPLAINED, f"{acquirer.name}: STAN {stan} stood for {sorted(uses)}")
        for reference, why in acquirer.strays:
            yield books.finding(UNEXPLAINED, f"{acquirer.name}: {why}", reference)


def _odd(transaction: Transaction, entries: list[Entry]) -> str:
    """What does not fit between a transaction in the store and its acquirer's ledger."""
    state = transaction.state
    money = any(entry.holds_money for entry in entries)
    if state is State.NOTHING_SENT and entries:
        return "its acquirer has seen it"
    if state is State.REVERSED and money:
        return "its acquirer holds the money"
    if state is State.ADVISED and not money:
        return "its acquirer does not have it"
    if state in (State.ANSWERED, State.DELIVERED):
        approved = transaction.response_code in ("00", "11")
        if approved is not money:
            return f"its acquirer {'holds' if money else 'does not hold'} the money"
    return ""


def _bounds(books: _Books) -> Iterator[Finding]:
    """Per original at most one void, one completion, and refunds up to its amount."""
    taken: Counter[tuple[str, str]] = Counter()
    for reference, original in books.originals.items():
        attempt = books.attempts[reference]
        if attempt.kind == "adjustment":
            continue
        if any(entry.holds_money for entry in books.by_reference.get(reference, [])):
            minor = attempt.amount_minor if attempt.kind == "refund" else 1
            taken[original, attempt.kind] += minor
    for (original, kind), sum_minor in taken.items():
        most = books.attempts[original].amount_minor if kind == "refund" else 1
        if sum_minor > most:
            yield books.finding(UNEXPLAINED, f"{kind}s of it: {sum_minor} of {most}", original)
        if kind == "void" and books.attempts[original].outcome is not Outcome.APPROVED:
            yield books.finding(UNEXPLAINED, "is voided and reversed", original)


def _node(life: Life) -> Iterator[Finding]:
    """What a node at rest must not hold any more."""
    for upstream in life.pool:
        if upstream.stans._held:
            yield Finding("held", f"{upstream.name} holds STANs {sorted(upstream.stans._held)}")
        if upstream.pending:
            yield Finding("held", f"{upstream.name} has {upstream.pending} pending")
    if life.originals._locks:
        yield Finding("held", f"locks of originals {sorted(life.originals._locks)}")
