"""Changes a blocklist's file so that nobody ever reads half of it, and nobody's edit is lost."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from gateway.errors import OperatorError
from gateway.policy.blockfile_edits import Edited

_TRIES_MAX = 5
_NEW_FILE_MODE = 0o640


def read(file: Path) -> bytes:
    """A list's file; nothing where it is not there. Raises OperatorError."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise OperatorError(f"{file} cannot be read: {error.strerror}") from None


def edit(file: Path, change: Callable[[bytes], Edited]) -> Edited:
    """Have a file say what `change` makes of it; mode and owner stay, and links are followed.

    On disk when it returns. Raises OperatorError where the file cannot be written, or others write
    to it all the time.
    """
    target = Path(os.path.realpath(file))
    try:
        for _ in range(_TRIES_MAX):
            before = _sight(target)
            edited = change(read(target))
            if not edited.line:
                return edited
            if _replace(target, edited.content, before):
                return edited
    except OSError as error:
        raise OperatorError(
            f"{target} cannot be written: {error.strerror}; let the gateway's user write to its"
            " folder, or edit the file yourself"
        ) from None
    raise OperatorError(f"{target} is being edited by somebody else: try again")


def _replace(target: Path, content: bytes, before: os.stat_result | None) -> bool:
    """Whether the file was still the one that `content` was made of, and is replaced by it."""
    target.parent.mkdir(exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()  # of one that was killed
    mode = _NEW_FILE_MODE if before is None else stat.S_IMODE(before.st_mode)
    descriptor = os.open(fresh, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            if before is not None and (before.st_uid, before.st_gid) != (
                os.geteuid(),
                os.getegid(),
            ):
                # Only root can give a file away; who owns the folder may still replace it.
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, before.st_uid, before.st_gid)
            os.fchmod(descriptor, mode)
            opened.write(content)
            opened.flush()
            os.fsync(descriptor)
        if not _same(before, _sight(target)):
            return False
        fresh.replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
    folder = os.open(target.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def _sight(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:
        return None


def _same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    if one is None or other is None:
        return one is other
    return (one.st_ino, one.st_size, one.st_mtime_ns) == (
        other.st_ino,
        other.st_size,
        other.st_mtime_ns,
    )
