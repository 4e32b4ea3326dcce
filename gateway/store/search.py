"""Looks for transactions by what an operator knows of them, in steps that hold up nobody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any, Final, Protocol, TypeVar

import apsw
import orjson

from gateway.store import queries, rows
from gateway.store.store import Criteria, Spent, State, Transaction

_STEP: Final = 20_000  # ids looked through at once: some ten milliseconds
_ANSWER_MAX_MS: Final = 300_000  # an answer comes within this time, or never
_SLACK: Final = 1_000  # ids: those under way at one moment are not in order of time
_OPEN_OUTCOMES: Final = frozenset(
    (
        State.TIMED_OUT,
        State.REVERSAL_OWED,
        State.ADVICE_OWED,
        State.GIVEN_UP,
    )
)
_CONDITIONS: Final[dict[str, str]] = {
    "terminal_id": "t.facts ->> 1 = ?",
    "rrn": "o.rrn = ? AND o.rrn <> ''",
    "stan": "t.facts ->> 6 = ?",
    "from_ms": "t.created_ms >= ?",
    "until_ms": "t.created_ms < ?",
    "amount_minor": "t.facts ->> 8 = ?",
    "last_four": "substr(t.facts ->> 10, -4) = ?",
    "upstream": "t.upstream = ?",
    "before_id": "t.transaction_id < ?",
}
_DEFAULTS: Final = {field.name: field.default for field in fields(Criteria)}
_NEXT: Final = """
SELECT transaction_id, created_ms FROM transactions WHERE transaction_id >= ?
ORDER BY transaction_id LIMIT 1
"""
_LAST_BEFORE: Final = "SELECT max(transaction_id) FROM transactions WHERE transaction_id < ?"

T = TypeVar("T")


class Ask(Protocol):
    """Runs a look at the database in a thread."""

    def __call__(self, look: Callable[[apsw.Connection], T], /) -> Awaitable[T]: ...


class _Where:
    """Conditions, and the values of their question marks."""

    def __init__(self, criteria: Criteria) -> None:
        self.texts: list[str] = []
        self.values: list[Any] = []
        for name, token in _tokens(criteria):
            # Before the JSON is parsed: it leaves few rows to do that for.
            if getattr(criteria, name) != _DEFAULTS[name]:
                self.add("instr(t.facts, ?)", token)
        for name, text in _CONDITIONS.items():
            value = getattr(criteria, name)
            if value != _DEFAULTS[name]:
                self.add(text, value)
        if criteria.state is State.INTENDED:
            self.add("t.transaction_id IN (SELECT transaction_id FROM open_intents)")
        elif criteria.state is not None:
            # Written out: the index of open outcomes is not found for a question mark.
            self.add(f"o.state = '{criteria.state.value}'")

    def add(self, text: str, *values: Any) -> None:
        self.texts.append(text)
        self.values += values

    def find(self, limit: int) -> Callable[[apsw.Connection], list[rows.Row]]:
        sql = queries.SELECT_TRANSACTIONS
        if self.texts:
            sql += "WHERE " + " AND ".join(self.texts)
        sql += " ORDER BY t.transaction_id DESC LIMIT ?"
        return _fetch(sql, (*self.values, limit))


async def run(criteria: Criteria, limit: int, ask: Ask) -> list[Transaction]:
    """Transactions that fit, the newest first, at most `limit`."""
    indexed = criteria.rrn or criteria.state is State.INTENDED or criteria.state in _OPEN_OUTCOMES
    if indexed:
        found = await ask(_Where(criteria).find(limit))
    elif criteria.terminal_id:
        found = await _of_terminal(criteria, limit, ask)
    else:
        found = await _through_all(criteria, limit, ask)
    return [rows.transaction(row) for row in found]


async def undelivered(*, since_ms: int, until_ms: int, limit: int, ask: Ask) -> list[Transaction]:
    """Approvals answered in a time of which no hand-over is known, the oldest first."""
    first, end = await ask(lambda reader: _ids_of(reader, since_ms - _ANSWER_MAX_MS, until_ms))
    found: list[rows.Row] = []
    while first < end and len(found) < limit:
        values = (first, first + _STEP - 1, since_ms, until_ms, limit - len(found))
        found += await ask(_fetch(queries.UNDELIVERED, values))
        first += _STEP
    return [rows.transaction(row) for row in found]


async def spent(*, since_ms: int, after_id: int, limit: int, ask: Ask) -> list[Spent]:
    """What limits are counted by, of transactions made since then with a higher id, in order."""
    first = after_id + 1
    if not after_id:
        first, _ = await ask(lambda reader: _ids_of(reader, since_ms, 0))
    return [rows.spent(row) for row in await ask(_fetch(queries.SPENT, (first, limit)))]


async def _of_terminal(criteria: Criteria, limit: int, ask: Ask) -> list[rows.Row]:
    """Day by day, from the last one back."""
    oldest, newest = await ask(lambda reader: _row(reader, queries.TERMINAL_DAYS))
    if oldest is None:
        return []
    of_day_zero = rows.terminal_day(criteria.terminal_id, 0)
    first = max(
        rows.day_of(oldest) + of_day_zero,
        rows.terminal_day(criteria.terminal_id, criteria.from_ms),
    )
    day = rows.day_of(newest) + of_day_zero
    if criteria.until_ms:
        day = min(day, rows.terminal_day(criteria.terminal_id, criteria.until_ms))
    found: list[rows.Row] = []
    while day >= first and len(found) < limit:
        where = _Where(criteria)
        where.add("t.terminal_day = ?", day)
        found += await ask(where.find(limit - len(found)))
        day -= rows.ONE_DAY
    return found


async def _through_all(criteria: Criteria, limit: int, ask: Ask) -> list[rows.Row]:
    """Step by step, from the last id of the time back to the first."""
    first, end = await ask(lambda reader: _ids_of(reader, criteria.from_ms, criteria.until_ms))
    if criteria.before_id:
        end = min(end, criteria.before_id)
    found: list[rows.Row] = []
    while len(found) < limit:
        last = await ask(_last_before(end))
        if last is None or last < first:
            break
        end = max(first, last + 1 - _STEP)
        where = _Where(criteria)
        where.add("t.transaction_id BETWEEN ? AND ?", end, last)
        found += await ask(where.find(limit - len(found)))
    return found


def _tokens(criteria: Criteria) -> Iterator[tuple[str, str]]:
    """What the JSON text of a transaction's facts must hold for each criterion."""
    yield "terminal_id", orjson.dumps(criteria.terminal_id).decode()
    yield "stan", orjson.dumps(criteria.stan).decode()
    yield "amount_minor", f",{criteria.amount_minor},"
    yield "last_four", f'{criteria.last_four}"'


def _ids_of(reader: apsw.Connection, from_ms: int, until_ms: int) -> tuple[int, int]:
    """The first id of a time, and the one behind the last: ids are given in order of time."""
    first, last = _row(reader, queries.FIRST_AND_LAST_ID)
    if first is None:
        return 0, 0
    start = _first_since(reader, first, last, from_ms)
    end = _first_since(reader, start, last, until_ms) if until_ms else last + 1
    return max(first, start - _SLACK), min(last + 1, end + _SLACK)


def _first_since(reader: apsw.Connection, first: int, last: int, wall_ms: int) -> int:
    """The first id from `first` on of a transaction made then or later; `last` + 1 for none."""
    end = last + 1
    while first < end:
        middle = (first + end) // 2
        found_id, created_ms = _row(reader, _NEXT, middle)
        if created_ms >= wall_ms:
            end = middle
        else:
            first = found_id + 1
    return first


def _fetch(sql: str, values: Sequence[Any]) -> Callable[[apsw.Connection], list[rows.Row]]:
    return lambda reader: list(reader.execute(sql, values))


def _last_before(end: int) -> Callable[[apsw.Connection], Any]:
    return lambda reader: _row(reader, _LAST_BEFORE, end)[0]


def _row(reader: apsw.Connection, sql: str, *values: object) -> Any:
    return reader.execute(sql, values).fetchall()[0]
