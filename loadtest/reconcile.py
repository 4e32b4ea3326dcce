"""Reconcile: whether terminals and acquirers believe the same about every transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from loadtest.ledger import (
    UNSETTLED,
    Attempt,
    Entry,
    Outcome,
    read_attempts,
    read_entries,
)


class Fault(StrEnum):
    """How two ledgers can disagree."""

    # Approved at an acquirer and not reversed there, while the terminal holds no approval.
    LOST = "lost"
    # One transaction of a terminal approved twice and not reversed.
    DOUBLED = "doubled"
    # Everything else, amounts included.
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class Disagreement:
    fault: Fault
    reference: str
    reason: str

    def __str__(self) -> str:
        return f"{self.fault}: {self.reference or '(no reference)'}: {self.reason}"


@dataclass(slots=True)
class Reconciliation:
    """What both sides hold, and every disagreement."""

    sent: int = 0  # attempts of terminals, those without a connection included
    approved: int = 0
    declined: int = 0
    reversed: int = 0
    unsent: int = 0
    unsettled: int = 0
    acquirer_approved: int = 0  # and not reversed
    acquirer_reversed: int = 0
    disagreements: list[Disagreement] = field(default_factory=list)

    def count(self, fault: Fault) -> int:
        return sum(found.fault is fault for found in self.disagreements)

    @property
    def errors(self) -> int:
        """Purchases that ended without a clean answer at the till."""
        return self.sent - self.approved - self.declined

    @property
    def agrees(self) -> bool:
        return not self.disagreements

    def summary(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "approved": self.approved,
            "declined": self.declined,
            "errors": self.errors,
            "lost": self.count(Fault.LOST),
            "doubled": self.count(Fault.DOUBLED),
            "unexplained": self.count(Fault.UNEXPLAINED),
        }


def reconcile_files(terminals: Iterable[Path], acquirers: Mapping[str, Path]) -> Reconciliation:
    """Compares ledgers in files, which may still be written to; acquirers go by their name."""
    return reconcile(
        (attempt for path in terminals for attempt in read_attempts(path)),
        ((name, entry) for name, path in acquirers.items() for entry in read_entries(path)),
    )


def reconcile(attempts: Iterable[Attempt], entries: Iterable[tuple[str, Entry]]) -> Reconciliation:
    """Compares what terminals and acquirers hold; an acquirer's entries come with its name."""
    result = Reconciliation()
    seen: dict[str, list[tuple[str, Entry]]] = defaultdict(list)
    # Terminals first: what they settle while the acquirers are read is then never newer there.
    known = {attempt.reference: attempt for attempt in attempts}
    for name, entry in entries:
        seen[entry.reference].append((name, entry))
        result.acquirer_approved += entry.holds_money
        result.acquirer_reversed += bool(entry.reversed_ms)
    for attempt in known.values():
        _count(result, attempt)
        held = seen.pop(attempt.reference, [])
        result.disagreements += _of_attempt(attempt, held)
    for reference, unclaimed in seen.items():
        result.disagreements += [
            Disagreement(
                Fault.UNEXPLAINED,
                reference,
                f"{name} approved {entry.amount_minor} that no terminal asked for",
            )
            for name, entry in unclaimed
            if entry.holds_money
        ]
    return result


def _count(result: Reconciliation, attempt: Attempt) -> None:
    result.sent += 1
    result.approved += attempt.outcome is Outcome.APPROVED
    result.declined += attempt.outcome is Outcome.DECLINED
    result.reversed += attempt.outcome is Outcome.REVERSED
    result.unsent += attempt.outcome is Outcome.UNSENT
    result.unsettled += attempt.outcome in UNSETTLED


def _of_attempt(attempt: Attempt, held: list[tuple[str, Entry]]) -> Iterator[Disagreement]:
    def found(fault: Fault, reason: str) -> Disagreement:
        return Disagreement(fault, attempt.reference, reason)

    money = [(name, entry) for name, entry in held if entry.holds_money]
    if len(money) > 1:
        where = " and ".join(name for name, _ in money)
        yield found(Fault.DOUBLED, f"approved {len(money)} times, at {where}")
    elif money and attempt.outcome not in (Outcome.APPROVED, *UNSETTLED):
        yield found(Fault.LOST, f"approved at {money[0][0]}, {attempt.outcome} at the terminal")
    if not money and attempt.outcome is Outcome.APPROVED:
        undone = " any more: it was reversed" if any(e.reversed_ms for _, e in held) else ""
        yield found(
            Fault.UNEXPLAINED, f"approved at the terminal, and no acquirer holds it{undone}"
        )
    if attempt.outcome in UNSETTLED:
        yield found(Fault.UNEXPLAINED, f"still {attempt.outcome} at the terminal")
    if attempt.outcome is Outcome.UNSENT and held:
        yield found(Fault.UNEXPLAINED, f"never sent by the terminal, but {held[0][0]} saw it")
    for name, entry in held:
        yield from (found(Fault.UNEXPLAINED, f"{name}: {why}") for why in _odds(attempt, entry))


def _odds(attempt: Attempt, entry: Entry) -> Iterator[str]:
    """What does not fit between one attempt and one entry of an acquirer."""
    if entry.double:
        yield "the same request came twice, not marked as a repeat"
    for what in ("amount_minor", "currency", "terminal_id", "merchant_id"):
        ours, theirs = getattr(attempt, what), getattr(entry, what)
        if ours != theirs:
            yield f"{what} is {theirs}, {ours} at the terminal"
    if entry.reversed_ms and entry.reversed_amount_minor != entry.amount_minor:
        yield f"{entry.reversed_amount_minor} of {entry.amount_minor} reversed"
    if entry.holds_money and attempt.outcome is Outcome.APPROVED:
        for what in ("approval_code", "rrn"):
            ours, theirs = getattr(attempt, what), getattr(entry, what)
            if ours != theirs:
                yield f"{what} is {theirs}, {ours} at the terminal"
