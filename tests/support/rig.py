"""A flow over a fake store and scripted acquirers on memory streams: for tests of money rules."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.policy.decide import Policy
from gateway.policy.permissions import Permissions
from gateway.policy.response_codes import APPROVED, CodeSet
from gateway.settings.schema_backup import Restore
from gateway.settings.schema_base import Backoff
from gateway.settings.schema_policy import Profile
from gateway.settings.schema_upstreams import Group, Health, Member, Network, Route
from gateway.settings.schema_upstreams import Upstream as UpstreamSettings
from gateway.store.store import (
    Device,
    DeviceState,
    ReserveStans,
    State,
    Transaction,
)
from gateway.telemetry.events import Event
from gateway.transactions.batches import Batches
from gateway.transactions.delivery import Delivery, take_back_undelivered
from gateway.transactions.flow import Flow
from gateway.transactions.gaps import Gaps
from gateway.transactions.originals import Originals
from gateway.transactions.records import Records
from gateway.transactions.recovery import recover
from gateway.transactions.request import Reply, Request
from gateway.transactions.reversals import Reversals
from gateway.upstreams.pool import Pool
from gateway.upstreams.routing import Router
from gateway.upstreams.upstream import Means, Upstream
from gateway.wire.message import Kind, Message, kind_of, repeat_mti
from tests.support.acquirer import CODEC, FakeAcquirer
from tests.support.fake_store import FakeStore
from tests.support.security import PlainSecurity

START_MS = round(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp() * 1000)
DAY_S = 86_400
PAN = "9999990000000007"
GRACE_S = 20.0
DEVICE = Device(
    device_id=1,
    terminal_id="T0000001",
    merchant_id="MERCHANT0000001",
    activation=1,
    state=DeviceState.ACTIVE,
    profile="retail",
)
KEEPING = replace(DEVICE, profile="offline")  # its advices are kept where no upstream takes them
ALL = [
    Kind.PURCHASE,
    Kind.VOID,
    Kind.COMPLETION,
    Kind.COMPLETION_VOID,
    Kind.REFUND,
    Kind.BALANCE,
    Kind.PREAUTHORISATION,
    Kind.PREAUTHORISATION_VOID,
]


# Never suspects, and hardly ejects: for tests of what becomes of a request, not of an upstream.
PATIENT = Health(
    suspect_min_s=3_600.0,
    suspect_unknown_s=3_600.0,
    timeouts_max=10_000,
    answers_min=100_000,
    eject_first_s=0.001,
    eject_max_s=0.001,
    slow_start_s=0.001,
)


def upstream_settings(name: str, **changes: Any) -> UpstreamSettings:
    values: dict[str, Any] = {
        "name": name,
        "addresses": ["127.0.0.1:1"],
        "dialect": "iso87_ascii",
        "plain": True,
        "answer_s": 5.0,
        "late_max_s": 30.0,
        "network": Network(echo=False, prove=False),
        "health": PATIENT,
        "backoff": Backoff(first_s=0.1, max_s=1.0),
        "reversal_backoff": Backoff(first_s=1.0, max_s=8.0),
        "reversal_attempts_max": 4,
    }
    return UpstreamSettings(**values | changes)


# --- what terminals send ------------------------------------------------------------------------


def purchase(stan: int = 1, changes: dict[int, str] | None = None, *, mti: str = "0200") -> Message:
    return Message(
        mti,
        {
            2: PAN,
            3: "000000",
            4: "000000001000",
            7: "1121120000",
            11: f"{stan:06d}",
            12: "120000",
            13: "1121",
            14: "2912",
            22: "051",
            25: "00",
            35: f"{PAN}=29121010000000000000",
            37: f"632512{stan:06d}",
            41: "T0000001",
            42: "MERCHANT0000001",
            49: "978",
            52: "0123456789ABCDEF",
        }
        | (changes or {}),
    )


def original_data(request: Message) -> str:
    """DE90 that names a request as its terminal knows it."""
    return f"{request.mti}{request.stan}{request.get(7)}".ljust(42, "0")


def reversal_of(request: Message, changes: dict[int, str] | None = None) -> Message:
    kept = {n: v for n, v in request.fields.items() if n not in (35, 52)}
    own = {11: "000900", 39: "68", 90: original_data(request)}
    return Message("0400", kept | own | (changes or {}))


def void_of(request: Message, stan: int = 50, changes: dict[int, str] | None = None) -> Message:
    """A void that names its original by DE90."""
    return _after(request, stan, {3: "020000"} | (changes or {}))


def refund_of(request: Message, stan: int = 60, changes: dict[int, str] | None = None) -> Message:
    """A refund that names its original by DE90."""
    return _after(request, stan, {3: "200000"} | (changes or {}))


def preauthorisation(stan: int = 1, changes: dict[int, str] | None = None) -> Message:
    return purchase(stan, changes, mti="0100")


def completion_of(
    request: Message, stan: int = 70, changes: dict[int, str] | None = None
) -> Message:
    return _after(request, stan, {3: "000000", 25: "06"} | (changes or {}))


def _after(request: Message, stan: int, changes: dict[int, str]) -> Message:
    fields = purchase(stan).fields | {n: request.fields[n] for n in (2, 4) if n in request.fields}
    del fields[37]
    return Message("0200", fields | {90: original_data(request)} | changes)


def by_rrn(follow_up: Message, reply: Reply) -> Message:
    """The same, but it names its original by DE37 and DE38 of that one's answer."""
    named = {37: reply.message.rrn, 38: reply.message.get(38)}
    return follow_up.without([90]).changed(named)


def advice(stan: int = 1, changes: dict[int, str] | None = None) -> Message:
    """An offline sale that is reported."""
    return purchase(stan, changes, mti="0220")


def settlement(stan: int = 500, changes: dict[int, str] | None = None) -> Message:
    return Message(
        "0500",
        {
            7: "1121180000",
            11: f"{stan:06d}",
            12: "180000",
            13: "1121",
            41: "T0000001",
            42: "MERCHANT0000001",
        }
        | (changes or {}),
    )


def totals(
    *, debits: int = 0, debits_minor: int = 0, credits_: int = 0, credits_minor: int = 0
) -> dict[int, str]:
    """A terminal's totals, ISO style."""
    return {
        74: f"{credits_:010d}",
        76: f"{debits:010d}",
        86: f"{credits_minor:016d}",
        88: f"{debits_minor:016d}",
    }


def repeated(message: Message) -> Message:
    """The same message, marked as a repeat."""
    return Message(repeat_mti(message.mti), message.fields)


# --- the flow and what is around it ---------------------------------------------------------------


class Measures:
    def __init__(self) -> None:
        self.codes: list[str] = []

    def transaction(self, *, kind: str, response_code: str, upstream: str, seconds: float) -> None:
        assert seconds >= 0
        self.codes.append(response_code)

    def refused(self, reason: str) -> None:
        self.codes.append(reason)


class Rig:
    """A flow over fake acquirers, `a` first and the others as its backup."""

    def __init__(
        self,
        store: FakeStore,
        *,
        clock: VirtualClock | None = None,
        acquirers: dict[str, FakeAcquirer] | None = None,
        settings: dict[str, Any] | None = None,
        under_way_max: int = 5,
    ) -> None:
        self.store = store
        self.security = PlainSecurity()
        self.clock = clock or VirtualClock(START_MS)
        self.events: list[tuple[Event, dict[str, object]]] = []
        self.measures = Measures()
        if acquirers is None:
            acquirers = {"a": FakeAcquirer(), "b": FakeAcquirer()}
        self.acquirers = acquirers
        self._settings = settings or {}
        self.pool = Pool([self._upstream(name) for name in self.acquirers])
        self.records = Records(
            store=store,
            security=self.security,
            clock=self.clock,
            transaction_ids=itertools.count(max(store.transactions, default=0) + 1),
            config_version="v1",
        )
        self.reversals = Reversals(
            records=self.records,
            pool=self.pool,
            clock=self.clock,
            emit=self.emit,
            random=lambda: 0.5,
        )
        for upstream in self.pool:
            upstream.on_late = self.reversals.late_answer
        self.batches = Batches(
            store=store, security=self.security, clock=self.clock, emit=self.emit
        )
        self.gaps = Gaps(store=store, settings=Restore(), clock=self.clock, emit=self.emit)
        self.originals = Originals(
            gaps=self.gaps,
            store=store,
            approving=self._approving,
            window_days=30,
            tombstones_max=100,
            same_batch=self.batches.is_one,
        )
        self.delivery = Delivery(
            store=store,
            clock=self.clock,
            emit=self.emit,
            grace_s=GRACE_S,
            take_back=partial(take_back_undelivered, store, self.reversals, self.clock),
        )
        self.flow = Flow(
            store=store,
            records=self.records,
            policy=Policy(
                permissions=Permissions(
                    [
                        Profile(name="retail", kinds=ALL),
                        Profile(name="offline", kinds=ALL, keeps_advices=True),
                    ]
                ),
                version="v1",
            ),
            router=Router(
                [Route(name="all", group="g")],
                [Group(name="g", members=[Member(upstream=name) for name in self.acquirers])],
            ),
            pool=self.pool,
            reversals=self.reversals,
            originals=self.originals,
            delivery=self.delivery,
            batches=self.batches,
            clock=self.clock,
            emit=self.emit,
            measures=self.measures,
            under_way_max=under_way_max,
        )

    def emit(self, event: Event, /, **fields: object) -> None:
        self.events.append((event, fields))

    def names(self) -> list[Event]:
        return [event for event, _ in self.events]

    def _approving(self, upstream: str) -> Sequence[str]:
        found = self.pool.get(upstream)
        return found.settings.approving_codes if found is not None else [APPROVED]

    def _upstream(self, name: str) -> Upstream:
        async def reserve(upstream: str, first: int, now_ms: int) -> None:
            await self.store.commit(ReserveStans(upstream, first, now_ms))

        return Upstream(
            Means(settings=upstream_settings(name, **self._settings), codec=CODEC),
            clock=self.clock,
            emit=self.emit,
            random=lambda: 0.5,
            reserve_stans=reserve,
            on_answered=lambda name, seconds: None,
            connect_with=self.acquirers[name].connect_with,
        )

    async def start(self, nursery: trio.Nursery) -> None:
        """As a node starts: what is owed is marked before the first request is taken."""
        now_ms = self.clock.wall_ms()
        for upstream in self.pool:
            blocks = await self.store.stan_blocks(upstream.name)
            upstream.stans.restore([(b.first, b.reserved_ms) for b in blocks], now_ms=now_ms)
        await recover(self.store, clock=self.clock, emit=self.emit)
        await self.reversals.restore()
        await self.originals.graves.restore(now_ms)
        await self.gaps.restore()
        await self.batches.restore()
        for acquirer in self.acquirers.values():
            if not acquirer.outlives:
                nursery.start_soon(acquirer.run)
        await nursery.start(self.pool.run)
        await nursery.start(self.records.run)
        await nursery.start(self.reversals.run)
        await nursery.start(self.delivery.run)
        await trio.testing.wait_all_tasks_blocked()

    async def ask(
        self, message: Message, *, device: Device = DEVICE, code_set: CodeSet = "iso"
    ) -> Reply:
        return await self.flow.serve(
            Request(
                message,
                kind_of(message),
                device,
                listener="shops",
                code_set=code_set,
                wall_ms=self.clock.wall_ms(),
                started_s=trio.current_time(),
            )
        )

    async def code(self, message: Message, *, device: Device = DEVICE) -> str:
        """The response code that a request is answered with."""
        return (await self.ask(message, device=device)).message.response_code

    async def lose(self, *names: str) -> None:
        """These acquirers hang up and take no connection."""
        for name in names:
            self.acquirers[name].refuse = True
            await self.acquirers[name].hang_up()
        await trio.testing.wait_all_tasks_blocked()

    def find_again(self, *names: str) -> None:
        """These acquirers take connections again."""
        for name in names:
            self.acquirers[name].refuse = False

    def only(self) -> State:
        [transaction] = self.store.transactions.values()
        return transaction.state

    def of_kind(self, kind: Kind) -> Transaction:
        [transaction] = [t for t in self.store.transactions.values() if t.kind is kind]
        return transaction


@asynccontextmanager
async def rig(
    store: FakeStore | None = None,
    *,
    clock: VirtualClock | None = None,
    acquirers: dict[str, FakeAcquirer] | None = None,
    settings: dict[str, Any] | None = None,
    under_way_max: int = 5,
) -> AsyncIterator[Rig]:
    """A started rig; leaving it kills the node: nothing is flushed or finished.

    The same store, clock and acquirers given to another one make that the node's next life.
    """
    made = Rig(
        FakeStore() if store is None else store,
        clock=clock,
        acquirers=acquirers,
        settings=settings,
        under_way_max=under_way_max,
    )
    async with trio.open_nursery() as nursery:
        await made.start(nursery)
        yield made
        nursery.cancel_scope.cancel()
    # What was queued and never committed dies with the process.
    made.store.posted.clear()
