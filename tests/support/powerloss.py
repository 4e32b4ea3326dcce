"""A disk for SQLite that can lose its power, and one that fails: an apsw VFS over the system's."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

import apsw

SECTOR_BYTES = 512
_NAMES = itertools.count(1)


@dataclass
class _Known:
    """A file as the disk would have it after a power loss, and what is not sure to be there."""

    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes | None]] = field(default_factory=list)  # None: cut at offset

    def applied(self, survives: Callable[[bytes], bytes]) -> bytes:
        """The durable content, with as much of what was not synced as survives."""
        content = bytearray(self.durable)
        for offset, written in self.unsynced:
            if written is None:
                if survives(b"\0"):
                    del content[offset:]
                continue
            left = survives(written)
            if left:
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(left)] = left
        return bytes(content)

    def sync(self, count: int) -> None:
        """The first `count` writes are there for good."""
        rest = self.unsynced[count:]
        del self.unsynced[count:]
        self.durable = bytearray(self.applied(lambda written: written))
        self.unsynced = rest


Snapshot = dict[str, bytes]


class PowerDisk(apsw.VFS):
    """SQLite's way to a disk that forgets what was not synced; to be named in `SqliteStore.open`.

    Nothing is really lost: `snapshot` says what a power loss at this moment would leave, and
    `restore` writes that where it can be opened. `fail_writes` and `fail_syncs` are what each of
    them fails with while they are set. `on_operation` is called, in SQLite's thread, after each
    write and sync.
    """

    def __init__(self, random: Random | None = None, *, folder: Path | None = None) -> None:
        """`folder` is what the disk holds already: durable, also where it is not opened again."""
        self.vfs_name = f"power-{next(_NAMES)}"
        self.fail_writes: int | None = None  # an extended result code of SQLite
        self.fail_syncs: int | None = None
        self.fail_database_syncs = False  # of the database alone, not of its log
        self.writes = 0
        self.syncs = 0
        self.on_operation: Callable[[], None] = lambda: None
        self._random = random
        self._files: dict[str, _Known] = {}
        self._lock = threading.RLock()
        for path in folder.iterdir() if folder is not None and folder.exists() else ():
            if path.is_file():
                self._files[path.name] = _Known(bytearray(path.read_bytes()))
        super().__init__(self.vfs_name, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.unregister()

    # --- what SQLite calls ----------------------------------------------------------------

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 (named by SQLite)
        return _PowerFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        with self._lock:
            self._files.pop(Path(filename).name, None)
        super().xDelete(filename, syncdir)

    def opened(self, name: str, content: bytes) -> None:
        """A file was opened; what it held before is taken for durable."""
        with self._lock:
            self._files.setdefault(name, _Known(bytearray(content)))

    def wrote(self, name: str, offset: int, data: bytes | None) -> None:
        with self._lock:
            self._files[name].unsynced.append((offset, data))
            self.writes += 1
            self.on_operation()

    def unsynced(self, name: str) -> int:
        """How many writes a sync that begins now is sure to take along."""
        with self._lock:
            return len(self._files[name].unsynced)

    def synced(self, name: str, count: int) -> None:
        with self._lock:
            self._files[name].sync(min(count, len(self._files[name].unsynced)))
            self.syncs += 1
            self.on_operation()

    # --- what tests call ------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """What is there after a power loss now: all that was synced, and some of the rest.

        Without a random source nothing else survives; with one each write does or does not, whole
        or up to some sector, whatever became of those before it.
        """
        with self._lock:
            return {name: known.applied(self._survives) for name, known in self._files.items()}

    def _survives(self, written: bytes) -> bytes:
        if self._random is None:
            return b""
        chance = self._random.random()
        if chance < 0.4:
            return written
        if chance < 0.8:
            return b""
        return written[: self._random.randrange(len(written) // SECTOR_BYTES + 1) * SECTOR_BYTES]


def restore(snapshot: Snapshot, folder: Path) -> None:
    """Write the files of a snapshot into a folder."""
    folder.mkdir()
    for name, content in snapshot.items():
        (folder / name).write_bytes(content)


class _PowerFile(apsw.VFSFile):
    def __init__(self, disk: PowerDisk, name: Any, flags: list[int]) -> None:
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "temporary")
        self._disk = disk
        self._name = path.name
        before = path.read_bytes() if path.exists() else b""
        super().__init__("", name, flags)
        disk.opened(self._name, before)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        if self._disk.fail_writes is not None:
            raise apsw.exception_for(self._disk.fail_writes)
        super().xWrite(data, offset)
        self._disk.wrote(self._name, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        self._disk.wrote(self._name, newsize, None)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self._disk.fail_syncs is not None:
            raise apsw.exception_for(self._disk.fail_syncs)
        if self._disk.fail_database_syncs and not self._name.endswith("-wal"):
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
        count = self._disk.unsynced(self._name)  # Another thread may write meanwhile.
        super().xSync(flags)
        self._disk.synced(self._name, count)
