"""Records and operations to rows of the SQLite store, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Final

import orjson

from gateway.store.store import (
    Device,
    DeviceState,
    EndReversal,
    MarkDelivered,
    NoteAttempt,
    Operation,
    OwedReversal,
    OweReversal,
    PutDevice,
    Reroute,
    ReserveStans,
    Settle,
    StanBlock,
    State,
    TouchDevice,
    Transaction,
)
from gateway.wire.message import Kind

Row = tuple[Any, ...]
COLUMNS: Final = 8  # of the view `operations`, which migrations.py defines with what each does

# How many rows of tables each operation changes where nothing is in its way. A batch that changed
# fewer had a repeat in it (or an outcome that was there already): only then is a closer look due.
_INTEND_CHANGES = 2

_facts_of = attrgetter(
    "content",
    "terminal_id",
    "merchant_id",
    "activation",
    "kind",
    "mti",
    "stan",
    "rrn",
    "amount_minor",
    "currency",
    "card_masked",
    "card_token",
    "config_version",
)
_device_facts_of = attrgetter(
    "terminal_id",
    "merchant_id",
    "activation",
    "state",
    "profile",
    "certificate_sha256",
    "serial",
    "model",
    "place",
    "networks",
    "enrolled_ms",
    "last_seen_ms",
)


def intent(transaction: Transaction) -> tuple[Row, int]:
    """An intent's row of `operations`, and how many rows it changes unless it is a repeat.

    The outcome's fields are not written: an intent has none.
    """
    row = (
        0,
        transaction.transaction_id,
        transaction.repeat_key,
        transaction.created_ms,
        transaction.upstream,
        transaction.upstream_stan,
        orjson.dumps(_facts_of(transaction)).decode(),
        transaction.image,
    )
    return row, _INTEND_CHANGES


def operation(change: Operation) -> tuple[Row, int]:
    """An operation's row of `operations`, and how many rows of tables it changes at most."""
    return _WRITERS[type(change)](change)


def _settle(change: Settle) -> tuple[Row, int]:
    wipe = change.wipe_image
    row = (
        1,
        change.transaction_id,
        change.state,
        change.response_code,
        change.approval_code,
        change.answer,
        change.answered_ms,
        wipe,
    )
    return row, 3 if wipe else 2


def _mark_delivered(change: MarkDelivered) -> tuple[Row, int]:
    return (2, change.transaction_id, change.delivered_ms, None, None, None, None, None), 1


def _reroute(change: Reroute) -> tuple[Row, int]:
    return _padded(3, change.transaction_id, change.upstream, change.upstream_stan), 1


def _owe_reversal(change: OweReversal) -> tuple[Row, int]:
    row = (
        4,
        change.transaction_id,
        change.upstream,
        change.reason,
        change.created_ms,
        change.response_code,
        change.answer,
        change.state,
    )
    return row, 3


def _note_attempt(change: NoteAttempt) -> tuple[Row, int]:
    row = _padded(
        5, change.transaction_id, change.upstream_stan, change.attempts, change.next_attempt_ms
    )
    return row, 1


def _end_reversal(change: EndReversal) -> tuple[Row, int]:
    if change.state is State.GIVEN_UP:
        return _padded(6, change.transaction_id, change.state), 2
    return _padded(7, change.transaction_id, change.state), 3


def _reserve_stans(change: ReserveStans) -> tuple[Row, int]:
    return _padded(8, change.first, change.upstream, change.reserved_ms), 1


def _put_device(change: PutDevice) -> tuple[Row, int]:
    device = change.device
    return _padded(9, device.device_id, orjson.dumps(_device_facts_of(device)).decode()), 1


def _touch_device(change: TouchDevice) -> tuple[Row, int]:
    return _padded(10, change.device_id, change.last_seen_ms), 1


def _padded(*values: object) -> Row:
    return values + (None,) * (COLUMNS - len(values))


_WRITERS: Final[dict[type, Callable[[Any], tuple[Row, int]]]] = {
    Settle: _settle,
    MarkDelivered: _mark_delivered,
    Reroute: _reroute,
    OweReversal: _owe_reversal,
    NoteAttempt: _note_attempt,
    EndReversal: _end_reversal,
    ReserveStans: _reserve_stans,
    PutDevice: _put_device,
    TouchDevice: _touch_device,
}

# --- and back -------------------------------------------------------------------------------------

# To be followed by WHERE, ORDER BY and LIMIT.
SELECT_TRANSACTIONS: Final = """
SELECT t.transaction_id, t.repeat_key, t.created_ms, t.upstream, t.upstream_stan, t.facts, t.image,
    o.state, o.response_code, o.approval_code, o.answer, o.answered_ms, o.delivered_ms
FROM transactions AS t LEFT JOIN outcomes AS o USING (transaction_id)
"""
_AMONG_OPEN_INTENTS: Final = """
WHERE t.transaction_id IN
    (SELECT transaction_id FROM open_intents ORDER BY transaction_id LIMIT ?)
ORDER BY t.transaction_id
"""
UNSETTLED: Final = SELECT_TRANSACTIONS + _AMONG_OPEN_INTENTS
# The plus keeps SQLite from walking all transactions backwards for the sake of the order.
BY_KEY_RANGE: Final = (
    SELECT_TRANSACTIONS
    + "WHERE t.repeat_key >= ? AND t.repeat_key < ? ORDER BY +t.transaction_id DESC LIMIT ?"
)
SELECT_REVERSALS: Final = """
SELECT transaction_id, upstream, upstream_stan, reason, created_ms, attempts, next_attempt_ms,
    given_up FROM reversals
"""
COUNT_BY_STATE: Final = """
SELECT 'intended', count(*) FROM open_intents UNION ALL
SELECT state, count(*) FROM outcomes
    WHERE state = 'timed_out' OR state = 'reversal_owed' OR state = 'given_up' GROUP BY state
"""
SELECT_DEVICES: Final = "SELECT * FROM devices ORDER BY device_id"


def transaction(row: Row) -> Transaction:
    """The transaction of a row of `SELECT_TRANSACTIONS`."""
    facts = orjson.loads(row[5])
    known = Transaction(
        transaction_id=row[0],
        repeat_key=row[1],
        content=facts[0],
        created_ms=row[2],
        terminal_id=facts[1],
        merchant_id=facts[2],
        activation=facts[3],
        kind=Kind(facts[4]),
        mti=facts[5],
        stan=facts[6],
        rrn=facts[7],
        amount_minor=facts[8],
        currency=facts[9],
        card_masked=facts[10],
        card_token=facts[11],
        upstream=row[3],
        upstream_stan=row[4],
        config_version=facts[12],
        image=row[6],
    )
    if row[7] is not None:
        known.state = State(row[7])
        known.response_code, known.approval_code = row[8], row[9]
        known.answer, known.answered_ms, known.delivered_ms = row[10], row[11], row[12]
    return known


def reversal(row: Row) -> OwedReversal:
    """The reversal of a row of `SELECT_REVERSALS`."""
    return OwedReversal(
        transaction_id=row[0],
        upstream=row[1],
        upstream_stan=row[2],
        reason=row[3],
        created_ms=row[4],
        attempts=row[5],
        next_attempt_ms=row[6],
        given_up=bool(row[7]),
    )


def device(row: Row) -> Device:
    """The device of a row of `SELECT_DEVICES`."""
    return Device(
        device_id=row[0],
        terminal_id=row[1],
        merchant_id=row[2],
        activation=row[3],
        state=DeviceState(row[4]),
        profile=row[5],
        certificate_sha256=row[6],
        serial=row[7],
        model=row[8],
        place=row[9],
        networks=row[10],
        enrolled_ms=row[11],
        last_seen_ms=row[12],
    )


def stan_blocks(rows: Iterable[Row]) -> list[StanBlock]:
    """The blocks of rows of (upstream, first, reserved_ms)."""
    return [StanBlock(*row) for row in rows]
