"""TCP sockets as trio streams, with no more scheduler rounds than the data needs."""

from __future__ import annotations

import errno
import socket
import struct

import trio

from gateway.wire.turns import Turns

_RECEIVE_BYTES = 65_536
# The kernel doubles it. By itself it would hold megabytes for each peer that does not read.
_SEND_BYTES = 131_072
_TCP_ESTABLISHED = 1


class TcpStream(trio.abc.Stream):
    """A connected, non-blocking TCP socket.

    Cheaper than `trio.SocketStream`: a send that the kernel takes whole does not go through the
    scheduler, and a receive goes through it once.
    """

    __slots__ = ("_sock", "turns")

    def __init__(self, sock: socket.socket, *, turns: Turns | None = None) -> None:
        """With `turns`, thousands that are lost in one moment end a few at a time."""
        sock.setblocking(False)
        self._sock = sock
        self.turns = turns

    @property
    def established(self) -> bool:
        """Whether the peer has neither closed its side nor reset the connection."""
        try:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        except OSError:
            return False  # closed here
        return info[0] == _TCP_ESTABLISHED

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        sock = self._sock
        try:
            sent = self._send(data)
            if sent == len(data):
                return
            with memoryview(data) as view:
                while sent < len(view):
                    await trio.lowlevel.wait_writable(sock)
                    sent += self._send(view[sent:])
        except OSError as error:
            raise _translated(error) from error

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    async def wait_send_all_might_not_block(self) -> None:
        try:
            await trio.lowlevel.wait_writable(self._sock)
        except OSError as error:
            raise _translated(error) from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        sock = self._sock
        descriptor = sock.fileno()
        if descriptor < 0:
            # trio would wait for the descriptor -1, and fail for everybody who does that later.
            raise trio.ClosedResourceError("this connection was closed here")
        try:
            while True:
                # Waited for first: who has just been answered has seldom asked again already, and
                # a try that finds nothing costs more than the wait. It also gives others a turn.
                await trio.lowlevel.wait_readable(descriptor)
                try:
                    data = sock.recv(max_bytes or _RECEIVE_BYTES)
                except BlockingIOError:
                    continue  # Woken for nothing.
                if not data and self.turns is not None:
                    await self.turns.end()
                return data
        except OSError as error:
            if self.turns is not None:
                await self.turns.end()
            raise _translated(error) from error

    def abort(self) -> None:
        """Close at once; what is unsent is dropped and the peer sees a reset."""
        if self._sock.fileno() >= 0:
            linger_off = struct.pack("ii", 1, 0)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_off)
        self.close()

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


def _translated(error: OSError) -> Exception:
    """The exception that trio's stream contract promises for an error of the socket."""
    if isinstance(error, trio.ClosedResourceError) or error.errno == errno.EBADF:
        return trio.ClosedResourceError("this connection was closed here")
    return trio.BrokenResourceError(error.strerror or str(error))


def tune(sock: socket.socket, *, user_timeout_s: float, keepalive_idle_s: int) -> None:
    """Set what finds dead peers: keepalive for idle ones, TCP_USER_TIMEOUT for unsent data."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, keepalive_idle_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, keepalive_idle_s // 6))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(user_timeout_s * 1000))


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as host and port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def listening_socket(address: str, *, backlog: int, reuse_port: bool) -> socket.socket:
    """A non-blocking listening socket; raises OSError where the address cannot be had."""
    host, port = split_address(address)
    family, kind, protocol, _, where = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(where)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


async def connect(address: str) -> socket.socket:
    """A connected, non-blocking socket; raises OSError. The caller sets the time limit."""
    host, port = split_address(address)
    stream = await trio.open_tcp_stream(host, port)
    inner = stream.socket
    # The descriptor changes hands: trio's own wrapper must not close it.
    return socket.socket(inner.family, inner.type, inner.proto, fileno=inner.detach())
