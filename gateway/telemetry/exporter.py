"""The metrics endpoint: GET /metrics over HTTP on a loopback address."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import hypercorn.trio
import trio
from hypercorn.config import Config
from prometheus_client import CONTENT_TYPE_LATEST

from gateway.errors import OperatorError
from gateway.telemetry.events import Emit, Event
from gateway.telemetry.metrics import Metrics

READ_TIMEOUT_S = 5
STOP_S = 1.0
RESTART_S = 1.0
BACKLOG = 16
REQUEST_BYTES_MAX = 8_192

# What ASGI 3.0 says of an application; hypercorn's own types say the same in more words.
_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_Application = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


async def serve_metrics(
    metrics: Metrics,
    address: str,
    *,
    emit: Emit,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; `task_status` gets the address listened on, with its real port.

    Signals are left alone. Raises OperatorError where the address is not a loopback one, and
    OSError where it cannot be listened on.
    """
    opened = _listen(address)
    host, port = opened.getsockname()[:2]
    bound = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    task_status.started(bound)
    application = _application(metrics)
    listener: socket.socket | None = opened
    while True:
        try:
            await _serve(application, listener or _listen(bound))
        except Exception as error:
            # Nothing that a scraper sends may end the node.
            emit(Event.HANDLER_FAILED, where="metrics", reason=_first_of(error))
        listener = None
        await trio.sleep(RESTART_S)


async def _serve(application: _Application, listener: socket.socket) -> None:
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.backlog = BACKLOG
    config.accesslog = None
    config.errorlog = None
    config.read_timeout = READ_TIMEOUT_S
    config.keep_alive_timeout = READ_TIMEOUT_S
    config.graceful_timeout = STOP_S
    config.h11_max_incomplete_size = REQUEST_BYTES_MAX
    config.include_server_header = False
    await hypercorn.trio.serve(
        application,  # type: ignore[arg-type]
        config,
        shutdown_trigger=trio.sleep_forever,
        mode="asgi",
    )


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise OperatorError(
            f"metrics.listen = {address}: metrics are served on a loopback address only, "
            "such as 127.0.0.1:9464"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, int(port)), family=family, backlog=BACKLOG)
    # A scraper that stops reading is cut off: hypercorn's sends cannot be cancelled.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(READ_TIMEOUT_S * 1000))
    return listener


def _application(metrics: Metrics) -> _Application:
    async def application(scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close"})
        elif scope["path"] != "/metrics":
            await _answer(scope, send, 404, b"Try /metrics.\n")
        elif scope["method"] not in ("GET", "HEAD"):
            await _answer(scope, send, 405, b"GET only.\n", (b"allow", b"GET, HEAD"))
        else:
            body = await _exposition(metrics)
            await _answer(scope, send, 200, body, (b"cache-control", b"no-store"))

    return application


async def _exposition(metrics: Metrics) -> bytes:
    parts = []
    for part in metrics.parts():
        parts.append(part)
        # Transactions go first: a whole exposition at once would hold them up for milliseconds.
        await trio.lowlevel.checkpoint()
    parts.append(await trio.to_thread.run_sync(metrics.process_part))
    return b"".join(parts)


async def _live(receive: _Receive, send: _Send) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})


async def _answer(
    scope: _Scope, send: _Send, status: int, body: bytes, *headers: tuple[bytes, bytes]
) -> None:
    kind = CONTENT_TYPE_LATEST if status == 200 else "text/plain; charset=utf-8"
    shown = [
        (b"content-type", kind.encode()),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    if scope["http_version"] in ("1.0", "1.1"):
        # One request to a connection: a client can pile up no answers that it does not read.
        shown.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": shown})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _first_of(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
