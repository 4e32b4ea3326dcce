"""Books: devices, gateway and acquirers compared after a run, a part of the devices at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.store.store import State
from loadtest.chaos_evidence import Found
from loadtest.gateway_ledger import Record, key_of, read_records
from loadtest.ledger import Attempt, Entry, read_entries
from loadtest.run.journal import read_journal
from loadtest.run.messages import MONEYLESS

_AT_ONCE = 150_000  # attempts that are held in memory
_LINES_MAX = 40


@dataclass(slots=True)
class Books:
    """What the three hold, and where they differ."""

    attempts: int = 0
    lost: int = 0
    doubled: int = 0
    unexplained: int = 0
    for_an_operator: int = 0  # refunds in doubt: nobody but people can settle them
    lines: list[str] = field(default_factory=list)

    @property
    def agree(self) -> bool:
        return not (self.lost or self.doubled or self.unexplained)

    def to_json(self) -> dict[str, object]:
        return {
            "attempts": self.attempts,
            "lost": self.lost,
            "doubled": self.doubled,
            "unexplained": self.unexplained,
            "for_an_operator": self.for_an_operator,
        }


def compare(
    *, journals: Sequence[Path], store: Path, acquirers: Mapping[str, Path], log: Path
) -> Books:
    """Compares all ledgers; `log` is the gateway's, for what it says of what does not fit.

    Files are read once for each 150,000 attempts, so that a long run fits the memory.
    """
    count = sum(_lines(path) for path in journals)
    parts = max(1, -(-count // _AT_ONCE))
    books = Books(attempts=count)
    for part in range(parts):
        _compare_part(books, part, parts, journals, store, acquirers, log)
    return books


def _compare_part(
    books: Books,
    part: int,
    parts: int,
    journals: Sequence[Path],
    store: Path,
    acquirers: Mapping[str, Path],
    log: Path,
) -> None:
    # Devices first, acquirers last: what is settled meanwhile is then never newer with the devices.
    attempts: list[Attempt] = []
    moneyless: set[str] = set()
    for path in journals:
        for attempt in read_journal(path):
            if not _is_of(attempt.terminal_id, part, parts):
                continue
            if attempt.kind in MONEYLESS:
                moneyless.add(key_of(attempt.terminal_id, attempt.stan))
            else:
                attempts.append(attempt)
    records = [
        record
        for record in read_records(store)
        if _is_of(record.terminal_id, part, parts)
        and key_of(record.terminal_id, record.stan) not in moneyless
    ]
    handed_on = _handed_on(attempts, records)
    books.for_an_operator += len(handed_on)
    attempts = [one for one in attempts if key_of(one.terminal_id, one.stan) not in handed_on]
    references = frozenset(handed_on.values())
    records = [one for one in records if key_of(one.terminal_id, one.stan) not in handed_on]
    entries = [
        (name, entry)
        for name, entry in _entries(acquirers)
        if _is_of(entry.terminal_id, part, parts)
        and entry.kind not in MONEYLESS
        and entry.reference not in references
    ]
    found = Found(attempts, records, entries)
    books.lost += found.lost
    books.doubled += found.doubled
    books.unexplained += found.unexplained
    for line in found.lines(log):
        if len(books.lines) < _LINES_MAX:
            books.lines.append(line)


def _handed_on(attempts: Sequence[Attempt], records: Sequence[Record]) -> dict[str, str]:
    """Refunds that the gateway has handed to an operator: by key, their devices' names for them."""
    refunds = {
        key_of(one.terminal_id, one.stan): one.reference for one in attempts if one.kind == "refund"
    }
    given_up = {key_of(one.terminal_id, one.stan) for one in records if one.state == State.GIVEN_UP}
    return {key: reference for key, reference in refunds.items() if key in given_up}


def _entries(acquirers: Mapping[str, Path]) -> Iterator[tuple[str, Entry]]:
    for name, path in acquirers.items():
        for entry in read_entries(path):
            yield name, entry


def _is_of(terminal_id: str, part: int, parts: int) -> bool:
    return parts == 1 or zlib.crc32(terminal_id.encode()) % parts == part


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
