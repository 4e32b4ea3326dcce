"""What tests of the store share: records to write, and a writer that can be held up."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import trio

from gateway.store.sqlite import SqliteStore
from gateway.store.store import Device, DeviceState, Settle, State, Transaction
from gateway.telemetry.events import Event
from gateway.wire.message import Kind


class Emitted(list[tuple[Event, dict[str, object]]]):
    """An `Emit` that remembers."""

    def __call__(self, event: Event, /, **fields: object) -> None:
        self.append((event, fields))

    def names(self) -> list[Event]:
        return [event for event, _ in self]


def a_transaction(number: int, **changes: Any) -> Transaction:
    values: dict[str, Any] = {
        "transaction_id": number,
        "repeat_key": f"D20260101/T{number % 7:07d}/{number:06d}/120000/purchase/M1/1",
        "content": "000000//",
        "created_ms": 1_700_000_000_000 + number,
        "terminal_id": f"T{number % 7:07d}",
        "merchant_id": "M00000000000001",
        "activation": 1,
        "kind": Kind.PURCHASE,
        "mti": "0200",
        "stan": f"{number:06d}",
        "rrn": f"{number:012d}",
        "amount_minor": 1_000 + number,
        "currency": "156",
        "card_masked": "622848******1234",
        "card_token": "1:00112233445566778899aabbccddeeff",
        "upstream": "one",
        "upstream_stan": number,
        "config_version": "abc",
        "image": b"sealed %d" % number,
        **changes,
    }
    return Transaction(**values)


def settled(number: int, *, state: State = State.ANSWERED, wipe: bool = False) -> Settle:
    return Settle(number, state, "00", "123456", b"answer %d" % number, 5_000 + number, wipe)


def a_device(number: int, **changes: Any) -> Device:
    values: dict[str, Any] = {
        "device_id": number,
        "terminal_id": f"T{number:07d}",
        "merchant_id": "M1",
        "activation": 2,
        "state": DeviceState.ACTIVE,
        "profile": "retail",
        "certificate_sha256": "ab" * 32,
        "serial": "S-1",
        "model": 'a "quoted" model',
        "place": "Köln 北京",
        "networks": "10.0.0.0/8 ::1/128",
        "enrolled_ms": 7,
        "last_seen_ms": 8,
        **changes,
    }
    return Device(**values)


@asynccontextmanager
async def opened(path: Path, **changes: Any) -> AsyncIterator[SqliteStore]:
    """An open store, closed at the end."""
    settings: dict[str, Any] = {
        "queue_max": 10_000,
        "batch_max": 256,
        "emit": Emitted(),
        **changes,
    }
    store = await SqliteStore.open(path, **settings)
    try:
        yield store
    finally:
        await store.aclose()


class Disk:
    """Stands between the writer and SQLite: holds its statements up, or makes them fail."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._open = threading.Event()
        self._open.set()
        self._reached = threading.Event()
        self.error: Exception | None = None
        self.sizes: list[int] = []  # values bound to each INSERT

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, values: Any = None) -> Any:
        if not self._open.is_set():
            self._reached.set()
            self._open.wait()
        if self.error is not None:
            raise self.error
        if statement.startswith("INSERT INTO operations"):
            self.sizes.append(len(values))
        return self._connection.execute(statement, values)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nothing is written within; what is queued meanwhile becomes one batch after it."""
        self._reached.clear()
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    async def taken(self) -> None:
        """Wait until the writer has taken what was queued, and is held up with it."""
        await trio.to_thread.run_sync(self._reached.wait)


def disk_of(store: SqliteStore) -> Disk:
    """A `Disk` put under an open store."""
    disk = Disk(store._writer._connection)
    store._writer._connection = disk  # type: ignore[assignment]
    return disk


def io_error(code: int) -> apsw.IOError:
    """What apsw raises for an extended result code of SQLite."""
    error = apsw.IOError("disk I/O error")
    error.extendedresult = code  # type: ignore[attr-defined]
    return error
