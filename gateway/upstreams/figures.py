"""How an upstream does and what came of its requests, as operators and metrics see it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.upstreams.health import Health
from gateway.upstreams.upstream_health import ISSUER_UNAVAILABLE, SYSTEM_FAULT

if TYPE_CHECKING:
    from gateway.upstreams.link import Link
    from gateway.upstreams.upstream import Upstream

# All that `Upstream.state` can be: the health, or what an operator's word makes of it.
STATES = (*map(str, Health), "draining", "drained", "disabled", "retiring")
_PERCENTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


class Tally:
    """What came of the requests since the start; only ever grows."""

    __slots__ = ("approved", "declined", "fault", "time_outs", "unavailable")

    def __init__(self) -> None:
        self.approved = 0
        self.unavailable = 0  # 91: the issuer's, or a switch's
        self.fault = 0  # 96: its own
        self.declined = 0  # every other code
        self.time_outs = 0

    def answered(self, code: str, approving: Collection[str]) -> None:
        """Count an answer; on the main path."""
        if code in approving:
            self.approved += 1
        elif code == ISSUER_UNAVAILABLE:
            self.unavailable += 1
        elif code == SYSTEM_FAULT:
            self.fault += 1
        else:
            self.declined += 1

    @property
    def answers(self) -> int:
        return sum(self.by_class.values())

    @property
    def by_class(self) -> dict[str, int]:
        """The answers by class of their code."""
        return {
            "approved": self.approved,
            "declined": self.declined,
            "unavailable": self.unavailable,
            "fault": self.fault,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """How a link does."""

    name: str
    state: str  # of its life
    health: str
    since_s: float  # on trio's clock
    why: str
    pending: int
    attempts: int  # connections tried since the start


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamStatus:
    """How an upstream does, for operators; times are of trio's clock."""

    name: str
    state: str  # one of STATES
    since_s: float
    why: str
    control: str
    share: float  # of the requests meant for it; less than 1 in a slow start
    ejected_until_s: float | None
    ejections: int  # in a row
    ejected: int  # times since the start
    suspicions: int  # of its links, since the start
    links: list[LinkStatus] = field(default_factory=list)
    links_up: int
    pending: int
    pending_max: int
    late: int
    answers: int  # since the start
    answers_by_class: dict[str, int]
    approvals: int
    time_outs: int
    latency_s: dict[str, float]  # p50, p90, p99 of the recent answers; empty before the first

    @property
    def links_total(self) -> int:
        return len(self.links)


def status_of(upstream: Upstream, *, late: int) -> UpstreamStatus:
    """How an upstream does now; `late` of its requests were given up and may yet be answered."""
    health, latencies, tally = upstream.health, upstream.latencies, upstream.tally
    links = [_link_status(link, upstream.began_s) for link in upstream.links]
    links_up = sum(link.up for link in upstream.links)
    return UpstreamStatus(
        name=upstream.name,
        state=upstream.state,
        since_s=max(health.since_s, upstream.began_s),
        why=_why(upstream, links_up),
        control=str(upstream.control),
        share=health.share,
        ejected_until_s=health.ejected_until_s,
        ejections=health.ejections,
        ejected=health.ejected,
        suspicions=upstream.links.suspicions,
        links=links,
        links_up=links_up,
        pending=upstream.pending,
        pending_max=upstream.settings.pending_max,
        late=late,
        answers=tally.answers,
        answers_by_class=tally.by_class,
        approvals=tally.approved,
        time_outs=tally.time_outs,
        latency_s={name: latencies.percentile(share) for name, share in _PERCENTILES}
        if latencies.count
        else {},
    )


def _why(upstream: Upstream, links_up: int) -> str:
    """Why it is as it is; where it is gone, why it does not come back, too."""
    why = upstream.health.why
    troubles = list(dict.fromkeys(link.trouble for link in upstream.links if link.trouble))
    return "; ".join([why, *troubles]) if troubles and not links_up else why


def _link_status(link: Link, began_s: float) -> LinkStatus:
    return LinkStatus(
        name=link.name,
        state=str(link.life.state),
        health=str(link.health.state),
        since_s=max(link.life.since_s, link.health.since_s, began_s),
        why=link.trouble or link.health.why,
        pending=link.pending,
        attempts=link.life.attempts,
    )
