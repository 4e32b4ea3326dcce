"""Builds a node: every part is made here and handed what it needs."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import trio

from gateway import faults
from gateway.admin.access import this_process
from gateway.clock import Clock
from gateway.errors import InvariantBroken, StoreError
from gateway.faults import Fault
from gateway.keys.holdings import KeyHoldings
from gateway.keys.kek_settings import Ask, open_own_keys
from gateway.keys.own_keys import OwnKeys
from gateway.keys.records import StoredKey
from gateway.live import Parts, version_of
from gateway.node import Node
from gateway.policy.limits import Limits
from gateway.policy.rates import Rates
from gateway.policy.response_codes import APPROVED
from gateway.settings.loader import Configuration, audit_folder
from gateway.settings.reload import Prepared
from gateway.settings.schema import Settings
from gateway.store.sqlite import SqliteStore
from gateway.store.store import PutKey, ReserveStans, Store
from gateway.telemetry.alarms import Alarms
from gateway.telemetry.audit import AuditLog, opened
from gateway.telemetry.audit_files import AuditFailed
from gateway.telemetry.events import Emit, Event
from gateway.telemetry.log import EventLog
from gateway.telemetry.metrics import Metrics
from gateway.terminals import readiness
from gateway.terminals.cutting import Cutting
from gateway.terminals.device_life import life_of
from gateway.terminals.downloads import Downloads
from gateway.terminals.gate import Gate
from gateway.terminals.guarding import Guard
from gateway.terminals.key_service import KeyService
from gateway.terminals.listener import ConnectionCount, Listener
from gateway.terminals.lockout import Lockout
from gateway.terminals.registry import Registry
from gateway.terminals.rejected_frames import RejectedFrames
from gateway.terminals.sightings import Sightings
from gateway.terminals.surroundings import Surroundings
from gateway.transactions.batches import Batches
from gateway.transactions.delivery import Delivery, take_back_undelivered
from gateway.transactions.flow import Flow
from gateway.transactions.gaps import Gaps
from gateway.transactions.originals import Originals
from gateway.transactions.records import Records
from gateway.transactions.recovery import recover
from gateway.transactions.reversals import Reversals
from gateway.transactions.spending import count_again
from gateway.upstreams.budget import MoveBudget
from gateway.upstreams.pool import Pool
from gateway.upstreams.upstream import Means, Upstream
from gateway.upstreams.zone_keys import KeyMeans
from gateway.wire.tls import ServerTls, ServerTlsFiles

_RECOVERY_RETRY_S = 1.0
DESCRIPTORS_SPARE = 64  # beside terminals: links, store, log, admin


@asynccontextmanager
async def open_node(
    prepared: Prepared[Parts],
    log: EventLog,
    clock: Clock,
    *,
    fatal: Callable[[str], None],
    ask: Ask | None = None,
) -> AsyncIterator[Node]:
    """Open the store and build the node over it; the store is closed last of all.

    `fatal` is told when the store can no longer vouch for what it said. `ask` gives the components
    of a key-encryption key that is in no files.
    """
    configuration = prepared.configuration
    settings = configuration.settings
    emit = log.emit
    fault = faults.wanted(os.environ, production=settings.node.production)
    if fault is not Fault.NONE:
        emit(Event.INVARIANT_BROKEN, reason=f"broken on purpose: {faults.VARIABLE}={fault}")
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
    async with (
        opened(_audit_log(configuration, clock, emit)) as audit,
        _over_a_store(
            prepared,
            log,
            clock,
            fatal=fatal,
            metrics=metrics,
            alarms=alarms,
            audit=audit,
            fault=fault,
            ask=ask,
        ) as node,
    ):
        yield node


@asynccontextmanager
async def _over_a_store(
    prepared: Prepared[Parts],
    log: EventLog,
    clock: Clock,
    *,
    fatal: Callable[[str], None],
    metrics: Metrics,
    alarms: Alarms,
    audit: AuditLog,
    fault: Fault,
    ask: Ask | None,
) -> AsyncIterator[Node]:
    configuration = prepared.configuration
    settings = configuration.settings
    emit = log.emit
    own_keys = await trio.to_thread.run_sync(
        partial(
            open_own_keys,
            settings.keys,
            configuration.resolve,
            now_ms=clock.wall_ms(),
            ask=ask,
        )
    )
    sqlite = await SqliteStore.open(
        configuration.resolve(settings.store.path),
        queue_max=settings.store.queue_max,
        batch_max=settings.store.batch_max,
        emit=emit,
        on_commit=metrics.store_commit,
        fatal=fatal,
    )
    store: Store = sqlite
    if fault is Fault.ACK_BEFORE_WRITE:
        store = faults.HastyStore(sqlite)
    elif fault is Fault.KEEP_NOTHING:
        store = faults.ForgetfulStore(sqlite)
    try:
        yield await _assembled(
            prepared,
            log=log,
            clock=clock,
            metrics=metrics,
            alarms=alarms,
            audit=audit,
            own_keys=own_keys,
            store=store,
            fault=fault,
        )
    except* InvariantBroken as broken:
        emit(Event.INVARIANT_BROKEN, reason=str(broken.exceptions[0]))
        alarms.tell_rest()
        raise
    finally:
        with trio.CancelScope(shield=True):
            await sqlite.aclose()


async def _assembled(
    prepared: Prepared[Parts],
    *,
    log: EventLog,
    clock: Clock,
    metrics: Metrics,
    alarms: Alarms,
    audit: AuditLog,
    own_keys: OwnKeys,
    store: Store,
    fault: Fault,
) -> Node:
    configuration = prepared.configuration
    settings = configuration.settings
    emit = log.emit
    keys = await _keys(own_keys, store, settings)
    security = keys.security
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
    pool = await _pool(prepared, store, metrics, keys, clock, emit, fault)
    debts = faults.CredulousReversals if fault is Fault.ACCEPT_25_AT_ONCE else Reversals
    reversals = debts(records=records, pool=pool, clock=clock, emit=emit, random=random.random)
    pool.owed, pool.added = reversals.open_for, reversals.serve
    pool.removed = reversals.leave
    for upstream in pool:
        upstream.on_late = reversals.late_answer
    gaps = Gaps(store=store, settings=settings.restore, clock=clock, emit=emit)
    await gaps.restore()
    batches = Batches(store=store, security=security, clock=clock, emit=emit)
    originals = Originals(
        store=store,
        approving=partial(_approving, pool),
        window_days=settings.repeats.original_days,
        tombstones_max=settings.repeats.tombstones_max,
        gaps=gaps,
        same_batch=batches.is_one,
    )
    delivery = Delivery(
        store=store,
        clock=clock,
        emit=emit,
        grace_s=settings.repeats.undelivered_grace_s,
        take_back=partial(take_back_undelivered, store, reversals, clock),
    )
    # Marked before the first new request is taken; delivered beside the new ones.
    await _recovered(store, clock, emit)
    await reversals.restore()
    await originals.graves.restore(clock.wall_ms())
    await batches.restore()
    limits = Limits(
        counters_max=settings.limits.counters_max, takings_max=settings.limits.takings_max
    )
    version = version_of(prepared, limits=limits, pending=partial(pending_of, pool))
    reversals.on_reversed = partial(_given_back, limits)
    await count_again(
        store,
        version.policy,
        profile_of=partial(_profile_of, registry),
        approving=partial(_approving, pool),
        now_ms=clock.wall_ms(),
    )
    flow = Flow(
        store=store,
        records=records,
        policy=version.policy,
        router=version.router,
        pool=pool,
        reversals=reversals,
        originals=originals,
        delivery=delivery,
        batches=batches,
        clock=clock,
        emit=emit,
        measures=metrics,
        under_way_max=settings.limits.under_way_max,
        refusals_max=settings.repeats.refusals_remembered_max,
        repeats_window_s=settings.repeats.window_h * 3_600,
        in_service=registry.in_service,
    )
    sightings = Sightings(
        store,
        clock=clock,
        emit=emit,
        kept_max=settings.registry.sightings_max,
        subjects_max=settings.registry.sighted_max,
    )
    await sightings.restore()
    downloads = Downloads(
        settings.downloads, prepared.parts.downloads, store=store, clock=clock, emit=emit
    )
    await downloads.restore()
    lockout = Lockout(settings.lockout)
    gate = Gate(
        devices=registry,
        clock=clock,
        blocklists=lambda: flow.version.policy.blocklists,
        noted=sightings.note,
        locked_out=lambda address: lockout.locked(address, clock.monotonic_s()),
    )
    guard = Guard(
        table=keys.table,
        security=keys.messages,
        service=KeyService(
            table=keys.table,
            security=keys.messages,
            store=store,
            clock=clock,
            emit=emit,
            devices_max=settings.lockout.devices_max,
        ),
        lockout=lockout,
        clock=clock,
        emit=emit,
        batch_number=batches.number,
    )
    guard.use(settings.profiles, settings.lockout)
    count = ConnectionCount(count_max=_connections_max(settings.node.connections_max))
    listeners = [Listener(listener, node=count) for listener in settings.listeners]
    cutting = Cutting(listeners, gate=gate, emit=emit)
    registry.changed = cutting.look_now

    def current() -> Configuration:
        return node.configuration

    registry.missing = lambda device: readiness.missing(
        device, current().settings.profiles, keys.table.of
    )
    life = life_of(
        current,
        Surroundings(
            registry=registry,
            store=store,
            batches=batches,
            clock=clock,
            approving=partial(_approving, pool),
            keys_destroyed=partial(_keys_gone, keys),
            keys_kept=partial(_keys_kept, keys),
            certificates_of=partial(_certificates_of, listeners),
            busy=flow.busy,
        ),
        original_days=settings.repeats.original_days,
        sightings=sightings,
        emit=emit,
        write_down=partial(_done_by_itself, audit),
    )
    await life.restore()
    node = Node(
        configuration=configuration,
        log=log,
        clock=clock,
        store=store,
        metrics=metrics,
        alarms=alarms,
        audit=audit,
        registry=registry,
        pool=pool,
        records=records,
        reversals=reversals,
        delivery=delivery,
        flow=flow,
        limits=limits,
        rates=Rates(settings.rates),
        listeners=listeners,
        tls=_server_tls(configuration),
        concentrators=prepared.parts.concentrators,
        sightings=sightings,
        gate=gate,
        guard=guard,
        cutting=cutting,
        life=life,
        downloads=downloads,
        rejected_frames=RejectedFrames(kept_max=settings.limits.rejected_frames_max, clock=clock),
        gaps=gaps,
        keys=keys,
    )
    return node


async def _keys(own: OwnKeys, store: Store, settings: Settings) -> KeyHoldings:
    found = await store.keys()
    return await trio.to_thread.run_sync(
        partial(
            KeyHoldings.over,
            own,
            found,
            keys_max=settings.keys.keys_max,
            prepared_max=settings.keys.prepared_max,
            production=settings.node.production,
        )
    )


def _keys_gone(keys: KeyHoldings, owner: str, at_ms: int) -> None:
    keys.table.destroyed(owner, at_ms=at_ms)
    keys.messages.forget(owner)


def _keys_kept(keys: KeyHoldings, owner: str) -> int:
    return sum(1 for key in keys.table.of(owner) if key.wrapped)  # none of what is destroyed


def _certificates_of(listeners: Sequence[Listener], terminal_id: str) -> set[str]:
    """The certificates that open connections of a terminal have shown."""
    callers = (
        connection.caller for listener in listeners for connection in listener.open_connections()
    )
    return {
        caller.certificate.sha256
        for caller in callers
        if caller is not None
        and caller.certificate is not None
        and caller.bound is not None
        and caller.bound.terminal_id == terminal_id
    }


async def _done_by_itself(
    audit: AuditLog, action: str, subject: str, new: Mapping[str, object]
) -> None:
    """Write down what nobody asked for at that moment; the log says itself where it cannot."""
    with contextlib.suppress(AuditFailed):
        who = replace(this_process().who, origin="node")
        await audit.record(action, who=who, subject=subject, new=new)


def _given_back(limits: Limits, transaction_id: int, left_minor: int) -> None:
    limits.give_back(transaction_id, left_minor=left_minor)


def _profile_of(registry: Registry, terminal_id: str) -> str | None:
    device = registry.by_terminal(terminal_id)
    return None if device is None else device.profile


def pending_of(pool: Pool, upstream: str) -> int:
    """How many requests an upstream has under way; none, once it is removed."""
    found = pool.get(upstream)
    return 0 if found is None else found.pending


def _audit_log(configuration: Configuration, clock: Clock, emit: Emit) -> AuditLog:
    settings = configuration.settings
    return AuditLog(
        audit_folder(configuration),
        node=settings.node.name,
        clock=clock,
        emit=emit,
        file_bytes_max=settings.audit.file_bytes_max,
        files_kept=settings.audit.files_kept,
        waiting_max=settings.audit.waiting_max,
    )


async def _recovered(store: Store, clock: Clock, emit: Emit) -> None:
    """Mark what is owed, however long the store takes to be able to: nothing is taken before."""
    while True:
        try:
            await recover(store, clock=clock, emit=emit)
        except StoreError:
            # A full disk, most likely; the store says so itself.
            await trio.sleep(_RECOVERY_RETRY_S)
        else:
            return


def _approving(pool: Pool, upstream: str) -> Sequence[str]:
    found = pool.get(upstream)
    return found.settings.approving_codes if found is not None else [APPROVED]


def _connections_max(wanted: int) -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(wanted, soft - DESCRIPTORS_SPARE))


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


async def _pool(
    prepared: Prepared[Parts],
    store: Store,
    metrics: Metrics,
    keys: KeyHoldings,
    clock: Clock,
    emit: Emit,
    fault: Fault,
) -> Pool:
    async def keep(rows: Sequence[StoredKey]) -> None:
        await store.commit(*[PutKey(row) for row in rows])
        keys.table.install(*rows)

    key_means = KeyMeans(
        table=keys.table, security=keys.messages, keep=keep, clock=clock, emit=emit
    )

    async def reserve(upstream: str, first: int, now_ms: int) -> None:
        await store.commit(ReserveStans(upstream, first, now_ms))

    def make(means: Means) -> Upstream:
        made = faults.ResendingUpstream if fault is Fault.RESEND_AFTER_SEND else Upstream
        return made(
            means,
            clock=clock,
            emit=emit,
            random=random.random,
            reserve_stans=reserve,
            on_answered=lambda name, seconds: metrics.upstream_answer(
                upstream=name, seconds=seconds
            ),
            keys=key_means,
        )

    async def restore_stans(upstream: Upstream) -> None:
        blocks = await store.stan_blocks(upstream.name)
        upstream.stans.restore(
            [(block.first, block.reserved_ms) for block in blocks], now_ms=clock.wall_ms()
        )

    upstreams = [make(means) for means in prepared.parts.means]
    for upstream in upstreams:
        await restore_stans(upstream)
    settings = prepared.configuration.settings
    limits = settings.limits
    return Pool(
        upstreams,
        groups=settings.groups,
        moves=MoveBudget(per_s=limits.moves_per_s, share=limits.moves_share, now_s=0.0),
        make=make,
        restore_stans=restore_stans,
    )
