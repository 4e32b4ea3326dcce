"""Reads: the questions that the SQLite store answers, each in a thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import apsw
import trio

from gateway.errors import StoreError
from gateway.keys.records import StoredKey
from gateway.store import device_rows, key_rows, queries, rows, sealed, search
from gateway.store.store import (
    Batch,
    BatchTotals,
    Compared,
    Criteria,
    Device,
    DeviceEvent,
    Incident,
    Leftover,
    OwedReversal,
    Replacement,
    RevokedCertificate,
    Sealed,
    SealedStep,
    Spent,
    StanBlock,
    State,
    Tombstone,
    Transaction,
)

_LAST_CHARACTER = "\U0010ffff"  # sorts behind every text that goes on after a prefix
_DAY_MS = 86_400_000

T = TypeVar("T")


class Reads:
    """The half of `SqliteStore` that asks; each answer holds what was committed before the call.

    Two connections: what transactions wait for does not wait behind what operators look for.
    """

    def __init__(self, *, path_reader: apsw.Connection, search_reader: apsw.Connection) -> None:
        self._path_reader = path_reader
        self._search_reader = search_reader
        self._one_read = trio.CapacityLimiter(1)
        self._one_search = trio.CapacityLimiter(1)
        self._closed = False

    async def transaction(self, transaction_id: int) -> Transaction | None:
        found = await self._read(
            queries.SELECT_TRANSACTIONS + "WHERE t.transaction_id = ?", transaction_id
        )
        return rows.transaction(found[0]) if found else None

    async def find_repeat(self, repeat_key: str) -> Transaction | None:
        found = await self._read(queries.SELECT_TRANSACTIONS + "WHERE t.repeat_key = ?", repeat_key)
        return rows.transaction(found[0]) if found else None

    async def find_by_key_prefix(self, prefix: str, limit: int) -> list[Transaction]:
        found = await self._read(queries.BY_KEY_RANGE, prefix, prefix + _LAST_CHARACTER, limit)
        return [rows.transaction(row) for row in found]

    async def find_by_rrn(self, rrn: str, limit: int) -> list[Transaction]:
        return [rows.transaction(row) for row in await self._read(queries.BY_RRN, rrn, limit)]

    async def follow_ups(self, original_id: int) -> list[Transaction]:
        return [rows.transaction(row) for row in await self._read(queries.FOLLOW_UPS, original_id)]

    async def select(self, criteria: Criteria, limit: int) -> list[Transaction]:
        """Transactions that fit, the newest first; looks through them in steps.

        A terminal, an RRN or an open state is found by an index. For anything else all
        transactions of the time are read, at about a million a second.
        """
        return await search.run(criteria, limit, self._search)

    async def undelivered(self, *, since_ms: int, until_ms: int, limit: int) -> list[Transaction]:
        """See `Store.undelivered`; the outcomes of that time are read in steps."""
        return await search.undelivered(
            since_ms=since_ms, until_ms=until_ms, limit=limit, ask=self._search
        )

    async def tombstones(self, since_ms: int) -> list[Tombstone]:
        return rows.tombstones(
            await self._read(
                "SELECT key_prefix, created_ms FROM tombstones WHERE created_ms >= ?"
                " ORDER BY created_ms, key_prefix",
                since_ms,
            )
        )

    async def is_buried(self, key_prefix: str) -> bool:
        return bool(await self._read("SELECT 1 FROM tombstones WHERE key_prefix = ?", key_prefix))

    async def open_batches(self) -> list[Batch]:
        return [rows.batch(row) for row in await self._read(queries.OPEN_BATCHES)]

    async def batches(self, terminal_id: str, limit: int) -> list[Batch]:
        return [rows.batch(row) for row in await self._read(queries.BATCHES_OF, terminal_id, limit)]

    async def batch_totals(self, terminal_id: str, number: int) -> BatchTotals:
        def look(reader: apsw.Connection) -> BatchTotals:
            known = reader.execute(queries.BATCH, (terminal_id, number)).fetchall()
            carried = rows.batch(known[0]).carried if known else ()
            names = [(terminal_id, number), *map(rows.batch_named, carried)]
            return rows.sum_of(_totals(reader, *name) for name in names)

        return await self._search(look)

    async def uploads(self, terminal_id: str, batch: int) -> dict[Compared, int]:
        found = await self._read(
            "SELECT compared, count(*) FROM uploads WHERE terminal_id = ? AND batch = ?"
            " GROUP BY compared",
            terminal_id,
            batch,
        )
        return {Compared(compared): count for compared, count in found}

    async def oldest(self, *, after_id: int, until_ms: int, limit: int) -> list[Transaction]:
        """See `Store.oldest`."""
        values = (after_id, until_ms, limit)
        return await self._search(
            lambda reader: [rows.transaction(row) for row in reader.execute(queries.OLDEST, values)]
        )

    async def spent(self, *, since_ms: int, after_id: int, limit: int) -> list[Spent]:
        """See `Store.spent`."""
        return await search.spent(
            since_ms=since_ms, after_id=after_id, limit=limit, ask=self._search
        )

    async def trimmable(self, what: Leftover, before_ms: int) -> int:
        """See `Store.trimmable`."""
        sql = queries.TRIMMABLE[what]
        found: Any = await self._search(lambda reader: reader.execute(sql, (before_ms,)).fetchall())
        return int(found[0][0])

    async def unsettled(self, limit: int) -> list[Transaction]:
        return [rows.transaction(row) for row in await self._read(queries.UNSETTLED, limit)]

    async def owed_reversals(self) -> list[OwedReversal]:
        found = await self._read(
            queries.SELECT_REVERSALS + "WHERE NOT given_up ORDER BY created_ms, transaction_id"
        )
        return [rows.reversal(row) for row in found]

    async def given_up_reversals(self, limit: int) -> list[OwedReversal]:
        found = await self._read(
            queries.SELECT_REVERSALS + "WHERE given_up ORDER BY created_ms, transaction_id LIMIT ?",
            limit,
        )
        return [rows.reversal(row) for row in found]

    async def owed_reversal(self, transaction_id: int) -> OwedReversal | None:
        found = await self._read(
            queries.SELECT_REVERSALS + "WHERE transaction_id = ?", transaction_id
        )
        return rows.reversal(found[0]) if found else None

    async def stan_blocks(self, upstream: str) -> Sequence[StanBlock]:
        return rows.stan_blocks(
            await self._read(
                "SELECT upstream, first, reserved_ms FROM stan_blocks WHERE upstream = ?"
                " ORDER BY first",
                upstream,
            )
        )

    async def devices(self) -> list[Device]:
        return [device_rows.device(row) for row in await self._read(device_rows.SELECT_DEVICES)]

    async def device_history(
        self, terminal_id: str, limit: int, *, before_id: int = 0
    ) -> list[DeviceEvent]:
        """See `Store.device_history`."""
        values = (terminal_id, before_id, limit)
        return device_rows.events(await self._read(device_rows.SELECT_HISTORY, *values))

    async def incidents(self) -> list[Incident]:
        return device_rows.incidents(await self._read(device_rows.SELECT_INCIDENTS))

    async def replacements(self) -> list[Replacement]:
        return device_rows.replacements(await self._read(device_rows.SELECT_REPLACEMENTS))

    async def revoked_certificates(self) -> list[RevokedCertificate]:
        return device_rows.revoked(await self._read(device_rows.SELECT_REVOKED))

    async def keys(self) -> list[StoredKey]:
        """See `Store.keys`."""
        return await self._search(lambda reader: key_rows.keys(reader.execute(key_rows.SELECT)))

    async def sealed_otherwise(
        self, what: Sealed, *, version: int, after_id: int, limit: int
    ) -> SealedStep:
        """See `Store.sealed_otherwise`."""
        return await self._search(
            lambda reader: sealed.otherwise(
                reader, what, version=version, after_id=after_id, limit=limit
            )
        )

    async def sealed_under(self) -> dict[int, int]:
        """See `Store.sealed_under`; the values are read in steps."""
        return await sealed.under(self._search)

    async def notes(self, prefix: str) -> dict[str, str]:
        found = await self._read(
            "SELECT name, text FROM notes WHERE substr(name, 1, length(?1)) = ?1", prefix
        )
        return dict(found)

    async def last_transaction_id(self) -> int:
        found = await self._read("SELECT max(transaction_id) FROM transactions")
        return found[0][0] or 0

    async def count_by_state(self) -> dict[State, int]:
        found = await self._read(queries.COUNT_BY_STATE)
        return {State(state): count for state, count in found if count}

    async def _read(self, sql: str, *values: object) -> list[rows.Row]:
        """All rows of a query that a transaction waits for."""
        return await self._ask(
            lambda: list(self._path_reader.execute(sql, values)), limiter=self._one_read
        )

    async def _search(self, look: Callable[[apsw.Connection], T]) -> T:
        """What `look` finds, for operators and housekeeping; it is to come back within 100 ms."""
        return await self._ask(lambda: look(self._search_reader), limiter=self._one_search)

    async def _ask(self, ask: Callable[[], T], *, limiter: trio.CapacityLimiter) -> T:
        if self._closed:
            raise StoreError("the store is closed")
        try:
            return await trio.to_thread.run_sync(ask, limiter=limiter)
        except apsw.Error as error:
            raise StoreError(f"cannot be read: {type(error).__name__}: {error}") from None

    async def _close_readers(self) -> None:
        async with self._one_read, self._one_search:
            self._path_reader.close()
            self._search_reader.close()


def _totals(reader: apsw.Connection, terminal_id: str, number: int) -> BatchTotals:
    first, last = _days_of_batch(reader, terminal_id, number)
    found = reader.execute(queries.BATCH_TOTALS, (first, last, terminal_id, number))
    return rows.batch_totals(found.fetchall()[0])


def _days_of_batch(reader: apsw.Connection, terminal_id: str, number: int) -> tuple[int, int]:
    """The first and the last `terminal_day` that a batch's transactions can be found under.

    A day more on both ends, for clocks that were set. What is not known of the batch is taken from
    the store's first and last day.
    """
    found: Any = reader.execute(queries.TERMINAL_DAYS).fetchall()
    oldest, newest = found[0]
    of_day_zero = rows.terminal_day(terminal_id, 0)
    first, last = (rows.day_of(day or 0) + of_day_zero for day in (oldest, newest))
    known = reader.execute(queries.BATCH, (terminal_id, number)).fetchall()
    if known:
        batch = rows.batch(known[0])
        first = max(first, rows.terminal_day(terminal_id, batch.opened_ms - _DAY_MS))
        if batch.closed_ms:
            last = min(last, rows.terminal_day(terminal_id, batch.closed_ms + _DAY_MS))
    return first, last
