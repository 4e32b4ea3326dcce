"""Gateway ledger: what a gateway's store says of its transactions, held against the acquirers'."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.store.store import State
from loadtest.commit import open_for_reading
from loadtest.host import APPROVING_CODES
from loadtest.ledger import Entry
from loadtest.reconcile import Disagreement, Fault

_HOLDING = frozenset((State.ANSWERED, State.DELIVERED))
# The gateway still has something to do, or an operator has.
_OPEN = frozenset(
    (
        State.INTENDED,
        State.TIMED_OUT,
        State.REVERSAL_OWED,
        State.ADVICE_OWED,
        State.GIVEN_UP,
    )
)
_SELECT = """
SELECT transaction_id, terminal_id, stan, amount_minor, upstream, upstream_stan, state,
    coalesce(response_code, '')
FROM ledger
"""


@dataclass(frozen=True, slots=True)
class Record:
    """A transaction as the gateway's store has it; a row of its view `ledger`."""

    transaction_id: int
    terminal_id: str
    stan: str
    amount_minor: int
    upstream: str
    upstream_stan: int
    state: str
    response_code: str

    @property
    def holds_money(self) -> bool:
        """Whether the gateway believes that the acquirer charges the card for it."""
        return self.state in _HOLDING and self.response_code in APPROVING_CODES


def read_records(path: Path) -> Iterator[Record]:
    """All transactions in a gateway's store; it may be in use."""
    database = open_for_reading(path)
    try:
        for row in database.execute(_SELECT):
            yield Record(*row)
    finally:
        database.close()


def compare(
    records: Iterable[Record], entries: Iterable[tuple[str, Entry]], references: dict[str, str]
) -> Iterator[Disagreement]:
    """Where the gateway and its acquirers disagree, and what the gateway leaves open.

    `references` gives the terminals' names of transactions by `key_of`, which disagreements use.
    """
    held: dict[tuple[str, int, str], Entry] = {}
    for name, entry in entries:
        held[name, int(entry.stan), entry.terminal_id] = entry
    for record in records:
        entry_of = held.pop((record.upstream, record.upstream_stan, record.terminal_id), None)
        reference = references.get(key_of(record.terminal_id, record.stan), "")
        if entry_of is not None:
            reference = entry_of.reference
        for reason in _odds(record, entry_of):
            told = f"transaction {record.transaction_id} of the gateway {reason}"
            yield Disagreement(Fault.UNEXPLAINED, reference, told)
    for (name, stan, _), entry in held.items():
        # Whatever it decided: nothing may reach an acquirer that is not on the gateway's disk.
        reason = f"{name} got it under STAN {stan}, and the gateway knows nothing of that"
        yield Disagreement(Fault.UNEXPLAINED, entry.reference, reason)


def key_of(terminal_id: str, stan: str) -> str:
    """What a terminal's transaction is found by: no terminal of a run uses a STAN twice."""
    return f"{terminal_id}/{stan}"


def _odds(record: Record, entry: Entry | None) -> Iterator[str]:
    if record.state in _OPEN:
        yield f"is still {record.state}"
        return
    holds = entry is not None and entry.holds_money
    if record.holds_money and not holds:
        yield f"is {record.state}, and {record.upstream} holds no money for it"
    if holds and not record.holds_money:
        code = record.response_code or "no code"
        yield f"is {record.state} ({code}), and {record.upstream} holds money for it"
    if entry is not None and entry.amount_minor != record.amount_minor:
        yield f"is about {record.amount_minor}, {entry.amount_minor} at {record.upstream}"
