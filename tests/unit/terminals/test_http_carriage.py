"""Frames in POSTs: with a real HTTP client, with hostile ones, and however the bytes are split."""

from __future__ import annotations

import http.client
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, cast

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import SystemClock
from gateway.errors import FrameError
from gateway.settings.schema_base import Framing
from gateway.settings.schema_terminals import Deadlines, Http
from gateway.settings.schema_terminals import Listener as ListenerSettings
from gateway.telemetry.events import Event
from gateway.terminals.connection import Connection, Service
from gateway.terminals.dispatch import Dispatcher
from gateway.terminals.gate import Gate
from gateway.terminals.http_carriage import CONTENT_TYPE, HttpCarriage
from gateway.terminals.rejected_frames import RejectedFrames
from gateway.transactions.request import Reply
from gateway.wire.framing import Frame, FramingSpec, encode_frame
from gateway.wire.message import Message
from gateway.wire.stream import TcpStream

PATH = "/unp/webtrans/WPOS"
SPEC = FramingSpec(tpdu=True, frame_bytes_max=256)
BODY = b"0800" + b"0" * 16
TPDU = b"\x60\x00\x01\x00\x02"
FRAME = encode_frame(SPEC, BODY, TPDU)
HEADERS = {"Content-Type": CONTENT_TYPE}


class Nobody:
    def by_terminal(self, terminal_id: str) -> None:
        return None

    def by_certificate(self, sha256: str) -> None:
        return None


class HttpSide:
    """A listener's service over HTTP, whose dispatcher answers each frame with its own body."""

    def __init__(
        self,
        exchanges: trio.Nursery,
        *,
        length: Literal["binary2", "none"] = "binary2",
        paths: tuple[str, ...] = (PATH,),
        header_bytes_max: int = 1_024,
    ) -> None:
        self.spec = replace(SPEC, length=length)
        self.taken: list[Frame] = []
        self.unheard = 0
        self.gate = trio.Event()
        self.gate.set()
        self.silent = False
        self.events: list[tuple[Event, dict[str, object]]] = []
        self.exchanges = exchanges
        self.connections: list[Connection] = []
        self.service = Service(
            ListenerSettings(
                name="web",
                listen="127.0.0.1:1",
                security="plain",
                dialect="iso87_ascii",
                carriage="http",
                http=Http(paths=list(paths), header_bytes_max=header_bytes_max),
                framing=Framing(length=length, tpdu=True, frame_bytes_max=256),
                deadlines=Deadlines(first_byte_s=1.0, frame_s=5.0, idle_s=100.0),
            ),
            dispatcher=cast("Dispatcher", self),
            tls=None,
            deliver=self,
            find_concentrator=lambda name, address: None,
            gate=Gate(devices=Nobody(), clock=SystemClock()),
            rejected=RejectedFrames(kept_max=10, clock=SystemClock()),
            exchanges=exchanges,
            clock=SystemClock(),
            emit=self.emit,
        )

    def emit(self, event: Event, /, **fields: object) -> None:
        self.events.append((event, fields))

    async def answer(self, frame: Frame, sessions: Any, address: str) -> tuple[bytes, Reply] | None:
        self.taken.append(frame)
        await self.gate.wait()
        if self.silent:
            return None
        tpdu = frame.tpdu[:1] + frame.tpdu[3:5] + frame.tpdu[1:3]
        return encode_frame(self.spec, frame.body, tpdu), Reply(Message("0810", {}), 7)

    def delivered(self, reply: Reply) -> None:
        pass

    def undelivered(self, reply: Reply, *, cut_off: bool = False) -> None:
        self.unheard += 1

    async def accept(self, listening: socket.socket) -> None:
        listening.setblocking(False)
        while True:
            await trio.lowlevel.wait_readable(listening)
            accepted, _ = listening.accept()
            connection = Connection(TcpStream(accepted), "127.0.0.1", self.service)
            self.connections.append(connection)
            self.exchanges.start_soon(connection.run)

    def reasons(self) -> list[str]:
        return [str(fields["reason"]) for event, fields in self.events if "reason" in fields]


@asynccontextmanager
async def served(**settings: Any) -> AsyncIterator[tuple[HttpSide, int]]:
    """A side, and the port it listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with trio.open_nursery() as nursery:
            side = HttpSide(nursery, **settings)
            nursery.start_soon(side.accept, listening)
            yield side, listening.getsockname()[1]
            nursery.cancel_scope.cancel()


async def in_thread(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return await trio.to_thread.run_sync(partial(call, *arguments, **named))


def client(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=10)


def post(
    connection: http.client.HTTPConnection, body: Any = FRAME, **changes: Any
) -> tuple[int, bytes, http.client.HTTPMessage]:
    asked = {"method": "POST", "url": PATH, "headers": HEADERS} | changes
    connection.request(body=body, **asked)
    response = connection.getresponse()
    return response.status, response.read(), response.headers


def raw(port: int, data: bytes) -> bytes:
    """All that is answered until the other side closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(data)
        answered = b""
        try:
            while more := sock.recv(65_536):
                answered += more
        except ConnectionResetError:
            pass
        return answered


def request(*headers: str, body: bytes = FRAME, start: str = f"POST {PATH} HTTP/1.1") -> bytes:
    lines = [start, "Host: gateway", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


TYPE = f"Content-Type: {CONTENT_TYPE}"
LENGTH = f"Content-Length: {len(FRAME)}"


async def test_a_frame_is_answered_in_the_body_and_the_connection_kept() -> None:
    async with served() as (side, port):
        connection = client(port)
        for _ in range(3):
            status, body, headers = await in_thread(post, connection)
            assert (status, headers["Content-Type"]) == (200, CONTENT_TYPE)
            assert headers["Date"].endswith(" GMT")
            assert body == encode_frame(SPEC, BODY, b"\x60\x00\x02\x00\x01")
        assert len(side.connections) == 1
        assert side.taken == [Frame(BODY, TPDU)] * 3
        connection.close()


async def test_the_length_may_be_absent_from_the_body() -> None:
    async with served(length="none") as (side, port):
        connection = client(port)
        assert (await in_thread(post, connection, TPDU + BODY))[1] == b"\x60\x00\x02\x00\x01" + BODY
        assert side.taken == [Frame(BODY, TPDU)]
        connection.close()


async def test_a_body_in_chunks_is_one_frame() -> None:
    async with served() as (side, port):
        connection = client(port)
        chunks = iter([FRAME[:3], FRAME[3:4], FRAME[4:]])
        assert (await in_thread(post, connection, chunks, encode_chunked=True))[0] == 200
        assert side.taken == [Frame(BODY, TPDU)]
        connection.close()


async def test_who_waits_for_it_is_told_to_go_on() -> None:
    async with served() as (_, port):

        def ask() -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
                sock.sendall(request(TYPE, LENGTH, "Expect: 100-continue", body=b""))
                first = sock.recv(4_096)
                sock.sendall(FRAME)
                return first + sock.recv(4_096)

        answered = await in_thread(ask)
        assert answered.startswith(b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 ")


async def test_who_sends_two_at_once_is_answered_in_order() -> None:
    async with served() as (side, port):
        second = encode_frame(SPEC, BODY[:-1] + b"9", TPDU)
        both = request(TYPE, LENGTH) + request(TYPE, LENGTH, "Connection: close", body=second)
        answered = await in_thread(raw, port, both)
        assert answered.count(b"HTTP/1.1 200 ") == 2
        assert answered.index(BODY) < answered.index(BODY[:-1] + b"9")
        assert [frame.body[-1:] for frame in side.taken] == [b"0", b"9"]


async def test_an_older_client_is_answered_and_left() -> None:
    async with served() as (_, port):
        asked = request(TYPE, LENGTH, start=f"POST {PATH} HTTP/1.0")
        answered = await in_thread(raw, port, asked)
        assert answered.startswith(b"HTTP/1.1 200 ")
        assert b"onnection: close" in answered


async def test_what_wants_no_answer_gets_an_empty_one() -> None:
    async with served() as (side, port):
        side.silent = True
        connection = client(port)
        assert (await in_thread(post, connection))[:2] == (204, b"")
        side.silent = False
        assert (await in_thread(post, connection))[0] == 200
        connection.close()


async def test_who_does_not_read_that_there_is_no_answer_is_left_in_time() -> None:
    """Else it would be busy for ever, and a stop would wait for it."""
    async with served() as (side, port):
        side.silent = True
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            await trio.testing.wait_all_tasks_blocked(0.01)
            (connection,) = side.connections
            # It waits on its own stream already; what it says goes to this one.
            connection._stream = cast("trio.abc.Stream", Unread(connection._tcp))
            sock.sendall(request(TYPE, LENGTH))
            await trio.testing.wait_all_tasks_blocked(0.01)
            now_s = trio.current_time()
            connection.expire(now_s)
            connection.expire(now_s + side.service.settings.deadlines.send_s)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(side.taken) == 1
            assert [fields["deadline"] for _, fields in side.events] == ["send_s"]


class Unread(trio.abc.SendStream):
    """To a peer that reads nothing."""

    def __init__(self, tcp: TcpStream) -> None:
        self._tcp = tcp

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.sleep_forever()

    async def aclose(self) -> None:
        await self._tcp.aclose()


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (405, {"method": "GET", "body": None}),
        (405, {"method": "PUT"}),
        (404, {"url": "/"}),
        (404, {"url": "/admin?" + PATH}),
        (415, {"headers": {"Content-Type": "application/json"}}),
        (415, {"headers": {}}),
        (415, {"headers": HEADERS | {"Content-Encoding": "gzip"}}),
        (413, {"body": b"0" * 300}),
        (400, {"body": FRAME[:-1]}),
        (400, {"body": FRAME + b"0"}),
        (400, {"body": FRAME * 2}),
        (400, {"body": b""}),
    ],
)
async def test_what_is_no_terminals_request_is_refused_without_a_body(
    status: int, changes: dict[str, Any]
) -> None:
    async with served() as (side, port):
        connection = client(port)
        answered, body, headers = await in_thread(post, connection, **({"body": FRAME} | changes))
        assert (answered, body, headers["Connection"]) == (status, b"", "close")
        assert (headers["Allow"] == "POST") == (status == 405)
        assert not side.taken
        await trio.testing.wait_all_tasks_blocked(0.005)
        assert [event for event, _ in side.events] == [Event.FRAME_REJECTED]
        assert f"HTTP {status}" in side.reasons()[0]
        connection.close()


SMUGGLED = request(TYPE, LENGTH, start="POST /evil HTTP/1.1")
CHUNKED = b"%x\r\n" % len(FRAME) + FRAME + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, request(TYPE, LENGTH, "Transfer-Encoding: chunked", body=CHUNKED)),
        (400, request(TYPE, "Transfer-Encoding: chunked", LENGTH, body=CHUNKED)),
        (400, request(TYPE, LENGTH, "Content-Length: 0")),
        (400, request(TYPE, f"Content-Length: {len(FRAME)}, 0")),
        (400, request(TYPE, "Content-Length: +27")),
        (400, request(TYPE, "Content-Length : 27")),
        (501, request(TYPE, "Transfer-Encoding: chunked, identity", body=CHUNKED)),
        (501, request(TYPE, "Transfer-Encoding: xchunked", body=CHUNKED)),
        (400, request(TYPE, "Transfer-Encoding: chunked", body=b"-1\r\n" + FRAME)),
        (
            400,
            request(
                TYPE,
                "Transfer-Encoding: chunked",
                start=f"POST {PATH} HTTP/1.0",
                body=CHUNKED,
            ),
        ),
        (411, request(TYPE, body=b"")),
        (400, b"\x00\x19" + BODY),
        (400, request(TYPE, LENGTH, start=f"POST {PATH}")),
        (400, request(TYPE, LENGTH, "Evil\x00: 1")),
    ],
)
async def test_what_two_readers_could_read_in_two_ways_ends_the_connection(
    status: int, data: bytes
) -> None:
    async with served() as (side, port):
        answered = await in_thread(raw, port, data + SMUGGLED)
        assert answered.startswith(b"HTTP/1.1 %d " % status)
        assert answered.count(b"HTTP/1.1") == 1
        assert not side.taken


async def test_endless_headers_are_cut_off_at_their_bound() -> None:
    async with served(header_bytes_max=1_024) as (side, port):
        for headers in (["X: " + "y" * 1_100], [f"X{n}: y" for n in range(300)]):
            answered = await in_thread(raw, port, request(*headers, body=b"")[:-2])
            assert answered.startswith(b"HTTP/1.1 431 ")
        # Whole, and in one chunk, they are too many as well.
        answered = await in_thread(raw, port, request(TYPE, LENGTH, "X: " + "y" * 1_100))
        assert answered.startswith(b"HTTP/1.1 431 ")
        assert not side.taken


async def test_endless_chunks_are_cut_off_at_the_frames_bound() -> None:
    async with served() as (side, port):
        chunks = b"1\r\n0\r\n" * 400
        answered = await in_thread(
            raw, port, request(TYPE, "Transfer-Encoding: chunked", body=chunks)
        )
        assert answered.startswith(b"HTTP/1.1 413 ")
        assert not side.taken


@pytest.mark.parametrize("part", [1, 40, len(request(TYPE, LENGTH)) - 1])
async def test_a_request_that_trickles_in_ends_at_its_deadline(part: int) -> None:
    """From its first byte on the whole of it is waited for: header by header gains no time."""
    async with served() as (side, port):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            sock.sendall(request(TYPE, LENGTH)[:part])
            await trio.testing.wait_all_tasks_blocked(0.01)
            (connection,) = side.connections
            now_s = trio.current_time()
            connection.expire(now_s)  # the first look begins the time
            connection.expire(now_s + 4.0)  # of 5: still open
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert connection.peer is None
            assert not side.events
            connection.expire(now_s + 5.1)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert side.events[0][0] is Event.DEADLINE_PASSED
            assert side.events[0][1]["deadline"] == "frame_s"


async def test_a_stop_lets_the_request_under_way_be_answered_and_says_it_is_the_last() -> None:
    async with served() as (side, port):
        side.gate = trio.Event()
        answered: list[Any] = []

        async def ask() -> None:
            connection = client(port)
            answered.append(await in_thread(post, connection))
            connection.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while not side.taken:
                await trio.testing.wait_all_tasks_blocked(0.005)
            side.service.draining = True
            side.connections[0].drain()
            side.gate.set()
        status, _, headers = answered[0]
        assert (status, headers["Connection"]) == (200, "close")


@pytest.mark.parametrize("end", ["it hangs up", "it is cut off"])
async def test_an_answer_that_reaches_nobody_is_known_as_such(end: str) -> None:
    async with served() as (side, port):
        side.gate = trio.Event()
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        sock.sendall(request(TYPE, LENGTH))
        while not side.taken:
            await trio.testing.wait_all_tasks_blocked(0.005)
        if end == "it hangs up":
            sock.close()
        else:
            side.connections[0].cut_off()
        await trio.testing.wait_all_tasks_blocked(0.005)
        side.gate.set()
        await trio.testing.wait_all_tasks_blocked(0.005)
        assert side.unheard == 1
        sock.close()


# --- however the bytes are split ----------------------------------------------------------------


def conversation(chunks: list[bytes]) -> tuple[list[Frame], bytes, str]:
    """What a carriage takes and says when it is fed these chunks, and the error at its end."""
    carriage = HttpCarriage(SPEC, Http(paths=[PATH]), clock=SystemClock())
    frames: list[Frame] = []
    said = b""
    try:
        for chunk in chunks:
            got = carriage.feed(chunk)
            said += carriage.to_say()
            while got:
                frames += got
                carriage.answer(b"answer", last=False)
                got = carriage.feed(b"") if carriage.ahead else []
            if carriage.closing:
                return frames, said, "closing"
    except FrameError as error:
        return frames, said, str(error)
    return frames, said, "open" if not carriage.mid_frame else "within"


good = st.sampled_from(
    [
        request(TYPE, LENGTH),
        request(TYPE, "Transfer-Encoding: chunked", body=CHUNKED),
        request(TYPE + "; charset=x", LENGTH, start=f"POST http://gateway{PATH}?a=b HTTP/1.1"),
    ]
)
cuts = st.lists(st.integers(0, 700), max_size=6)


@settings(deadline=None)
@given(st.lists(good, min_size=1, max_size=3), cuts)
def test_any_split_gives_the_same_frames(requests: list[bytes], where: list[int]) -> None:
    data = b"".join(requests)
    expected = ([Frame(BODY, TPDU)] * len(requests), b"", "open")
    edges = [0, *sorted(min(cut, len(data)) for cut in where), len(data)]
    chunks = [data[a:b] for a, b in pairwise(edges) if a < b]
    assert conversation(chunks) == expected
    assert conversation([data[i : i + 1] for i in range(len(data))]) == expected


@settings(deadline=None)
@given(good, st.integers(0, 250), st.binary(max_size=6))
def test_garbage_is_a_frame_error_or_nothing(data: bytes, at: int, noise: bytes) -> None:
    frames, _, _ = conversation([data[:at] + noise + data[at + len(noise) :]])
    assert len(frames) <= 1
