"""Archived devices: what the store had of one when it was deregistered, as a compressed file."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from gateway.errors import NoSuchThing, OperatorError
from gateway.transactions.archive import sha256_of, sync_folder, write_durably

_PREFIX = "device-"
_SUFFIX = ".jsonl.gz"
_COMPRESSION = 6


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
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._terminal_id = terminal_id.rstrip()
        self._archived = archived
        self._path, self._number = _unused(folder, self._terminal_id)
        self._part = self._path.with_name(self._path.name + ".part")
        descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._raw = os.fdopen(descriptor, "wb")
        self._gzip = gzip.GzipFile("", "wb", _COMPRESSION, self._raw, mtime=0)
        self._records = 0
        self._transactions = 0

    def write(self, kind: str, records: Iterable[dict[str, Any]]) -> None:
        """Add records of a kind: "device", "event", "incident", "batch" or "transaction"."""
        for record in records:
            self._gzip.write(orjson.dumps({"record": kind, **record}) + b"\n")
            self._records += 1
            self._transactions += kind == "transaction"

    def finish(self) -> DeviceManifest:
        """Make the file durable under its own name, with its manifest; returns that."""
        self._gzip.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()
        manifest = DeviceManifest(
            file=self._path.name,
            terminal_id=self._terminal_id,
            part=self._number,
            archived=self._archived,
            records=self._records,
            transactions=self._transactions,
            bytes=self._part.stat().st_size,
            sha256=sha256_of(self._part),
        )
        beside = self._path.with_name(self._path.name + ".json")
        write_durably(beside, json.dumps(asdict(manifest)).encode())
        self._part.replace(self._path)
        sync_folder(self._folder)
        return manifest

    def abandon(self) -> None:
        """Forget what was written."""
        for file in (self._gzip, self._raw):
            with contextlib.suppress(OSError, ValueError):  # The disk may be full.
                file.close()
        self._part.unlink(missing_ok=True)


class DeviceArchive:
    """The devices' files of a folder. Its methods block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def manifests(self) -> list[DeviceManifest]:
        """Every device's file, by terminal id; raises OperatorError for one that is broken."""
        found = [_read(path) for path in self._folder.glob(f"{_PREFIX}*{_SUFFIX}")]
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
        path = self._folder / manifest.file
        try:
            if path.stat().st_size != manifest.bytes:
                return f"{path.stat().st_size} bytes, not {manifest.bytes}"
            if sha256_of(path) != manifest.sha256:
                return "its checksum is not the one it was written with"
            count = sum(1 for _ in self.records(manifest))
        except (OSError, EOFError, ValueError) as error:
            return f"cannot be read: {error}"
        return "" if count == manifest.records else f"{count} records, not {manifest.records}"

    def records(self, manifest: DeviceManifest) -> Iterator[dict[str, Any]]:
        """The records of a file, each with its kind as "record"."""
        with gzip.open(self._folder / manifest.file, "rb") as file:
            for line in file:
                yield orjson.loads(line)


def _unused(folder: Path, terminal_id: str) -> tuple[Path, int]:
    """The name of a device's next file, and its number."""
    # Whatever else may stand in DE41 is written as its code: two ids never share a name.
    plain = "".join(c if c.isalnum() else f"%{ord(c):02X}" for c in terminal_id)
    number = 1
    path = folder / f"{_PREFIX}{plain}{_SUFFIX}"
    while path.exists():
        number += 1
        path = folder / f"{_PREFIX}{plain}-{number}{_SUFFIX}"
    return path, number


def _read(path: Path) -> DeviceManifest:
    beside = path.with_name(path.name + ".json")
    try:
        return DeviceManifest(**json.loads(beside.read_bytes()))
    except (OSError, ValueError, TypeError):
        raise OperatorError(
            f"{beside}: the manifest of an archived device is missing or broken; restore it from a"
            f" backup, or move {path.name} out of the archive"
        ) from None
