"""Acquirer: a simulated host behind a gateway, on many connections with many requests on each."""

from __future__ import annotations

import json
import ssl
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import trio

from gateway.clock import SystemClock
from gateway.errors import PeerError
from gateway.wire.framing import Frame
from gateway.wire.message import Message
from gateway.wire.tls import ServerTlsFiles, client_context, server_context
from loadtest.acquirer_keys import AcquirerKeys, AcquirerWire
from loadtest.acquirer_line import GONE, Line, reset
from loadtest.addresses import HostPort
from loadtest.commit import GroupCommit, Synchronous
from loadtest.control import serve_control
from loadtest.host import Host
from loadtest.ledger import AcquirerLedger
from loadtest.switches import BadSwitch, Switches
from loadtest.wire import Wire, shipped_wire

_NETWORK = "8"
_HANDSHAKE_S = 5.0
_CONNECT_S = 2.0
_CALL_AGAIN_S = 0.2
_CALL_AGAIN_MAX_S = 2.0
# What it can be told to start itself, and the network code (DE70) of each.
STARTS = {"sign_on": "001", "sign_off": "002", "key_change": "161", "echo": "301"}
_NEW_KEYS = "new_keys"  # a key change that brings them, where it has keys


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
        tls: Tls | None = None,
        keys: AcquirerKeys | None = None,
    ) -> None:
        """With `keys`, which its wire has too, it wants MACs and looks at PINs."""
        self.switches = switches
        self.counts: Counter[str] = Counter()
        self._host = host
        self._commit = commit
        self._wire = wire
        self._random = random
        self._tls = tls
        self._keys = keys
        self._lines: dict[Line, trio.Nursery] = {}
        self._changed = trio.Event()

    # --- from outside ------------------------------------------------------------------------

    def change(self, changes: Mapping[str, Any]) -> Switches:
        """Set switches, all or none; `disconnect` closes every connection at once.

        `start` names a network message that it sends on every connection. Raises BadSwitch.
        """
        changes = dict(changes)
        disconnect = changes.pop("disconnect", False)
        start = str(changes.pop("start", ""))
        if start and start not in STARTS and (start != _NEW_KEYS or self._keys is None):
            raise BadSwitch(f"start: {start!r} is not one of {', '.join(STARTS)}")
        self.switches = self.switches.changed(changes)
        if start:
            for line, nursery in self._lines.items():
                nursery.start_soon(self._start, line, start)
        if self._resets() or str(disconnect).lower() in ("true", "1", "yes"):
            for line in tuple(self._lines):
                line.scope.cancel()
        self._changed.set()
        self._changed = trio.Event()
        return self.switches

    def summary(self) -> dict[str, Any]:
        """What it did so far; decided counts are those of the commits that were finished.

        `connections` are all that were accepted or made, those among them that were reset at once.
        """
        of_keys = {} if self._keys is None else self._keys.counts
        return {"open": len(self._lines), **self.counts, **self._host.counts, **of_keys}

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

    async def call(self, connect: Callable[[], Awaitable[trio.abc.Stream]]) -> None:
        """Keeps one connection to a gateway that listens for it, until cancelled.

        While it refuses it does not call.
        """
        pause_s = _CALL_AGAIN_S
        while True:
            await self._until(refuse=False)
            try:
                with trio.fail_after(_CONNECT_S):
                    stream = await connect()
            except (OSError, trio.TooSlowError):
                self.counts["calls_failed"] += 1
            else:
                called_s = trio.current_time()
                await self.serve_stream(stream)
                if trio.current_time() - called_s > _CALL_AGAIN_MAX_S:
                    pause_s = _CALL_AGAIN_S
            await trio.sleep(pause_s * (0.5 + self._random.random() / 2))
            pause_s = min(2 * pause_s, _CALL_AGAIN_MAX_S)

    async def _until(self, *, refuse: bool) -> None:
        while self.switches.refuse is not refuse:
            await self._changed.wait()

    async def serve_stream(self, stream: trio.abc.Stream) -> None:
        """Answers one connection until it ends, is cut by a switch, or says what cannot be read."""
        self.counts["connections"] += 1
        try:
            secured = None if self._resets() else await self._secured(stream)
            if secured is not None:
                async with trio.open_nursery() as nursery:
                    line = Line(secured, self._wire, nursery.cancel_scope)
                    self._lines[line] = nursery
                    try:
                        await self._read(line, nursery)
                    finally:
                        del self._lines[line]
        finally:
            # Not an orderly end: nothing that is still owed is sent, and nobody is waited for.
            if self._resets():
                self.counts["reset"] += 1
                await reset(stream)
            else:
                await trio.aclose_forcefully(stream)

    async def _secured(self, stream: trio.abc.Stream) -> trio.abc.Stream | None:
        """The stream under TLS where it is to have that; None after a handshake that failed."""
        if self._tls is None:
            return stream
        secured = trio.SSLStream(
            stream,
            self._tls.context,
            server_hostname=self._tls.server_name or None,
            server_side=not self._tls.server_name,
            https_compatible=True,
        )
        try:
            with trio.fail_after(_HANDSHAKE_S):
                await secured.do_handshake()
        except (*GONE, trio.TooSlowError):
            self.counts["handshakes_failed"] += 1
            return None
        return secured

    async def _read(self, line: Line, nursery: trio.Nursery) -> None:
        try:
            while (framed := await line.next()) is not None:
                message, frame = framed
                if message.is_request:
                    self.counts["received"] += 1
                    nursery.start_soon(self._handle, message, frame, line)
                elif (code := line.take_answer(message)) is not None:
                    self._take_answer(line, message, code)
                else:
                    self.counts["unexpected"] += 1
        except PeerError:
            self.counts["unreadable"] += 1
        except GONE:
            self.counts["broken"] += 1
        nursery.cancel_scope.cancel()

    async def _handle(self, request: Message, frame: Frame, line: Line) -> None:
        if request.mti[1:2] == _NETWORK:
            answer = self._host.answer(request, self.switches)
            if self._keys is not None:
                answer = self._keys.with_keys(request, answer)
        elif refusal := self._refusal(request):
            answer = self._host.refusal(request, refusal)
        else:
            decided = await self._decided(request, line)
            if decided is None:
                return
            answer = decided
        network = request.mti[1:2] == _NETWORK
        if self._keeps_silent(network=network):
            self.counts["withheld"] += 1
            return
        if network:
            line.note(request, answer)
        try:
            await line.answer(answer, frame)
            self.counts["answered"] += 1
        except GONE:
            self.counts["undeliverable"] += 1

    def _refusal(self, request: Message) -> str:
        """The code of a refusal for its MAC or its PIN; nothing where there is none."""
        if self._keys is None:
            return ""
        self._keys.spoil_macs = self.switches.spoil_macs
        return self._keys.refusal(request, self._wire.codec)

    async def _decided(self, request: Message, line: Line) -> Message | None:
        """The answer to what is financial, durable and due to be sent; None: there is none."""
        switches = self.switches
        if switches.demand_sign_on and not line.signed_on:
            self.counts["before_sign_on"] += 1
            if switches.demand_sign_on == "close":
                line.scope.cancel()
                return None
            return self._host.refusal(request, switches.demand_sign_on)
        if switches.lose and self._random.random() < switches.lose:
            self.counts["lost"] += 1
            return None
        if switches.hold_ms and request.mti[1:2] in "12":
            await trio.sleep(switches.hold_ms / 1000)
        answer = await self._commit.submit(partial(self._host.answer, request, switches))
        if delay_s := switches.delay_s(self._random):
            await trio.sleep(delay_s)
        return answer

    def _keeps_silent(self, *, network: bool) -> bool:
        # As the switches stand now: one that goes mute swallows the answers under way too.
        switches = self.switches
        if switches.mute:
            return not (network and switches.echo_while_mute)
        if network:
            return switches.network_mute
        return bool(switches.drop) and self._random.random() < switches.drop

    # --- what it starts itself ---------------------------------------------------------------

    async def _start(self, line: Line, start: str) -> None:
        self.counts["started"] += 1
        code = STARTS.get(start, STARTS["key_change"])
        request = self._host.network_request(code)
        if start == _NEW_KEYS and self._keys is not None:
            request = request.changed({48: self._keys.change().hex().upper()})
        try:
            await line.ask(request, code)
        except GONE:
            self.counts["undeliverable"] += 1

    def _take_answer(self, line: Line, answer: Message, code: str) -> None:
        self.counts["started_answered"] += 1
        if answer.response_code == "00" and code in (STARTS["sign_on"], STARTS["sign_off"]):
            line.signed_on = code == STARTS["sign_on"]


async def _listeners(address: HostPort) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(address.port, host=address.host)
    except OSError as error:
        raise OSError(f"cannot listen on {address}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Tls:
    """A context for every connection; with `server_name` it is that of who calls."""

    context: ssl.SSLContext
    server_name: str = ""


def serving_tls(certificate: Path, key: Path, *, client_ca: Path | None) -> Tls:
    """TLS of an acquirer that listens; with `client_ca` it demands a certificate.

    Raises gateway.errors.CertificateUnusable, or OSError.
    """
    if client_ca is not None:
        files = ServerTlsFiles(certificate=certificate, key=key, client_ca=client_ca)
        return Tls(server_context(files, session_tickets=2))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one of them; neither names a file
        raise OSError(f"{certificate}, {key}: not usable: {error}") from error
    return Tls(context)


def calling_tls(
    ca: Path, *, server_name: str, certificate: Path | None = None, key: Path | None = None
) -> Tls:
    """TLS of an acquirer that calls; raises gateway.errors.CertificateUnusable."""
    return Tls(client_context(ca, certificate=certificate, key=key), server_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquirerOptions:
    """An acquirer's place: it listens on `address`, or with `calls` keeps so many calls to it."""

    name: str
    address: HostPort
    calls: int = 0
    ledger: Path
    synchronous: Synchronous = "FULL"
    control: Path | None = None
    switches: Switches = field(default_factory=Switches)
    wire: Wire = field(default_factory=shipped_wire)
    tls: Tls | None = None
    keys: AcquirerKeys | None = None
    seed: int = 1


def _keyed(wire: Wire, keys: AcquirerKeys | None) -> Wire:
    if keys is None:
        return wire
    return AcquirerWire(wire.codec, wire.framing, wire.tpdu, wire.header, keys)


async def run_acquirer(stop: trio.Event, options: AcquirerOptions) -> dict[str, Any]:
    """Runs an acquirer until `stop` is set; returns its summary.

    Its first line on standard output is `{"name", "listening", "control"}`, or "calling".
    """
    ledger = AcquirerLedger(options.ledger, synchronous=options.synchronous)
    try:
        host = Host(ledger, SystemClock())
        # Without a sync a commit is quicker than the way to a thread and back.
        commit = GroupCommit(ledger.database, inline=options.synchronous == "NORMAL")
        acquirer = Acquirer(
            host=host,
            commit=commit,
            wire=_keyed(options.wire, options.keys),
            random=Random(options.seed),
            switches=options.switches,
            tls=options.tls,
            keys=options.keys,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit.run)
            where = {"calling": str(options.address)}
            if not options.calls:
                # First of all: it fails where another runs there, whose socket must not be taken.
                bound: HostPort = await nursery.start(acquirer.serve, options.address)
                where = {"listening": str(bound)}
            if options.control is not None:
                await nursery.start(serve_control, options.control, acquirer.control)
            for _ in range(options.calls):
                nursery.start_soon(acquirer.call, partial(trio.open_tcp_stream, *options.address))
            ready = {"name": options.name, **where, "control": str(options.control or "")}
            sys.stdout.write(json.dumps(ready) + "\n")
            sys.stdout.flush()
            await stop.wait()
            nursery.cancel_scope.cancel()
    finally:
        ledger.close()
    return {"name": options.name, "commits": commit.commits, **acquirer.summary()}
