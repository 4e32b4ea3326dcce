"""Control: JSON lines over a Unix socket, by which a running simulator is changed and asked."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

_LINE_BYTES_MAX = 65_536

Handler = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class ControlError(Exception):
    """The simulator refused, or there is none at that socket; the text says why."""


async def serve_control(
    path: Path,
    handler: Handler,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answers each line, an object, with what `handler` makes of it, until cancelled.

    A ValueError of the handler is told to the asker and changes nothing else.
    """
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(_listening(path)))

    async def talk(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await _talk(stream, handler)

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, talk, [listener])
            task_status.started()
    finally:
        _remove(path)


def _listening(path: Path) -> socket.socket:
    _remove(path)  # left by a process that was killed
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.bind(str(path))
    path.chmod(0o600)
    sock.listen(16)
    return sock


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _talk(stream: trio.abc.Stream, handler: Handler) -> None:
    held = b""
    while data := await stream.receive_some(_LINE_BYTES_MAX):
        *lines, held = (held + bytes(data)).split(b"\n")
        if len(held) > _LINE_BYTES_MAX:
            return
        for line in lines:
            await stream.send_all(json.dumps(_answer(line, handler)).encode() + b"\n")


def _answer(line: bytes, handler: Handler) -> dict[str, Any]:
    try:
        asked = json.loads(line)
        if not isinstance(asked, dict):
            raise TypeError("an object is expected")  # noqa: TRY301 # told like the others
        return {"ok": True, **handler(asked)}
    except (ValueError, TypeError) as error:
        return {"ok": False, "error": str(error)}


async def ask(path: Path, request: Mapping[str, Any], *, timeout_s: float = 5.0) -> dict[str, Any]:
    """What the simulator at this socket answers; raises ControlError."""
    try:
        with trio.fail_after(timeout_s):
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(json.dumps(dict(request)).encode() + b"\n")
                held = b""
                while not held.endswith(b"\n"):
                    data = await stream.receive_some(_LINE_BYTES_MAX)
                    if not data:
                        raise ControlError(f"{path}: no answer")
                    held += data
    except trio.TooSlowError:
        raise ControlError(f"{path}: no answer in time") from None
    except (OSError, trio.BrokenResourceError) as error:
        raise ControlError(f"{path}: {error}") from None
    answer: dict[str, Any] = json.loads(held)
    if not answer.pop("ok"):
        raise ControlError(str(answer.get("error")))
    return answer
