"""What a payment costs in the store, and how long a commit takes, beside a loop that is busy."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

import trio

from gateway.store.sqlite import SqliteStore
from gateway.store.store import MarkDelivered, Settle, State, Transaction
from gateway.telemetry.events import Event
from gateway.wire.message import Kind

_IMAGE, _ANSWER = os.urandom(260), os.urandom(180)  # sealed: neither compresses


class _Figures:
    def __init__(self) -> None:
        self.payments = 0
        self.commits = 0
        self.operations = 0
        self.commit_s: list[float] = []
        self.wait_s: list[float] = []

    def on_commit(self, seconds: float, operations: int) -> None:
        self.commits += 1
        self.operations += operations
        self.commit_s.append(seconds)


def _emit(event: Event, /, **fields: object) -> None:
    sys.stderr.write(f"{event} {fields}\n")


def _transaction(number: int, *, terminal: int, stan: int) -> Transaction:
    now_ms = time.time_ns() // 1_000_000
    return Transaction(
        transaction_id=number,
        repeat_key=f"D20260101/T{terminal:07d}/{stan:06d}/120000/purchase/M00000000000001/1",
        content="000000/0001/",
        created_ms=now_ms,
        terminal_id=f"T{terminal:07d}",
        merchant_id="M00000000000001",
        activation=1,
        kind=Kind.PURCHASE,
        mti="0200",
        stan=f"{stan:06d}",
        rrn=f"{number % 10**12:012d}",
        amount_minor=1_000,
        currency="156",
        card_masked="622848******1234",
        card_token="1:" + "0123456789abcdef" * 2,
        upstream="acquirer-1",
        upstream_stan=stan,
        config_version="0123456789ab",
        image=_IMAGE,
    )


def _work(busy_us: float, pair: tuple[socket.socket, socket.socket]) -> None:
    """What the loop does for a payment beside the store: Python, and four calls of the system."""
    until_ns = time.perf_counter_ns() + int(busy_us * 500)
    pair[0].send(b"request")
    pair[1].recv(100)
    while time.perf_counter_ns() < until_ns:
        pass


async def _payer(
    store: SqliteStore | None,
    terminal: int,
    ids: itertools.count[int],
    args: argparse.Namespace,
    figures: _Figures,
    until_s: float,
) -> None:
    pair = socket.socketpair()
    with contextlib.closing(pair[0]), contextlib.closing(pair[1]):
        for stan in itertools.count(1):
            if trio.current_time() >= until_s:
                return
            _work(args.busy_us, pair)
            number = next(ids)
            intent = _transaction(number, terminal=terminal, stan=stan)
            settled = Settle(number, State.ANSWERED, "00", "123456", _ANSWER, 1, wipe_image=False)
            delivered = MarkDelivered(number, 2)
            if store is None:
                await trio.lowlevel.checkpoint()
                _work(args.busy_us, pair)
                await trio.lowlevel.checkpoint()
            else:
                started_s = time.perf_counter()
                await store.intend(intent)
                middle_s = time.perf_counter()
                _work(args.busy_us, pair)
                again_s = time.perf_counter()
                await store.commit(settled)
                figures.wait_s += (middle_s - started_s, time.perf_counter() - again_s)
                store.post(delivered)
            figures.payments += 1


async def _pay(store: SqliteStore | None, args: argparse.Namespace, figures: _Figures) -> None:
    ids = itertools.count(1)
    until_s = trio.current_time() + args.seconds
    async with trio.open_nursery() as nursery:
        for terminal in range(args.payers):
            nursery.start_soon(_payer, store, terminal, ids, args, figures, until_s)


def _percentile(values: list[float], part: float) -> str:
    ordered = sorted(values)
    return f"{ordered[int(len(ordered) * part)] * 1000:.2f}"


async def _run(args: argparse.Namespace, folder: Path) -> None:
    without = _Figures()
    before_s = time.process_time()
    await _pay(None, args, without)
    bare_us = (time.process_time() - before_s) / without.payments * 1e6

    figures = _Figures()
    store = await SqliteStore.open(
        folder / "bench.db",
        queue_max=100_000,
        batch_max=args.batch_max,
        emit=_emit,
        on_commit=figures.on_commit,
    )
    before_s, began_s = time.process_time(), time.perf_counter()
    await _pay(store, args, figures)
    cpu_us = (time.process_time() - before_s) / figures.payments * 1e6
    seconds = time.perf_counter() - began_s
    await store.aclose()
    print(
        f"{figures.payments / seconds:8.0f} payments/s   "
        f"CPU {cpu_us - bare_us:5.1f} us a payment in the store, {bare_us:5.1f} beside it   "
        f"{figures.operations / figures.commits:5.1f} operations to a commit\n"
        f"    ms of a wait: p50 {_percentile(figures.wait_s, 0.5)}"
        f" p99 {_percentile(figures.wait_s, 0.99)} p99.9 {_percentile(figures.wait_s, 0.999)}"
        f" max {_percentile(figures.wait_s, 0.999999)}"
        f"   ms of a commit: p50 {_percentile(figures.commit_s, 0.5)}"
        f" p99 {_percentile(figures.commit_s, 0.99)}"
    )


def main() -> None:
    """Run the benchmark; its options are in `--help`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--payers", type=int, default=100)
    parser.add_argument("--busy-us", type=float, default=50.0, help="the loop's work per payment")
    parser.add_argument("--batch-max", type=int, default=256)
    parser.add_argument("--switch-interval-us", type=float, default=500.0)
    parser.add_argument("--folder", type=Path, help="where the store is made (default: temporary)")
    args = parser.parse_args()
    sys.setswitchinterval(args.switch_interval_us / 1e6)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        trio.run(_run, args, Path(folder))


if __name__ == "__main__":
    main()
