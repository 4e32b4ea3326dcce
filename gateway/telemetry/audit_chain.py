"""The audit log's records: a line of canonical JSON each, bound to the one before by its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, cast

from gateway.telemetry.log import json_line
from gateway.telemetry.redact import redact

GENESIS = "0" * 64  # what the first record follows
HASH_CHARS = 64
LINE_BYTES_MAX = 4 * 1024 * 1024  # redaction bounds what a record can hold far below this

# What the log says of itself.
TORN = "audit.torn"  # the line before is a write that was cut off
DAMAGED = "audit.damaged"  # at a start the log was not as it was left
PRUNED = "audit.pruned"  # the oldest file is deleted, its time being over


class Record(TypedDict):
    """One thing that was done, tried or noticed."""

    seq: int  # from 1, without gaps
    time: str  # ISO 8601, UTC
    node: str
    who: str  # an operator's name, an operating-system user, or what the gateway is to itself
    uid: int | None  # None where it was no process of this machine, or an unknown one
    pid: int | None
    origin: str  # socket, command, file, node
    action: str
    subject: str
    old: Any
    new: Any
    outcome: str  # begun, done, refused, failed, waits …; and why
    refers: int  # to the record that this one ends; 0: to none
    previous: str  # the hash of the record before
    hash: str  # SHA-256 over all the others


_KEYS = frozenset(Record.__annotations__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who did something, and from where."""

    name: str
    origin: str
    uid: int | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """The last record of a chain."""

    seq: int
    hash: str


EMPTY = Head(0, GENESIS)


def canonical(value: object) -> bytes:
    """The one way to write a value: ASCII, keys sorted, no blanks, no newline."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def hash_of(record: Mapping[str, object]) -> str:
    """The SHA-256, in hex, of a record's canonical form without its `hash`."""
    body = {key: value for key, value in record.items() if key != "hash"}
    return hashlib.sha256(canonical(body)).hexdigest()


def sealed(fields: Mapping[str, object], *, seq: int, previous: str) -> Record:
    """A whole record: the fields with their place in the chain."""
    record = {**fields, "seq": seq, "previous": previous}
    return cast("Record", {**record, "hash": hash_of(record)})


def line_of(record: Record) -> bytes:
    """A record as it stands in the file, with its newline."""
    return canonical(record) + b"\n"


def parse(line: bytes) -> Record | None:
    """The record that a line (without its newline) is; None where any byte of it is another's."""
    if len(line) > LINE_BYTES_MAX:
        return None
    try:
        record = json.loads(line)
        if not isinstance(record, dict) or record.keys() != _KEYS:
            return None
        if type(record["seq"]) is not int or type(record["previous"]) is not str:
            return None
        if canonical(record) != line or record["hash"] != hash_of(record):
            return None
    except (ValueError, RecursionError):
        return None
    return cast("Record", record)


def plain(value: object) -> Any:
    """A value of any kind as JSON values, masked and bounded as the event log's are."""
    if value is None or isinstance(value, bool):
        return value
    fields: dict[str, object] = dict(value) if isinstance(value, Mapping) else {"": value}
    redact(fields)
    # Through the log's own writer: it knows what to do with text that is no Unicode, and NaN.
    clean = json.loads(json_line(fields))
    return clean if isinstance(value, Mapping) else clean[""]


def torn_mark(rest: bytes) -> dict[str, object]:
    """What is told of a line that was cut off: enough to know it again."""
    return {"bytes": len(rest), "digest": hashlib.sha256(rest).hexdigest()}
