"""The composition root: builds everything, runs it, and takes it down in the right order."""

from __future__ import annotations

import gc
import itertools
import random
import resource
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from gateway import __version__
from gateway.admin.api import AdminApi
from gateway.admin.operations import TerminalOperations
from gateway.admin.server import serve_admin
from gateway.clock import Clock, SystemClock
from gateway.errors import InvariantBroken, OperatorError
from gateway.housekeeping import Housekeeping
from gateway.keys.keyring import Keyring
from gateway.keys.security_module import SoftwareSecurityModule
from gateway.node import Node
from gateway.policy.decide import Policy
from gateway.policy.permissions import Permissions
from gateway.policy.response_codes import APPROVED
from gateway.settings.loader import Configuration
from gateway.settings.schema import Upstream as UpstreamSettings
from gateway.status import StatusReport, register_gauges
from gateway.store.sqlite import SqliteStore
from gateway.store.store import ReserveStans
from gateway.telemetry.alarms import Alarms
from gateway.telemetry.events import Emit, Event
from gateway.telemetry.exporter import serve_metrics
from gateway.telemetry.log import EventLog
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.sink import LineSink
from gateway.terminals.concentrators import Concentrators
from gateway.terminals.connection import Service
from gateway.terminals.dispatch import Dispatcher
from gateway.terminals.listener import ConnectionCount, Listener
from gateway.terminals.registry import Registry
from gateway.transactions.batches import Batches
from gateway.transactions.delivery import Delivery, take_back_undelivered
from gateway.transactions.flow import Flow
from gateway.transactions.originals import Originals
from gateway.transactions.records import Records
from gateway.transactions.recovery import recover
from gateway.transactions.reversals import Reversals
from gateway.upstreams.pool import Pool, Upstream
from gateway.upstreams.routing import Router
from gateway.wire.codec import Codec
from gateway.wire.tls import ServerTls, ServerTlsFiles, client_context

# The writer's thread must not wait long for the interpreter while the loop is busy.
_SWITCH_INTERVAL_S = 0.0005
# A full collection walks every connection: thousands of objects each, for hundreds of ms.
_GC_THRESHOLDS = (50_000, 20, 1_000)
_DESCRIPTORS_SPARE = 64  # beside terminals: links, store, log, admin


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
    configuration: Configuration, *, ready: Callable[[Node], None] = lambda _: None
) -> None:
    """Run a node until SIGTERM or SIGINT; returns after an orderly stop.

    Raises OperatorError and OSError where it cannot start, each with what to do about it, and
    InvariantBroken where it stopped because it must not go on.
    """
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
        async with _open(configuration, log, clock, fatal) as node:
            await _serve(node, fatal, ready)
        log.emit(Event.NODE_STOPPED)
    finally:
        log.close()


def _prepare_process(configuration: Configuration) -> None:
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # A core file would hold card data.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = configuration.settings.node.connections_max + _DESCRIPTORS_SPARE
    if soft < wanted:
        reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, reachable), hard))


# --- building ---------------------------------------------------------------------------------


@asynccontextmanager
async def _open(
    configuration: Configuration, log: EventLog, clock: Clock, fatal: _Fatal
) -> AsyncIterator[Node]:
    """Open the store and build the node over it; the store is closed last of all."""
    settings = configuration.settings
    emit = log.emit
    metrics = Metrics()
    alarms = Alarms(
        settings.alarms.command,
        timeout_s=settings.alarms.timeout_s,
        running_max=settings.alarms.running_max,
        repeat_s=settings.alarms.repeat_s,
        clock=clock,
        emit=emit,
        node=settings.node.name,
    )
    log.subscribe(metrics.count_event)
    log.subscribe(alarms.on_event)
    security = _security_module(configuration)
    store = await SqliteStore.open(
        configuration.resolve(settings.store.path),
        queue_max=settings.store.queue_max,
        batch_max=settings.store.batch_max,
        emit=emit,
        on_commit=metrics.store_commit,
        fatal=fatal.tell,
    )
    try:
        registry = await Registry.load(
            store,
            ranges=settings.registry.ranges,
            default_profile=settings.registry.default_profile,
            clock=clock,
            emit=emit,
            profiles=[profile.name for profile in settings.profiles],
        )
        records = Records(
            store=store,
            security=security,
            clock=clock,
            transaction_ids=itertools.count(await store.last_transaction_id() + 1),
            config_version=configuration.version,
        )
        pool = await _pool(configuration, store, metrics, clock, emit)
        reversals = Reversals(
            records=records, pool=pool, clock=clock, emit=emit, random=random.random
        )
        for upstream in pool:
            upstream.on_late = reversals.late_answer
        originals = Originals(
            store=store,
            approving=partial(_approving, pool),
            window_days=settings.repeats.original_days,
            tombstones_max=settings.repeats.tombstones_max,
        )
        delivery = Delivery(
            store=store,
            clock=clock,
            emit=emit,
            grace_s=settings.repeats.undelivered_grace_s,
            take_back=partial(take_back_undelivered, store, reversals, clock),
        )
        batches = Batches(store=store, security=security, clock=clock)
        # Marked before the first new request is taken; delivered beside the new ones.
        await recover(store, clock=clock, emit=emit)
        await reversals.restore()
        await originals.restore(clock.wall_ms())
        await batches.restore()
        flow = Flow(
            store=store,
            records=records,
            policy=Policy(
                permissions=Permissions(settings.profiles), version=configuration.version
            ),
            router=Router(settings.routes, settings.groups),
            pool=pool,
            reversals=reversals,
            originals=originals,
            delivery=delivery,
            batches=batches,
            clock=clock,
            emit=emit,
            measures=metrics,
            under_way_max=settings.limits.under_way_max,
        )
        count = ConnectionCount(count_max=_connections_max(settings.node.connections_max))
        yield Node(
            configuration=configuration,
            log=log,
            clock=clock,
            store=store,
            metrics=metrics,
            alarms=alarms,
            registry=registry,
            pool=pool,
            records=records,
            reversals=reversals,
            delivery=delivery,
            flow=flow,
            listeners=[Listener(listener, node=count) for listener in settings.listeners],
            tls=_server_tls(configuration),
            concentrators=Concentrators(settings.concentrators),
        )
    except* InvariantBroken as broken:
        emit(Event.INVARIANT_BROKEN, reason=str(broken.exceptions[0]))
        alarms.tell_rest()
        raise
    finally:
        with trio.CancelScope(shield=True):
            await store.aclose()


def _approving(pool: Pool, upstream: str) -> Sequence[str]:
    found = pool.get(upstream)
    return found.settings.approving_codes if found is not None else [APPROVED]


def _connections_max(wanted: int) -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(wanted, soft - _DESCRIPTORS_SPARE))


def _security_module(configuration: Configuration) -> SoftwareSecurityModule:
    keys = configuration.settings.keys
    path = configuration.resolve(keys.keyring)
    if not path.exists():
        if not keys.create:
            raise OperatorError(
                f"{path}: there is no keyring; set keys.create = true to have one made"
            )
        Keyring.create(path)
    return SoftwareSecurityModule(Keyring.load(path))


def _server_tls(configuration: Configuration) -> dict[str, ServerTls]:
    found = {}
    for listener in configuration.settings.listeners:
        if listener.tls is not None:
            tls = listener.tls
            files = ServerTlsFiles(
                certificate=configuration.resolve(tls.certificate),
                key=configuration.resolve(tls.key),
                client_ca=configuration.resolve(tls.client_ca),
                crl=configuration.resolve(tls.crl) if tls.crl else None,
            )
            found[listener.name] = ServerTls(files, session_tickets=tls.session_tickets)
    return found


def _client_tls(configuration: Configuration, upstream: UpstreamSettings) -> ssl.SSLContext | None:
    tls = upstream.tls
    if tls is None:
        return None
    return client_context(
        configuration.resolve(tls.ca),
        certificate=configuration.resolve(tls.certificate) if tls.certificate else None,
        key=configuration.resolve(tls.key) if tls.key else None,
    )


async def _pool(
    configuration: Configuration, store: SqliteStore, metrics: Metrics, clock: Clock, emit: Emit
) -> Pool:
    async def reserve(upstream: str, first: int, now_ms: int) -> None:
        await store.commit(ReserveStans(upstream, first, now_ms))

    upstreams = []
    for settings in configuration.settings.upstreams:
        upstream = Upstream(
            settings,
            codec=Codec(configuration.dialects[settings.dialect]),
            tls=_client_tls(configuration, settings),
            clock=clock,
            emit=emit,
            random=random.random,
            reserve_stans=reserve,
            on_answered=lambda name, seconds: metrics.upstream_answer(
                upstream=name, seconds=seconds
            ),
        )
        blocks = await store.stan_blocks(settings.name)
        upstream.stans.restore(
            [(block.first, block.reserved_ms) for block in blocks], now_ms=clock.wall_ms()
        )
        upstreams.append(upstream)
    return Pool(upstreams)


# --- running ----------------------------------------------------------------------------------


async def _serve(node: Node, fatal: _Fatal, ready: Callable[[Node], None]) -> None:
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
    report = StatusReport(node, started_ms=node.clock.wall_ms())
    register_gauges(node)
    housekeeping = Housekeeping(
        listeners=node.listeners,
        tls=node.tls,
        registry=node.registry,
        alarms=settings.alarms,
        node=settings.node,
        clock=node.clock,
        emit=emit,
    )
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
        background.start_soon(housekeeping.watch_certificates)
        background.start_soon(housekeeping.keep_last_seen)
        async with trio.open_nursery() as exchanges:
            await _open_listeners(node, exchanges)
            admin = AdminApi(
                status=report.status,
                terminals=TerminalOperations(node.registry),
                emit=emit,
            )
            socket_path = node.configuration.resolve(settings.node.admin_socket)
            await background.start(partial(serve_admin, admin, socket_path))
            _settle_garbage()
            emit(
                Event.NODE_READY,
                version=__version__,
                config=node.configuration.version,
                listeners=len(node.listeners),
            )
            ready(node)
            await _until_told_to_stop(node, housekeeping)
            await _drain(node, exchanges)
        await housekeeping.flush()
        background.cancel_scope.cancel()


async def _open_listeners(node: Node, exchanges: trio.Nursery) -> None:
    for listener in node.listeners:
        dispatcher = Dispatcher(
            settings=listener.settings,
            codec=Codec(node.configuration.dialects[listener.settings.dialect]),
            flow=node.flow,
            devices=node.registry,
            clock=node.clock,
            emit=node.log.emit,
            refused=node.metrics.refused,
        )
        service = Service(
            listener.settings,
            dispatcher=dispatcher,
            tls=node.tls.get(listener.settings.name),
            deliver=node.flow,
            find_concentrator=node.concentrators.find,
            exchanges=exchanges,
            clock=node.clock,
            emit=node.log.emit,
        )
        await exchanges.start(listener.run, service)


def _settle_garbage() -> None:
    """What is here now stays: keep it out of every later collection, and collect seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


async def _until_told_to_stop(node: Node, housekeeping: Housekeeping) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGHUP:
                node.log.reopen()
                housekeeping.look_now()
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
