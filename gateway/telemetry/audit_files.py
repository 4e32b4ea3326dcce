"""The audit log's files: appended to, fsynced, rotated and pruned without breaking the chain."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gateway.errors import GatewayError
from gateway.telemetry.audit_chain import (
    DAMAGED,
    EMPTY,
    PRUNED,
    TORN,
    Head,
    Record,
    canonical,
    line_of,
    parse,
    sealed,
    torn_mark,
)

HEAD_FILE = "head.json"
LOCK_FILE = "lock"
_NAME = re.compile(r"audit-(\d{12})\.jsonl")
_FILE_MODE, _FOLDER_MODE = 0o600, 0o700

Fields = Mapping[str, object]
# Makes the fields of a record that the log writes about itself.
Own = Callable[[str, str, object], Fields]


class AuditFailed(GatewayError):
    """The audit log did not take a record; what was to be recorded must not be done."""


class AuditFull(AuditFailed):
    """There is no room for it on the disk now: it may be tried again."""


def file_name(first_seq: int) -> str:
    return f"audit-{first_seq:012d}.jsonl"


def first_seq_of(file: Path) -> int:
    """The sequence number of a file's first record, by its name; 0 for any other name."""
    found = _NAME.fullmatch(file.name)
    return int(found.group(1)) if found else 0


def chain_files(folder: Path) -> list[Path]:
    """The files of a chain, the oldest first; raises OSError."""
    if not folder.is_dir():
        return []
    return sorted((file for file in folder.iterdir() if first_seq_of(file)), key=first_seq_of)


def read_head(folder: Path) -> Head | None:
    """The head as it was last written; None where there is none. Raises ValueError, OSError."""
    try:
        content = (folder / HEAD_FILE).read_bytes()
    except FileNotFoundError:
        return None
    value = json.loads(content)
    if not isinstance(value, dict) or canonical(value) + b"\n" != content:
        raise ValueError(f"{folder / HEAD_FILE} is not as the gateway writes it")
    head = Head(value.get("seq", -1), value.get("hash", ""))
    if _head_content(head) != content:
        raise ValueError(f"{folder / HEAD_FILE} is not as the gateway writes it")
    return head


def _head_content(head: Head) -> bytes:
    return canonical({"seq": head.seq, "hash": head.hash}) + b"\n"


class ChainWriter:
    """Appends to the chain in a folder; one process at a time, and never two threads at once."""

    def __init__(self, folder: Path, *, own: Own, file_bytes_max: int, files_kept: int) -> None:
        self._folder = folder
        self._own = own
        self._file_bytes_max = file_bytes_max
        self._files_kept = files_kept
        self._descriptor = -1
        self._lock = -1
        self._durable_bytes = 0  # of the last file: what lies behind was never acknowledged
        self._suspect = False  # a write failed: the file may be longer than that
        self.head = EMPTY

    def open(self) -> str:
        """Take the folder and go on where its chain ends; returns what was not as it was left.

        Raises AuditFailed where another process writes it or it cannot be written.
        """
        try:
            self._folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            self._take_lock()
            return self._go_on()
        except OSError as error:
            self.close()
            raise _failed(self._folder, error) from None

    def append(self, batch: Sequence[Fields]) -> list[Head]:
        """Make records durable, in this order; raises AuditFailed: then none of them is there."""
        try:
            self._mend()
            if self._durable_bytes >= self._file_bytes_max:
                self._rotate()
            heads = self._write(batch)
        except OSError as error:
            self._suspect = True
            raise _failed(self._folder, error) from None
        try:
            self._prune()
        except OSError:
            self._suspect = True  # the next record tries again
        return heads

    def close(self) -> None:
        for descriptor in (self._descriptor, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._lock = -1

    # --- starting -----------------------------------------------------------------------------

    def _take_lock(self) -> None:
        self._lock = os.open(
            self._folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE
        )
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 20, 0).decode("ascii", "replace").strip()
            raise AuditFailed(
                f"{self._folder}: another process ({holder or 'just starting'}) writes this audit"
                " log, most likely a gateway on the same store: stop it first"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _go_on(self) -> str:
        files = chain_files(self._folder)
        left, trouble = self._left()
        if not files:
            self.head = left
            self._start_file()
            return self._tell_damage([trouble, _missing(left, EMPTY)])
        problems = [trouble]
        content = files[-1].read_bytes()
        lines = content.split(b"\n")
        rest = lines.pop()
        records = [parse(line) for line in lines]
        if None in records:
            problems.append(f"{files[-1].name}, line {records.index(None) + 1}: no record")
        self.head = self._last_of([record for record in records if record], files)
        self._open_file(files[-1])
        problems.append(_missing(left, self.head))
        self._end_line(rest)
        return self._tell_damage(problems)

    def _left(self) -> tuple[Head, str]:
        try:
            return read_head(self._folder) or EMPTY, ""
        except ValueError as error:
            return EMPTY, str(error)

    def _last_of(self, records: Sequence[Record], files: Sequence[Path]) -> Head:
        for file in reversed(files[:-1]):
            if records:
                break
            lines = file.read_bytes().split(b"\n")
            records = [record for record in map(parse, lines) if record]
        return Head(records[-1]["seq"], records[-1]["hash"]) if records else EMPTY

    def _end_line(self, rest: bytes) -> None:
        """End a line that was cut off, and say so in the next; a whole one lacks its end only."""
        if not rest:
            return
        whole = parse(rest)
        os.write(self._descriptor, b"\n")
        self._durable_bytes += 1
        if whole is not None and whole["previous"] == self.head.hash:
            self.head = Head(whole["seq"], whole["hash"])
            os.fsync(self._descriptor)
            self._keep_head()
        else:
            self._write([self._own(TORN, "", torn_mark(rest))])

    def _tell_damage(self, problems: Sequence[str]) -> str:
        told = "; ".join(problem for problem in problems if problem)
        if told:
            self._write([self._own(DAMAGED, str(self._folder), {"found": told})])
        return told

    # --- writing ------------------------------------------------------------------------------

    def _mend(self) -> None:
        """Take back what a failed write left: nobody was told that it is there."""
        if self._suspect:
            os.ftruncate(self._descriptor, self._durable_bytes)
            self._suspect = False

    def _write(self, batch: Sequence[Fields]) -> list[Head]:
        heads: list[Head] = []
        data = b""
        head = self.head
        for fields in batch:
            record = sealed(fields, seq=head.seq + 1, previous=head.hash)
            head = Head(record["seq"], record["hash"])
            heads.append(head)
            data += line_of(record)
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fsync(self._descriptor)
        self._durable_bytes += len(data)
        self.head = head
        self._keep_head()
        return heads

    def _keep_head(self) -> None:
        """Beside the records, after them: a tail that is cut off later is missed.

        One that cannot be written leaves an older one, which is no lie; the next record tries
        again.
        """
        fresh = self._folder / f"{HEAD_FILE}.new"
        with contextlib.suppress(OSError):
            descriptor = os.open(
                fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _FILE_MODE
            )
            try:
                os.write(descriptor, _head_content(self.head))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            fresh.replace(self._folder / HEAD_FILE)

    # --- files --------------------------------------------------------------------------------

    def _open_file(self, file: Path) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = os.open(
            file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE
        )
        self._durable_bytes = os.fstat(self._descriptor).st_size

    def _start_file(self) -> None:
        self._open_file(self._folder / file_name(self.head.seq + 1))
        folder = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _rotate(self) -> None:
        # The new file's first record follows the last of this one: the chain runs on.
        self._start_file()

    def _prune(self) -> None:
        """Delete the oldest file once that, and what it ended with, is in the chain."""
        files = chain_files(self._folder)
        while len(files) > self._files_kept:
            oldest, following = files[0], files[1]
            with following.open("rb") as opened:
                first = parse(opened.readline().rstrip(b"\n"))
            if first is None:
                return  # Damaged: whoever looks into it wants all there is.
            end = {"through": first["seq"] - 1, "ended_with": first["previous"]}
            self._write([self._own(PRUNED, oldest.name, end)])
            oldest.unlink()
            files = files[1:]


def _missing(left: Head, found: Head) -> str:
    if left.seq > found.seq:
        return f"records {found.seq + 1} to {left.seq} are missing from its end"
    return ""


def _failed(folder: Path, error: OSError) -> AuditFailed:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return (AuditFull if full else AuditFailed)(_cannot(folder, error))


def _cannot(folder: Path, error: OSError) -> str:
    return (
        f"{folder}: the audit log cannot be written: {error.strerror or type(error).__name__};"
        " make room, or give the folder to the gateway's user"
    )
