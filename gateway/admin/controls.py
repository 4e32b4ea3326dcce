"""What operators have set of upstreams: durable before it holds, set again at the next start."""

from __future__ import annotations

from dataclasses import dataclass

import orjson
import trio

from gateway.clock import Clock
from gateway.errors import NoSuchThing
from gateway.store.store import PutNote, Store
from gateway.telemetry.events import Emit, Event
from gateway.upstreams.pool import Pool
from gateway.upstreams.upstream import Control, Upstream

_PREFIX = "upstream:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What an operator has set of one upstream."""

    control: Control
    who: str
    at_ms: int
    reason: str

    @property
    def words(self) -> str:
        """Who gave it and why."""
        return f"by {self.who}: {self.reason}" if self.reason else f"by {self.who}"


class Controls:
    """The upstreams' controls; what is not enabled stands in a note of the store."""

    def __init__(self, pool: Pool, *, store: Store, clock: Clock, emit: Emit) -> None:
        self._pool = pool
        self._store = store
        self._clock = clock
        self._emit = emit
        self._orders: dict[str, Order] = {}
        self._setting = trio.Lock()  # so that they hold in the order in which they are on disk

    def order(self, name: str) -> Order | None:
        """What is set of an upstream, in use or not; None: it is enabled."""
        return self._orders.get(name)

    def unused(self) -> dict[str, Order]:
        """What is set of upstreams that are not configured; it holds should they come back."""
        return {name: order for name, order in self._orders.items() if self._pool.get(name) is None}

    async def restore(self) -> None:
        """Set again what was set before the node stopped, and say so; raises StoreError.

        To be called before the upstreams run, so that a drained one is never connected.
        """
        notes = await self._store.notes(_PREFIX)
        self._orders = {
            name.removeprefix(_PREFIX): _order(text) for name, text in sorted(notes.items())
        }
        # Of one that a later configuration adds, too.
        self._pool.control_of = self._control_of
        for upstream in self._pool:
            order = self._orders.get(upstream.name)
            if order is not None:
                upstream.set_control(order.control)
                self._tell(upstream.name, str(order.control), order, holds="since the last run")
        for name, order in self.unused().items():
            self._tell(name, str(order.control), order, holds="not: it is not configured")

    async def put(self, name: str, control: Control, *, who: str, reason: str) -> bool:
        """Set an upstream's control; returns whether that changed anything.

        It is on disk before it holds. Raises NoSuchThing, and StoreError where it could not be
        kept, and so was not done.
        """
        async with self._setting:
            upstream = self.named(name)
            if upstream.control is control:
                return False
            order = Order(control=control, who=who, at_ms=self._clock.wall_ms(), reason=reason)
            # What is on disk has to hold: who asked may hang up in between.
            with trio.CancelScope(shield=True):
                await self._store.commit(PutNote(_PREFIX + name, _text(order)))
            if control is Control.ENABLED:
                self._orders.pop(name, None)
            else:
                self._orders[name] = order
            upstream.set_control(control)
            self._tell(name, str(control), order)
            return True

    def reconnect(self, name: str, *, who: str, reason: str) -> None:
        """Have an upstream's connections made anew; raises NoSuchThing. Nothing of it is kept."""
        upstream = self.named(name)
        order = Order(control=upstream.control, who=who, at_ms=self._clock.wall_ms(), reason=reason)
        self._tell(name, "reconnected", order)
        upstream.reconnect()

    def named(self, name: str) -> Upstream:
        """An upstream; raises NoSuchThing."""
        found = self._pool.get(name)
        if found is None:
            names = ", ".join(upstream.name for upstream in self._pool)
            raise NoSuchThing(f"there is no upstream {name!r}; there are: {names or 'none'}")
        return found

    def _control_of(self, name: str) -> Control:
        order = self._orders.get(name)
        return Control.ENABLED if order is None else order.control

    def _tell(self, name: str, control: str, order: Order, *, holds: str = "") -> None:
        fields: dict[str, object] = {"holds": holds} if holds else {}
        self._emit(
            Event.UPSTREAM_CONTROLLED,
            upstream=name,
            control=control,
            who=order.who,
            reason=order.reason,
            **fields,
        )


def _text(order: Order) -> str:
    """As it is kept; nothing for what is so by itself."""
    if order.control is Control.ENABLED:
        return ""
    return orjson.dumps(
        {
            "control": str(order.control),
            "who": order.who,
            "at_ms": order.at_ms,
            "reason": order.reason,
        }
    ).decode()


def _order(text: str) -> Order:
    """What is kept. What cannot be read is taken for drained: that it was not in use is sure."""
    try:
        found = orjson.loads(text)
        return Order(
            control=Control(found["control"]),
            who=str(found["who"]),
            at_ms=int(found["at_ms"]),
            reason=str(found["reason"]),
        )
    except (ValueError, KeyError, TypeError):
        return Order(
            control=Control.DRAINED,
            who="nobody known",
            at_ms=0,
            reason="what an operator set cannot be read",
        )
