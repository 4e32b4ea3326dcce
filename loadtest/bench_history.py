"""What a long history costs: look-ups in it, and payments while it is archived and deleted."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from random import Random

import apsw
import trio

from gateway.clock import SystemClock
from gateway.settings.schema import Retention as RetentionSettings
from gateway.store import queries
from gateway.store.rows import ONE_DAY
from gateway.store.rows import transaction as transaction_of
from gateway.store.sqlite import SqliteStore
from gateway.store.store import Batch as TerminalBatch
from gateway.store.store import (
    Criteria,
    MarkManyDelivered,
    Operation,
    PutBatch,
    Settle,
    State,
    Transaction,
)
from gateway.telemetry.events import Event
from gateway.transactions.retention import Retention
from gateway.wire.message import Kind

_IMAGE, _ANSWER = os.urandom(260), os.urandom(180)  # sealed: neither compresses
_DAY_MS = 86_400_000
_AT_ONCE = 400
_LOOKED_AT = 1_000
_ROUNDS = 5


def _emit(event: Event, /, **fields: object) -> None:
    sys.stderr.write(f"{event} {fields}\n")


class _Maker:
    """Transactions of many terminals, each in its turn, in order of time."""

    def __init__(self, *, terminals: int, start_ms: int, step_ms: float) -> None:
        self._random = Random(1)
        self._terminals = terminals
        self._start_ms = start_ms
        self._step_ms = step_ms
        self._turn: list[int] = []
        self._stans = [0] * terminals
        self._ids = itertools.count(1)

    def next(self, *, now_ms: int | None = None) -> Transaction:
        if not self._turn:
            self._turn = list(range(self._terminals))
            self._random.shuffle(self._turn)
        terminal = self._turn.pop()
        self._stans[terminal] += 1
        number = next(self._ids)
        created_ms = self._start_ms + int(number * self._step_ms) if now_ms is None else now_ms
        day = time.strftime("%Y%m%d", time.gmtime(created_ms / 1000))
        stan = self._stans[terminal] % 1_000_000
        return Transaction(
            transaction_id=number,
            repeat_key=f"D{day}/T{terminal:07d}/{stan:06d}/120000/purchase/M00000000000001/1",
            content="000000/0001/",
            created_ms=created_ms,
            terminal_id=f"T{terminal:07d}",
            merchant_id="M00000000000001",
            activation=1,
            kind=Kind.PURCHASE,
            mti="0200",
            stan=f"{stan:06d}",
            rrn="",
            amount_minor=100 + number % 9_900,
            currency="156",
            card_masked=f"622848******{number % 10_000:04d}",
            card_token="1:" + "0123456789abcdef" * 2,
            upstream="acquirer-1",
            upstream_stan=number % 999_999 + 1,
            config_version="0123456789ab",
            image=_IMAGE,
            batch=1,
        )


def _settled(transaction: Transaction) -> Settle:
    number = transaction.transaction_id
    return Settle(
        number,
        State.ANSWERED,
        "00",
        "123456",
        _ANSWER,
        transaction.created_ms + 50,
        wipe_image=False,
        rrn=f"{number:012d}",
    )


async def _fill(store: SqliteStore, maker: _Maker, count: int) -> None:
    """Write a history; one in 10,000 approvals was delivered to nobody."""
    done = 0
    while done < count:
        made = [maker.next() for _ in range(min(_AT_ONCE, count - done))]
        async with trio.open_nursery() as nursery:
            for one in made:
                nursery.start_soon(store.intend, one)
        marks = tuple(
            (one.transaction_id, one.created_ms + 60) for one in made if one.transaction_id % 10_000
        )
        operations: list[Operation] = [_settled(one) for one in made]
        await store.commit(*operations, MarkManyDelivered(marks))
        done += len(made)
        if done % 100_000 < _AT_ONCE:
            sys.stderr.write(f"\r{done} of {count} rows")
    sys.stderr.write("\n")


async def _look(store: SqliteStore, count: int, now_ms: int) -> None:
    middle = await store.transaction(count // 2)
    if middle is None:
        return
    when_ms, of = middle.created_ms, middle.terminal_id
    rrn, last_four = f"{count // 2:012d}", middle.card_masked[-4:]
    await store.commit(PutBatch(TerminalBatch(terminal_id=of, number=1, opened_ms=when_ms)))
    await store.commit(
        PutBatch(TerminalBatch(terminal_id=of, number=2, opened_ms=now_ms - _DAY_MS))
    )
    looks: dict[str, Callable[[], Awaitable[object]]] = {
        "transaction": lambda: store.transaction(count // 2),
        "find_repeat": lambda: store.find_repeat(middle.repeat_key),
        "find_by_rrn": lambda: store.find_by_rrn(rrn, 10),
        "follow_ups": lambda: store.follow_ups(count // 2),
        "batch_totals, half of all days": lambda: store.batch_totals(of, 1),
        "batch_totals, a day": lambda: store.batch_totals(of, 2),
        "select newest 20": lambda: store.select(Criteria(), 20),
        "select of terminal, newest 20": lambda: store.select(Criteria(terminal_id=of), 20),
        "select of terminal, all": lambda: store.select(Criteria(terminal_id=of), 100_000),
        "select last four, newest 20": lambda: store.select(Criteria(last_four=last_four), 20),
        "select STAN, an hour": lambda: store.select(
            Criteria(stan="000000", from_ms=when_ms, until_ms=when_ms + 3_600_000), 20
        ),
        "select amount that none has": lambda: store.select(Criteria(amount_minor=1), 20),
        "select given up": lambda: store.select(Criteria(state=State.GIVEN_UP), 20),
        "undelivered, an hour": lambda: store.undelivered(
            since_ms=when_ms, until_ms=when_ms + 3_600_000, limit=100
        ),
        "undelivered, all": lambda: store.undelivered(
            since_ms=0, until_ms=now_ms + _DAY_MS, limit=100_000
        ),
        "count_by_state": store.count_by_state,
        "last_transaction_id": store.last_transaction_id,
    }
    for name, look in looks.items():
        taken: list[float] = []
        for _ in range(5):
            started_s = time.perf_counter()
            await look()
            taken.append(time.perf_counter() - started_s)
            if taken[-1] > 1:
                break
        print(f"{min(taken) * 1000:10.2f} ms   {name}")


async def _by_size(sizes: list[int], file: Path, terminals: int) -> None:
    """A line of JSON for each size: what a look-up takes in so many rows.

    The first size is a day's transactions, written as the gateway writes them; what comes after are
    copies of that day, a day later each.
    """
    day = sizes[0]
    days = sizes[-1] // day
    start_ms = (time.time_ns() // 1_000_000 // _DAY_MS - days - 1) * _DAY_MS
    maker = _Maker(terminals=terminals, start_ms=start_ms, step_ms=(_DAY_MS - 1) / day)
    rows = 0
    for size in sizes:
        began_s = time.perf_counter()
        if rows:
            copied = partial(_copy_days, file, day, range(rows // day, size // day))
            await trio.to_thread.run_sync(copied)
        store = await _opened(file)
        if not rows:
            await _fill(store, maker, size)
        seconds = time.perf_counter() - began_s
        rows = size
        line = {
            "rows": rows,
            "filled_s": round(seconds, 1),
            "bytes_a_row": round(_size(file) / rows),
            "look_up_us": await trio.to_thread.run_sync(_look_ups, file, rows),
        }
        print(json.dumps(line), flush=True)
        await store.aclose()


def _copy_days(file: Path, day: int, days: range) -> None:
    """Write the first day's transactions again for other days, at SQLite's own speed."""
    connection = apsw.Connection(str(file))
    connection.pragma("synchronous", "off")  # a history that is lost is made again
    for number in days:
        at = {
            "day": day,
            "id": number * day,
            "ms": number * _DAY_MS,
            "terminal_day": number * ONE_DAY,
        }
        with connection:
            connection.execute(_COPY_TRANSACTIONS, at)
            connection.execute(_COPY_OUTCOMES, at)
        if number % 10 == 0:
            sys.stderr.write(f"\r{(number + 1) * day} rows")
    connection.close()


_COPY_TRANSACTIONS = """
INSERT INTO transactions (transaction_id, repeat_key, created_ms, upstream, upstream_stan, facts,
    image, terminal_day)
SELECT transaction_id + :id,
    'D' || strftime('%Y%m%d', (created_ms + :ms) / 1000, 'unixepoch') || substr(repeat_key, 10),
    created_ms + :ms, upstream, upstream_stan, facts, image, terminal_day + :terminal_day
FROM transactions WHERE transaction_id <= :day
"""
_COPY_OUTCOMES = """
INSERT INTO outcomes (transaction_id, state, response_code, approval_code, answer, answered_ms,
    delivered_ms, rrn)
SELECT transaction_id + :id, state, response_code, approval_code, answer, answered_ms + :ms,
    delivered_ms + :ms, printf('%012d', transaction_id + :id)
FROM outcomes WHERE transaction_id <= :day
"""


def _look_ups(file: Path, rows: int) -> dict[str, float]:
    """Microseconds of this thread's processor for each look-up that a transaction may wait for.

    Of rows here and there, the best of some rounds. The gateway looks up in a worker thread; the
    way there and back is not counted: it is the same for every size, and many times as long.
    """
    connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    ids = [Random(rows).randint(1, rows) for _ in range(_LOOKED_AT)]
    by_id = queries.SELECT_TRANSACTIONS + "WHERE t.transaction_id = ?"
    by_key = queries.SELECT_TRANSACTIONS + "WHERE t.repeat_key = ?"
    keys = [connection.execute(by_id, (number,)).fetchall()[0][1] for number in ids]
    looks: dict[str, tuple[str, list[tuple[object, ...]]]] = {
        "by id": (by_id, [(number,) for number in ids]),
        "find a repeat": (by_key, [(key,) for key in keys]),
        "find no repeat": (by_key, [(f"{key}-",) for key in keys]),
        "find an original by RRN": (queries.BY_RRN, [(f"{number:012d}", 10) for number in ids]),
        "what follows an original": (queries.FOLLOW_UPS, [(number,) for number in ids]),
    }
    taken: dict[str, float] = {}
    for name, (statement, arguments) in looks.items():
        rounds = []
        for _ in range(_ROUNDS):
            began_s = time.thread_time()
            for values in arguments:
                for row in connection.execute(statement, values).fetchall():
                    transaction_of(row)
            rounds.append((time.thread_time() - began_s) / len(arguments) * 1e6)
        taken[name] = round(min(rounds), 2)
    connection.close()
    return taken


class _Payments:
    """Payments at a steady rate, whatever the last ones took; how long their commits took."""

    def __init__(self, store: SqliteStore, maker: _Maker, *, rate: float) -> None:
        self._store = store
        self._maker = maker
        self._rate = rate
        self.waits_s: list[float] = []

    async def run(self) -> None:
        started_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in itertools.count():
                await trio.sleep_until(started_s + number / self._rate)
                nursery.start_soon(self._pay)

    async def _pay(self) -> None:
        one = self._maker.next(now_ms=time.time_ns() // 1_000_000)
        began_s = time.perf_counter()
        await self._store.intend(one)
        middle_s = time.perf_counter()
        self.waits_s.append(middle_s - began_s)
        await self._store.commit(_settled(one))
        self.waits_s.append(time.perf_counter() - middle_s)

    def say(self, what: str, commits_s: list[float]) -> None:
        waits, self.waits_s = self.waits_s, []
        print(f"{what}: {len(waits) // 2} payments; ms of a wait: {_shown(waits)}")
        print(f"{'':{len(what)}}  ms of a commit: {_shown(commits_s)}")
        commits_s.clear()


def _shown(values: list[float]) -> str:
    ordered = sorted(values)
    parts = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 0.999999}
    return " ".join(f"{n} {ordered[int(len(ordered) * p)] * 1000:.2f}" for n, p in parts.items())


async def _purge(
    store: SqliteStore, maker: _Maker, commits_s: list[float], args: argparse.Namespace
) -> None:
    payments = _Payments(store, maker, rate=args.rate)
    retention = Retention(
        store=store,
        settings=RetentionSettings(
            transactions_days=1, step_rows=args.step_rows, pause_ms=args.pause_ms
        ),
        folder=args.folder / "archive",
        grace_s=60,
        clock=SystemClock(),
        emit=_emit,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(payments.run)
        await trio.sleep(1)
        commits_s.clear()
        payments.waits_s.clear()
        cpu_s = time.process_time()
        await trio.sleep(args.seconds)
        beside = (time.process_time() - cpu_s) / args.seconds
        payments.say("without a purge", commits_s)
        started_s, cpu_s = time.perf_counter(), time.process_time()
        done = await retention.once()
        took_s = time.perf_counter() - started_s
        cpu_us = (time.process_time() - cpu_s - beside * took_s) / done.deleted * 1e6
        payments.say("with a purge   ", commits_s)
        print(
            f"archived {done.archived}, deleted {done.deleted}, kept {done.kept} in {took_s:.1f} s"
            f" ({done.deleted / took_s:.0f} a second); CPU {cpu_us:.0f} us a transaction"
        )
        nursery.cancel_scope.cancel()


async def _opened(
    file: Path, on_commit: Callable[[float, int], None] = lambda _seconds, _operations: None
) -> SqliteStore:
    return await SqliteStore.open(
        file, queue_max=100_000, batch_max=512, emit=_emit, on_commit=on_commit
    )


def _size(file: Path) -> int:
    return sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))


async def _run(args: argparse.Namespace) -> None:
    file = args.folder / "history.db"
    if args.sizes:
        await _by_size(args.sizes, file, args.terminals)
        return
    commits_s: list[float] = []
    store = await _opened(file, lambda seconds, _: commits_s.append(seconds))
    now_ms = time.time_ns() // 1_000_000
    start_ms = now_ms - (args.days + 2) * _DAY_MS
    maker = _Maker(
        terminals=args.terminals, start_ms=start_ms, step_ms=args.days * _DAY_MS / args.rows
    )
    began_s = time.perf_counter()
    await _fill(store, maker, args.rows)
    print(
        f"{args.rows} transactions in {time.perf_counter() - began_s:.0f} s,"
        f" {_size(file) / args.rows:.0f} bytes each"
    )
    if args.look:
        await _look(store, args.rows, now_ms)
    if args.purge:
        await _purge(store, maker, commits_s, args)
    await store.aclose()


def _numbers(text: str) -> list[int]:
    """Ascending multiples of the first; argparse tells of the ValueError."""
    numbers = [int(part) for part in text.split(",")]
    if numbers[0] < 1 or numbers != sorted(set(numbers)) or any(n % numbers[0] for n in numbers):
        raise ValueError("not ascending multiples of the first")
    return numbers


def main() -> None:
    """Run the benchmark; its options are in `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--terminals", type=int, default=20_000)
    parser.add_argument("--days", type=float, default=2.0, help="that the history is spread over")
    parser.add_argument(
        "--sizes",
        type=_numbers,
        default=[],
        help="rows, as in 1000,10000: time look-ups at each of these sizes, and print JSON",
    )
    parser.add_argument("--look", action="store_true", help="time look-ups")
    parser.add_argument(
        "--purge", action="store_true", help="archive and delete it beside payments"
    )
    parser.add_argument("--rate", type=float, default=300.0, help="payments a second beside it")
    parser.add_argument("--seconds", type=float, default=10.0, help="of payments without a purge")
    parser.add_argument("--step-rows", type=int, default=250)
    parser.add_argument("--pause-ms", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where the store is made (default: temporary)")
    args = parser.parse_args()
    sys.setswitchinterval(0.0005)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        args.folder = Path(folder)
        trio.run(_run, args)


if __name__ == "__main__":
    main()
