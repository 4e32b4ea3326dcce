"""A connection's ends: what was taken is finished, whoever calls for the end, and whenever."""

from __future__ import annotations

import gc
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import trio
import trio.testing

from gateway.clock import SystemClock
from gateway.keys.authority import Authority
from gateway.keys.credentials import write_credentials
from gateway.settings.schema_terminals import Deadlines
from gateway.settings.schema_terminals import Listener as ListenerSettings
from gateway.store.store import Device
from gateway.telemetry.events import Event
from gateway.terminals.connection import Connection, Service
from gateway.terminals.dispatch import Dispatcher
from gateway.terminals.gate import Gate
from gateway.terminals.identity import ConcentratorRule
from gateway.terminals.rejected_frames import RejectedFrames
from gateway.transactions.request import Reply
from gateway.wire.framing import Frame, FramingSpec, encode_frame
from gateway.wire.id_patterns import TerminalSet
from gateway.wire.message import Message
from gateway.wire.stream import TcpStream
from gateway.wire.tls import ServerTls, ServerTlsFiles, client_context, let_go

SPEC = FramingSpec()
DEADLINES = Deadlines(first_byte_s=1.0, frame_s=5.0, idle_s=100.0)


class Nobody:
    """A registry without devices."""

    def by_terminal(self, terminal_id: str) -> Device | None:
        return None

    def by_certificate(self, sha256: str) -> Device | None:
        return None


class Side:
    """A service whose dispatcher answers every frame with itself, once `gate` is open."""

    def __init__(
        self, exchanges: trio.Nursery, carries: Literal["terminal", "concentrator"]
    ) -> None:
        self.taken: list[bytes] = []
        self.finished: list[bytes] = []
        self.unheard = 0
        self.cut_off = 0
        self.gate = trio.Event()
        self.events: list[tuple[Event, dict[str, object]]] = []
        self.exchanges = exchanges
        self.service = Service(
            ListenerSettings(
                name="plain",
                listen="127.0.0.1:1",
                security="plain",
                carries=carries,
                dialect="iso87_ascii",
                deadlines=DEADLINES,
            ),
            dispatcher=cast("Dispatcher", self),
            tls=None,
            deliver=self,
            find_concentrator=lambda name, address: ConcentratorRule(
                "mall", TerminalSet.parse(["T*"])
            ),
            gate=Gate(devices=Nobody(), clock=SystemClock()),
            rejected=RejectedFrames(kept_max=10, clock=SystemClock()),
            exchanges=exchanges,
            clock=SystemClock(),
            emit=self.emit,
        )

    def emit(self, event: Event, /, **fields: object) -> None:
        self.events.append((event, fields))

    async def answer(self, frame: Frame, sessions: Any, address: str) -> tuple[bytes, Reply] | None:
        self.taken.append(frame.body)
        if not self.gate.is_set():  # Some answers are made without a wait for anything.
            await self.gate.wait()
        self.finished.append(frame.body)
        return encode_frame(SPEC, frame.body), Reply(Message("0210", {}))

    def delivered(self, reply: Reply) -> None:
        pass

    def undelivered(self, reply: Reply, *, cut_off: bool = False) -> None:
        self.unheard += 1
        self.cut_off += cut_off

    def connect(self) -> tuple[Connection, socket.socket]:
        """A connection that is served from now on, and the terminal's end of it."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            terminal = socket.create_connection(listening.getsockname())
            terminal.setblocking(False)
            accepted, _ = listening.accept()
        connection = Connection(TcpStream(accepted), "127.0.0.1", self.service)
        self.exchanges.start_soon(connection.run)
        return connection, terminal


def frames(count: int) -> bytes:
    return b"".join(encode_frame(SPEC, b"0200-%d" % number) for number in range(count))


async def blocked() -> None:
    await trio.testing.wait_all_tasks_blocked(0.005)


def expired(connection: Connection) -> None:
    """The first look begins the time of a wait."""
    connection.expire(0.0)
    connection.expire(1e12)


ENDS: dict[str, Callable[[Connection], None]] = {
    "a stop": Connection.drain,
    "a deadline": expired,
    "a revocation": Connection.cut_off,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_what_is_taken_is_finished_even_if_it_arrives_just_when_the_end_is_called_for(
    end: Callable[[Connection], None],
) -> None:
    async with trio.open_nursery() as nursery:
        side = Side(nursery, "terminal")
        pairs = [side.connect() for _ in range(40)]
        await blocked()
        for _, terminal in pairs:
            terminal.send(frames(3))
        # Woken by now, and in trio's random order either here first or there.
        await trio.lowlevel.checkpoint()
        for connection, _ in pairs:
            end(connection)
        await blocked()
        side.gate.set()
        await blocked()
        nursery.cancel_scope.cancel()
    for _, terminal in pairs:
        terminal.close()
    assert sorted(side.finished) == sorted(side.taken)
    assert Event.HANDLER_FAILED not in [event for event, _ in side.events]


async def test_who_sends_many_at_once_takes_turns_with_others() -> None:
    async with trio.open_nursery() as nursery:
        side = Side(nursery, "terminal")
        side.gate.set()
        many = frames(500)
        # Trio runs those that are ready in this order or in the reverse: one is always before.
        terminals = [side.connect()[1] for _ in range(3)]
        await blocked()
        for terminal, data in zip(
            terminals, (many, encode_frame(SPEC, b"0800"), many), strict=True
        ):
            terminal.send(data)
        await blocked()
        nursery.cancel_scope.cancel()
    for terminal in terminals:
        terminal.close()
    assert len(side.taken) == 1001
    assert side.taken.index(b"0800") < 10


def begun(connection: Connection) -> float:
    """How long the wait is that has just begun; the next look begins its time."""
    assert connection._deadline_s is None
    connection.expire(trio.current_time())
    return connection._wait_s


async def test_a_keep_alive_starts_the_idle_time_however_it_arrives() -> None:
    async with trio.open_nursery() as nursery:
        side = Side(nursery, "terminal")
        connection, terminal = side.connect()
        await blocked()
        terminal.send(b"\0")
        await blocked()
        assert begun(connection) == 5
        terminal.send(b"\0")
        await blocked()
        assert begun(connection) == 100
        terminal.send(b"\0\0\0")
        await blocked()
        assert begun(connection) == 5
        nursery.cancel_scope.cancel()
    terminal.close()


async def test_a_concentrator_cut_off_with_requests_under_way_fails_nothing() -> None:
    async with trio.open_nursery() as nursery:
        side = Side(nursery, "concentrator")
        connection, concentrator = side.connect()
        concentrator.send(frames(3))
        await blocked()
        connection.cut_off()
        await blocked()
        side.gate.set()
        await blocked()
        nursery.cancel_scope.cancel()
    concentrator.close()
    assert sorted(side.finished) == sorted(side.taken)
    assert (len(side.taken), side.unheard) == (3, 3)
    assert side.events == []


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_what_waits_for_a_place_when_the_end_is_called_for_is_not_taken(
    end: Callable[[Connection], None],
) -> None:
    """It came before, but would be asked upstream after: for nobody who could hear of it."""
    async with trio.open_nursery() as nursery:
        side = Side(nursery, "concentrator")
        settings = side.service.settings
        limits = settings.limits.model_copy(update={"requests_per_connection_max": 1})
        side.service.settings = settings.model_copy(update={"limits": limits})
        connection, terminal = side.connect()
        terminal.send(frames(2))
        await blocked()
        end(connection)
        side.gate.set()
        await blocked()
        nursery.cancel_scope.cancel()
    terminal.close()
    assert side.taken == side.finished
    if end is not expired:  # while it is busy no deadline runs
        assert side.taken == [b"0200-0"]


async def test_a_stop_takes_no_more_of_a_busy_concentrator_and_answers_what_it_has() -> None:
    async with trio.open_nursery() as nursery:
        side = Side(nursery, "concentrator")
        connection, concentrator = side.connect()
        concentrator.send(frames(3))
        await blocked()
        side.service.draining = True
        connection.drain()
        concentrator.send(frames(2))
        await blocked()
        side.gate.set()
        await blocked()
        assert sorted(concentrator.recv(1000)) == sorted(frames(3))
        assert concentrator.recv(1000) == b""
        nursery.cancel_scope.cancel()
    concentrator.close()
    assert len(side.taken) == 3
    assert side.events == []


class NobodyRevoked(Nobody):
    """A registry that has taken no certificate from anybody."""

    def revoked(self, sha256: str) -> None:
        return None


@pytest.mark.parametrize("orderly", [True, False])
async def test_a_connection_leaves_nothing_to_the_collector(tmp_path: Path, orderly: bool) -> None:
    now = datetime.now(UTC)
    authority = Authority.create(tmp_path, name="Test CA", days=400, now=now)
    named = [
        ("server", authority.issue_server("gateway", hosts=["localhost"], days=90, now=now)),
        ("client", authority.issue_client("T0000001", days=90, now=now)),
    ]
    write_credentials(tmp_path, named)
    client = client_context(
        tmp_path / "ca.crt", certificate=tmp_path / "client.crt", key=tmp_path / "client.key"
    )
    files = ServerTlsFiles(
        certificate=tmp_path / "server.crt",
        key=tmp_path / "server.key",
        client_ca=tmp_path / "ca.crt",
    )
    gc.collect()
    gc.disable()
    try:
        before = ssl_streams()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:  # until the connection has ended
                side = Side(nursery, "terminal")
                side.gate.set()
                side.service.tls = ServerTls(files, session_tickets=2)
                side.service.gate = Gate(devices=NobodyRevoked(), clock=SystemClock())
                terminal = side.connect()[1]
                transport = trio.SocketStream(trio.socket.from_stdlib_socket(terminal))
                stream = trio.SSLStream(transport, client, server_hostname="localhost")
                await stream.send_all(frames(1))
                assert await stream.receive_some(100)
                assert ssl_streams() == before + 2
                if orderly:
                    await stream.aclose()
                else:
                    await trio.aclose_forcefully(stream)
        let_go(stream)
        assert ssl_streams() == before
    finally:
        gc.enable()


def ssl_streams() -> int:
    return sum(isinstance(one, ssl.SSLObject) for one in gc.get_objects())
