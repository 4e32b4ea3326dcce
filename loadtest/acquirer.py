"""Acquirer: a simulated host behind a gateway, on many connections with many requests on each."""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import trio

from gateway.clock import SystemClock
from gateway.errors import PeerError
from gateway.wire.message import Message
from loadtest.addresses import HostPort
from loadtest.commit import GroupCommit
from loadtest.control import serve_control
from loadtest.host import Host
from loadtest.ledger import AcquirerLedger
from loadtest.switches import Switches
from loadtest.wire import MessageReader, Wire, shipped_wire

_NETWORK = "8"
_NO_LINGER = struct.pack("ii", 1, 0)


class Acquirer:
    """Answers requests; what it decides is durable before its answer leaves."""

    def __init__(
        self,
        *,
        host: Host,
        commit: GroupCommit,
        wire: Wire,
        random: Random,
        switches: Switches,
    ) -> None:
        self.switches = switches
        self.counts: Counter[str] = Counter()
        self._host = host
        self._commit = commit
        self._wire = wire
        self._random = random
        self._connections: set[trio.CancelScope] = set()
        self._changed = trio.Event()

    # --- from outside ------------------------------------------------------------------------

    def change(self, changes: Mapping[str, Any]) -> Switches:
        """Set switches, all or none; `disconnect` closes every connection at once.

        Raises BadSwitch.
        """
        changes = dict(changes)
        disconnect = changes.pop("disconnect", False)
        self.switches = self.switches.changed(changes)
        if self.switches.reset or str(disconnect).lower() in ("true", "1", "yes"):
            for connection in tuple(self._connections):
                connection.cancel()
        self._changed.set()
        self._changed = trio.Event()
        return self.switches

    def summary(self) -> dict[str, Any]:
        """What it did so far; decided counts are those of the commits that were finished."""
        return {"open": len(self._connections), **self.counts, **self._host.counts}

    def control(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """A control line: changes switches, and tells where they stand."""
        switches = self.change(asked) if asked else self.switches
        return {"switches": switches.model_dump(mode="json"), "counts": self.summary()}

    def _resets(self) -> bool:
        return self.switches.reset

    # --- connections -------------------------------------------------------------------------

    async def serve(
        self,
        address: HostPort,
        *,
        task_status: trio.TaskStatus[HostPort] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accepts connections until cancelled; the status is the address that it listens on."""
        started = False
        async with trio.open_nursery() as connections:
            while True:
                listeners = await _listeners(address)
                bound = HostPort(address.host, listeners[0].socket.getsockname()[1])
                if not started:
                    started = True
                    address = bound  # comes back on the same port after it refused
                    task_status.started(bound)
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(
                        partial(
                            trio.serve_listeners,
                            self.serve_stream,
                            listeners,
                            handler_nursery=connections,
                        )
                    )
                    await self._until(refuse=True)
                    accepting.cancel_scope.cancel()
                await self._until(refuse=False)

    async def _until(self, *, refuse: bool) -> None:
        while self.switches.refuse is not refuse:
            await self._changed.wait()

    async def serve_stream(self, stream: trio.abc.Stream) -> None:
        """Answers one connection until it ends, is cut by a switch, or says what cannot be read."""
        self.counts["connections"] += 1
        if self._resets():
            self.counts["reset"] += 1
            await _reset(stream)
            return
        try:
            async with trio.open_nursery() as nursery:
                self._connections.add(nursery.cancel_scope)
                try:
                    await self._read(stream, nursery)
                finally:
                    self._connections.discard(nursery.cancel_scope)
        finally:
            # Not an orderly end: nothing that is still owed is sent, and nobody is waited for.
            if self._resets():
                self.counts["reset"] += 1
                await _reset(stream)
            else:
                await trio.aclose_forcefully(stream)

    async def _read(self, stream: trio.abc.Stream, nursery: trio.Nursery) -> None:
        reader = MessageReader(stream, self._wire)
        sending = trio.Lock()
        try:
            while (request := await reader.next()) is not None:
                if request.is_request:
                    self.counts["received"] += 1
                    nursery.start_soon(self._handle, request, stream, sending)
                else:
                    self.counts["unexpected"] += 1
        except PeerError:
            self.counts["unreadable"] += 1
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.counts["broken"] += 1
        nursery.cancel_scope.cancel()

    async def _handle(self, request: Message, stream: trio.abc.Stream, sending: trio.Lock) -> None:
        switches = self.switches
        network = request.mti[1:2] == _NETWORK
        if not network:
            if switches.lose and self._random.random() < switches.lose:
                self.counts["lost"] += 1
                return
            if switches.hold_ms and request.mti[1:2] in "12":
                await trio.sleep(switches.hold_ms / 1000)
        decide = partial(self._host.answer, request, switches)
        answer = decide() if network else await self._commit.submit(decide)
        if not network and (delay_s := switches.delay_s(self._random)):
            await trio.sleep(delay_s)
        if self._keeps_silent(network=network):
            self.counts["withheld"] += 1
            return
        try:
            async with sending:
                await stream.send_all(self._wire.pack(answer))
            self.counts["answered"] += 1
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.counts["undeliverable"] += 1

    def _keeps_silent(self, *, network: bool) -> bool:
        # As the switches stand now: one that goes mute swallows the answers under way too.
        switches = self.switches
        if switches.mute:
            return not (network and switches.echo_while_mute)
        return not network and bool(switches.drop) and self._random.random() < switches.drop


async def _reset(stream: trio.abc.Stream) -> None:
    """Ends a connection with an RST, where it is one that can have such a thing."""
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if isinstance(transport, trio.SocketStream):
        with suppress(OSError):  # the other side was first
            transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    await trio.aclose_forcefully(stream)


async def _listeners(address: HostPort) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(address.port, host=address.host)
    except OSError as error:
        raise OSError(f"cannot listen on {address}: {error.strerror}") from error


async def run_acquirer(
    stop: trio.Event,
    *,
    name: str,
    address: HostPort,
    ledger_path: Path,
    control: Path | None,
    switches: Switches,
    seed: int,
) -> dict[str, Any]:
    """Runs an acquirer until `stop` is set; returns its summary.

    Its first line on standard output is `{"name", "listening", "control"}`.
    """
    ledger = AcquirerLedger(ledger_path)
    try:
        host = Host(ledger, SystemClock())
        commit = GroupCommit(ledger.database)
        acquirer = Acquirer(
            host=host, commit=commit, wire=shipped_wire(), random=Random(seed), switches=switches
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit.run)
            # First of all: it fails where another runs there, whose socket must not be taken.
            bound: HostPort = await nursery.start(acquirer.serve, address)
            if control is not None:
                await nursery.start(serve_control, control, acquirer.control)
            ready = {"name": name, "listening": str(bound), "control": str(control or "")}
            sys.stdout.write(json.dumps(ready) + "\n")
            sys.stdout.flush()
            await stop.wait()
            nursery.cancel_scope.cancel()
    finally:
        ledger.close()
    return {"name": name, "commits": commit.commits, **acquirer.summary()}
