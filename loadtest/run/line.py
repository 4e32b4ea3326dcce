"""Line: a device's connection, which resumes its TLS session and knows how long it took to open."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import trio

from gateway.errors import PeerError
from gateway.wire.message import Message, response_mti
from gateway.wire.stream import TcpStream
from loadtest.addresses import HostPort
from loadtest.connection import NoAnswer, NoConnection
from loadtest.wire import MessageReader, Wire

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, PeerError)
_CLOSE_S = 1.0


@dataclass(frozen=True, slots=True)
class TlsFolder:
    """Where the devices' certificates are: T0000001.crt and .key, and their authority's."""

    folder: Path
    ca: Path
    server_name: str = "localhost"


@cache
def _authority(ca: Path) -> str:
    return ca.read_text(encoding="ascii")


def device_context(tls: TlsFolder, terminal_id: str) -> ssl.SSLContext:
    """A context with a device's certificate; raises OSError where there is none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=_authority(tls.ca))
    context.load_cert_chain(tls.folder / f"{terminal_id}.crt", tls.folder / f"{terminal_id}.key")
    return context


class Line:
    """One connection at a time, and one question at a time on it."""

    def __init__(
        self,
        *,
        target: HostPort,
        wire: Wire,
        terminal_id: str,
        tls: TlsFolder | None,
        resume: bool,
        connect_s: float,
    ) -> None:
        self._target = target
        self._wire = wire
        self._terminal_id = terminal_id
        self._tls = tls
        self._resume = resume
        self._connect_s = connect_s
        self._context: ssl.SSLContext | None = None
        self._session: ssl.SSLSession | None = None
        self._stream: TcpStream | trio.SSLStream[TcpStream] | None = None
        self._tcp: TcpStream | None = None
        self._reader: MessageReader | None = None
        self.opened = 0
        self.resumed = 0
        self.strays = 0  # answers to something else: late ones, mostly

    @property
    def is_open(self) -> bool:
        """Whether there is a connection and the other side has not hung up."""
        return self._tcp is not None and self._tcp.established

    async def open(self) -> None:
        """Call the gateway; raises NoConnection."""
        self.drop()
        try:
            with trio.fail_after(self._connect_s):
                self._tcp = await _connected(self._target)
                self._stream = await self._secured(self._tcp)
        except trio.TooSlowError:
            self.drop()
            raise NoConnection("no connection in time") from None
        except _GONE as error:
            self.drop()
            raise NoConnection(str(error.__cause__ or error)) from None
        except BaseException:
            self.drop()
            raise
        self._reader = MessageReader(self._stream, self._wire)
        self.opened += 1

    async def _secured(self, tcp: TcpStream) -> TcpStream | trio.SSLStream[TcpStream]:
        if self._tls is None:
            return tcp
        if self._context is None:
            self._context = device_context(self._tls, self._terminal_id)
        stream = trio.SSLStream(
            tcp, self._context, server_hostname=self._tls.server_name, https_compatible=True
        )
        if self._session is not None:
            stream.session = self._session
        await stream.do_handshake()
        self.resumed += bool(stream.session_reused)
        return stream

    async def ask(self, frame: bytes, *, mti: str, stan: str, timeout_s: float) -> Message:
        """The answer to a request; raises NoAnswer. After a time-out alone the line is kept."""
        stream, reader = self._stream, self._reader
        if stream is None or reader is None:
            raise NoAnswer("not connected")
        wanted = response_mti(mti)
        sent = False
        try:
            with trio.move_on_after(timeout_s) as scope:
                await stream.send_all(frame)
                sent = True
                while (answer := await reader.next()) is not None:
                    if answer.mti == wanted and answer.stan == stan:
                        return answer
                    self.strays += 1
        except _GONE as error:
            self.drop()
            raise NoAnswer(f"connection lost: {error.__cause__ or error}") from None
        if scope.cancelled_caught:
            if not sent:
                self.drop()  # a send that was cut short leaves the stream unusable
            raise NoAnswer("no answer in time")
        self.drop()
        raise NoAnswer("the gateway hung up")

    def drop(self) -> None:
        """Hang up without a word; the TLS session is kept for the next call."""
        self._remember()
        tcp, self._tcp, self._stream, self._reader = self._tcp, None, None, None
        if tcp is not None:
            tcp.close()

    async def close(self) -> None:
        """Hang up in an orderly way, within a second."""
        self._remember()
        stream, self._stream, self._reader, self._tcp = self._stream, None, None, None
        if stream is not None:
            with trio.move_on_after(_CLOSE_S):
                await stream.aclose()

    def _remember(self) -> None:
        # Under TLS 1.3 tickets come after the handshake, with what was read first.
        if self._resume and isinstance(self._stream, trio.SSLStream):
            self._session = self._stream.session


async def _connected(target: HostPort) -> TcpStream:
    """A connection to a numeric address; raises OSError."""
    family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await sock.connect((target.host, target.port))
    except BaseException:
        sock.close()
        raise
    # The descriptor changes hands: trio's own wrapper must not close it.
    return TcpStream(socket.socket(family, socket.SOCK_STREAM, fileno=sock.detach()))
