"""What a node does beside transactions: certificates looked at again, last-seen times written."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import trio

from gateway.clock import Clock
from gateway.errors import OperatorError, StoreError
from gateway.keys.authority import read_index
from gateway.settings.schema import Node as NodeSettings
from gateway.telemetry.audit_files import AuditFailed
from gateway.telemetry.events import Emit, Event
from gateway.terminals.expiries import Expiries
from gateway.terminals.listener import Listener
from gateway.terminals.registry import Registry
from gateway.wire.revocation import CertificateUnusable
from gateway.wire.tls import ServerTls

WriteDown = Callable[[str, Mapping[str, object]], Awaitable[None]]


class Housekeeping:
    """The recurring work of one node."""

    def __init__(
        self,
        *,
        listeners: Sequence[Listener],
        tls: Mapping[str, ServerTls],
        registry: Registry,
        expiries: Expiries,
        node: NodeSettings,
        clock: Clock,
        emit: Emit,
        write_down: WriteDown | None = None,
    ) -> None:
        """`write_down` is told of a listener whose files were edited, and of what is in force."""
        self._write_down = write_down
        self._listeners = listeners
        self._tls = tls
        self._registry = registry
        self._expiries = expiries
        self._node = node
        self._clock = clock
        self._emit = emit
        self._look = trio.Event()
        self._failed: set[str] = set()  # listeners whose files could not be read lately
        self.waiting = False  # for its next look

    def look_now(self) -> None:
        """Look at the certificate files at once rather than at the next turn."""
        self.waiting = False
        self._look.set()

    async def watch_certificates(self) -> None:
        """Use replaced certificates and revocation lists, and cut off whom they revoke."""
        while True:
            # Before the look: what is edited meanwhile is looked at in the next one.
            self._look = trio.Event()
            for name, tls in self._tls.items():
                await self._reload(name, tls)
                self._warn(name, tls)
            self._expiries.look()
            self.waiting = True
            with trio.move_on_after(self._node.watch_s):
                await self._look.wait()
            self.waiting = False

    async def _reload(self, listener: str, tls: ServerTls) -> None:
        try:
            changed = await trio.to_thread.run_sync(tls.reload)
        except CertificateUnusable as error:
            # The former files stay in force.
            self._failed.add(listener)
            self._emit(Event.CRL_FAILED, listener=listener, reason=str(error))
            return
        if changed or listener in self._failed:
            self._failed.discard(listener)
            revoked = len(tls.revocations) if tls.revocations is not None else 0
            self._emit(Event.CRL_LOADED, listener=listener, revoked=revoked)
            now_ms = self._clock.wall_ms()
            for one in self._listeners:
                if one.settings.name == listener:
                    one.cut_off(lambda peer: tls.refusal(peer, now_ms))
            if changed and self._write_down is not None:
                # In force already: a revocation does not wait for the audit log to have room.
                with contextlib.suppress(AuditFailed):
                    await self._write_down(
                        listener,
                        {"certificate_sha256": tls.certificate.sha256, "revoked": revoked},
                    )

    def _warn(self, listener: str, tls: ServerTls) -> None:
        now_ms = self._clock.wall_ms()
        if tls.crl_stale(now_ms):
            self._emit(Event.CRL_STALE, listener=listener)
        self._expiries.note(listener, tls)

    async def watch_index(self, index: Path, look_s: float) -> None:
        """Know when devices' certificates end from their authority's index, read every so often."""
        while True:
            # One that cannot be read now is read later: what was known of it stays.
            with contextlib.suppress(OperatorError):
                self._expiries.use_index(await trio.to_thread.run_sync(read_index, index))
            await trio.sleep(look_s)

    async def keep_last_seen(self) -> None:
        """Write when devices were last heard of, every so often."""
        while True:
            await trio.sleep(self._node.registry_flush_s)
            await self.flush()

    async def flush(self) -> None:
        try:
            await self._registry.flush_seen()
        except StoreError:
            return  # The store says so itself; the times are kept for the next turn.
