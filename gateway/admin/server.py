"""The admin API over HTTP on a Unix socket, inside the daemon's nursery."""

from __future__ import annotations

import errno
import os
import socket
import stat
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, cast

import orjson
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.admin.access import NOT_KNOWN, Caller, Peer, group_id, peer_of
from gateway.admin.api import BODY_BYTES_MAX, AdminApi, BadArguments
from gateway.admin.guard import ApprovalWanted, NotAllowed
from gateway.errors import NoSuchThing, OperatorError, StoreError
from gateway.telemetry.audit_files import AuditFailed
from gateway.telemetry.events import Event

REQUESTS_MAX = 8  # under way at a time; more wait
READ_TIMEOUT_S = 600  # for the next byte of a request, and for the answer: an import takes long
SOCKET_MODE, SOCKET_MODE_GROUP = 0o600, 0o660
CONNECTIONS_MAX = 64
PEER = "gateway.peer"  # in the scope of a request
SOCKET_PATH_BYTES_MAX = 107  # sun_path of Linux, without its final NUL

JSON, LINES = "application/json", "application/x-ndjson"


async def serve_admin(
    api: AdminApi,
    socket_path: Path,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the API until cancelled; started once the socket takes connections.

    The socket can be opened by the gateway's own user, and the group that the API names. Raises
    OperatorError where another daemon answers there already, or where the path cannot be a
    socket's.
    """
    listener, inode = _listen(socket_path, api.group)
    config = Config()
    config.accesslog = config.errorlog = None
    config.include_server_header = False
    config.read_timeout = READ_TIMEOUT_S
    config.max_app_queue_size = REQUESTS_MAX
    door = _Door(build_app(api), config)
    try:
        async with trio.open_nursery() as nursery:
            listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
            await nursery.start(partial(trio.serve_listeners, door.serve, [listening]))
            task_status.started()
    finally:
        listener.close()
        _remove(socket_path, inode)


class _Door:
    """Hands each connection to hypercorn, with what the kernel says of who opened it.

    Through `hypercorn.trio.serve` that could not be asked: an application never sees its socket.
    """

    def __init__(self, app: Starlette, config: Config) -> None:
        self._app = app
        self._config = config
        self._context = WorkerContext(None)
        self._open = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        if self._open >= CONNECTIONS_MAX:
            await stream.aclose()
            return
        self._open += 1
        try:
            app = cast("ASGIFramework", partial(self._known, _peer(stream)))
            state = ConnectionState({})
            await TCPServer(
                ASGIWrapper(app),
                self._config,
                self._context,
                state,
                stream,  # type: ignore[arg-type]  # it takes both kinds of stream
            ).run()
        finally:
            self._open -= 1

    async def _known(self, peer: Peer, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, PEER: peer}, receive, send)


def _peer(stream: trio.SocketStream) -> Peer:
    try:
        return peer_of(cast("socket.socket", stream.socket))
    except OSError:
        return NOT_KNOWN


def build_app(api: AdminApi) -> Starlette:
    """The API as an ASGI application."""
    limiter = trio.CapacityLimiter(REQUESTS_MAX)

    async def status(request: Request) -> Response:
        try:
            await api.desk.look(await _caller(api, request), "status")
            return _json(200, api.status())
        except Exception as error:
            return _failure(error, api, "status")

    async def not_there(_: Request, error: Exception) -> Response:
        code = error.status_code if isinstance(error, HTTPException) else 500
        text = error.detail if isinstance(error, HTTPException) else "the daemon failed"
        return _json(code, {"error": text})

    return Starlette(
        routes=[
            Route("/v1/status", status),
            Route("/v1/{group}/{operation}", _Orders(api, limiter), methods=["POST"]),
        ],
        exception_handlers={HTTPException: not_there},
    )


class _Orders:
    """Runs operations; one that reports progress is answered line by line."""

    def __init__(self, api: AdminApi, limiter: trio.CapacityLimiter) -> None:
        self._api = api
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        group: str = request.path_params["group"]
        name: str = request.path_params["operation"]
        answer = _Answer(scope, receive, send)
        async with self._limiter:
            try:
                caller = await _caller(self._api, request)
                arguments = await _arguments(request)
                await answer.run(partial(self._api.desk.run, caller, group, name, arguments))
            except ClientDisconnect:
                return
            except Exception as error:
                await answer.end(_failure(error, self._api, f"{group}/{name}"))


async def _caller(api: AdminApi, request: Request) -> Caller:
    peer: Peer = request.scope.get(PEER, NOT_KNOWN)
    return await trio.to_thread.run_sync(api.callers, peer)


class _Answer:
    """One answer: plain where it is short, in lines once there is progress to tell."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._in_lines = False

    async def run(self, operation: Callable[..., Awaitable[Mapping[str, Any]]]) -> None:
        """Run the operation, tell its progress and its result; raises what it raises."""
        news, heard = trio.open_memory_channel[tuple[int, int]](1)
        results: list[Mapping[str, Any]] = []
        errors: list[Exception] = []

        def progress(done: int, total: int) -> None:
            try:
                news.send_nowait((done, total))
            except trio.WouldBlock:
                return  # Who reads slowly sees fewer steps; the work does not wait for it.

        async def work() -> None:
            async with news:
                try:
                    results.append(await operation(progress=progress))
                except Exception as error:
                    errors.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            async for done, total in heard:
                await self._line({"done": done, "total": total})
        if errors:
            raise errors[0]
        await self.end(_json(200, results[0]))

    async def end(self, response: Response) -> None:
        """Send the response; as a last line, with its status in it, where lines were sent."""
        if not self._in_lines:
            await response(self._scope, self._receive, self._send)
            return
        last = {"status": response.status_code, "result": orjson.Fragment(response.body)}
        await self._send(
            {"type": "http.response.body", "body": orjson.dumps(last) + b"\n", "more_body": False}
        )

    async def _line(self, value: Mapping[str, Any]) -> None:
        if not self._in_lines:
            self._in_lines = True
            headers = [(b"content-type", LINES.encode())]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send(
            {"type": "http.response.body", "body": orjson.dumps(value) + b"\n", "more_body": True}
        )


async def _arguments(request: Request) -> dict[str, Any]:
    body = bytearray()
    async with aclosing(request.stream()) as parts:
        async for part in parts:
            body += part
            if len(body) > BODY_BYTES_MAX:
                raise BadArguments(f"the request is larger than {BODY_BYTES_MAX} bytes")
    try:
        arguments = orjson.loads(bytes(body) or b"{}")
    except orjson.JSONDecodeError as error:
        raise BadArguments(f"no JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(arguments, dict):
        raise BadArguments("the arguments are not a JSON object")
    return arguments


def _failure(error: Exception, api: AdminApi, operation: str) -> Response:
    """What an operator is told; faults of ours are told to the log, without their text."""
    match error:
        case BadArguments():
            return _json(400, {"error": str(error)})
        case NoSuchThing():
            return _json(404, {"error": str(error)})
        case NotAllowed():
            return _json(403, {"error": str(error)})
        case ApprovalWanted():
            return _json(202, {"error": str(error)})
        case AuditFailed():
            return _json(503, {"error": f"not done, since it could not be written down: {error}"})
        case OperatorError():
            return _json(409, {"error": str(error)})
        case StoreError():
            return _json(503, {"error": f"the store failed: {error}"})
    api.emit(
        Event.ADMIN_FAILED,
        operation=operation,
        error=type(error).__name__,
        where=_where(error),
    )
    return _json(500, {"error": "the daemon failed at this: admin_failed in its log says where"})


def _where(error: Exception) -> str:
    """File and line that raised: enough to find the fault, and no value of anybody's."""
    frames = traceback.extract_tb(error.__traceback__)
    # Our own last line says more than a library's.
    ours = [frame for frame in frames if "site-packages" not in Path(frame.filename).parts]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _json(status: int, value: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type=JSON)


# --- the socket -------------------------------------------------------------------------------


def _listen(path: Path, group: str | None) -> tuple[socket.socket, int]:
    """A listening socket that its owner, and the group, may open, and the inode of its file."""
    if len(str(path).encode()) > SOCKET_PATH_BYTES_MAX:
        raise OperatorError(
            f"node.admin_socket: {path} is longer than the {SOCKET_PATH_BYTES_MAX} bytes that a "
            "socket's path may have: choose a shorter one"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        # Nobody can connect before `listen`, so nobody connects under other permissions.
        if group is not None:
            os.chown(path, -1, group_id(group))
        path.chmod(SOCKET_MODE if group is None else SOCKET_MODE_GROUP)
        listener.listen(REQUESTS_MAX)
    except OSError as error:
        listener.close()
        raise OperatorError(f"node.admin_socket: {path}: {error.strerror}") from None
    return listener, path.stat().st_ino


def _remove(path: Path, inode: int) -> None:
    """Remove our own socket's file, and not that of a daemon which took its place."""
    try:
        if path.stat().st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        return


def _remove_stale(path: Path) -> None:
    """Remove what a daemon that was killed left behind, and nothing else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OperatorError(f"node.admin_socket: {path} is there and is no socket: remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        answer = probe.connect_ex(str(path))
    if answer != errno.ECONNREFUSED:
        raise OperatorError(f"a gateway is running already: one answers at {path}")
    path.unlink()
