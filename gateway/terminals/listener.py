"""Accepts terminals' connections on one address, within bounds, and runs each."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_network
from math import inf

import trio

from gateway.settings.schema_terminals import Listener as ListenerSettings
from gateway.telemetry.events import Event
from gateway.terminals.connection import Connection, Service
from gateway.terminals.identity import in_networks
from gateway.wire.revocation import PeerCertificate
from gateway.wire.stream import TcpStream, listening_socket, tune
from gateway.wire.tls import Refusal
from gateway.wire.turns import Turns

# The machine is out of something; accepting at once again would only spin.
_EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_PAUSE_S = 0.25
_ACCEPTS_PER_TURN = 4
_WATCH_S = 0.1  # a deadline of a connection may be late by twice that
_ENDS_LOOK_S = 1.0  # how often is looked whose certificate ends next


class ConnectionCount:
    """The connections of the whole node, and whose turn it is of them; the listeners share it."""

    def __init__(self, *, count_max: int) -> None:
        self.count_max = count_max
        self.open = 0
        self.turns = Turns()


class Listener:
    """One listening address. `bind` first, so that an address in use stops the start-up."""

    def __init__(self, settings: ListenerSettings, *, node: ConnectionCount) -> None:
        self.settings = settings
        self._networks = tuple(ip_network(network) for network in settings.networks)
        self._node = node
        self._socket: socket.socket | None = None
        self._connections: set[Connection] = set()
        self._per_address: Counter[str] = Counter()
        self._service: Service | None = None

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def address(self) -> str:
        """Where it listens in fact: the port is the real one where 0 was asked for."""
        if self._socket is None:
            return self.settings.listen
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def bind(self) -> None:
        """Raises OSError where the address cannot be had."""
        self._socket = listening_socket(
            self.settings.listen,
            backlog=self.settings.limits.backlog,
            reuse_port=self.settings.reuse_port,
        )

    async def run(
        self, service: Service, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept until cancelled or drained. Connections run in the service's nursery."""
        listening = self._socket
        if listening is None:
            raise RuntimeError("bind first")
        self._service = service
        service.emit(
            Event.LISTENER_OPEN,
            listener=self.settings.name,
            address=self.address,
            security=self.settings.security,
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_deadlines)
                nursery.start_soon(self._watch_certificates, service)
                task_status.started()
                await self._accept_all(listening, service)
                # Connections go on after `drain`, under their deadlines, until all is cancelled.
        finally:
            self._close()

    async def _accept_all(self, listening: socket.socket, service: Service) -> None:
        with contextlib.suppress(trio.ClosedResourceError):  # closed by `drain`
            while not service.draining:
                await trio.lowlevel.wait_readable(listening)
                # Who is not accepted yet waits in the kernel's queue, and no deadline runs for him.
                await self._node.turns.one()
                if not self._accept(listening, service):
                    service.emit(Event.ACCEPT_PAUSED, listener=self.settings.name, seconds=_PAUSE_S)
                    await trio.sleep(_PAUSE_S)

    async def _watch_deadlines(self) -> None:
        while True:
            await trio.sleep(_WATCH_S)
            now_s = trio.current_time()
            for connection in list(self._connections):
                connection.expire(now_s)

    async def _watch_certificates(self, service: Service) -> None:
        """End connections at their certificates' ends, which no handshake is asked about again."""
        while self.settings.security == "mutual-tls":
            now_ms = service.clock.wall_ms()
            ends_ms = self._end_expired(now_ms, service)
            until_s = (ends_ms - now_ms) / 1000 + _WATCH_S
            await trio.sleep(min(max(until_s, _WATCH_S), _ENDS_LOOK_S))

    def _end_expired(self, now_ms: int, service: Service) -> float:
        """End those whose certificate is over, after the answers they wait for; returns when the
        next one's is."""
        next_ms = inf
        for connection in list(self._connections):
            ends_ms = connection.certificate_ends_ms
            if ends_ms >= now_ms:
                next_ms = min(next_ms, ends_ms)
                continue
            connection.drain()
            name = "" if connection.peer is None else connection.peer.common_name
            service.emit(
                Event.CONNECTION_REFUSED,
                listener=self.settings.name,
                address=connection.address,
                reason=f"{Refusal.EXPIRED}: {name}" if name else str(Refusal.EXPIRED),
            )
        return next_ms

    def drain(self) -> None:
        """Stop accepting; end idle connections now and busy ones after their exchange."""
        if self._service is not None:
            self._service.draining = True
        self._close()
        for connection in list(self._connections):
            connection.drain()

    def open_connections(self) -> list[Connection]:
        """Those that are open now."""
        return list(self._connections)

    def cut_off(self, refusal: Callable[[PeerCertificate], str | None]) -> None:
        """End the connections whose certificate is refused now; what is under way is finished."""
        for connection in list(self._connections):
            if connection.peer is None:
                continue
            reason = refusal(connection.peer)
            if reason:
                connection.cut_off()
                if self._service is not None:
                    self._service.emit(
                        Event.CONNECTION_REFUSED,
                        listener=self.settings.name,
                        address=connection.address,
                        reason=str(reason),
                    )

    def _close(self) -> None:
        if self._socket is not None and self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def _accept(self, listening: socket.socket, service: Service) -> bool:
        """Take what is there, up to a turn's worth. False: the machine is out of descriptors."""
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                accepted, peer = listening.accept()
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    return False
                continue  # That one connection is gone already: ECONNABORTED and its like.
            address: str = peer[0]
            reason = self._refusal(address, service)
            if reason:
                accepted.close()
                service.emit(
                    Event.CONNECTION_REFUSED,
                    listener=self.settings.name,
                    address=address,
                    reason=reason,
                )
                continue
            tune(
                accepted,
                user_timeout_s=self.settings.user_timeout_s,
                keepalive_idle_s=self.settings.keepalive_idle_s,
            )
            tcp = TcpStream(accepted, turns=self._node.turns)
            connection = Connection(tcp, address, service)
            # Counted here, not in its task: a burst must not slip past the bounds.
            self._connections.add(connection)
            self._per_address[address] += 1
            self._node.open += 1
            service.exchanges.start_soon(self._run, connection)
        return True

    def _refusal(self, address: str, service: Service) -> str:
        limits = self.settings.limits
        blocked = service.gate.address(address, listener=self.settings.name)
        if blocked is not None:
            return blocked.words
        if self._networks and not in_networks(address, self._networks):
            return "not from a network that this listener serves"
        if self._node.open >= self._node.count_max:
            return "node.connections_max reached"
        if len(self._connections) >= limits.connections_max:
            return "limits.connections_max reached"
        if self._per_address[address] >= limits.connections_per_address_max:
            return "limits.connections_per_address_max reached"
        return ""

    async def _run(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._node.open -= 1
            self._per_address[connection.address] -= 1
            if not self._per_address[connection.address]:
                del self._per_address[connection.address]
