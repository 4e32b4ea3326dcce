"""Archived transactions: compressed JSON-lines files, one a day, each with a manifest beside it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from gateway.clock import iso_time
from gateway.errors import OperatorError
from gateway.store.store import Transaction

_PREFIX = "transactions-"
_SUFFIX = ".jsonl.gz"
_COMPRESSION = 6
_CHUNK_BYTES = 1 << 20


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
    """Writes the file of one day. Its methods block; it is whole only after `finish`.

    Until then it has another name, under which a later run writes over it: a file with its own name
    is on the disk in full, and its manifest too, before anything is deleted from the store.
    """

    def __init__(self, folder: Path, day: str) -> None:
        self._folder = folder
        self._day = day
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path, self._number = _unused(folder, day)
        self._part = self._path.with_name(self._path.name + ".part")
        descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._raw = os.fdopen(descriptor, "wb")
        # No time and no name in it: the same transactions make the same file.
        self._gzip = gzip.GzipFile("", "wb", _COMPRESSION, self._raw, mtime=0)
        self._count = 0
        self._first_id = 0
        self._last_id = 0

    def write(self, transactions: Iterable[Transaction]) -> None:
        """Add transactions, in the order of their ids."""
        lines = bytearray()
        for transaction in transactions:
            lines += orjson.dumps(line_of(transaction)) + b"\n"
            self._count += 1
            self._first_id = self._first_id or transaction.transaction_id
            self._last_id = transaction.transaction_id
        self._gzip.write(bytes(lines))

    def finish(self, *, last_id: int, kept: Iterable[int]) -> Manifest:
        """Make the file durable under its own name, with its manifest; returns that."""
        self._gzip.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()
        manifest = Manifest(
            file=self._path.name,
            day=self._day,
            part=self._number,
            transactions=self._count,
            first_id=self._first_id,
            last_id=max(last_id, self._last_id),
            kept=tuple(kept),
            bytes=self._part.stat().st_size,
            sha256=sha256_of(self._part),
        )
        # The manifest first: a file without one would be taken for whole by nobody.
        write_durably(_manifest_path(self._path), json.dumps(asdict(manifest)).encode())
        self._part.replace(self._path)
        sync_folder(self._folder)
        return manifest

    def abandon(self) -> None:
        """Forget what was written."""
        for file in (self._gzip, self._raw):
            with contextlib.suppress(OSError, ValueError):  # The disk may be full.
                file.close()
        self._part.unlink(missing_ok=True)


class Archive:
    """The files of a folder, to be listed, verified and read. Its methods block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def manifests(self) -> list[Manifest]:
        """What is in the archive, the oldest first; raises OperatorError for one that is broken."""
        paths = self._folder.glob(f"{_PREFIX}*{_SUFFIX}")
        return sorted(map(_read_manifest, paths), key=lambda one: (one.day, one.part))

    def faults(self, manifest: Manifest) -> str:
        """What is wrong with a file, in words; "" where it is as it was written."""
        path = self._folder / manifest.file
        try:
            if path.stat().st_size != manifest.bytes:
                return f"{path.stat().st_size} bytes, not {manifest.bytes}"
            if sha256_of(path) != manifest.sha256:
                return "its checksum is not the one it was written with"
            count = sum(1 for _ in self.lines(manifest))
        except (OSError, EOFError, ValueError) as error:
            return f"cannot be read: {error}"
        if count != manifest.transactions:
            return f"{count} transactions, not {manifest.transactions}"
        return ""

    def lines(self, manifest: Manifest) -> Iterator[dict[str, Any]]:
        """The transactions of a file, as `line_of` made them."""
        with gzip.open(self._folder / manifest.file, "rb") as file:
            for line in file:
                yield orjson.loads(line)


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


def _unused(folder: Path, day: str) -> tuple[Path, int]:
    """The name of a day's next file, and its number."""
    number = 1
    path = folder / f"{_PREFIX}{day}{_SUFFIX}"
    while path.exists():
        number += 1
        path = folder / f"{_PREFIX}{day}-{number}{_SUFFIX}"
    return path, number


def _manifest_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _read_manifest(path: Path) -> Manifest:
    beside = _manifest_path(path)
    try:
        values = json.loads(beside.read_bytes())
        return Manifest(**{**values, "kept": tuple(values["kept"])})
    except (OSError, ValueError, TypeError, KeyError):
        raise OperatorError(
            f"{beside}: the manifest of an archived day is missing or broken; restore it from a"
            f" backup, or move {path.name} out of the archive"
        ) from None


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_durably(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
