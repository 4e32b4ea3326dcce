"""Keys to rows of the SQLite store, and back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson

from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState
from gateway.store.store import DestroyKeys, ForgetKeys, PutKey, RewrapKey

Values = Callable[[Any], tuple[object, ...]]

SELECT: Final = (
    "SELECT owner, purpose, version, algorithm, state, start_ms, end_ms, check_value, kek, wrapped,"
    " exportable FROM keys ORDER BY owner, purpose, version"
)


def put(change: PutKey) -> tuple[object, ...]:
    """What the trigger `put_key` is given."""
    key = change.key
    facts = (
        key.owner,
        key.purpose,
        key.algorithm,
        key.state,
        key.start_ms,
        key.end_ms,
        key.check_value,
        key.kek,
        int(key.exportable),
    )
    return key.version, orjson.dumps(facts).decode(), key.wrapped


def destroy(change: DestroyKeys) -> tuple[object, ...]:
    """What the trigger `destroy_keys` is given."""
    return 0, change.owner, orjson.dumps(change.purposes).decode(), change.at_ms


def rewrap(change: RewrapKey) -> tuple[object, ...]:
    """What the trigger `rewrap_key` is given."""
    before = change.before
    return (
        before.version,
        before.owner,
        before.purpose.value,
        before.kek,
        before.wrapped,
        change.kek,
        change.wrapped,
    )


def forget(change: ForgetKeys) -> tuple[object, ...]:
    """What the trigger `forget_keys` is given."""
    return change.below_version, change.owner, change.purpose.value


def keys(rows: Iterable[tuple[Any, ...]]) -> list[StoredKey]:
    """The keys of rows of `SELECT`; texts that many of them share are held once."""
    return [
        StoredKey(
            owner=sys.intern(row[0]),
            purpose=KeyPurpose(row[1]),
            version=row[2],
            algorithm=KeyAlgorithm(row[3]),
            state=StoredKeyState(row[4]),
            start_ms=row[5],
            end_ms=row[6],
            check_value=row[7],
            kek=sys.intern(row[8]),
            wrapped=row[9],
            exportable=bool(row[10]),
        )
        for row in rows
    ]
