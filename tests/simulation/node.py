"""Node: one life of the gateway's process, wired as the daemon wires it, over simulated I/O."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import trio

from gateway.clock import Clock
from gateway.errors import InvariantBroken
from gateway.policy.decide import Policy
from gateway.policy.permissions import Permissions
from gateway.policy.rates import Rates
from gateway.policy.response_codes import APPROVED
from gateway.settings.schema_base import Backoff
from gateway.settings.schema_policy import Profile
from gateway.settings.schema_policy import Rates as RatesSettings
from gateway.settings.schema_terminals import DeviceRange
from gateway.settings.schema_upstreams import Group, Member, Route
from gateway.settings.schema_upstreams import Upstream as UpstreamSettings
from gateway.store.store import ReserveStans
from gateway.telemetry.events import Emit
from gateway.terminals.connection import Service
from gateway.terminals.dispatch import Dispatcher
from gateway.terminals.gate import Gate
from gateway.terminals.registry import Registry
from gateway.terminals.rejected_frames import RejectedFrames
from gateway.transactions.batches import Batches
from gateway.transactions.delivery import Delivery, take_back_undelivered
from gateway.transactions.flow import Flow
from gateway.transactions.originals import Originals
from gateway.transactions.records import Records
from gateway.transactions.recovery import recover
from gateway.transactions.reversals import Reversals
from gateway.upstreams.link import Connect
from gateway.upstreams.pool import Pool
from gateway.upstreams.routing import Router
from gateway.upstreams.upstream import Means, Upstream
from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.message import Kind
from tests.simulation.disk import Disk, SimulatedStore
from tests.simulation.door import DIALECT, LISTENER, Door
from tests.simulation.doubles import Doubles
from tests.simulation.network import SimulatedStream
from tests.simulation.plan import Plan
from tests.support.powerloss import PowerDisk, Snapshot
from tests.support.security import PlainSecurity

if TYPE_CHECKING:
    from tests.simulation.acquirer import SimulatedAcquirer

PROFILE = "shop"


@cache
def codec() -> Codec:
    """The one dialect everybody speaks; compiled once to a process."""
    return Codec(shipped_dialects()[DIALECT])


class _Measures:
    """Counts nothing: the trace has it all."""

    def transaction(self, *, kind: str, response_code: str, upstream: str, seconds: float) -> None:
        assert seconds >= 0

    def refused(self, reason: str) -> None:
        assert reason


class Life:
    """One run of the process: until it dies, falls, or is stopped."""

    def __init__(
        self,
        *,
        plan: Plan,
        path: Path,
        disk: Disk,
        acquirers: Sequence[SimulatedAcquirer],
        clock: Clock,
        emit: Emit,
        random: Random,
        doubles: Doubles,
        at_point: Callable[[str], None],
        power: PowerDisk | None,
    ) -> None:
        """`power` is the disk where what was not synced may be lost; None for one that loses
        nothing."""
        self.dead = False
        self.ready = False
        self.has_served = False
        self.fatal = ""  # why the store wants it stopped
        self.store: SimulatedStore
        self.pool: Pool
        self.flow: Flow
        self.records: Records
        self.reversals: Reversals
        self.delivery: Delivery
        self.originals: Originals
        self._plan = plan
        self._path = path
        self._disk = disk
        self._acquirers = acquirers
        self._clock = clock
        self._emit = emit
        self._random = random
        self._doubles = doubles
        self._at_point = at_point
        self._power = power
        self.left: Snapshot | None = None  # what the disk holds after a loss of power
        self._door: Door | None = None
        self._streams: list[SimulatedStream] = []
        self._scope = trio.CancelScope()
        self._died = trio.Event()
        self._stop = trio.Event()
        self._fatal_told = trio.Event()
        self._store: SimulatedStore | None = None

    # --- from outside -------------------------------------------------------------------------

    async def run(self) -> None:
        """Start, serve, and end; raises what a process would end with, but not for its death."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reap)
                with self._scope:
                    await self._live()
                nursery.cancel_scope.cancel()
        finally:
            self.ready = False
            for stream in self._streams:
                stream.kill(reset=False)
            if self._store is not None:
                if self.dead:
                    self._store.drop()
                else:
                    with trio.CancelScope(shield=True):
                        await self._store.aclose()

    def die(self, *, power: bool) -> None:
        """From this moment on nothing it does has any effect, and soon it does nothing."""
        self.dead = True
        self.ready = False
        if power and self._power is not None:
            self.left = self._power.snapshot()
        for stream in self._streams:
            if power:
                stream.vanish()
            else:
                stream.kill(reset=self._random.random() < 0.5)
        if self._store is not None:
            self._store.drop()
        self._died.set()

    def stop(self) -> None:
        """SIGTERM."""
        self._stop.set()

    @property
    def accepts(self) -> bool:
        return self.ready and not self.dead and not self._stop.is_set()

    def accept(self, stream: SimulatedStream, address: str) -> None:
        """A terminal calls."""
        assert self._door is not None
        self._owns(stream)
        self._door.accept(stream, address)

    def _owns(self, stream: SimulatedStream) -> None:
        stream.is_gateways = True
        self._streams.append(stream)

    async def _reap(self) -> None:
        await self._died.wait()
        self._scope.cancel()

    # --- inside -------------------------------------------------------------------------------

    async def _live(self) -> None:
        plan = self._plan
        store_type = self._doubles.store
        self._store = self.store = await store_type.open(
            self._path,
            queue_max=plan.queue_max,
            batch_max=256,
            emit=self._emit,
            fatal=self._tell_fatal,
            vfs=self._power.vfs_name if self._power is not None else None,
        )
        self.store.attach(self._disk, self._power)
        async with trio.open_nursery() as writing:
            writing.start_soon(self.store.writer.run, self._disk, self._at_point)
            try:
                await self._serve()
            finally:
                writing.cancel_scope.cancel()

    def _tell_fatal(self, reason: str) -> None:
        self.fatal = reason
        self._fatal_told.set()

    async def _watch_fatal(self) -> None:
        await self._fatal_told.wait()
        raise InvariantBroken(self.fatal)

    async def _serve(self) -> None:
        await self._build()
        async with trio.open_nursery() as background:
            background.start_soon(self._watch_fatal)
            await background.start(self.pool.run)
            await background.start(self.records.run)
            await background.start(self.reversals.run)
            await background.start(self.delivery.run)
            async with trio.open_nursery() as exchanges:
                door = self._door = Door(self._service(exchanges))
                background.start_soon(door.watch)
                self.ready = self.has_served = True
                await self._stop.wait()
                door.drain()
                with trio.move_on_after(self._plan.answer_s + 1):
                    while self.flow.under_way or door.connections:
                        await trio.sleep(0.02)
                exchanges.cancel_scope.cancel()
            background.cancel_scope.cancel()

    async def _build(self) -> None:
        """As `daemon._open` does it."""
        store, clock, emit = self.store, self._clock, self._emit
        security = PlainSecurity()
        self.registry = await Registry.load(
            store,
            ranges=[DeviceRange(terminals="T0000001-T0000099", profile=PROFILE)],
            default_profile=PROFILE,
            clock=clock,
            emit=emit,
        )
        self.records = Records(
            store=store,
            security=security,
            clock=clock,
            transaction_ids=itertools.count(await store.last_transaction_id() + 1),
            config_version="simulated",
        )
        pool = self.pool = Pool([await self._upstream(acquirer) for acquirer in self._acquirers])
        self.reversals = self._doubles.reversals(
            records=self.records, pool=pool, clock=clock, emit=emit, random=self._random.random
        )
        for upstream in pool:
            upstream.on_late = self.reversals.late_answer
        self.originals = Originals(
            store=store,
            approving=self._approving,
            window_days=3,
            tombstones_max=100_000,
        )
        self.delivery = Delivery(
            store=store,
            clock=clock,
            emit=emit,
            grace_s=self._plan.grace_s,
            take_back=partial(take_back_undelivered, store, self.reversals, clock),
        )
        batches = Batches(store=store, security=security, clock=clock, emit=self._emit)
        await recover(store, clock=clock, emit=emit)
        await self.reversals.restore()
        await self.originals.graves.restore(clock.wall_ms())
        await batches.restore()
        self.flow = Flow(
            store=store,
            records=self.records,
            policy=Policy(permissions=Permissions([self._profile()]), version="simulated"),
            router=Router([Route(name="all", group="all")], [self._group()]),
            pool=pool,
            reversals=self.reversals,
            originals=self.originals,
            delivery=self.delivery,
            batches=batches,
            clock=clock,
            emit=emit,
            measures=_Measures(),
            under_way_max=self._plan.under_way_max,
        )

    def _approving(self, name: str) -> Sequence[str]:
        upstream = self.pool.get(name)
        return upstream.settings.approving_codes if upstream is not None else [APPROVED]

    def _profile(self) -> Profile:
        return Profile(name=PROFILE, kinds=list(Kind), keeps_advices=self._plan.keeps_advices)

    def _group(self) -> Group:
        return Group(
            name="all",
            strategy="weighted" if self._plan.weighted else "priority",
            members=[Member(upstream=acquirer.name) for acquirer in self._acquirers],
        )

    async def _upstream(self, acquirer: SimulatedAcquirer) -> Upstream:
        async def reserve(upstream: str, first: int, now_ms: int) -> None:
            await self.store.commit(ReserveStans(upstream, first, now_ms))

        def connect_with(address: str) -> Connect:
            inner = acquirer.connect_with(address)

            async def connect() -> trio.abc.Stream:
                stream = await inner()
                assert isinstance(stream, SimulatedStream)
                self._owns(stream)
                return stream

            return connect

        upstream = self._doubles.upstream(
            Means(settings=self._upstream_settings(acquirer.name), codec=codec()),
            clock=self._clock,
            emit=self._emit,
            random=self._random.random,
            reserve_stans=reserve,
            on_answered=lambda name, seconds: None,
            connect_with=connect_with,
        )
        blocks = await self.store.stan_blocks(acquirer.name)
        upstream.stans.restore(
            [(block.first, block.reserved_ms) for block in blocks], now_ms=self._clock.wall_ms()
        )
        return upstream

    def _upstream_settings(self, name: str) -> UpstreamSettings:
        plan = self._plan
        more: dict[str, Any] = {"reversal_mti": plan.reversal_mti}
        return UpstreamSettings(
            name=name,
            addresses=["127.0.0.1:1"],
            links=plan.links,
            dialect=DIALECT,
            plain=True,
            connect_s=2.0,
            answer_s=plan.answer_s,
            late_max_s=plan.late_max_s,
            send_s=2.0,
            pending_per_link_max=plan.pending_max,
            reversal_attempts_max=plan.reversal_attempts_max,
            backoff=Backoff(first_s=0.1, max_s=2.0),
            reversal_backoff=Backoff(first_s=0.3, max_s=4.0),
            **more,
        )

    def _service(self, exchanges: trio.Nursery) -> Service:
        settings = LISTENER
        rejected = RejectedFrames(kept_max=10, clock=self._clock)
        dispatcher = Dispatcher(
            settings=settings,
            codec=codec(),
            flow=self.flow,
            devices=self.registry,
            clock=self._clock,
            emit=self._emit,
            refused=lambda reason: None,
            rates=Rates(RatesSettings()),
            gate=Gate(devices=self.registry, clock=self._clock),
            rejected=rejected,
        )
        return Service(
            settings,
            dispatcher=dispatcher,
            tls=None,
            deliver=self.flow,
            find_concentrator=lambda name, address: None,
            gate=Gate(devices=self.registry, clock=self._clock),
            rejected=rejected,
            exchanges=exchanges,
            clock=self._clock,
            emit=self._emit,
        )
