"""One file of the archive: compressed JSON lines, durable and whole under its name or not there."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import orjson

from gateway.errors import OperatorError
from gateway.store.bundle import sync_folder

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_SUFFIX = ".jsonl.gz"
_COMPRESSION = 6
_CHUNK_BYTES = 1 << 20

M = TypeVar("M")
D = TypeVar("D", bound="DataclassInstance")


class Written(NamedTuple):
    """What a manifest says of its file: the name, which part it is, and what it must still be."""

    file: str
    part: int
    bytes: int
    sha256: str


class ArchiveFile:
    """Writes one file. Its methods block; it is whole only after `finish`.

    Until then it has another name, under which a later run writes over it: a file with its own name
    is on the disk in full, and its manifest too, before anything is deleted from the store.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        """The next file of this stem: where there is one already it is the second part."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._path, self._number = _unused(folder, stem)
        self._part = self._path.with_name(self._path.name + ".part")
        descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._raw = os.fdopen(descriptor, "wb")
        # No time and no name in it: the same records make the same file.
        self._gzip = gzip.GzipFile("", "wb", _COMPRESSION, self._raw, mtime=0)

    def write(self, records: Iterable[dict[str, Any]]) -> None:
        """Add a line for each record."""
        self._gzip.write(b"".join(orjson.dumps(record) + b"\n" for record in records))

    def finish(self, manifest_of: Callable[[Written], D]) -> D:
        """Make the file durable under its own name, with the manifest that is made of it; returns
        that."""
        self._gzip.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()
        size = self._part.stat().st_size
        written = Written(self._path.name, self._number, size, _sha256_of(self._part))
        manifest = manifest_of(written)
        # The manifest first: a file without one would be taken for whole by nobody.
        _write_durably(_beside(self._path), json.dumps(asdict(manifest)).encode())
        self._part.replace(self._path)
        sync_folder(self._folder)
        return manifest

    def abandon(self) -> None:
        """Forget what was written."""
        for file in (self._gzip, self._raw):
            with contextlib.suppress(OSError, ValueError):  # The disk may be full.
                file.close()
        self._part.unlink(missing_ok=True)


def read_manifests(folder: Path, prefix: str, made: Callable[[dict[str, Any]], M]) -> list[M]:
    """The manifests of all files with this prefix, each `made` of its values, in no order.

    Raises OperatorError for one that is missing or broken.
    """
    return [_read(path, made) for path in folder.glob(f"{prefix}*{_SUFFIX}")]


def records_of(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, one after the other."""
    with gzip.open(path, "rb") as file:
        for line in file:
            yield orjson.loads(line)


def faults_of(path: Path, *, size: int, sha256: str, records: int, called: str) -> str:
    """What is wrong with a file, in words, its records `called` so; "" where it is as it was."""
    try:
        found = path.stat().st_size
        if found != size:
            return f"{found} bytes, not {size}"
        if _sha256_of(path) != sha256:
            return "its checksum is not the one it was written with"
        count = sum(1 for _ in records_of(path))
    except (OSError, EOFError, ValueError) as error:
        return f"cannot be read: {error}"
    return "" if count == records else f"{count} {called}, not {records}"


def _unused(folder: Path, stem: str) -> tuple[Path, int]:
    number = 1
    path = folder / f"{stem}{_SUFFIX}"
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}{_SUFFIX}"
    return path, number


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _read(path: Path, made: Callable[[dict[str, Any]], M]) -> M:
    beside = _beside(path)
    try:
        return made(json.loads(beside.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError):
        raise OperatorError(
            f"{beside}: the manifest of an archived file is missing or broken; restore it from a"
            f" backup, or move {path.name} out of the archive"
        ) from None


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _write_durably(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
