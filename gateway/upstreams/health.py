"""The states of health of links and upstreams, and what moves them, as two tables (no I/O)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any


class Health(StrEnum):
    """How a link, or an upstream, is thought to be."""

    UP = "up"
    SUSPECT = "suspect"  # no new requests if there is anything else
    DOWN = "down"
    PROBING = "probing"  # one real request decides


# What is told of each change: the state before, the state now, and why, for operators.
Changed = Callable[[Health, Health, str], None]


class LinkEvidence(StrEnum):
    """What was seen of a link."""

    READY = "ready"  # connected, signed on, its echo answered
    READY_AGAIN = "ready again"  # the same, after it was down for silence
    OVERDUE = "overdue"  # requests are unanswered for longer than is usual
    ANSWERED = "answered"  # a real answer came, and none is overdue
    ECHO_UNANSWERED = "echo unanswered"
    MUTE = "mute"  # no real answer for long, whatever it echoes
    LOST = "lost"  # its connection ended


class UpstreamEvidence(StrEnum):
    """What was seen of an upstream."""

    USABLE = "usable"  # a link may be used, and no ejection stands against it
    SUSPECT = "suspect"  # links are connected, and all of them suspect
    GONE = "gone"  # the last link ended, and nothing was lost by it
    LOST = "lost"  # no link may be used, and requests were lost, or a link was silent
    SICK = "sick"  # time-outs in a row, or mostly bad answers
    PROBE_DUE = "probe due"  # its ejection is over, and a link may be used
    PROBE_ANSWERED = "probe answered"
    PROBE_FAILED = "probe failed"


H, L, U = Health, LinkEvidence, UpstreamEvidence

_LINK_MOVES = {
    (H.UP, L.OVERDUE): H.SUSPECT,
    (H.UP, L.ECHO_UNANSWERED): H.DOWN,
    (H.UP, L.LOST): H.DOWN,
    (H.SUSPECT, L.ANSWERED): H.UP,
    (H.SUSPECT, L.ECHO_UNANSWERED): H.DOWN,
    (H.SUSPECT, L.MUTE): H.DOWN,
    (H.SUSPECT, L.LOST): H.DOWN,
    (H.DOWN, L.READY): H.UP,
    # A front end may echo while its host is mute: only a real answer says more.
    (H.DOWN, L.READY_AGAIN): H.PROBING,
    (H.PROBING, L.OVERDUE): H.SUSPECT,
    (H.PROBING, L.ANSWERED): H.UP,
    (H.PROBING, L.ECHO_UNANSWERED): H.DOWN,
    (H.PROBING, L.LOST): H.DOWN,
}

_LINK_STAYS = {
    # Mute is what a suspect may turn out to be, so nobody else is.
    H.UP: (L.READY, L.READY_AGAIN, L.ANSWERED, L.MUTE),
    H.SUSPECT: (L.READY, L.READY_AGAIN, L.OVERDUE),
    H.DOWN: (L.OVERDUE, L.ANSWERED, L.ECHO_UNANSWERED, L.MUTE, L.LOST),
    H.PROBING: (L.READY, L.READY_AGAIN, L.MUTE),
}

_UPSTREAM_MOVES = {
    (H.UP, U.SUSPECT): H.SUSPECT,
    (H.UP, U.GONE): H.DOWN,
    (H.UP, U.LOST): H.DOWN,
    (H.UP, U.SICK): H.DOWN,
    (H.SUSPECT, U.USABLE): H.UP,
    (H.SUSPECT, U.GONE): H.DOWN,
    (H.SUSPECT, U.LOST): H.DOWN,
    (H.SUSPECT, U.SICK): H.DOWN,
    (H.DOWN, U.USABLE): H.UP,
    (H.DOWN, U.PROBE_DUE): H.PROBING,
    # Its link became suspect with the probe on it.
    (H.PROBING, U.SUSPECT): H.DOWN,
    (H.PROBING, U.GONE): H.DOWN,
    (H.PROBING, U.LOST): H.DOWN,
    (H.PROBING, U.PROBE_ANSWERED): H.UP,
    (H.PROBING, U.PROBE_FAILED): H.DOWN,
}

_UPSTREAM_STAYS = {
    H.UP: (U.USABLE, U.PROBE_DUE, U.PROBE_ANSWERED, U.PROBE_FAILED),
    H.SUSPECT: (U.SUSPECT, U.PROBE_DUE, U.PROBE_ANSWERED, U.PROBE_FAILED),
    H.DOWN: (U.SUSPECT, U.GONE, U.LOST, U.SICK, U.PROBE_ANSWERED, U.PROBE_FAILED),
    # What was asked before the probe says nothing about now.
    H.PROBING: (U.USABLE, U.SICK, U.PROBE_DUE),
}

# Every pair has exactly one entry: the next state, or the same one.
LINK_TRANSITIONS: dict[tuple[Health, LinkEvidence], Health] = {
    (state, seen): state if seen in _LINK_STAYS[state] else _LINK_MOVES[state, seen]
    for state in Health
    for seen in LinkEvidence
}
UPSTREAM_TRANSITIONS: dict[tuple[Health, UpstreamEvidence], Health] = {
    (state, seen): state if seen in _UPSTREAM_STAYS[state] else _UPSTREAM_MOVES[state, seen]
    for state in Health
    for seen in UpstreamEvidence
}

# An upstream that goes down for one of these is ejected: left alone for a time, then probed.
EJECTING = frozenset((U.LOST, U.SICK, U.SUSPECT, U.PROBE_FAILED))


def link_diagram() -> str:
    """The table of links as a Mermaid state diagram, for the documents."""
    return _diagram(LINK_TRANSITIONS)


def upstream_diagram() -> str:
    """The table of upstreams as a Mermaid state diagram, for the documents."""
    return _diagram(UPSTREAM_TRANSITIONS)


def _diagram(table: Mapping[tuple[Health, Any], Health]) -> str:
    lines = ["stateDiagram-v2", "    [*] --> down"]
    lines += [
        f"    {state.value} --> {following.value}: {seen.value}"
        for (state, seen), following in table.items()
        if following is not state
    ]
    return "\n".join(lines)
