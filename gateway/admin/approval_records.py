"""Whether what is found waiting for approval is what was asked for: the audit log says so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from gateway.settings.schema_operators import Approvals
from gateway.telemetry.audit_chain import Record, canonical, parse
from gateway.telemetry.audit_files import chain_files, first_seq_of

WAITS = "waits"  # how the outcome begins of the record that it was asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """An operation that one operator asked for and another has to approve."""

    number: int  # of the audit record that tells it was asked for
    group: str
    operation: str
    arguments: Mapping[str, Any]
    subject: str
    operator: str  # who asked
    uid: int
    asked_ms: int
    ends_ms: int

    @property
    def action(self) -> str:
        return f"{self.group}.{self.operation}"

    @property
    def sha256(self) -> str:
        """What the audit record keeps of it: everything but the record's own number, as a hash.

        The record itself shows arguments masked and cut, which proves nothing of what is hidden.
        """
        values = asdict(self)
        del values["number"]
        return hashlib.sha256(canonical(values)).hexdigest()


_PENDING = TypeAdapter(Pending)
_ACTIONS = frozenset(get_args(get_args(Approvals.model_fields["actions"].annotation)[0]))


def pending_of(row: bytes) -> Pending:
    """An entry of the book, by its JSON. Raises ValueError, which repeats nothing of the entry."""
    try:
        found = _PENDING.validate_json(row, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"is no entry: {place}: {first['msg']}") from None
    if found.action not in _ACTIONS:
        raise ValueError("is of an action that no operator approves")
    try:
        _ = found.sha256
    except (ValueError, RecursionError):
        raise ValueError("has arguments that no operation takes") from None
    return found


def problems_of(pending: Mapping[int, Pending], folder: Path) -> dict[int, str]:
    """Which of what waits is not as the audit log of a folder tells, and why; reads files.

    Each has to be what its record says was asked for, and no record may tell what became of it. The
    log is followed from the first of these records to its end. Raises OSError.
    """
    if not pending:
        return {}
    reading = _Reading(pending)
    files = chain_files(folder)
    begun = [file for file in files if first_seq_of(file) <= min(pending)]
    for file in files[max(len(begun) - 1, 0) :]:
        with file.open("rb") as lines:
            for line in lines:
                record = parse(line.removesuffix(b"\n"))
                if record is not None:
                    reading.take(record)
    for number in pending.keys() - reading.proved:
        reading.problems.setdefault(number, "no record of the audit log tells of it")
    return reading.problems


class _Reading:
    """What was read of the log so far."""

    def __init__(self, pending: Mapping[int, Pending]) -> None:
        self._pending = pending
        self._hash = ""  # of the record before
        self.proved: set[int] = set()
        self.problems: dict[int, str] = {}

    def take(self, record: Record) -> None:
        seq = record["seq"]
        if self._hash and record["previous"] != self._hash:
            for number in self.proved:
                self.problems[number] = f"the audit log was changed before record {seq}"
        self._hash = record["hash"]
        asked = self._pending.get(seq)
        if asked is not None:
            new = record["new"]
            told = new.get("sha256") if isinstance(new, dict) else None
            self.proved.add(seq)
            if not (
                record["action"] == asked.action
                and record["outcome"].startswith(WAITS)
                and told == asked.sha256
            ):
                self.problems[seq] = f"is not what record {seq} of the audit log tells"
        if record["refers"] in self.proved:
            self.problems.setdefault(
                record["refers"], f"was decided already: record {seq} of the audit log"
            )
