"""Records and operations to rows of the SQLite store, and back."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Final

import orjson

from gateway.store import device_rows, key_rows
from gateway.store.store import (
    Batch,
    BatchTotals,
    DestroyKeys,
    EndReversal,
    Forget,
    ForgetKeys,
    FreeKey,
    MarkDelivered,
    MarkManyDelivered,
    NoteAttempt,
    NoteDevice,
    Operation,
    OwedReversal,
    OweReversal,
    PutBatch,
    PutDevice,
    PutIncident,
    PutKey,
    PutNote,
    PutReplacement,
    PutTombstone,
    PutUpload,
    Reroute,
    Reseal,
    ReserveStans,
    RevokeCertificate,
    RewrapKey,
    Settle,
    Spent,
    StanBlock,
    State,
    Tombstone,
    TouchDevice,
    Transaction,
    Trim,
)
from gateway.wire.message import Kind

Row = tuple[Any, ...]
_Writer = Callable[[Any], tuple[Row, int]]
COLUMNS: Final = 9  # of the view `operations`, which migrations.py defines with what each does

# How many rows of tables each operation changes where nothing is in its way. A batch that changed
# fewer had a repeat in it (or an outcome that was there already): only then is a closer look due.
_INTEND_CHANGES = 2
_FREE_KEY = 19
# What changes now more rows and now fewer: where it is in a batch, a closer look is always due.
# (One row too many here would hide a repeat's missing one there, and a sale would be made twice.)
_MANY = 1_000_000

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
    "original_id",
    "batch",
)
_batch_facts_of = attrgetter(
    "terminal_id",
    "number",
    "opened_ms",
    "closed_ms",
    "debits",
    "debits_minor",
    "credits",
    "credits_minor",
    "balanced",
    "reported",
    "carries",
)
_DAY_MS: Final = 86_400_000
ONE_DAY: Final = 1 << 32  # between a terminal's rows of `terminal_day` and those of the next day


def terminal_day(terminal_id: str, wall_ms: int) -> int:
    """What finds a terminal's transactions of a UTC day (and now and then another terminal's)."""
    return wall_ms // _DAY_MS * ONE_DAY + zlib.crc32(terminal_id.encode())


def day_of(terminal_day: int) -> int:
    """The day alone of a `terminal_day`, to add what `terminal_day` is on day 0 to."""
    return terminal_day // ONE_DAY * ONE_DAY


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
        terminal_day(transaction.terminal_id, transaction.created_ms),
    )
    return row, _INTEND_CHANGES


def follow_up(transaction: Transaction) -> tuple[Row, int]:
    """The row of `operations` that comes after the intent of what follows another transaction."""
    row = _padded(12, transaction.transaction_id, transaction.original_id, transaction.repeat_key)
    return row, 1


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
        change.rrn,
    )
    return row, 3 if wipe else 2


def _mark_delivered(change: MarkDelivered) -> tuple[Row, int]:
    return _padded(2, change.transaction_id, change.delivered_ms), 1


def _mark_many_delivered(change: MarkManyDelivered) -> tuple[Row, int]:
    return _padded(11, 0, orjson.dumps(change.marks).decode()), len(change.marks)


def _reroute(change: Reroute) -> tuple[Row, int]:
    return _padded(3, change.transaction_id, change.upstream, change.upstream_stan), 1


def _owe_reversal(change: OweReversal) -> tuple[Row, int]:
    owed = (
        change.upstream,
        change.reason,
        change.created_ms,
        change.advice,
        change.amount_minor,
    )
    row = _padded(
        4,
        change.transaction_id,
        orjson.dumps(owed).decode(),
        change.state,
        change.response_code,
        change.answer,
    )
    return row, _MANY


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


def _touch_device(change: TouchDevice) -> tuple[Row, int]:
    return _padded(10, change.device_id, change.last_seen_ms), 1


def _put_tombstone(change: PutTombstone) -> tuple[Row, int]:
    return _padded(13, 0, change.tombstone.key_prefix, change.tombstone.created_ms), 1


def _put_batch(change: PutBatch) -> tuple[Row, int]:
    return _padded(14, 0, orjson.dumps(_batch_facts_of(change.batch)).decode()), 1


def _put_upload(change: PutUpload) -> tuple[Row, int]:
    row = _padded(
        15,
        change.batch,
        change.terminal_id,
        change.stan,
        change.received_ms,
        change.record,
        change.compared,
    )
    return row, 1


def _forget(change: Forget) -> tuple[Row, int]:
    ids = change.transaction_ids
    return _padded(16, 0, orjson.dumps(ids).decode()), _MANY


def _trim(change: Trim) -> tuple[Row, int]:
    return _padded(17, 0, change.what, change.before_ms, change.rows_max), _MANY


def _put_note(change: PutNote) -> tuple[Row, int]:
    return _padded(18, 0, change.name, change.text), _MANY


def freed_by(values: Row) -> list[int]:
    """The transactions whose keys are freed by rows of `operations`, one after the other."""
    starts = range(0, len(values), COLUMNS)
    return [values[at + 1] for at in starts if values[at] == _FREE_KEY]


def _free_key(change: FreeKey) -> tuple[Row, int]:
    return _padded(_FREE_KEY, change.transaction_id), 1


def _writer(number: int, of: key_rows.Values, changes: int) -> _Writer:
    return lambda change: (_padded(number, *of(change)), changes)


def _reseal(change: Reseal) -> tuple[Row, int]:
    return _padded(40, change.row_id, change.what, change.old, change.new), 1


def _padded(*values: object) -> Row:
    return values + (None,) * (COLUMNS - len(values))


_WRITERS: Final[dict[type, _Writer]] = {
    Settle: _settle,
    MarkDelivered: _mark_delivered,
    MarkManyDelivered: _mark_many_delivered,
    Reroute: _reroute,
    OweReversal: _owe_reversal,
    NoteAttempt: _note_attempt,
    EndReversal: _end_reversal,
    ReserveStans: _reserve_stans,
    PutDevice: _writer(9, device_rows.put_device, 1),
    TouchDevice: _touch_device,
    PutTombstone: _put_tombstone,
    PutBatch: _put_batch,
    PutUpload: _put_upload,
    Forget: _forget,
    Trim: _trim,
    PutNote: _put_note,
    FreeKey: _free_key,
    Reseal: _reseal,
    PutKey: _writer(20, key_rows.put, 1),
    DestroyKeys: _writer(21, key_rows.destroy, _MANY),
    RewrapKey: _writer(22, key_rows.rewrap, _MANY),
    ForgetKeys: _writer(23, key_rows.forget, _MANY),
    NoteDevice: _writer(24, device_rows.note_device, 1),
    PutIncident: _writer(25, device_rows.put_incident, 1),
    PutReplacement: _writer(26, device_rows.put_replacement, 1),
    RevokeCertificate: _writer(27, device_rows.revoke_certificate, 1),
}

# --- and back -------------------------------------------------------------------------------------


def transaction(row: Row) -> Transaction:
    """The transaction of a row of `queries.SELECT_TRANSACTIONS`."""
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
        original_id=facts[13],
        batch=facts[14],
    )
    if row[7] is not None:
        known.state = State(row[7])
        known.response_code, known.approval_code = row[8], row[9]
        known.answer, known.answered_ms, known.delivered_ms = row[10], row[11], row[12]
        if row[13]:
            known.rrn = row[13]
        if row[14] is not None:
            known.left_minor = row[14]
    return known


def reversal(row: Row) -> OwedReversal:
    """The reversal of a row of `queries.SELECT_REVERSALS`."""
    return OwedReversal(
        transaction_id=row[0],
        upstream=row[1],
        upstream_stan=row[2],
        reason=row[3],
        created_ms=row[4],
        attempts=row[5],
        next_attempt_ms=row[6],
        given_up=bool(row[7]),
        advice=bool(row[8]),
        amount_minor=row[9],
    )


def stan_blocks(rows: Iterable[Row]) -> list[StanBlock]:
    """The blocks of rows of (upstream, first, reserved_ms)."""
    return [StanBlock(*row) for row in rows]


def batch(row: Row) -> Batch:
    """The batch of a row of `batches`."""
    return Batch(
        terminal_id=row[0],
        number=row[1],
        opened_ms=row[2],
        closed_ms=row[3],
        debits=row[4],
        debits_minor=row[5],
        credits=row[6],
        credits_minor=row[7],
        balanced=bool(row[8]),
        reported=row[9],
        carries=row[10],
    )


def spent(row: Row) -> Spent:
    """What limits are counted by, of a row of `queries.SPENT`."""
    facts = orjson.loads(row[3])
    return Spent(
        transaction_id=row[0],
        created_ms=row[1],
        terminal_id=facts[1],
        merchant_id=facts[2],
        kind=Kind(facts[4]),
        amount_minor=facts[8],
        currency=facts[9],
        card_token=facts[11],
        original_id=facts[13],
        upstream=row[2],
        state=State(row[4] or State.INTENDED),
        response_code=row[5] or "",
        left_minor=-1 if row[6] is None else row[6],
    )


def batch_totals(row: Row) -> BatchTotals:
    """The totals of the row of `queries.BATCH_TOTALS`."""
    return BatchTotals(*row)


def sum_of(several: Iterable[BatchTotals]) -> BatchTotals:
    """What several batches come to together."""
    parts = list(several)
    return BatchTotals(
        sum(one.debits for one in parts),
        sum(one.debits_minor for one in parts),
        sum(one.credits for one in parts),
        sum(one.credits_minor for one in parts),
    )


def batch_named(name: str) -> tuple[str, int]:
    """The terminal id in DE41's form and the number of a batch as `Batch.carries` names it."""
    terminal_id, _, number = name.rpartition("/")
    return terminal_id.ljust(8), int(number)


def tombstones(rows: Iterable[Row]) -> list[Tombstone]:
    """The tombstones of rows of (key_prefix, created_ms)."""
    return [Tombstone(*row) for row in rows]
