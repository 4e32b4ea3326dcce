"""Network: streams in memory that take virtual time, and can be cut, muted or reset at any byte."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from random import Random

import trio

from tests.simulation.plan import Weather
from tests.simulation.trace import Trace

_USER_TIMEOUT_S = 5.0  # who has sent into silence is told so by its kernel
_KEEPALIVE_S = 15.0  # and who has not, later
_CALM = Weather()


class SimulatedStream(trio.abc.Stream):
    """One end of a connection. Stands in for `TcpStream` too, towards a terminal."""

    def __init__(self, network: Network, name: str, weather: Weather) -> None:
        self.name = name
        self.peer: SimulatedStream = self  # until it is paired
        self.closed = False
        self.frozen = False  # its host is dead: nothing leaves any more
        self.is_gateways = False  # its process can be made to die here
        self._network = network
        self._weather = weather
        self._chunks: deque[tuple[float, bytes]] = deque()  # what comes, and when it is there
        self._last_s = 0.0  # when the last of it is there
        self._end_s = inf  # when the peer's orderly end is there
        self._reset_s = inf  # when a reset is there
        self._sent_bytes = 0
        self._cut_at_bytes = inf
        self._mute_at_bytes = inf
        self._muted = False
        self._receiving: trio.CancelScope | None = None

    # --- what the application sees ------------------------------------------------------------

    @property
    def established(self) -> bool:
        """As `TcpStream.established`."""
        now_s = trio.current_time()
        return not self.closed and now_s < self._end_s and now_s < self._reset_s

    @property
    def in_flight(self) -> bool:
        """Whether something that was sent here is still to be read by a peer that lives."""
        peer = self.peer
        return bool(peer._chunks) and not peer.closed and not peer.frozen

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check()
        data = bytes(data)
        network = self._network
        if self.is_gateways:
            network.at_point("before a send")
        if network.random.random() < self._weather.stall:
            half = network.random.randrange(len(data) + 1)
            self._transmit(data[:half])
            await trio.sleep(network.random.uniform(0, self._weather.stall_s))
            self._check()
            data = data[half:]
        self._transmit(data)
        if self.is_gateways:
            network.at_point("after a send")

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if self.closed:
                raise trio.ClosedResourceError("this connection was closed here")
            now_s = trio.current_time()
            if self._chunks and self._chunks[0][0] <= now_s:
                return self._chunks.popleft()[1]
            if self._reset_s <= now_s:
                raise trio.BrokenResourceError("connection reset by peer")
            if self._end_s <= now_s and not self._chunks:
                return b""
            with trio.CancelScope(deadline=self._next_s()) as self._receiving:
                await trio.sleep_forever()

    def close(self) -> None:
        """An orderly end; what was sent still arrives."""
        self._leave(reset=False)

    def abort(self) -> None:
        """A reset."""
        self._leave(reset=True)

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    # --- what the network does ----------------------------------------------------------------

    def vanish(self) -> None:
        """The host lost its power: nothing leaves any more, and the peer is told nothing."""
        self.frozen = True
        self.peer._muted = True
        self.peer.reset_at(trio.current_time() + _KEEPALIVE_S)

    def kill(self, *, reset: bool) -> None:
        """The process died: its kernel ends the connection for it."""
        self._leave(reset=reset)
        self.frozen = True

    def reset_at(self, at_s: float) -> None:
        """A reset arrives here then; what would have come later is lost."""
        if at_s < self._reset_s:
            self._reset_s = at_s
            while self._chunks and self._chunks[-1][0] > at_s:
                self._chunks.pop()
        self._wake()

    def calm(self) -> None:
        """Nothing more goes wrong here; what has fallen silent is reset."""
        self._weather = _CALM
        self._cut_at_bytes = self._mute_at_bytes = inf
        if self._muted:
            self.reset_at(trio.current_time())

    def doom(self, *, cut_at_bytes: float, mute_at_bytes: float) -> None:
        """At these bytes of what is sent here it is reset, or falls silent."""
        self._cut_at_bytes = cut_at_bytes
        self._mute_at_bytes = mute_at_bytes

    def _leave(self, *, reset: bool) -> None:
        if self.closed:
            return
        self.closed = True
        self._wake()
        if self.frozen or self._muted:
            return
        arrives_s = self._arrival_s()
        if reset:
            self.peer.reset_at(arrives_s)
        else:
            self.peer._end_s = arrives_s
            self.peer._wake()

    def _check(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError("this connection was closed here")
        if self._reset_s <= trio.current_time():
            raise trio.BrokenResourceError("connection reset by peer")

    def _transmit(self, data: bytes) -> None:
        if self.frozen or self._muted or not data:
            return
        before = self._sent_bytes
        self._sent_bytes += len(data)
        if self._sent_bytes > self._cut_at_bytes:
            self._deliver(data[: int(self._cut_at_bytes) - before])
            self._network.trace(self.name, "cut", at=int(self._cut_at_bytes))
            at_s = self._arrival_s()
            self.peer.reset_at(at_s)
            self.reset_at(at_s)
        elif self._sent_bytes > self._mute_at_bytes:
            self._deliver(data[: int(self._mute_at_bytes) - before])
            self._network.trace(self.name, "mute", at=int(self._mute_at_bytes))
            self._muted = self.peer._muted = True
            now_s = trio.current_time()
            self.reset_at(now_s + _USER_TIMEOUT_S)
            self.peer.reset_at(now_s + _KEEPALIVE_S)
        elif self.peer.closed:
            self.reset_at(self._arrival_s())
        else:
            self._deliver(data)

    def _deliver(self, data: bytes) -> None:
        random = self._network.random
        if len(data) > 1 and random.random() < self._weather.split:
            at = random.randrange(1, len(data))
            self.peer._take(self._arrival_s(), data[:at])
            data = data[at:]
        if data:
            self.peer._take(self._arrival_s(), data)

    def _arrival_s(self) -> float:
        """When what is sent now is at the peer: never before what was sent earlier."""
        weather, random = self._weather, self._network.random
        delay_s = weather.latency_s * (0.5 + random.random())
        if random.random() < weather.slow:
            delay_s += random.uniform(0, weather.slow_s)
        peer = self.peer
        peer._last_s = max(peer._last_s, trio.current_time() + delay_s)
        return peer._last_s

    def _take(self, at_s: float, data: bytes) -> None:
        if not self.closed and at_s < self._reset_s:
            self._chunks.append((at_s, data))
            self._wake()

    def _next_s(self) -> float:
        """When there is something to be told of."""
        if self.closed:
            return trio.current_time()
        next_s = min(self._reset_s, self._end_s)
        return min(next_s, self._chunks[0][0]) if self._chunks else next_s

    def _wake(self) -> None:
        if self._receiving is not None:
            self._receiving.deadline = self._next_s()


class Network:
    """Makes connections, and remembers them until all heals."""

    def __init__(self, random: Random, trace: Trace) -> None:
        self.random = random
        self.trace = trace
        self.at_point: Callable[[str], None] = lambda where: None
        self._count = 0
        self._streams: list[SimulatedStream] = []
        self._calm = False

    def pair(self, caller: str, called: str, weather: Weather) -> tuple[SimulatedStream, ...]:
        """Two ends of a new connection, the caller's first."""
        self._count += 1
        weather = _CALM if self._calm else weather
        ours = SimulatedStream(self, f"{caller}>{called}#{self._count}", weather)
        theirs = SimulatedStream(self, f"{called}<{caller}#{self._count}", weather)
        ours.peer, theirs.peer = theirs, ours
        for stream in (ours, theirs):
            stream.doom(
                cut_at_bytes=self._doomsday(weather.cut, weather),
                mute_at_bytes=self._doomsday(weather.mute, weather),
            )
            self._streams.append(stream)
        return ours, theirs

    def refuses(self, weather: Weather) -> bool:
        """Whether this attempt to connect fails."""
        return not self._calm and self.random.random() < weather.refuse

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        self._calm = True
        for stream in self._streams:
            stream.calm()

    def _doomsday(self, share: float, weather: Weather) -> float:
        if self.random.random() >= share:
            return inf
        return round(self.random.expovariate(1 / weather.lifetime_bytes))
