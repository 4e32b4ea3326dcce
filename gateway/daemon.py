"""Runs a node: starts its parts from the inside out, and takes them down in the right order."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from gateway import __version__
from gateway.admin.access import Caller, Peer, caller_of, this_process
from gateway.admin.api import AdminApi
from gateway.admin.approvals import PendingApprovals
from gateway.admin.backup import BackupOperations
from gateway.admin.blocklists import BlocklistOperations
from gateway.admin.configuration import ConfigurationOperations
from gateway.admin.controls import Controls
from gateway.admin.desk import Desk
from gateway.admin.errors import ErrorOperations
from gateway.admin.explain import ExplainOperations
from gateway.admin.gaps import GapOperations
from gateway.admin.guard import Guard
from gateway.admin.key_room import KeyRoom
from gateway.admin.key_watch import KeyWatch
from gateway.admin.keys import KeyOperations
from gateway.admin.server import serve_admin
from gateway.admin.terminals import TerminalOperations
from gateway.admin.transactions import ReversalOperations, TransactionOperations
from gateway.admin.upstreams import UpstreamOperations, Views
from gateway.assembly import DESCRIPTORS_SPARE, open_node, pending_of
from gateway.clock import SystemClock
from gateway.errors import InvariantBroken, OperatorError
from gateway.housekeeping import Housekeeping
from gateway.keys.kek_settings import Ask
from gateway.live import Live, Parts, prepare, version_of
from gateway.node import Node
from gateway.settings.loader import Configuration
from gateway.settings.reload import UNKNOWN_AUTHOR, Prepared, Reloader, Whole, read_whole
from gateway.settings.restart import needs_restart
from gateway.settings.schema_terminals import Listener as ListenerSettings
from gateway.settings.sources import certificate_files
from gateway.settings.watch import Watch
from gateway.status import (
    StatusReport,
    register_certificate_gauges,
    register_configuration_gauges,
    register_gauges,
    register_key_gauges,
    register_upstream_gauges,
)
from gateway.store.store import DeviceState
from gateway.telemetry.audit import patiently
from gateway.telemetry.audit_files import AuditFailed
from gateway.telemetry.events import Event
from gateway.telemetry.exporter import serve_metrics
from gateway.telemetry.log import EventLog
from gateway.telemetry.sink import LineSink
from gateway.terminals.connection import Service
from gateway.terminals.dispatch import Dispatcher
from gateway.terminals.downloads import ListenerDownloads
from gateway.terminals.expiries import Expiries
from gateway.transactions.resealing import Resealing
from gateway.transactions.retention import Retention, archive_folder
from gateway.transactions.version import Version
from gateway.wire.editions import codec_of
from gateway.wire.id_patterns import padded
from gateway.wire.message import PAN, Message

# The writer's thread must not wait long for the interpreter while the loop is busy.
_SWITCH_INTERVAL_S = 0.0005
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# A full collection walks every connection: thousands of objects each, for hundreds of ms.
_GC_THRESHOLDS = (50_000, 20, 1_000)


class _Fatal:
    """Stops the node when the store cannot vouch for what it said: a failed fsync and its like."""

    def __init__(self) -> None:
        self._reason = ""
        self._told = trio.Event()

    def tell(self, reason: str) -> None:
        self._reason = reason
        self._told.set()

    async def run(self) -> None:
        await self._told.wait()
        raise InvariantBroken(self._reason)


async def run_node(
    configuration: Configuration,
    *,
    ready: Callable[[Node], None] = lambda _: None,
    ask: Ask | None = None,
) -> None:
    """Run a node until SIGTERM or SIGINT; returns after an orderly stop.

    `ask` gives the components of a key-encryption key that is in no files; None: it must be.
    What is read again is the file that the configuration came from. Raises SettingsError,
    OperatorError and OSError where it cannot start, each with what to do about it, and
    InvariantBroken where it stopped because it must not go on.
    """
    whole = await trio.to_thread.run_sync(read_whole, configuration.file, prepare)
    configuration = whole.prepared.configuration
    _prepare_process(configuration)
    settings = configuration.settings
    clock = SystemClock()
    log_file = configuration.resolve(settings.log.file) if settings.log.file else None
    sink = LineSink(file=log_file, lines_max=settings.log.queue_lines_max)
    log = EventLog(
        sink,
        clock=clock,
        node=settings.node.name,
        level=settings.log.level,
        style=settings.log.format,
    )
    log.emit(Event.NODE_STARTING, version=__version__, config=configuration.version)
    try:
        fatal = _Fatal()
        # Before anything else: a signal that comes during the start is heard when it is over.
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with open_node(whole.prepared, log, clock, fatal=fatal.tell, ask=ask) as node:
                await patiently(partial(_written_down, node, "node.start"), node.audit.tell_full)
                await _serve(node, whole, fatal, signals, ready)
                with contextlib.suppress(AuditFailed):  # it says so itself; the stop is orderly
                    await _written_down(node, "node.stop")
        log.emit(Event.NODE_STOPPED)
    finally:
        log.close()


async def _written_down(node: Node, action: str) -> None:
    """That the node starts or stops, under which version; raises AuditFailed."""
    await node.audit.record(
        action,
        who=replace(this_process().who, origin="node"),
        subject=node.configuration.settings.node.name,
        new={"version": __version__, "config_version": node.configuration.version},
    )


async def _certificates_written_down(
    node: Node, listener: str, in_force: Mapping[str, object]
) -> None:
    await node.audit.record("certificates.load", who=UNKNOWN_AUTHOR, subject=listener, new=in_force)


def _prepare_process(configuration: Configuration) -> None:
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # A core file would hold card data.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # It would print a traceback to standard error for each accept that finds no descriptor left;
    # the admin socket and the metrics port wait a moment and try again without being told so.
    logging.getLogger("trio.serve_listeners").disabled = True
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = configuration.settings.node.connections_max + DESCRIPTORS_SPARE
    if soft < wanted:
        reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, reachable), hard))


# --- running ----------------------------------------------------------------------------------


async def _serve(
    node: Node,
    whole: Whole[Parts],
    fatal: _Fatal,
    signals: AsyncIterator[int],
    ready: Callable[[Node], None],
) -> None:
    """Start from the inside out, wait for a signal, and stop from the outside in."""
    settings = node.configuration.settings
    emit = node.log.emit
    for listener in node.listeners:
        try:
            listener.bind()
        except OSError as error:
            raise OperatorError(
                f"listener {listener.settings.name}: cannot listen on "
                f"{listener.settings.listen}: {error.strerror}"
            ) from error
    expiries = _expiries(node)
    housekeeping = Housekeeping(
        listeners=node.listeners,
        tls=node.tls,
        registry=node.registry,
        expiries=expiries,
        node=settings.node,
        clock=node.clock,
        emit=emit,
        write_down=partial(_certificates_written_down, node),
    )
    keys = _keys(node)
    key_watch = KeyWatch(keys.room, emit=emit)
    register_key_gauges(node, key_watch)
    reloader, watch = _reloading(node, whole, housekeeping)
    approvals = PendingApprovals(
        node.audit.folder,
        settings=lambda: node.configuration.settings.approvals,
        clock=node.clock,
        emit=emit,
    )
    await approvals.load()
    views, upstreams = await _steered(node)
    report = StatusReport(
        node,
        started_ms=node.clock.wall_ms(),
        configuration=reloader.status,
        approvals=lambda: len(approvals.waiting()),
        upstreams=views,
    )
    register_gauges(node)
    register_upstream_gauges(node)
    register_configuration_gauges(node, reloader.status, lambda: len(approvals.waiting()))
    async with trio.open_nursery() as background:
        background.start_soon(fatal.run)
        background.start_soon(node.alarms.run)
        if settings.metrics.listen:
            await background.start(
                partial(serve_metrics, node.metrics, settings.metrics.listen, emit=emit)
            )
        await background.start(node.pool.run)
        await background.start(node.records.run)
        await background.start(node.reversals.run)
        await background.start(node.delivery.run)
        await background.start(node.sightings.run)
        await background.start(node.cutting.run)
        await background.start(node.life.run)
        await background.start(_retention(node).run)
        await background.start(_resealing(node).run)
        background.start_soon(housekeeping.watch_certificates)
        if settings.certificates.index is not None:
            index = node.configuration.resolve(settings.certificates.index)
            background.start_soon(
                housekeeping.watch_index, index, settings.certificates.index_look_s
            )
        background.start_soon(housekeeping.keep_last_seen)
        background.start_soon(key_watch.run)
        await background.start(reloader.run)
        if settings.reload.watch:
            await background.start(watch.run)
        async with trio.open_nursery() as exchanges:
            await _open_listeners(node, exchanges)
            await background.start(
                partial(_serve_admin, node, report, reloader, approvals, upstreams, keys)
            )
            _settle_garbage()
            emit(
                Event.NODE_READY,
                version=__version__,
                config=node.configuration.version,
                listeners=len(node.listeners),
            )
            ready(node)
            await _until_told_to_stop(node, housekeeping, reloader, signals)
            await _drain(node, exchanges)
        await housekeeping.flush()
        background.cancel_scope.cancel()


async def _steered(node: Node) -> tuple[Views, UpstreamOperations]:
    """How operators see upstreams and steer them, with what they set in earlier runs set again.

    Before the upstreams run: one that was drained is not even connected.
    """
    controls = Controls(node.pool, store=node.store, clock=node.clock, emit=node.log.emit)
    await controls.restore()
    views = Views(order=controls.order, owed=node.reversals.open_for, clock=node.clock)
    return views, UpstreamOperations(node.pool, controls=controls, views=views)


async def _serve_admin(
    node: Node,
    report: StatusReport,
    reloader: Reloader[Parts],
    approvals: PendingApprovals,
    upstreams: UpstreamOperations,
    keys: KeyOperations,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    settings = node.configuration.settings
    groups = {
        "blocklists": BlocklistOperations(
            configuration=lambda: node.configuration,
            reloader=reloader,
            lists=lambda: node.flow.version.policy.blocklists,
            card_token=lambda pan: node.records.card_token(Message("0200", {PAN: pan})),
            wall_ms=node.clock.wall_ms,
        ),
        "config": ConfigurationOperations(reloader),
        "errors": ErrorOperations(node.rejected_frames),
        "explain": _explaining(node),
        "keys": keys,
        "terminals": TerminalOperations(node.registry, node.sightings, node.life),
        "transactions": TransactionOperations(
            store=node.store, clock=node.clock, grace_s=settings.repeats.undelivered_grace_s
        ),
        "backup": BackupOperations(
            configuration=lambda: node.configuration, clock=node.clock, emit=node.log.emit
        ),
        "restore": GapOperations(node.gaps),
        "reversals": ReversalOperations(
            store=node.store, reversals=node.reversals, clock=node.clock
        ),
        "upstreams": upstreams,
    }
    guard = Guard(audit=node.audit, approvals=approvals, clock=node.clock, emit=node.log.emit)

    def callers(peer: Peer) -> Caller:
        return caller_of(peer, node.configuration.settings.operators, own_uid=os.getuid())

    api = AdminApi(
        status=report.status,
        desk=Desk(groups, guard=guard, approvals=approvals),
        callers=callers,
        emit=node.log.emit,
        group=settings.node.admin_group,
    )
    socket_path = node.configuration.resolve(settings.node.admin_socket)
    await serve_admin(api, socket_path, task_status=task_status)


def _keys(node: Node) -> KeyOperations:
    settings = node.configuration.settings
    room = KeyRoom(
        holdings=node.keys,
        store=node.store,
        clock=node.clock,
        settings=lambda: node.configuration.settings.keys,
        emit=node.log.emit,
        production=settings.node.production,
    )
    return KeyOperations(
        room,
        resolve=node.configuration.resolve,
        is_enrolled=lambda terminal_id: node.registry.by_terminal(terminal_id.ljust(8)) is not None,
        emit=node.log.emit,
    )


def _explaining(node: Node) -> ExplainOperations:
    def upstream_state(name: str) -> str:
        upstream = node.pool.get(name)
        return "removed" if upstream is None else upstream.status().state

    return ExplainOperations(
        configuration=lambda: node.configuration,
        version=lambda: node.flow.version,
        find_device=node.registry.by_terminal,
        blocked=node.gate.would_keep_out,
        card_token=node.records.card_token,
        former_cards=node.records.former_card_tokens,
        upstream_state=upstream_state,
        clock=node.clock,
    )


def _reloading(
    node: Node, whole: Whole[Parts], housekeeping: Housekeeping
) -> tuple[Reloader[Parts], Watch]:
    """What takes up edits of the configuration's files, and what hears of them."""

    def in_force(prepared: Prepared[Parts]) -> Version:
        return version_of(prepared, limits=node.limits, pending=partial(pending_of, node.pool))

    def files() -> list[Path]:
        return [*reloader.files(), *certificate_files(node.configuration)]

    def changed() -> None:
        reloader.hint()
        # Certificates are taken up by themselves: a revocation does not wait until a typing error
        # elsewhere is mended.
        housekeeping.look_now()

    def swapped() -> None:
        node.cutting.look_now()
        watch.files_changed()

    live = Live(node, version=in_force, swapped=swapped)
    reloader: Reloader[Parts] = Reloader(
        whole,
        prepare=prepare,
        swap=live.swap,
        needs_restart=needs_restart,
        audit=node.audit,
        clock=node.clock,
        emit=node.log.emit,
    )
    watch = Watch(files, changed, look_s=node.configuration.settings.reload.look_s)
    return reloader, watch


def _retention(node: Node) -> Retention:
    settings = node.configuration.settings
    return Retention(
        store=node.store,
        settings=settings.retention,
        folder=archive_folder(node.configuration),
        grace_s=settings.repeats.undelivered_grace_s,
        clock=node.clock,
        emit=node.log.emit,
    )


def _expiries(node: Node) -> Expiries:
    """When certificates end: of listeners, their authorities, and devices that are in use."""

    def counts(name: str) -> bool:
        device = node.registry.by_terminal(padded(name))
        return device is None or device.state in (DeviceState.ACTIVE, DeviceState.PENDING)

    settings = node.configuration.settings.certificates
    expiries = Expiries(
        warn_days=settings.warn_days,
        devices_max=settings.devices_max,
        clock=node.clock,
        emit=node.log.emit,
        counts=counts,
    )
    for tls in node.tls.values():
        tls.seen = expiries.seen
    register_certificate_gauges(node, expiries)
    return expiries


def _resealing(node: Node) -> Resealing:
    return Resealing(
        store=node.store,
        security=node.keys.security,
        settings=lambda: node.configuration.settings.sealing,
        emit=node.log.emit,
    )


async def _open_listeners(node: Node, exchanges: trio.Nursery) -> None:
    for listener in node.listeners:
        dialect = node.configuration.dialects[listener.settings.dialect]
        codec = codec_of(dialect, node.clock.wall_ms)
        dispatcher = Dispatcher(
            settings=listener.settings,
            codec=codec,
            flow=node.flow,
            devices=node.registry,
            clock=node.clock,
            emit=node.log.emit,
            refused=node.metrics.refused,
            rates=node.rates,
            gate=node.gate,
            rejected=node.rejected_frames,
            guard=node.guard.of(listener.settings, codec),
            downloads=_downloads(node, listener.settings),
        )
        service = Service(
            listener.settings,
            dispatcher=dispatcher,
            tls=node.tls.get(listener.settings.name),
            deliver=node.flow,
            find_concentrator=node.concentrators.find,
            gate=node.gate,
            rejected=node.rejected_frames,
            exchanges=exchanges,
            clock=node.clock,
            emit=node.log.emit,
        )
        await exchanges.start(listener.run, service)


def _downloads(node: Node, listener: ListenerSettings) -> ListenerDownloads | None:
    if listener.downloads == "refuse":
        return None
    return ListenerDownloads(listener, shared=node.downloads, pool=node.pool, emit=node.log.emit)


def _settle_garbage() -> None:
    """What is here now stays: keep it out of every later collection, and collect seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


async def _until_told_to_stop(
    node: Node,
    housekeeping: Housekeeping,
    reloader: Reloader[Parts],
    signals: AsyncIterator[int],
) -> None:
    async for number in signals:
        if number == signal.SIGHUP:
            node.log.reopen()
            housekeeping.look_now()
            reloader.hint(again=True)
            continue
        node.log.emit(Event.NODE_STOPPING, signal=signal.Signals(number).name)
        return


async def _drain(node: Node, exchanges: trio.Nursery) -> None:
    """Stop accepting, let what is under way finish within the bound, then end the rest.

    What is cut here has its intent on disk: the next start finds it and owes its reversal.
    """
    for listener in node.listeners:
        listener.drain()
    with trio.move_on_after(node.configuration.settings.node.drain_s) as drain:
        # Polled: connections end in many ways, and a stop has time.
        while node.flow.under_way or any(listener.connections for listener in node.listeners):  # noqa: ASYNC110
            await trio.sleep(0.02)
    if drain.cancelled_caught:
        node.log.emit(
            Event.NODE_DRAIN_INCOMPLETE,
            under_way=node.flow.under_way,
            connections=sum(listener.connections for listener in node.listeners),
        )
    exchanges.cancel_scope.cancel()
