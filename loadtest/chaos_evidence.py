"""Chaos evidence: three ledgers compared, and all that is known of what does not fit."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.gateway_ledger import Record, compare, key_of, read_records
from loadtest.ledger import Attempt, Entry, Outcome, read_attempts, read_entries
from loadtest.reconcile import Disagreement, Fault, Reconciliation, reconcile

_SHOWN_MAX = 8
_LOG_LINES_MAX = 12


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where the ledgers of a run are."""

    terminals: Sequence[Path]
    acquirers: Mapping[str, Path]
    store: Path  # the gateway's

    def look(self) -> Found:
        """Reads and compares them; they may still be written to."""
        # Terminals first, acquirers last: see `reconcile`.
        attempts = [
            attempt for path in self.terminals if path.exists() for attempt in read_attempts(path)
        ]
        records = list(read_records(self.store))
        entries = [
            (name, entry) for name, path in self.acquirers.items() for entry in read_entries(path)
        ]
        return Found(attempts, records, entries)


class Found:
    """What the ledgers held at one moment, and every disagreement."""

    def __init__(
        self,
        attempts: Sequence[Attempt],
        records: Sequence[Record],
        entries: Sequence[tuple[str, Entry]],
    ) -> None:
        self.reconciliation: Reconciliation = reconcile(attempts, entries)
        references = {
            key_of(attempt.terminal_id, attempt.stan): attempt.reference
            for attempt in attempts
            if attempt.outcome is not Outcome.UNSENT
        }
        between = self.reconciliation.disagreements
        # What terminals and acquirers disagree about is counted once, as what it is between them.
        told = {found.reference for found in between}
        within = [
            found
            for found in compare(records, entries, references)
            if not found.reference or found.reference not in told
        ]
        self.disagreements: list[Disagreement] = [*between, *within]
        self._attempts = {attempt.reference: attempt for attempt in attempts}
        self._records = _by_key(records)
        self._entries = entries

    @property
    def agrees(self) -> bool:
        return not self.disagreements

    @property
    def lost(self) -> int:
        return self._count(Fault.LOST)

    @property
    def doubled(self) -> int:
        return self._count(Fault.DOUBLED)

    @property
    def unexplained(self) -> int:
        return self._count(Fault.UNEXPLAINED)

    def _count(self, fault: Fault) -> int:
        return sum(found.fault is fault for found in self.disagreements)

    def lines(self, log: Path) -> Iterator[str]:
        """The first disagreements, with what each ledger and the gateway's log say of them."""
        shown = self.disagreements[:_SHOWN_MAX]
        if not shown:
            return
        records = {found.reference: self._records_of(found.reference) for found in shown}
        logged = _logged(log, {r.transaction_id for held in records.values() for r in held})
        for found in shown:
            yield str(found)
            if found.reference in self._attempts:
                yield f"    terminal: {self._attempts[found.reference]}"
            for name, entry in self._entries:
                if entry.reference == found.reference:
                    yield f"    {name}: {entry}"
            for record in records[found.reference]:
                yield f"    gateway: {record}"
                for line in logged[record.transaction_id][:_LOG_LINES_MAX]:
                    yield f"        {line}"
        more = len(self.disagreements) - len(shown)
        if more:
            yield f"and {more} more"

    def _records_of(self, reference: str) -> Sequence[Record]:
        attempt = self._attempts.get(reference)
        return () if attempt is None else self._records[key_of(attempt.terminal_id, attempt.stan)]


def _by_key(records: Sequence[Record]) -> dict[str, list[Record]]:
    held: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        held[key_of(record.terminal_id, record.stan)].append(record)
    return held


def _logged(log: Path, transactions: set[int]) -> dict[int, list[str]]:
    """The log's lines about some transactions."""
    held: dict[int, list[str]] = defaultdict(list)
    if not transactions or not log.exists():
        return held
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if '"transaction"' in line:
                transaction_id = _transaction_of(line)
                if transaction_id in transactions:
                    held[transaction_id].append(line.strip())
    return held


def _transaction_of(line: str) -> int:
    try:
        told: dict[str, Any] = json.loads(line)
        return int(told.get("transaction", 0))
    except (ValueError, TypeError):
        return 0  # cut off where the process was killed
