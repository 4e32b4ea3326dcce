"""Connection: a simulated terminal's line to its gateway, one question at a time."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from gateway.errors import PeerError
from gateway.wire.message import Message, response_mti
from gateway.wire.stream import TcpStream, connect, tune
from loadtest.addresses import HostPort
from loadtest.wire import MessageReader, Wire

# Opens a stream, TLS included, and tells whether the peer has hung up since. Raises OSError or
# trio.BrokenResourceError.
Dial = Callable[[], Awaitable[tuple[trio.abc.Stream, Callable[[], bool]]]]

_USER_TIMEOUT_S = 30.0
_KEEPALIVE_IDLE_S = 60
_CLOSE_S = 1.0
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, PeerError)


class NoConnection(Exception):
    """Nothing was sent: there is no line to the gateway."""


class NoAnswer(Exception):
    """The request may have been sent; no answer to it came."""


def dialler(target: HostPort, context: ssl.SSLContext | None, *, server_name: str) -> Dial:
    """How a terminal calls its gateway: mutual TLS with its context, or plain TCP without one."""
    return partial(_dial, target, context, server_name)


async def _dial(
    target: HostPort, context: ssl.SSLContext | None, server_name: str
) -> tuple[trio.abc.Stream, Callable[[], bool]]:
    sock = await connect(str(target))
    tune(sock, user_timeout_s=_USER_TIMEOUT_S, keepalive_idle_s=_KEEPALIVE_IDLE_S)
    tcp = TcpStream(sock)

    def alive() -> bool:
        return tcp.established

    if context is None:
        return tcp, alive
    stream = trio.SSLStream(tcp, context, server_hostname=server_name, https_compatible=True)
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(tcp)
        raise
    return stream, alive


class Connection:
    """One line, opened when it is needed and dropped at the first sign of trouble."""

    def __init__(self, *, dial: Dial, wire: Wire, connect_s: float) -> None:
        self._dial = dial
        self._wire = wire
        self._connect_s = connect_s
        self._stream: trio.abc.Stream | None = None
        self._alive: Callable[[], bool] = lambda: False
        self._reader: MessageReader | None = None
        self.opened = 0
        self.strays = 0  # answers to something else: late ones, mostly

    @property
    def is_open(self) -> bool:
        """Whether there is a line and the other side has not hung up."""
        return self._stream is not None and self._alive()

    async def open(self) -> None:
        """Call the gateway; raises NoConnection."""
        await self.drop()
        try:
            with trio.fail_after(self._connect_s):
                self._stream, self._alive = await self._dial()
        except trio.TooSlowError:
            raise NoConnection("no connection in time") from None
        except _GONE as error:
            raise NoConnection(str(error.__cause__ or error)) from None
        self._reader = MessageReader(self._stream, self._wire)
        self.opened += 1

    async def ask(self, request: Message, *, timeout_s: float) -> Message:
        """The answer to a request; raises NoAnswer. After a time-out alone the line is kept."""
        stream, reader = self._stream, self._reader
        if stream is None or reader is None:
            raise NoAnswer("not connected")
        sent = False
        try:
            with trio.fail_after(timeout_s):
                await stream.send_all(self._wire.pack(request))
                sent = True
                while (answer := await reader.next()) is not None:
                    if _answers(answer, request):
                        return answer
                    self.strays += 1
        except trio.TooSlowError:
            if not sent:
                await self.drop()  # a send that was cut short leaves the stream unusable
            raise NoAnswer("no answer in time") from None
        except _GONE as error:
            await self.drop()
            raise NoAnswer(f"connection lost: {error.__cause__ or error}") from None
        await self.drop()
        raise NoAnswer("the gateway hung up")

    async def drop(self) -> None:
        """Hang up without a word."""
        stream, self._stream, self._reader = self._stream, None, None
        if stream is not None:
            await trio.aclose_forcefully(stream)

    async def close(self) -> None:
        """Hang up in an orderly way, within a second."""
        stream, self._stream, self._reader = self._stream, None, None
        if stream is not None:
            with trio.move_on_after(_CLOSE_S):
                await stream.aclose()


def _answers(answer: Message, request: Message) -> bool:
    return answer.mti == response_mti(request.mti) and answer.stan == request.stan
