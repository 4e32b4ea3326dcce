"""A connection ends with its client's certificate: after the answers it waits for, and said so."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.settings.schema_terminals import Listener as ListenerSettings
from gateway.telemetry.events import Event
from gateway.terminals.connection import Connection
from gateway.terminals.listener import ConnectionCount, Listener
from gateway.wire.revocation import PeerCertificate
from tests.unit.terminals.test_connection import Side, blocked, frames

END_MS = 1_795_293_234_000
PEER = PeerCertificate(
    common_name="T0000001",
    issuer=b"",
    serial=1,
    sha256="a" * 64,
    not_before_ms=0,
    not_after_ms=END_MS,
)


class Ending:
    """A listener with one connection, whose certificate ends; it does no handshake here."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.clock = VirtualClock(END_MS - 10_000)
        side.service.clock = self.clock
        settings = side.service.settings.model_dump() | {
            "security": "mutual-tls",
            "tls": {"certificate": "a", "key": "b", "client_ca": "c"},
        }
        self.listener = Listener(
            ListenerSettings.model_validate(settings), node=ConnectionCount(count_max=9)
        )
        self.connection, self.terminal = side.connect()
        self.add(self.connection, PEER)

    def add(self, connection: Connection, peer: PeerCertificate | None) -> None:
        connection.peer = peer
        self.listener._connections.add(connection)

    def look(self, after_ms: int = 0) -> float:
        return self.listener._end_expired(END_MS + after_ms, self.side.service)

    @property
    def told(self) -> list[tuple[Event, Any]]:
        return [(event, fields.get("reason")) for event, fields in self.side.events]


EXPIRED = (Event.CONNECTION_REFUSED, "certificate has expired: T0000001")


async def test_an_idle_connection_is_ended_once_its_certificate_is_over() -> None:
    async with trio.open_nursery() as nursery:
        ending = Ending(Side(nursery, "terminal"))
        await blocked()
        assert ending.look(-1) == END_MS
        assert ending.look(0) == END_MS  # it is good up to and with its last second
        assert ending.told == []
        assert ending.look(1) == float("inf")
        assert ending.look(2) == float("inf")
        await blocked()
        assert ending.told == [EXPIRED]  # and no second line for its end
        assert ending.terminal.recv(1) == b""
        nursery.cancel_scope.cancel()
    ending.terminal.close()


@pytest.mark.parametrize("carries", ["terminal", "concentrator"])
async def test_what_is_under_way_is_answered_and_nothing_more_is_taken(carries: Any) -> None:
    async with trio.open_nursery() as nursery:
        ending = Ending(Side(nursery, carries))
        ending.terminal.send(frames(1))
        await blocked()
        ending.look(1)
        await blocked()
        ending.terminal.send(frames(2)[len(frames(1)) :])
        await blocked()
        ending.side.gate.set()
        await blocked()
        heard = ending.terminal.recv(1_000)
        assert heard == frames(1)
        with contextlib.suppress(ConnectionResetError):  # where what came too late was never read
            _to_the_end(ending.terminal)
        nursery.cancel_scope.cancel()
    ending.terminal.close()
    assert (ending.side.taken, ending.side.unheard) == ([b"0200-0"], 0)
    assert ending.told == [EXPIRED]


async def test_others_stay() -> None:
    async with trio.open_nursery() as nursery:
        ending = Ending(Side(nursery, "terminal"))
        later, terminal = ending.side.connect()
        ending.add(later, replace(PEER, not_after_ms=END_MS + 500))
        before_its_handshake, other = ending.side.connect()
        ending.add(before_its_handshake, None)
        await blocked()
        assert ending.look(1) == END_MS + 500
        await blocked()
        for open_still in (terminal, other):
            with pytest.raises(BlockingIOError):
                open_still.recv(1)
        nursery.cancel_scope.cancel()
    for one in (terminal, other, ending.terminal):
        one.close()


async def test_it_is_looked_at_in_time(autojump_clock: trio.testing.MockClock) -> None:
    """The watch sleeps no longer than to the next end, and a second at most."""
    slept: list[float] = []

    class Watched(Listener):
        def _end_expired(self, now_ms: int, service: object) -> float:
            slept.append(trio.current_time())
            return ends[len(slept) - 1] if len(slept) <= len(ends) else float("inf")

    now_ms = END_MS - 10_000
    ends: list[float] = [now_ms + 300, now_ms - 5, now_ms + 60_000]
    async with trio.open_nursery() as nursery:
        ending = Ending(Side(nursery, "terminal"))
        watched = Watched(ending.listener.settings, node=ConnectionCount(count_max=9))
        start_s = trio.current_time()
        with trio.move_on_after(1.55):
            await watched._watch_certificates(ending.side.service)
        nursery.cancel_scope.cancel()
    ending.terminal.close()
    assert [round(one - start_s, 3) for one in slept] == [0.0, 0.4, 0.5, 1.5]


def _to_the_end(terminal: socket.socket) -> None:
    while terminal.recv(1_000):
        pass
