"""Which values of the SQLite store are under which version of the key that seals them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import apsw

from gateway.store.store import Sealed, SealedStep, SealedValue

# A sealed value begins with its format (1 byte) and its key's version (2, big-endian); see
# keys/security_module.py. An empty one is no value.
_TABLES: Final = {
    Sealed.IMAGES: ("transactions", "transaction_id", "image", "'', 0, ''"),
    Sealed.ANSWERS: ("outcomes", "transaction_id", "answer", "'', 0, ''"),
    Sealed.UPLOADS: ("uploads", "upload_id", "record", "terminal_id, batch, stan"),
}
_COUNTED_ROWS: Final = 5_000  # in one go: some milliseconds

Look = Callable[[apsw.Connection], Any]


def otherwise(
    reader: apsw.Connection, what: Sealed, *, version: int, after_id: int, limit: int
) -> SealedStep:
    """See `Store.sealed_otherwise`."""
    table, row_id, value, bound = _TABLES[what]
    some = f"FROM {table} WHERE {row_id} > ?1 ORDER BY {row_id} LIMIT ?2"
    found: Any = reader.execute(
        f"SELECT * FROM (SELECT {row_id}, {value} AS value, {bound} {some})"  # noqa: S608 (constants only)
        " WHERE length(value) > 3 AND substr(value, 2, 2) <> ?3",
        (after_id, limit, version.to_bytes(2, "big")),
    ).fetchall()
    last: Any = reader.execute(
        f"SELECT max({row_id}) FROM (SELECT {row_id} {some})",  # noqa: S608 (constants only)
        (after_id, limit),
    ).fetchall()
    values = [
        SealedValue(row_id=row[0], value=row[1], terminal_id=row[2], batch=row[3], stan=row[4])
        for row in found
    ]
    return SealedStep(values, last[0][0] or 0)


async def under(ask: Callable[[Look], Awaitable[Any]]) -> dict[int, int]:
    """See `Store.sealed_under`; `ask` does one look after the other."""
    counts: Counter[int] = Counter()
    for what in Sealed:
        after_id = 0
        while True:
            last_id, found = await ask(_counting(what, after_id))
            counts.update(found)
            if not last_id:
                break
            after_id = last_id
    return dict(sorted(counts.items()))


def _counting(what: Sealed, after_id: int) -> Look:
    table, row_id, value, _ = _TABLES[what]
    sql = (
        "SELECT max(row_id), CASE WHEN length(value) > 3 THEN substr(value, 2, 2) END AS version,"  # noqa: S608 (constants only)
        f" count(*) FROM (SELECT {row_id} AS row_id, {value} AS value FROM {table}"
        f" WHERE {row_id} > ?1 ORDER BY {row_id} LIMIT ?2) GROUP BY version"
    )

    def look(reader: apsw.Connection) -> tuple[int, dict[int, int]]:
        found: Any = reader.execute(sql, (after_id, _COUNTED_ROWS)).fetchall()
        last_id = max((row[0] for row in found), default=0)
        return last_id, {int.from_bytes(row[1], "big"): row[2] for row in found if row[1]}

    return look
