"""What operators see of upstreams, and do with them: drain, resume, disable, enable, reconnect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypedDict

import trio
from pydantic import Field

from gateway.admin.access import Role
from gateway.admin.api import Arguments, Progress, UpstreamStatus
from gateway.admin.controls import Controls, Order
from gateway.admin.desk import NoArguments
from gateway.admin.operations import Operation, Operations
from gateway.clock import Clock, iso_time
from gateway.errors import OperatorError
from gateway.upstreams.figures import UpstreamStatus as Seen
from gateway.upstreams.pool import Pool
from gateway.upstreams.upstream import Control, Upstream

REASON_CHARS_MAX = 500


class UpstreamView(UpstreamStatus):
    """An upstream in a list; times are ISO 8601 in UTC, "" for none, durations in seconds."""

    share: float  # of the requests meant for it; less than 1 in a slow start
    ejected_until: str
    ejections: int  # since the start
    suspicions: int
    answers: int
    approved: float | None  # share of the answers; None: there was none
    time_outs: int
    latency_s: dict[str, float]  # p50, p90, p99 of the recent answers; nothing before the first
    reversals_owed: int
    others_up: bool  # another upstream could do its work


class LinkView(TypedDict):
    name: str
    state: str  # of its life
    health: str
    since: str
    why: str
    pending: int
    attempts: int  # connections tried since the start


class UpstreamDetails(UpstreamView):
    """An upstream with all its links."""

    each_link: list[LinkView]
    answers_by_class: dict[str, int]
    settled_within_s: float  # what is under way is answered or given up by then


class Leftover(TypedDict):
    """What was set of an upstream that is not configured."""

    name: str
    control: str
    since: str
    why: str


class UpstreamList(TypedDict):
    upstreams: list[UpstreamView]
    not_configured: list[Leftover]


class Changed(TypedDict):
    changed: bool
    pending_before: int  # drained: finished. Disabled, reconnected: in doubt.
    upstream: UpstreamDetails


class NameArguments(Arguments):
    name: str


class ControlArguments(NameArguments):
    reason: str = Field(default="", max_length=REASON_CHARS_MAX)


class Views:
    """How upstreams are shown; `owed` says how many reversals wait for one."""

    def __init__(
        self,
        *,
        order: Callable[[str], Order | None],
        owed: Callable[[str], int],
        clock: Clock,
    ) -> None:
        self._order = order
        self._owed = owed
        self._clock = clock

    def short(self, upstream: Upstream) -> UpstreamStatus:
        return self._short(upstream.status())

    def whole(self, upstream: Upstream) -> UpstreamView:
        return self._whole(upstream, upstream.status())

    def details(self, upstream: Upstream) -> UpstreamDetails:
        seen = upstream.status()
        settings = upstream.settings
        slowest_s = max((settings.answer_s, *settings.answer_s_by_kind.values()))
        return {
            **self._whole(upstream, seen),
            "each_link": [
                {
                    "name": link.name,
                    "state": link.state,
                    "health": link.health,
                    "since": self._time(link.since_s),
                    "why": link.why,
                    "pending": link.pending,
                    "attempts": link.attempts,
                }
                for link in seen.links
            ],
            "answers_by_class": seen.answers_by_class,
            "settled_within_s": slowest_s + settings.network.sign_on_s,
        }

    def _short(self, seen: Seen) -> UpstreamStatus:
        order = self._order(seen.name)
        return {
            "name": seen.name,
            "state": seen.state,
            "control": seen.control,
            "since": self._time(seen.since_s) if order is None else iso_time(order.at_ms),
            "why": seen.why if order is None else order.words,
            "links_up": seen.links_up,
            "links": seen.links_total,
            "pending": seen.pending,
            "pending_max": seen.pending_max,
        }

    def _whole(self, upstream: Upstream, seen: Seen) -> UpstreamView:
        return {
            **self._short(seen),
            "share": round(seen.share, 3),
            "ejected_until": (
                "" if seen.ejected_until_s is None else self._time(seen.ejected_until_s)
            ),
            "ejections": seen.ejected,
            "suspicions": seen.suspicions,
            "answers": seen.answers,
            "approved": round(seen.approvals / seen.answers, 4) if seen.answers else None,
            "time_outs": seen.time_outs,
            "latency_s": seen.latency_s,
            "reversals_owed": self._owed(seen.name),
            "others_up": upstream.others_up(),
        }

    def _time(self, at_s: float) -> str:
        """A moment of trio's clock as people tell the time."""
        ago_s = trio.current_time() - at_s
        return iso_time(self._clock.wall_ms() - round(1000 * ago_s))


class UpstreamOperations(Operations):
    """Looking at upstreams, and steering them.

    A change is on disk before it is done and answered; each is in the audit log with who asked,
    the control before and after, the reason and the outcome.
    """

    def __init__(self, pool: Pool, *, controls: Controls, views: Views) -> None:
        self._pool = pool
        self._controls = controls
        self._views = views
        super().__init__(
            {
                "list": Operation(NoArguments, self.page),
                "show": Operation(NameArguments, self.show),
                "drain": self._change(self.drain),
                "resume": self._change(self.resume),
                "disable": self._change(self.disable),
                "enable": self._change(self.enable),
                "reconnect": self._change(self.reconnect),
            }
        )

    async def page(self, _: NoArguments, __: Progress | None = None) -> UpstreamList:
        return {
            "upstreams": [self._views.whole(upstream) for upstream in self._pool],
            "not_configured": [
                {
                    "name": name,
                    "control": str(order.control),
                    "since": iso_time(order.at_ms),
                    "why": order.words,
                }
                for name, order in self._controls.unused().items()
            ],
        }

    async def show(self, arguments: NameArguments, _: Progress | None = None) -> UpstreamDetails:
        return self._views.details(self._controls.named(arguments.name))

    async def drain(
        self, arguments: ControlArguments, _: Progress | None = None, *, who: str
    ) -> Changed:
        """Give it nothing new. What is under way is finished; then its links are closed."""
        self._refuse(arguments, Control.DISABLED, "it takes nothing already; `enable` undoes that")
        return await self._put(arguments, Control.DRAINED, who)

    async def resume(
        self, arguments: ControlArguments, _: Progress | None = None, *, who: str
    ) -> Changed:
        """Take back what was drained."""
        self._refuse(
            arguments, Control.DISABLED, f"use `gateway upstreams enable {arguments.name}`"
        )
        return await self._put(arguments, Control.ENABLED, who)

    async def disable(
        self, arguments: ControlArguments, _: Progress | None = None, *, who: str
    ) -> Changed:
        """Close its links at once: what is pending is in doubt, and owed a reversal."""
        return await self._put(arguments, Control.DISABLED, who)

    async def enable(
        self, arguments: ControlArguments, _: Progress | None = None, *, who: str
    ) -> Changed:
        """Take back what was disabled."""
        self._refuse(arguments, Control.DRAINED, f"use `gateway upstreams resume {arguments.name}`")
        return await self._put(arguments, Control.ENABLED, who)

    async def reconnect(
        self, arguments: ControlArguments, _: Progress | None = None, *, who: str
    ) -> Changed:
        """Make its connections anew: what is pending is in doubt, and owed a reversal."""
        for control in (Control.DRAINED, Control.DISABLED):
            self._refuse(arguments, control, "its links are closed already")
        upstream = self._controls.named(arguments.name)
        pending = upstream.pending
        self._controls.reconnect(arguments.name, who=who, reason=arguments.reason)
        return {
            "changed": True,
            "pending_before": pending,
            "upstream": self._views.details(upstream),
        }

    def _refuse(self, arguments: ControlArguments, control: Control, remedy: str) -> None:
        """Raises NoSuchThing, and OperatorError where the upstream's control is this one."""
        upstream = self._controls.named(arguments.name)
        if upstream.control is control:
            order = self._controls.order(arguments.name)
            whose = "" if order is None else f" {order.words}"
            raise OperatorError(f"upstream {arguments.name} is {control}{whose}: {remedy}")

    async def _put(self, arguments: ControlArguments, control: Control, who: str) -> Changed:
        upstream = self._controls.named(arguments.name)
        pending = upstream.pending
        changed = await self._controls.put(
            arguments.name, control, who=who, reason=arguments.reason
        )
        return {
            "changed": changed,
            "pending_before": pending,
            "upstream": self._views.details(upstream),
        }

    def _change(self, run: Callable[..., Awaitable[object]]) -> Operation:
        return Operation(
            ControlArguments,
            run,
            Role.OPERATOR,
            subject="name",
            old=self._before,
            told=_told,
            keeps_who=True,
        )

    async def _before(self, arguments: ControlArguments) -> object:
        upstream = self._pool.get(arguments.name)
        return None if upstream is None else _noted(self._views.short(upstream))


def _told(done: Changed) -> object:
    """What of a change the audit log is told."""
    return {
        **_noted(done["upstream"]),
        "changed": done["changed"],
        "pending_before": done["pending_before"],
    }


def _noted(view: UpstreamStatus) -> dict[str, object]:
    return {"control": view["control"], "state": view["state"], "pending": view["pending"]}
