"""Faults: a TCP proxy that does to connections what networks do, when it is told to."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from random import Random

import trio

from gateway.wire.stream import TcpStream, connect, listening_socket, tune
from loadtest.addresses import HostPort

_BACKLOG = 4_096
_RECEIVE_BYTES = 65_536
_SLICE_S = 0.05  # how often a slow connection moves a few bytes
_CONNECT_S = 2.0
_USER_TIMEOUT_S = 30.0
_KEEPALIVE_IDLE_S = 60
_REBIND_S = 0.05
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class Direction(StrEnum):
    UP = "up"  # towards the target
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What a connection goes through; the default is fine weather."""

    latency_s: float = 0.0  # of every chunk; order is kept
    jitter_s: float = 0.0  # up to so much more, evenly
    bytes_per_s: float = 0.0  # 0: as fast as it goes
    # Directions in which nothing passes while the connection stays open: one is a half-open
    # connection, both a mute one.
    held: frozenset[Direction] = frozenset()


FINE = Weather()


class FaultProxy:
    """Stands between two parties on a fixed address; passes everything on until told otherwise."""

    def __init__(self, *, target: HostPort, random: Random) -> None:
        self.cuts = 0  # connections that were ended by a fault
        self._target = target
        self._random = random
        self._weather = FINE
        self._share = 1.0
        self._refusing = False
        self._refusing_changed = trio.Event()
        self._connections: set[_Connection] = set()

    # --- being told --------------------------------------------------------------------------

    def change(self, weather: Weather, *, share: float = 1.0) -> None:
        """From now on a share of the connections, new ones too, goes through this weather."""
        self._weather, self._share = weather, share
        for connection in self._connections:
            connection.change(self._draw())

    def clear(self, *, cut_held: bool = False) -> None:
        """Fine weather for all: what was held goes on its way, or its connection is cut."""
        if cut_held:
            self._abort([c for c in self._connections if c.weather.held])
        self.change(FINE)

    def reset(self, share: float) -> None:
        """Abort a share of the connections: both parties see a reset."""
        self._abort([c for c in self._connections if self._random.random() < share])

    def cut_mid_frame(self, share: float) -> None:
        """End a share of the connections within the next chunk that passes on each."""
        for connection in self._connections:
            if self._random.random() < share:
                connection.cutting = True

    def refuse(self, refusing: bool) -> None:
        """Refuse new connections, or accept them again; open ones stay."""
        self._refusing = refusing
        self._refusing_changed.set()
        self._refusing_changed = trio.Event()

    @property
    def open(self) -> int:
        return len(self._connections)

    def _draw(self) -> Weather:
        return self._weather if self._random.random() < self._share else FINE

    def _abort(self, connections: list[_Connection]) -> None:
        for connection in connections:
            self.cuts += 1
            connection.end(reset=True)

    # --- passing on --------------------------------------------------------------------------

    async def serve(
        self,
        address: HostPort,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accepts on an address until cancelled; raises OSError where it cannot be had at first."""
        listening = _listen(address)
        task_status.started()
        async with trio.open_nursery() as connections:
            while True:
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(self._accept_all, listening, connections)
                    await self._until(refusing=True)
                    accepting.cancel_scope.cancel()
                listening.close()  # a real refusal: the kernel answers with a reset
                await self._until(refusing=False)
                listening = await _listen_again(address)

    async def _until(self, *, refusing: bool) -> None:
        while self._refusing is not refusing:
            await self._refusing_changed.wait()

    async def _accept_all(
        self, listening: trio.socket.SocketType, connections: trio.Nursery
    ) -> None:
        with listening:
            while True:
                with suppress(OSError):  # that one is gone already
                    accepted, _ = await listening.accept()
                    connections.start_soon(self._carry, _stream(accepted))

    async def _carry(self, near: TcpStream) -> None:
        try:
            with trio.fail_after(_CONNECT_S):
                sock = await connect(str(self._target))
        except (OSError, trio.TooSlowError):
            near.abort()
            return
        except BaseException:
            near.close()
            raise
        tune(sock, user_timeout_s=_USER_TIMEOUT_S, keepalive_idle_s=_KEEPALIVE_IDLE_S)
        connection = _Connection(near, TcpStream(sock), self._draw(), self._random)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self.cuts += connection.was_cut


class _Connection:
    """Two streams and what passes between them."""

    def __init__(self, near: TcpStream, far: TcpStream, weather: Weather, random: Random) -> None:
        self.weather = weather
        self.cutting = False
        self.was_cut = False  # within a chunk
        self._near = near
        self._far = far
        self._random = random
        self._changed = trio.Event()
        self._scope = trio.CancelScope()

    def change(self, weather: Weather) -> None:
        self.weather = weather
        self._changed.set()
        self._changed = trio.Event()

    def end(self, *, reset: bool) -> None:
        """End it on both sides, by a reset or in the orderly way; what is held is lost."""
        for stream in (self._near, self._far):
            if reset:
                stream.abort()
            else:
                stream.close()
        self._scope.cancel()

    async def run(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, self._near, self._far, Direction.UP)
                    nursery.start_soon(self._pump, self._far, self._near, Direction.DOWN)
        finally:
            self.end(reset=False)

    async def _pump(self, source: TcpStream, sink: TcpStream, direction: Direction) -> None:
        try:
            while data := await source.receive_some(_RECEIVE_BYTES):
                await self._pass_on(data, sink, direction)
        except _GONE:
            self.end(reset=True)
        else:
            self.end(reset=False)

    async def _pass_on(self, data: bytes, sink: TcpStream, direction: Direction) -> None:
        await self._linger(direction)
        if self.cutting and len(data) > 1:
            await sink.send_all(data[: self._random.randrange(1, len(data))])
            self.was_cut = True
            self.end(reset=self._random.random() < 0.5)
            return
        while rate := self.weather.bytes_per_s:
            size = max(1, round(rate * _SLICE_S))
            await sink.send_all(data[:size])
            data = data[size:]
            if not data:
                return
            await trio.sleep(_SLICE_S)
            await self._linger(direction, slow=True)
        await sink.send_all(data)

    async def _linger(self, direction: Direction, *, slow: bool = False) -> None:
        """Wait as the weather wants it before more is passed on."""
        while direction in self.weather.held:
            await self._changed.wait()
        weather = self.weather
        if (weather.latency_s or weather.jitter_s) and not slow:
            await trio.sleep(weather.latency_s + self._random.random() * weather.jitter_s)


def _listen(address: HostPort) -> trio.socket.SocketType:
    return trio.socket.from_stdlib_socket(
        listening_socket(str(address), backlog=_BACKLOG, reuse_port=False)
    )


async def _listen_again(address: HostPort) -> trio.socket.SocketType:
    while True:
        try:
            return _listen(address)
        except OSError:
            await trio.sleep(_REBIND_S)


def _stream(accepted: trio.socket.SocketType) -> TcpStream:
    sock = socket.socket(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
    tune(sock, user_timeout_s=_USER_TIMEOUT_S, keepalive_idle_s=_KEEPALIVE_IDLE_S)
    return TcpStream(sock)
