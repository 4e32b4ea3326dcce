"""Door: what a listener does, less its socket."""

from __future__ import annotations

from typing import cast

import trio

from gateway.settings.schema_terminals import Deadlines, Listener
from gateway.terminals.connection import Connection, Service
from gateway.wire.stream import TcpStream
from tests.simulation.network import SimulatedStream

DIALECT = "iso87_ascii"
LISTENER = Listener(
    name="shops",
    listen="127.0.0.1:1",
    security="plain",
    dialect=DIALECT,
    deadlines=Deadlines(first_byte_s=20.0, frame_s=5.0, idle_s=40.0, send_s=5.0),
)
_WATCH_S = 1.0


class Door:
    """Takes connections, watches their deadlines, drains."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._connections: list[Connection] = []

    @property
    def connections(self) -> int:
        return len(self._connections)

    def accept(self, stream: SimulatedStream, address: str) -> None:
        connection = Connection(cast("TcpStream", stream), address, self._service)
        self._connections.append(connection)
        self._service.exchanges.start_soon(self._run, connection)

    async def _run(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self._connections.remove(connection)

    async def watch(self) -> None:
        while True:
            await trio.sleep(_WATCH_S)
            now_s = trio.current_time()
            for connection in list(self._connections):
                connection.expire(now_s)

    def drain(self) -> None:
        self._service.draining = True
        for connection in list(self._connections):
            connection.drain()
