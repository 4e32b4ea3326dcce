"""Upstreams over scripted acquirers that operators steer, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from gateway.admin.controls import Controls
from gateway.admin.upstreams import UpstreamOperations, Views
from gateway.clock import Clock
from gateway.settings.schema_upstreams import Network
from gateway.store.store import Store
from gateway.telemetry.events import Emit
from gateway.upstreams.pool import Pool
from gateway.upstreams.upstream import Means, Upstream
from tests.support.acquirer import CODEC, FakeAcquirer
from tests.support.rig import upstream_settings


def an_upstream(
    name: str, acquirer: FakeAcquirer, *, clock: Clock, emit: Emit, **changes: Any
) -> Upstream:
    """An upstream that does not run yet, proves its links and says what it does."""

    async def reserve(upstream: str, first: int, now_ms: int) -> None:
        await trio.lowlevel.checkpoint()

    settings = upstream_settings(name, **{"network": Network(sign_on_s=2.0), **changes})
    return Upstream(
        Means(settings=settings, codec=CODEC),
        clock=clock,
        emit=emit,
        random=lambda: 0.5,
        reserve_stans=reserve,
        on_answered=lambda name, seconds: None,
        connect_with=acquirer.connect_with,
    )


class Steered:
    """A pool, and what an operator steers it by."""

    def __init__(
        self,
        pool: Pool,
        *,
        store: Store,
        clock: Clock,
        emit: Emit,
        owed: Callable[[str], int] = lambda name: 0,
    ) -> None:
        self.pool = pool
        self.controls = Controls(pool, store=store, clock=clock, emit=emit)
        self.views = Views(order=self.controls.order, owed=owed, clock=clock)
        self.operations = UpstreamOperations(pool, controls=self.controls, views=self.views)
