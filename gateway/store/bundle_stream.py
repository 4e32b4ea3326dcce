"""Reads the tar of a backup forwards and within bounds: whoever made the file may mean harm."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from gateway.errors import OperatorError

_MEBIBYTE = 1 << 20
_READ_BYTES_MAX = _MEBIBYTE  # at once; tarfile reads what describes a member whole
_SPARE_BYTES = 64 * _MEBIBYTE  # left free where a backup is unpacked


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much a backup may hold. The store in it is bounded by the room on the disk alone."""

    files_max: int = 200_000  # audit.files_kept goes to 100,000
    bytes_max: int | None = None  # in all; None: what is free where it is unpacked
    # By folder. Of the audit log: the most that audit.file_bytes_max can be, and a record more.
    of_a_file: dict[str, int] = field(
        default_factory=lambda: {
            "keys": 64 * _MEBIBYTE,
            "audit": 1_028 * _MEBIBYTE,
            "config": 1_024 * _MEBIBYTE,
        }
    )


BOUNDS = Bounds()


def members(
    file: Path, opened: IO[bytes], *, into: Path | None, bounds: Bounds = BOUNDS
) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """Each plain file of a bundle and what it can be read from, until the next is asked for.

    Raises OperatorError, naming the member, for what is no plain file or beyond a bound, before any
    of it is read; and what tarfile and gzip raise for what is not whole.
    """
    most = bounds.bytes_max
    if most is None and into is not None:
        most = max(shutil.disk_usage(_existing(into)).free - _SPARE_BYTES, 0)
    total, count = 0, 0
    with tarfile.open(fileobj=cast("IO[bytes]", _Forwards(opened)), mode="r:") as tar:
        for entry in tar:
            # One with holes may be a thousand times what is in the file.
            source = tar.extractfile(entry) if entry.isreg() and not entry.issparse() else None
            # A size below zero would make room in the sum for what comes after.
            if source is None or entry.size < 0:
                raise OperatorError(f"{file}: {entry.name!r} does not belong in a backup")
            count += 1
            total += entry.size
            if count > bounds.files_max:
                raise OperatorError(
                    f"{file}: {entry.name!r} is file {count} in it, and a backup holds"
                    f" {bounds.files_max} at most"
                )
            folder = entry.name.partition("/")[0]
            bound = bounds.of_a_file.get(folder)
            if bound is not None and entry.size > bound:
                raise OperatorError(
                    f"{file}: {entry.name!r} has {entry.size} bytes, and a file of {folder}/ has"
                    f" {bound} at most"
                )
            if most is not None and total > most:
                where = "" if into is None else f", which is what is free at {into}"
                raise OperatorError(
                    f"{file}: with {entry.name!r} it takes {total} bytes, and may take {most}"
                    f"{where}: make room, or name another folder"
                )
            yield entry, source


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


class _Forwards:
    """What is in a gzip file, as tarfile reads it: never far back, and never much at once.

    Tarfile's own reader of streams takes what a header says is its size into memory; and to go back
    a byte, as it does between members, a gzip file is read from its beginning again.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._zip = gzip.GzipFile(fileobj=file, mode="rb")
        self._at = 0
        self._last = b""  # the byte before
        self._back = 0  # how many bytes before it the next read begins: 0 or 1

    def tell(self) -> int:
        return self._at - self._back

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _READ_BYTES_MAX:
            raise tarfile.ReadError(f"a header of {count} bytes")
        if not count:
            return b""
        before = self._last if self._back else b""
        self._back = 0
        data = self._zip.read(count - len(before))
        self._at += len(data)
        self._last = (data or before or self._last)[-1:]
        return before + data

    def seek(self, target: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or target < self._at - len(self._last):
            raise tarfile.ReadError("its members are not one behind the other")
        self._back = int(target < self._at)
        while self._at < target and self.read(min(target - self._at, _READ_BYTES_MAX)):
            pass
        return self.tell()
