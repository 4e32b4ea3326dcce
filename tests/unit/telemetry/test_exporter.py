"""The endpoint answers a scraper, survives nonsense, and stops when it is cancelled."""

import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import hypercorn.trio
import pytest
import trio
import trio.testing
from hypercorn.config import Config
from prometheus_client.parser import text_string_to_metric_families

from gateway.errors import OperatorError
from gateway.telemetry import exporter
from gateway.telemetry.events import Event
from gateway.telemetry.exporter import serve_metrics
from gateway.telemetry.metrics import Metrics

SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = SCRAPE[:-2] + b"Connection: Upgrade, HTTP2-Settings\r\n"
WEBSOCKET = (
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)


def ignore(event: Event, /, **fields: object) -> None:
    pass


class Endpoint:
    def __init__(self, address: str, events: list[Event]) -> None:
        host, _, port = address.rpartition(":")
        self.host, self.port = host.strip("[]"), int(port)
        self.events = events

    async def ask(self, request: bytes) -> bytes:
        """All that comes back until the connection is closed."""
        async with await trio.open_tcp_stream(self.host, self.port) as stream:
            await stream.send_all(request)
            answer = bytearray()
            try:
                async for data in stream:
                    answer += data
            except trio.BrokenResourceError:
                pass
            return bytes(answer)


@asynccontextmanager
async def endpoint(
    metrics: Metrics | None = None, address: str = "127.0.0.1:0"
) -> AsyncIterator[Endpoint]:
    events: list[Event] = []

    def emit(event: Event, /, **fields: object) -> None:
        events.append(event)

    async def serve(task_status: trio.TaskStatus[str]) -> None:
        await serve_metrics(metrics or Metrics(), address, emit=emit, task_status=task_status)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            bound = await nursery.start(serve)
            yield Endpoint(bound, events)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0"])
async def test_a_scrape(address: str) -> None:
    metrics = Metrics()
    metrics.refused("amount")
    async with endpoint(metrics, address) as server:
        head, _, body = (await server.ask(SCRAPE)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"content-type: text/plain; version=" in head.lower()
    assert b"connection: close" in head.lower()
    assert b"hypercorn" not in head.lower()
    names = {family.name for family in text_string_to_metric_families(body.decode())}
    assert {"gateway_refused", "gateway_transactions", "process_cpu_seconds"} <= names
    assert b'gateway_refused_total{reason="amount"} 1.0' in body


async def test_head_and_what_is_not_there() -> None:
    async with endpoint() as server:
        answer = await server.ask(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"\r\n\r\n")
        answer = await server.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 404")
        answer = await server.ask(b"DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 405")
        answer = await server.ask(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\xff\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
        UPGRADE + b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        UPGRADE + b"Upgrade: h2c\r\nHTTP2-Settings: !!!\r\n\r\n",
        UPGRADE + WEBSOCKET,
        UPGRADE + b"Upgrade: websocket\r\n\r\n",
        b"GET /metr",
        b"",
    ],
)
async def test_nonsense_and_silence_end_the_connection_only(
    request_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "READ_TIMEOUT_S", 0.05)
    async with endpoint() as server:
        await server.ask(request_bytes)
        assert (await server.ask(SCRAPE)).startswith(b"HTTP/1.1 200")
    assert server.events == []


async def test_a_server_that_fails_is_told_and_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serve = hypercorn.trio.serve
    failed = trio.Event()

    async def fail_first(application: Any, config: Config, **options: Any) -> None:
        if failed.is_set():
            await serve(application, config, **options)
        socket.socket(fileno=int(config.bind[0].removeprefix("fd://"))).close()
        failed.set()
        raise ExceptionGroup("", [ValueError("what a scraper sent")])

    monkeypatch.setattr(hypercorn.trio, "serve", fail_first)
    monkeypatch.setattr(exporter, "RESTART_S", 0)
    async with endpoint() as server:
        await failed.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert (await server.ask(SCRAPE)).startswith(b"HTTP/1.1 200")
    assert server.events == [Event.HANDLER_FAILED]


async def test_it_stops_at_once_with_connections_open() -> None:
    async with endpoint() as server:
        silent = await trio.open_tcp_stream(server.host, server.port)
        half = await trio.open_tcp_stream(server.host, server.port)
        await half.send_all(b"GET /metrics HT")
        deaf = await trio.open_tcp_stream(server.host, server.port)
        await deaf.send_all(SCRAPE * 50)
        await trio.lowlevel.wait_readable(deaf.socket)
        started_s = trio.current_time()
    assert trio.current_time() - started_s < 1
    for stream in (silent, half, deaf):
        await stream.aclose()
    with pytest.raises(OSError, match=r".*"):
        await trio.open_tcp_stream(server.host, server.port)


async def test_signals_are_left_alone() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with endpoint() as server:
        await server.ask(SCRAPE)
        during = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        assert during == before


@pytest.mark.parametrize("address", ["0.0.0.0:0", "192.0.2.1:9464", "[::]:0", "example.org:9464"])
async def test_loopback_only(address: str) -> None:
    with pytest.raises(OperatorError, match="loopback address only"):
        await serve_metrics(Metrics(), address, emit=ignore)


async def test_an_address_in_use() -> None:
    async with endpoint() as server:
        with pytest.raises(OSError, match="in use"):
            await serve_metrics(Metrics(), f"127.0.0.1:{server.port}", emit=ignore)
