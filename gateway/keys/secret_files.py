"""Files for their owner alone: their mode is checked, and they are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from gateway.errors import OperatorError

_BYTES_MAX = 16 * 1024 * 1024


def read_secret(path: Path, what: str, *, remedy: str = "") -> bytes:
    """The content of a file of mode 0600 or 0400.

    `what` and `remedy` are for people: what the file is, and what to do where it is absent. Raises
    OperatorError where it is absent, not a file, over 16 MiB, or open to others.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            data = file.read(_BYTES_MAX + 1)
    except FileNotFoundError:
        raise OperatorError(
            f"{path}: no {what} there" + (f"; {remedy}" if remedy else "")
        ) from None
    except OSError as error:
        raise OperatorError(f"{path}: cannot be read: {error.strerror}") from None
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise OperatorError(
            f"{path}: mode {mode:04o} lets others at the {what}; `chmod 600 {path}` stops it"
        )
    if len(data) > _BYTES_MAX:
        raise OperatorError(f"{path}: over {_BYTES_MAX} bytes: this is no {what}")
    return data


def write_secret(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a file of mode 0600 so that a crash leaves what was there, or all of the new.

    Raises FileExistsError where one is there and `replace` is not set, and OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if replace:
            draft.replace(path)
        else:
            # A link, unlike a rename, refuses to replace what is there.
            os.link(draft, path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
