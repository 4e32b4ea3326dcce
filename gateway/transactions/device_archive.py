"""Archived devices: what the store had of one when it was deregistered, as a compressed file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.errors import NoSuchThing
from gateway.transactions.archive_file import ArchiveFile, faults_of, read_manifests, records_of

_PREFIX = "device-"


@dataclass(frozen=True, slots=True)
class DeviceManifest:
    """What the file of a device holds; written beside it as NAME.json once the file is whole."""

    file: str
    terminal_id: str
    part: int  # 1; where a deregistration was not finished, the next one writes a further one
    archived: str  # ISO 8601, UTC
    records: int
    transactions: int
    bytes: int
    sha256: str


class DeviceFile:
    """Writes the file of one device. Its methods block; it is whole only after `finish`."""

    def __init__(self, folder: Path, terminal_id: str, *, archived: str) -> None:
        self._terminal_id = terminal_id.rstrip()
        self._archived = archived
        # Whatever else may stand in DE41 is written as its code: two ids never share a name.
        plain = "".join(c if c.isalnum() else f"%{ord(c):02X}" for c in self._terminal_id)
        self._file = ArchiveFile(folder, f"{_PREFIX}{plain}")
        self._records = 0
        self._transactions = 0

    def write(self, kind: str, records: Iterable[dict[str, Any]]) -> None:
        """Add records of a kind: "device", "event", "incident", "batch" or "transaction"."""
        added = [{"record": kind, **record} for record in records]
        self._file.write(added)
        self._records += len(added)
        self._transactions += len(added) if kind == "transaction" else 0

    def finish(self) -> DeviceManifest:
        """Make the file durable under its own name, with its manifest; returns that."""
        return self._file.finish(
            lambda written: DeviceManifest(
                **written._asdict(),
                terminal_id=self._terminal_id,
                archived=self._archived,
                records=self._records,
                transactions=self._transactions,
            )
        )

    def abandon(self) -> None:
        """Forget what was written."""
        self._file.abandon()


class DeviceArchive:
    """The devices' files of a folder. Its methods block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def manifests(self) -> list[DeviceManifest]:
        """Every device's file, by terminal id; raises OperatorError for one that is broken."""
        found = read_manifests(self._folder, _PREFIX, lambda values: DeviceManifest(**values))
        return sorted(found, key=lambda one: (one.terminal_id, one.part))

    def named(self, name: str) -> DeviceManifest:
        """The newest file of a terminal id, or the one of this name; raises NoSuchThing."""
        wanted = name.rstrip()
        found = [one for one in self.manifests() if wanted in (one.terminal_id, one.file)]
        if not found:
            raise NoSuchThing(
                f"{self._folder}: no device {wanted!r} in the archive; `gateway archive list`"
                " shows what is there"
            )
        return found[-1]

    def faults(self, manifest: DeviceManifest) -> str:
        """What is wrong with a file, in words; "" where it is as it was written."""
        return faults_of(
            self._folder / manifest.file,
            size=manifest.bytes,
            sha256=manifest.sha256,
            records=manifest.records,
            called="records",
        )

    def records(self, manifest: DeviceManifest) -> Iterator[dict[str, Any]]:
        """The records of a file, each with its kind as "record"."""
        return records_of(self._folder / manifest.file)
