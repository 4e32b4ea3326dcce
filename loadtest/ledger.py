"""Ledgers: what simulated acquirers and terminals believe, in files that outlive them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import apsw

from loadtest.commit import Synchronous, open_database, open_for_reading

# --- the acquirer's ------------------------------------------------------------------------------

_ACQUIRER_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    entry_id INTEGER PRIMARY KEY AUTOINCREMENT,
    stan TEXT NOT NULL,
    transmitted TEXT NOT NULL,
    terminal_id TEXT NOT NULL,
    merchant_id TEXT NOT NULL,
    mti TEXT NOT NULL,
    kind TEXT NOT NULL,
    amount_minor INTEGER NOT NULL,
    currency TEXT NOT NULL,
    reference TEXT NOT NULL,
    rrn TEXT NOT NULL,
    approval_code TEXT NOT NULL,
    response_code TEXT NOT NULL,
    approved INTEGER NOT NULL,
    double INTEGER NOT NULL,
    received_ms INTEGER NOT NULL,
    reversed_ms INTEGER NOT NULL,
    reversed_amount_minor INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS entries_by_key ON entries (terminal_id, stan, transmitted);
CREATE TABLE IF NOT EXISTS tombstones (
    terminal_id TEXT NOT NULL,
    stan TEXT NOT NULL,
    transmitted TEXT NOT NULL,
    received_ms INTEGER NOT NULL,
    PRIMARY KEY (terminal_id, stan, transmitted)
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One request as an acquirer saw it and decided on it; a row of `entries`."""

    entry_id: int = 0  # 0: given by the ledger
    stan: str
    transmitted: str  # DE7
    terminal_id: str
    merchant_id: str
    mti: str
    kind: str
    amount_minor: int
    currency: str
    reference: str  # the terminal's own name for its transaction; "" where it gave none
    rrn: str
    approval_code: str
    response_code: str
    approved: bool
    double: bool  # its key was here before, and it did not say that it is a repeat
    received_ms: int
    reversed_ms: int = 0  # 0: not reversed
    reversed_amount_minor: int = 0

    @property
    def holds_money(self) -> bool:
        """Whether the acquirer would charge the card for this row."""
        return self.approved and not self.reversed_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginalKey:
    """How a reversal names its original; `transmitted` is empty where it gave no DE7."""

    terminal_id: str
    stan: str
    transmitted: str


class AcquirerLedger:
    """An acquirer's ledger. Every method runs inside the caller's transaction."""

    def __init__(self, path: Path, *, synchronous: Synchronous = "FULL") -> None:
        self.database = open_database(path, synchronous=synchronous)
        self.database.execute(_ACQUIRER_SCHEMA)

    def close(self) -> None:
        self.database.close()

    def add(self, entry: Entry) -> Entry:
        """The entry as it was written, with its id, RRN and approval code made where absent."""
        values = _values(entry)
        del values["entry_id"]
        self.database.execute(_insert("entries", values), values)
        entry_id = self.database.last_insert_rowid()
        made = replace(
            entry,
            entry_id=entry_id,
            rrn=entry.rrn or f"{entry_id % 10**12:012d}",
            approval_code=f"{entry_id % 10**6:06d}" if entry.approved else "",
        )
        self.database.execute(
            "UPDATE entries SET rrn = ?, approval_code = ? WHERE entry_id = ?",
            (made.rrn, made.approval_code, entry_id),
        )
        return made

    def find(self, key: OriginalKey) -> Entry | None:
        """The first entry with this key; without a DE7 the latest with this STAN and terminal."""
        order = "entry_id" if key.transmitted else "entry_id DESC"
        rows = self.database.execute(
            f"{_SELECT_ENTRIES} WHERE terminal_id = ? AND stan = ? AND (? = '' OR transmitted = ?)"
            f" ORDER BY {order} LIMIT 1",
            (key.terminal_id, key.stan, key.transmitted, key.transmitted),
        )
        return next((_entry(row) for row in rows), None)

    def mark_reversed(self, entry: Entry, *, amount_minor: int, now_ms: int) -> None:
        self.database.execute(
            "UPDATE entries SET reversed_ms = ?, reversed_amount_minor = ? WHERE entry_id = ?",
            (now_ms, amount_minor, entry.entry_id),
        )

    def put_tombstone(self, key: OriginalKey, *, now_ms: int) -> None:
        """Remember a reversal whose original was never seen."""
        self.database.execute(
            "INSERT OR IGNORE INTO tombstones VALUES (?, ?, ?, ?)",
            (key.terminal_id, key.stan, key.transmitted, now_ms),
        )

    def has_tombstone(self, key: OriginalKey) -> bool:
        found = self.database.execute(
            "SELECT 1 FROM tombstones WHERE terminal_id = ? AND stan = ?"
            " AND transmitted IN ('', ?) LIMIT 1",
            (key.terminal_id, key.stan, key.transmitted),
        ).fetchone()
        return found is not None


def read_entries(path: Path) -> Iterator[Entry]:
    """All entries of an acquirer's ledger, the oldest first; it may be in use by its writer."""
    database = open_for_reading(path)
    try:
        for row in database.execute(f"{_SELECT_ENTRIES} ORDER BY entry_id"):
            yield _entry(row)
    finally:
        database.close()


# --- the terminals' ------------------------------------------------------------------------------

_TERMINAL_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempts (
    terminal_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    stan TEXT NOT NULL,
    transmitted TEXT NOT NULL,
    reference TEXT NOT NULL UNIQUE,
    merchant_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    amount_minor INTEGER NOT NULL,
    currency TEXT NOT NULL,
    outcome TEXT NOT NULL,
    response_code TEXT NOT NULL,
    approval_code TEXT NOT NULL,
    rrn TEXT NOT NULL,
    reversal_code TEXT NOT NULL,
    reversals_sent INTEGER NOT NULL,
    started_ms INTEGER NOT NULL,
    ended_ms INTEGER NOT NULL,
    PRIMARY KEY (terminal_id, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS attempts_open ON attempts (terminal_id)
    WHERE outcome IN ('open', 'reversing');
"""


class Outcome(StrEnum):
    """What a terminal holds of one of its transactions."""

    OPEN = "open"  # it may have been sent; no answer is known
    APPROVED = "approved"
    DECLINED = "declined"
    UNSENT = "unsent"  # no byte left: there was no connection
    REVERSING = "reversing"  # in doubt; its reversal is not answered yet
    REVERSED = "reversed"


UNSETTLED = frozenset((Outcome.OPEN, Outcome.REVERSING))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One transaction as its terminal sees it; a row of `attempts`."""

    terminal_id: str
    sequence: int  # counts a terminal's transactions; its STAN follows from it
    stan: str
    transmitted: str  # DE7 of the request
    reference: str
    merchant_id: str
    kind: str
    amount_minor: int
    currency: str
    outcome: Outcome = Outcome.OPEN
    response_code: str = ""
    approval_code: str = ""
    rrn: str = ""
    reversal_code: str = ""  # what its reversal was answered with
    reversals_sent: int = 0
    started_ms: int
    ended_ms: int = 0


class TerminalLedger:
    """The ledger of all terminals of one process. Writes run in the caller's transaction.

    It outlives its process, not the power: a terminal's fsync for each purchase would load the
    machine that is to be measured.
    """

    def __init__(self, path: Path) -> None:
        self.database = open_database(path, synchronous="NORMAL")
        self.database.execute(_TERMINAL_SCHEMA)

    def close(self) -> None:
        self.database.close()

    def put(self, attempt: Attempt) -> None:
        """Write an attempt, or what has become of it."""
        values = _values(attempt)
        self.database.execute(_insert("attempts", values, verb="INSERT OR REPLACE"), values)

    def last_sequence(self, terminal_id: str) -> int:
        """The number of a terminal's latest transaction; 0 before its first."""
        row = self.database.execute(
            "SELECT max(sequence) FROM attempts WHERE terminal_id = ?", (terminal_id,)
        ).fetchone()
        return (row[0] if row is not None else None) or 0

    def unsettled(self, terminal_id: str) -> list[Attempt]:
        """What an earlier life of this terminal left open, the oldest first."""
        rows = self.database.execute(
            f"{_SELECT_ATTEMPTS} WHERE terminal_id = ? AND outcome IN ('open', 'reversing')"
            " ORDER BY sequence",
            (terminal_id,),
        )
        return [_attempt(row) for row in rows]


def read_attempts(path: Path) -> Iterator[Attempt]:
    """All attempts in a terminals' ledger; it may be in use by its writer."""
    database = open_for_reading(path)
    try:
        for row in database.execute(_SELECT_ATTEMPTS):
            yield _attempt(row)
    finally:
        database.close()


# --- rows ----------------------------------------------------------------------------------------

_ENTRY_COLUMNS = tuple(column.name for column in fields(Entry))
_ATTEMPT_COLUMNS = tuple(column.name for column in fields(Attempt))
_SELECT_ENTRIES = f"SELECT {', '.join(_ENTRY_COLUMNS)} FROM entries"  # noqa: S608 # our own names
_SELECT_ATTEMPTS = f"SELECT {', '.join(_ATTEMPT_COLUMNS)} FROM attempts"  # noqa: S608 # the same


def _values(record: Entry | Attempt) -> dict[str, apsw.SQLiteValue]:
    columns = _ENTRY_COLUMNS if isinstance(record, Entry) else _ATTEMPT_COLUMNS
    return dict(zip(columns, astuple(record), strict=True))


def _insert(table: str, values: dict[str, apsw.SQLiteValue], *, verb: str = "INSERT") -> str:
    marks = ", ".join(f":{column}" for column in values)
    return f"{verb} INTO {table} ({', '.join(values)}) VALUES ({marks})"


def _entry(row: tuple[Any, ...]) -> Entry:
    values = dict(zip(_ENTRY_COLUMNS, row, strict=True))
    values["approved"] = bool(values["approved"])
    values["double"] = bool(values["double"])
    return Entry(**values)


def _attempt(row: tuple[Any, ...]) -> Attempt:
    values = dict(zip(_ATTEMPT_COLUMNS, row, strict=True))
    values["outcome"] = Outcome(values["outcome"])
    return Attempt(**values)
