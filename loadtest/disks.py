"""Disks: a small file system of its own that can be filled up and freed again."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path

_CLONE_NEWNS = 0x0002_0000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MS_REC, _MS_PRIVATE = 0x4000, 0x4_0000
_MNT_DETACH = 2
_FILLER = "filler"
_FILL_STEPS = (1 << 22, 1 << 16, 1 << 12)


class NoDisk(Exception):
    """This process may not mount a file system; the text says why."""


def keep_mounts_private() -> None:
    """What this process mounts from now on is seen by it and its children alone.

    So it is gone with the last of them, however they end. To be called before any thread is
    started. Raises NoDisk.
    """
    libc = _libc()
    if libc.unshare(_CLONE_NEWNS):
        raise _no_disk("no mount namespace of its own")
    if libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None):
        raise _no_disk("its mounts cannot be kept private")


class SmallDisk:
    """A tmpfs of a fixed size in a folder; `close` unmounts it."""

    def __init__(self, folder: Path, *, size_bytes: int) -> None:
        """Raises NoDisk where it cannot be mounted."""
        folder.mkdir(parents=True, exist_ok=True)
        options = f"size={size_bytes},mode=700".encode()
        flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
        if _libc().mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options):
            raise _no_disk("no tmpfs can be mounted")
        self.folder = folder
        self.fills = 0

    @property
    def free_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    @property
    def full(self) -> bool:
        return (self.folder / _FILLER).exists()

    def fill(self) -> None:
        """Take all the space there is."""
        self.fills += 1
        filler = os.open(self.folder / _FILLER, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            for step in _FILL_STEPS:
                self._grow(filler, step)
        finally:
            os.close(filler)

    def _grow(self, filler: int, step: int) -> None:
        while True:
            try:
                os.posix_fallocate(filler, os.fstat(filler).st_size, step)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    return
                raise

    def free(self) -> None:
        """Give the space back."""
        (self.folder / _FILLER).unlink(missing_ok=True)

    def keep(self, folder: Path) -> None:
        """Copy what is on it to where it outlives the mount."""
        ignored = shutil.ignore_patterns(_FILLER)
        shutil.copytree(self.folder, folder, dirs_exist_ok=True, ignore=ignored)

    def close(self) -> None:
        """Unmount it; what was on it is gone. Done already, it does nothing."""
        _libc().umount2(os.fsencode(self.folder), _MNT_DETACH)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _no_disk(what: str) -> NoDisk:
    return NoDisk(f"{what}: {os.strerror(ctypes.get_errno())}")
