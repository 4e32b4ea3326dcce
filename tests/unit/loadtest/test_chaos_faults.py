"""The fault proxy passes everything on, and does each fault that it is told to."""

import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from random import Random

import pytest
import trio

from loadtest.addresses import HostPort, lasting_ports
from loadtest.faults import Direction, FaultProxy, Weather

SHORT_S = 0.1  # what must not come is not waited for longer
LONG_S = 10.0


class Target:
    """Echoes what it gets, and remembers it."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.heard = trio.Event()
        self.ends: list[str] = []
        self.ended = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        try:
            async for data in stream:
                self.got += data
                self.heard.set()
                self.heard = trio.Event()
                await stream.send_all(data)
            self.ends.append("closed")
        except trio.BrokenResourceError:
            self.ends.append("reset")
        self.ended.set()

    async def has(self, data: bytes) -> None:
        with trio.fail_after(LONG_S):
            while bytes(self.got) != data:
                await self.heard.wait()


class Line:
    """A proxy in front of an echoing target, and calls through it."""

    def __init__(self, proxy: FaultProxy, address: HostPort, target: Target) -> None:
        self.proxy = proxy
        self.target = target
        self.calls: list[trio.SocketStream] = []
        self._address = address

    async def call(self) -> trio.SocketStream:
        stream = await trio.open_tcp_stream(*self._address)
        self.calls.append(stream)
        return stream

    async def talk(self) -> trio.SocketStream:
        """A call over which something went through already."""
        stream = await self.call()
        await stream.send_all(b"hello")
        assert await exactly(stream, 5) == b"hello"
        self.target.got.clear()
        return stream


@pytest.fixture
async def line(nursery: trio.Nursery) -> AsyncIterator[Line]:
    target = Target()
    listeners = await nursery.start(trio.serve_tcp, target.serve, 0)
    port = listeners[0].socket.getsockname()[1]
    proxy = FaultProxy(target=HostPort("127.0.0.1", port), random=Random(1))
    address = HostPort("127.0.0.1", lasting_ports(1)[0])
    await nursery.start(proxy.serve, address)
    line = Line(proxy, address, target)
    yield line
    for stream in line.calls:
        await trio.aclose_forcefully(stream)
    nursery.cancel_scope.cancel()


async def exactly(stream: trio.SocketStream, count: int) -> bytes:
    held = b""
    with trio.fail_after(LONG_S):
        while len(held) < count:
            data = await stream.receive_some(count - len(held))
            assert data, held
            held += bytes(data)
    return held


async def nothing_comes(read: Callable[[], Awaitable[object]]) -> bool:
    with trio.move_on_after(SHORT_S) as waiting:
        await read()
    return waiting.cancelled_caught


async def how_it_ends(stream: trio.SocketStream) -> str:
    with trio.fail_after(LONG_S):
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            reset = isinstance(cause, OSError) and cause.errno == errno.ECONNRESET
            return "reset" if reset else str(error)
        return "closed"


async def test_it_passes_on_both_ways_in_full(line: Line) -> None:
    stream = await line.call()
    data = bytes(range(256)) * 2_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, data)
        assert await exactly(stream, len(data)) == data
    assert line.proxy.cuts == 0


async def test_an_end_on_one_side_is_an_end_on_the_other(line: Line) -> None:
    stream = await line.talk()
    await stream.aclose()
    with trio.fail_after(LONG_S):
        await line.target.ended.wait()
    assert line.target.ends == ["closed"]


async def test_reset_aborts_both_sides(line: Line) -> None:
    stream = await line.talk()
    line.proxy.reset(1.0)
    assert await how_it_ends(stream) == "reset"
    with trio.fail_after(LONG_S):
        await line.target.ended.wait()
    assert line.target.ends == ["reset"]
    assert line.proxy.cuts == 1


async def test_a_share_of_nothing_resets_nobody(line: Line) -> None:
    await line.talk()
    line.proxy.reset(0.0)
    assert line.proxy.cuts == 0
    assert line.proxy.open == 1


async def test_cut_mid_frame_lets_a_part_through(line: Line) -> None:
    stream = await line.talk()
    line.proxy.cut_mid_frame(1.0)
    await stream.send_all(b"0123456789")
    await how_it_ends(stream)
    with trio.fail_after(LONG_S):
        await line.target.ended.wait()
    assert 0 < len(line.target.got) < 10
    assert b"0123456789".startswith(line.target.got)
    assert line.proxy.cuts == 1


async def test_half_open_passes_one_way_only_and_then_what_was_held(line: Line) -> None:
    stream = await line.talk()
    line.proxy.change(Weather(held=frozenset((Direction.DOWN,))))
    await stream.send_all(b"up")
    await line.target.has(b"up")
    assert await nothing_comes(stream.receive_some)
    line.proxy.clear()
    assert await exactly(stream, 2) == b"up"


async def test_mute_passes_nothing_until_it_is_over(line: Line) -> None:
    stream = await line.talk()
    line.proxy.change(Weather(held=frozenset(Direction)))
    await stream.send_all(b"up")
    assert await nothing_comes(line.target.heard.wait)
    assert not line.target.got
    line.proxy.clear()
    assert await exactly(stream, 2) == b"up"


async def test_what_was_held_can_be_cut_instead(line: Line) -> None:
    stream = await line.talk()
    line.proxy.change(Weather(held=frozenset(Direction)))
    await stream.send_all(b"up")
    assert await nothing_comes(line.target.heard.wait)
    line.proxy.clear(cut_held=True)
    assert await how_it_ends(stream) == "reset"
    assert not line.target.got
    assert line.proxy.cuts == 1


async def test_new_connections_go_through_the_weather_too(line: Line) -> None:
    line.proxy.change(Weather(held=frozenset(Direction)))
    stream = await line.call()
    await stream.send_all(b"up")
    assert await nothing_comes(line.target.heard.wait)
    line.proxy.clear()
    assert await exactly(stream, 2) == b"up"


async def test_slow_passes_a_few_bytes_at_a_time_and_all_when_it_clears(line: Line) -> None:
    stream = await line.talk()
    line.proxy.change(Weather(bytes_per_s=100.0))  # 5 bytes to a slice
    await stream.send_all(b"x" * 1_000)
    with trio.fail_after(LONG_S):
        await line.target.heard.wait()
    assert len(line.target.got) < 1_000
    line.proxy.clear()
    assert await exactly(stream, 1_000) == b"x" * 1_000


async def test_latency_delays_and_keeps_the_order(line: Line) -> None:
    stream = await line.talk()
    line.proxy.change(Weather(latency_s=0.05, jitter_s=0.02))
    started_s = trio.current_time()
    for part in (b"a", b"b", b"c"):
        await stream.send_all(part)
    assert await exactly(stream, 3) == b"abc"
    assert trio.current_time() - started_s >= 0.1  # up and down


async def test_refuse_turns_callers_away_and_leaves_open_lines_alone(line: Line) -> None:
    stream = await line.talk()
    line.proxy.refuse(True)
    with trio.fail_after(LONG_S):
        while True:
            try:
                await (await line.call()).aclose()
            except OSError:
                break
    await stream.send_all(b"still")
    assert await exactly(stream, 5) == b"still"
    line.proxy.refuse(False)
    with trio.fail_after(LONG_S):
        while True:
            with suppress(OSError):
                await line.talk()
                break


async def test_without_a_target_callers_are_reset(nursery: trio.Nursery) -> None:
    nobody, here = (HostPort("127.0.0.1", port) for port in lasting_ports(2))
    proxy = FaultProxy(target=nobody, random=Random(1))
    await nursery.start(proxy.serve, here)
    async with await trio.open_tcp_stream(*here) as stream:
        assert await how_it_ends(stream) == "reset"
    assert proxy.open == 0
    nursery.cancel_scope.cancel()


def test_lasting_ports_are_free_and_no_outgoing_connection_takes_them() -> None:
    ports = lasting_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        with socket.create_server(("127.0.0.1", port)):
            pass
