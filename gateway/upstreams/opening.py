"""How a link gets its connection: by calling the acquirer, or by waiting for its call."""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import ip_address, ip_network

import trio

from gateway.settings.schema_upstreams import ClientTls
from gateway.settings.schema_upstreams import Upstream as UpstreamSettings
from gateway.telemetry.events import Emit, Event
from gateway.wire.stream import TcpStream, connect, listening_socket, tune
from gateway.wire.tls import handshake_reason, names_of

Open = Callable[[], Awaitable[trio.abc.Stream]]

_BACKLOG = 16
_ACCEPT_RETRY_S = 0.1  # no descriptor is left


class Caller:
    """Calls an upstream's addresses."""

    def __init__(
        self, settings: UpstreamSettings, tls: Callable[[], ssl.SSLContext | None]
    ) -> None:
        self._settings = settings
        self._tls = tls

    def at(self, address: str) -> Open:
        """What opens a connection to this address. Raises OSError or trio's stream errors."""
        return partial(self._call, address)

    async def _call(self, address: str) -> trio.abc.Stream:
        sock = await connect(address)
        tune(
            sock,
            user_timeout_s=self._settings.user_timeout_s,
            keepalive_idle_s=self._settings.keepalive_idle_s,
        )
        stream = TcpStream(sock)
        tls = self._settings.tls
        context = self._tls()
        if context is None or tls is None:
            return stream
        return await _secured(stream, context, tls, server_side=False)


class CallsTaken:
    """Takes the calls of an acquirer, and hands each to a link that waits for one.

    A call that no link waits for is ended: there are as many links as `upstreams.links` says.
    """

    def __init__(
        self, means: Callable[[], tuple[UpstreamSettings, ssl.SSLContext | None]], *, emit: Emit
    ) -> None:
        """`means` gives the present settings, and how TLS is done, for each call."""
        settings, _ = means()
        self.address = settings.listen or ""
        self._name = settings.name
        self._means = means
        self._emit = emit
        self._taken, self._to_take = trio.open_memory_channel[trio.abc.Stream](0)
        self._handshakes = trio.CapacityLimiter(settings.links * 2)

    async def wait(self) -> trio.abc.Stream:
        """The connection of the next call."""
        return await self._to_take.receive()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take calls until cancelled; started once it listens. Raises OSError."""
        listening = listening_socket(self.address, backlog=_BACKLOG, reuse_port=False)
        host, port = listening.getsockname()[:2]
        self.address = f"{host}:{port}"
        with listening:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    await trio.lowlevel.wait_readable(listening)
                    try:
                        sock, peer = listening.accept()
                    except BlockingIOError:
                        continue
                    except OSError as error:
                        self._refused(self.address, error.strerror or "cannot accept")
                        await trio.sleep(_ACCEPT_RETRY_S)
                        continue
                    nursery.start_soon(self._take, sock, str(peer[0]))

    async def _take(self, sock: socket.socket, host: str) -> None:
        stream = TcpStream(sock)
        settings, context = self._means()
        try:
            tune(
                sock,
                user_timeout_s=settings.user_timeout_s,
                keepalive_idle_s=settings.keepalive_idle_s,
            )
            reason = await self._handed_over(stream, host, settings, context)
        except (OSError, trio.BrokenResourceError) as error:
            reason = handshake_reason(error)
        if reason:
            self._refused(host, reason)
            await trio.aclose_forcefully(stream)

    async def _handed_over(
        self,
        stream: trio.abc.Stream,
        host: str,
        settings: UpstreamSettings,
        context: ssl.SSLContext | None,
    ) -> str:
        """Why the call was not given to a link; nothing if it was."""
        networks = [ip_network(text) for text in settings.callers]
        if networks and not any(ip_address(host) in one for one in networks):
            return "calls from outside its networks"
        if self._handshakes.available_tokens < 1:
            return "too many calls at once"
        if context is not None and settings.tls is not None:
            async with self._handshakes:
                with trio.move_on_after(settings.connect_s) as limit:
                    stream = await _secured(stream, context, settings.tls, server_side=True)
            if limit.cancelled_caught:
                return "no handshake in time"
        try:
            self._taken.send_nowait(stream)
        except trio.WouldBlock:
            return "every link has a connection already"
        return ""

    def _refused(self, host: str, reason: str) -> None:
        self._emit(Event.LINK_FAILED, link=f"{self._name}/{host}", reason=reason)


async def _secured(
    stream: trio.abc.Stream, context: ssl.SSLContext, settings: ClientTls, *, server_side: bool
) -> trio.abc.Stream:
    """The stream under TLS, with the acquirer's certificate looked at.

    Raises OSError or trio.BrokenResourceError; the stream under it is closed then.
    """
    secured = trio.SSLStream(
        stream,
        context,
        server_hostname=None if server_side else settings.server_name,
        server_side=server_side,
    )
    try:
        await secured.do_handshake()
        _look_at(secured.getpeercert(binary_form=True) or b"", settings, server_side=server_side)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secured


def _look_at(certificate: bytes, settings: ClientTls, *, server_side: bool) -> None:
    """What OpenSSL does not look at; raises OSError."""
    # Where we call, OpenSSL has held the name against the certificate.
    if server_side and settings.server_name not in names_of(certificate):
        raise OSError(f"its certificate is not one of {settings.server_name}")
    found = hashlib.sha256(certificate).hexdigest()
    if settings.pins_sha256 and found not in {pin.lower() for pin in settings.pins_sha256}:
        raise OSError("its certificate is none of pins_sha256")
