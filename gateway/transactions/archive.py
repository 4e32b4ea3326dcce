"""Archived transactions: compressed JSON-lines files, one a day, each with a manifest beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.clock import iso_time
from gateway.store.store import Transaction
from gateway.transactions.archive_file import ArchiveFile, faults_of, read_manifests, records_of

_PREFIX = "transactions-"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a file of the archive holds; written beside it as NAME.json once the file is whole.

    `kept` are transactions with an id up to `last_id` that were still open, and are not in it.
    """

    file: str
    day: str  # UTC, YYYY-MM-DD
    part: int  # 1; what was open at first comes in further ones
    transactions: int
    first_id: int
    last_id: int
    kept: tuple[int, ...]
    bytes: int
    sha256: str


def line_of(transaction: Transaction) -> dict[str, Any]:
    """A transaction as an archive's line, masked: nothing that is sealed, no token of the card."""
    t = transaction
    return {
        "transaction_id": t.transaction_id,
        "created": iso_time(t.created_ms),
        "terminal_id": t.terminal_id.rstrip(),
        "merchant_id": t.merchant_id.rstrip(),
        "kind": str(t.kind),
        "mti": t.mti,
        "stan": t.stan,
        "rrn": t.rrn,
        "amount_minor": t.amount_minor,
        "currency": t.currency,
        "card": t.card_masked,
        "upstream": t.upstream,
        "upstream_stan": t.upstream_stan,
        "state": str(t.state),
        "response_code": t.response_code,
        "approval_code": t.approval_code,
        "answered": iso_time(t.answered_ms) if t.answered_ms else "",
        "delivered": iso_time(t.delivered_ms) if t.delivered_ms else "",
        "original_id": t.original_id,
        "batch": t.batch,
        "activation": t.activation,
        "config_version": t.config_version,
        "repeat_key": t.repeat_key,
    }


class DayFile:
    """Writes the file of one day. Its methods block; it is whole only after `finish`."""

    def __init__(self, folder: Path, day: str) -> None:
        self._day = day
        self._file = ArchiveFile(folder, f"{_PREFIX}{day}")
        self._count = 0
        self._first_id = 0
        self._last_id = 0

    def write(self, transactions: Iterable[Transaction]) -> None:
        """Add transactions, in the order of their ids."""
        added = list(transactions)
        self._file.write(map(line_of, added))
        self._count += len(added)
        for transaction in added[:1] + added[-1:]:
            self._first_id = self._first_id or transaction.transaction_id
            self._last_id = transaction.transaction_id

    def finish(self, *, last_id: int, kept: Iterable[int]) -> Manifest:
        """Make the file durable under its own name, with its manifest; returns that."""
        return self._file.finish(
            lambda written: Manifest(
                **written._asdict(),
                day=self._day,
                transactions=self._count,
                first_id=self._first_id,
                last_id=max(last_id, self._last_id),
                kept=tuple(kept),
            )
        )

    def abandon(self) -> None:
        """Forget what was written."""
        self._file.abandon()


class Archive:
    """The files of a folder, to be listed, verified and read. Its methods block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def manifests(self) -> list[Manifest]:
        """What is in the archive, the oldest first; raises OperatorError for one that is broken."""
        found = read_manifests(self._folder, _PREFIX, _manifest)
        return sorted(found, key=lambda one: (one.day, one.part))

    def faults(self, manifest: Manifest) -> str:
        """What is wrong with a file, in words; "" where it is as it was written."""
        return faults_of(
            self._folder / manifest.file,
            size=manifest.bytes,
            sha256=manifest.sha256,
            records=manifest.transactions,
            called="transactions",
        )

    def lines(self, manifest: Manifest) -> Iterator[dict[str, Any]]:
        """The transactions of a file, as `line_of` made them."""
        return records_of(self._folder / manifest.file)


class Archived:
    """Which transactions are in the archive already, by its manifests."""

    def __init__(self, manifests: Iterable[Manifest]) -> None:
        self._last_id = 0
        self._kept_by_day: dict[str, tuple[int, ...]] = {}
        self._kept: frozenset[int] = frozenset()
        for manifest in manifests:
            self._take(manifest)
        self._unite()

    def add(self, manifest: Manifest) -> None:
        """One more file was written; the latest of a day says what is left to be archived."""
        self._take(manifest)
        self._unite()

    def __contains__(self, transaction_id: int) -> bool:
        return transaction_id <= self._last_id and transaction_id not in self._kept

    def _take(self, manifest: Manifest) -> None:
        self._last_id = max(self._last_id, manifest.last_id)
        self._kept_by_day[manifest.day] = manifest.kept

    def _unite(self) -> None:
        self._kept = frozenset().union(*self._kept_by_day.values())


def _manifest(values: dict[str, Any]) -> Manifest:
    return Manifest(**{**values, "kept": tuple(values["kept"])})
