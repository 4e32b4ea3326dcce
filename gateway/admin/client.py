"""Asks a running daemon over its Unix socket; plain and synchronous, for commands."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import orjson

from gateway.admin.api import BODY_BYTES_MAX, BadArguments, Progress, Status
from gateway.errors import NoSuchThing, OperatorError

ANSWER_TIMEOUT_S = 30.0  # from one byte of an answer to the next


class DaemonNotRunning(OperatorError):
    """Nobody answers at the daemon's socket."""


class AdminClient:
    """One daemon; every call opens a connection of its own."""

    def __init__(
        self, socket_path: Path, *, config: Path, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        self._socket_path = socket_path
        self._config = config
        self._timeout_s = timeout_s

    def status(self) -> Status:
        """How the daemon does; raises DaemonNotRunning, or OperatorError where it fails to say."""
        return cast("Status", self._ask("GET", "/v1/status", None, None))

    def run(
        self,
        group: str,
        operation: str,
        arguments: Mapping[str, Any],
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """An operation's answer; raises what the daemon refused as the OperatorError it was."""
        return self._ask("POST", f"/v1/{group}/{operation}", arguments, progress)

    def answers(self) -> bool:
        """Whether a daemon is there to be asked; raises OperatorError where we may not."""
        try:
            connection = self._connect()
        except DaemonNotRunning:
            return False
        connection.close()
        return True

    def _ask(
        self,
        method: str,
        path: str,
        arguments: Mapping[str, Any] | None,
        progress: Progress | None,
    ) -> dict[str, Any]:
        body = None if arguments is None else orjson.dumps(arguments)
        if body is not None and len(body) > BODY_BYTES_MAX:
            raise OperatorError(f"more than {BODY_BYTES_MAX >> 20} MiB at once: split the file")
        connection = self._connect()
        try:
            connection.request(method, path, body, {"Connection": "close"})
            with connection.getresponse() as response:  # It holds the socket until it is closed.
                return _read(response, progress)
        except TimeoutError:
            raise OperatorError(
                f"the daemon at {self._socket_path} did not answer within {self._timeout_s:g} s"
            ) from None
        except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as error:
            raise OperatorError(
                f"the daemon at {self._socket_path} broke off its answer ({type(error).__name__}); "
                "its log says why"
            ) from None
        finally:
            connection.close()

    def _connect(self) -> _UnixConnection:
        connection = _UnixConnection(self._socket_path, self._timeout_s)
        try:
            connection.connect()
        except (FileNotFoundError, NotADirectoryError):
            raise DaemonNotRunning(
                f"the daemon is not running: no socket at {self._socket_path}; "
                f"start it with `gateway run --config {self._config}`"
            ) from None
        except ConnectionRefusedError:
            raise DaemonNotRunning(
                f"the daemon is not running: nobody answers at {self._socket_path}; "
                f"start it with `gateway run --config {self._config}`"
            ) from None
        except PermissionError:
            raise OperatorError(
                f"{self._socket_path} may not be opened: run this as the gateway's own user, or as"
                " one of the group that node.admin_group names"
            ) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise OperatorError(f"{self._socket_path} cannot be opened: {reason}") from None
        return connection


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, socket_path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._socket_path))
        except BaseException:
            self.close()
            raise


def _read(response: http.client.HTTPResponse, progress: Progress | None) -> dict[str, Any]:
    if response.getheader("content-type", "").startswith("application/json"):
        return _result(response.status, orjson.loads(response.read()))
    for line in response:
        value = orjson.loads(line)
        if "status" in value:
            return _result(value["status"], value["result"])
        if progress is not None:
            progress(value["done"], value["total"])
    raise http.client.IncompleteRead(b"")


def _result(status: int, value: dict[str, Any]) -> dict[str, Any]:
    if status == http.client.OK:
        return value
    message = str(value.get("error", f"the daemon answered with status {status}"))
    kinds = {http.client.BAD_REQUEST: BadArguments, http.client.NOT_FOUND: NoSuchThing}
    raise kinds.get(http.HTTPStatus(status), OperatorError)(message)
