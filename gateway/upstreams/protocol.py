"""The life of one link, from connecting to signing off, as a table (no I/O)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from gateway.settings.schema_base import Backoff


class LinkState(StrEnum):
    """Where a link is in its life."""

    IDLE = "idle"  # not started, or drained: nothing is connected, nothing is tried
    CONNECTING = "connecting"
    SIGNING_ON = "signing_on"
    AGREEING_KEYS = "agreeing_keys"
    PROVING = "proving"  # an echo is asked for before the first request
    READY = "ready"
    SIGNED_OFF = "signed_off"  # by the acquirer: connected, but unused
    DRAINING = "draining"  # no new requests; those under way are waited for
    SIGNING_OFF = "signing_off"
    BACKOFF = "backoff"
    DISABLED = "disabled"  # by an operator


class LinkEvent(StrEnum):
    """What can happen to a link."""

    START = "start"
    CONNECTED = "connected"
    CONNECT_FAILED = "connect failed"
    SIGNED_ON = "signed on"  # the acquirer answered our sign-on with 00
    SIGN_ON_REFUSED = "sign-on refused"
    KEYS_AGREED = "keys agreed"
    KEYS_REFUSED = "keys refused"
    ECHO_ANSWERED = "echo answered"
    ECHO_FAILED = "echo failed"  # no answer in time, or the link was declared down for silence
    SIGN_OFF_ANSWERED = "sign-off answered"
    NETWORK_TIMEOUT = "network timeout"  # sign-on, keys or sign-off
    ACQUIRER_SIGNED_OFF = "acquirer signed off"
    ACQUIRER_SIGNED_ON = "acquirer signed on"
    DRAIN = "drain"
    DRAINED = "drained"
    RESUME = "resume"
    DISABLE = "disable"
    ENABLE = "enable"
    RECONNECT = "reconnect"
    CLOSED = "closed"  # by the acquirer, or because the connection failed
    WAIT_OVER = "wait over"


S, E = LinkState, LinkEvent

_ANSWERS = (
    E.SIGNED_ON,
    E.SIGN_ON_REFUSED,
    E.KEYS_AGREED,
    E.KEYS_REFUSED,
    E.ECHO_ANSWERED,
    E.ECHO_FAILED,
    E.SIGN_OFF_ANSWERED,
    E.NETWORK_TIMEOUT,
)
_ACQUIRER = (E.ACQUIRER_SIGNED_OFF, E.ACQUIRER_SIGNED_ON)
_OPENING = (E.CONNECTED, E.CONNECT_FAILED)


def _but(events: Iterable[LinkEvent], *others: LinkEvent) -> tuple[LinkEvent, ...]:
    return tuple(event for event in events if event not in others)


# Pairs that change nothing: an answer or a timer that came too late, or what is so already.
_STAYS: dict[LinkState, tuple[LinkEvent, ...]] = {
    S.IDLE: (
        *_OPENING,
        *_ANSWERS,
        *_ACQUIRER,
        E.DRAIN,
        E.DRAINED,
        E.ENABLE,
        E.RECONNECT,  # a drained link is brought back by RESUME
        E.CLOSED,
        E.WAIT_OVER,
    ),
    S.CONNECTING: (
        *_ANSWERS,
        *_ACQUIRER,
        E.START,
        E.DRAINED,
        E.RESUME,
        E.ENABLE,
        E.RECONNECT,
        E.CLOSED,  # the last connection, which was closed to make this one
        E.WAIT_OVER,
    ),
    S.SIGNING_ON: (
        *_OPENING,
        *_but(_ANSWERS, E.SIGNED_ON, E.SIGN_ON_REFUSED, E.NETWORK_TIMEOUT, E.ECHO_FAILED),
        E.ACQUIRER_SIGNED_ON,  # our own is still to be answered
        E.START,
        E.DRAINED,
        E.RESUME,
        E.ENABLE,
        E.WAIT_OVER,
    ),
    S.AGREEING_KEYS: (
        *_OPENING,
        *_but(_ANSWERS, E.KEYS_AGREED, E.KEYS_REFUSED, E.NETWORK_TIMEOUT, E.ECHO_FAILED),
        E.ACQUIRER_SIGNED_ON,
        E.START,
        E.DRAINED,
        E.RESUME,
        E.ENABLE,
        E.WAIT_OVER,
    ),
    S.PROVING: (
        *_OPENING,
        *_but(_ANSWERS, E.ECHO_ANSWERED, E.ECHO_FAILED, E.NETWORK_TIMEOUT),
        E.ACQUIRER_SIGNED_ON,
        E.START,
        E.DRAINED,
        E.RESUME,
        E.ENABLE,
        E.WAIT_OVER,
    ),
    S.READY: (
        *_OPENING,
        *_but(_ANSWERS, E.ECHO_FAILED),
        E.ACQUIRER_SIGNED_ON,
        E.START,
        E.DRAINED,
        E.RESUME,
        E.ENABLE,
        E.WAIT_OVER,
    ),
    S.SIGNED_OFF: (
        *_OPENING,
        *_but(_ANSWERS, E.ECHO_FAILED),
        E.ACQUIRER_SIGNED_OFF,
        E.START,
        E.DRAINED,
        E.RESUME,
        E.ENABLE,
    ),
    S.DRAINING: (
        *_OPENING,
        *_but(_ANSWERS, E.ECHO_FAILED),
        *_ACQUIRER,  # nothing new is sent in any case
        E.START,
        E.DRAIN,
        E.ENABLE,
        E.RECONNECT,  # what is under way comes first
        E.WAIT_OVER,
    ),
    S.SIGNING_OFF: (
        *_OPENING,
        *_but(_ANSWERS, E.SIGN_OFF_ANSWERED, E.NETWORK_TIMEOUT, E.ECHO_FAILED),
        *_ACQUIRER,
        E.START,
        E.DRAIN,
        E.DRAINED,
        E.ENABLE,
        E.RECONNECT,
        E.WAIT_OVER,
    ),
    S.BACKOFF: (
        *_OPENING,
        *_ANSWERS,
        *_ACQUIRER,
        E.START,
        E.DRAINED,
        E.RESUME,
        E.ENABLE,
        E.CLOSED,
    ),
    S.DISABLED: (
        *_OPENING,
        *_ANSWERS,
        *_ACQUIRER,
        E.START,
        E.DRAIN,
        E.DRAINED,
        E.RESUME,
        E.DISABLE,
        E.RECONNECT,
        E.CLOSED,
        E.WAIT_OVER,
    ),
}

_MOVES: dict[tuple[LinkState, LinkEvent], LinkState] = {
    (S.IDLE, E.START): S.CONNECTING,
    (S.IDLE, E.RESUME): S.CONNECTING,
    (S.IDLE, E.DISABLE): S.DISABLED,
    (S.CONNECTING, E.CONNECTED): S.SIGNING_ON,
    (S.CONNECTING, E.CONNECT_FAILED): S.BACKOFF,
    (S.CONNECTING, E.DRAIN): S.IDLE,
    (S.CONNECTING, E.DISABLE): S.DISABLED,
    (S.SIGNING_ON, E.SIGNED_ON): S.AGREEING_KEYS,
    # Connected it may sign on later; to close would only have it refused again.
    (S.SIGNING_ON, E.SIGN_ON_REFUSED): S.SIGNED_OFF,
    (S.AGREEING_KEYS, E.KEYS_AGREED): S.PROVING,
    (S.AGREEING_KEYS, E.KEYS_REFUSED): S.BACKOFF,
    (S.PROVING, E.ECHO_ANSWERED): S.READY,
    (S.READY, E.ECHO_FAILED): S.BACKOFF,
    (S.READY, E.ACQUIRER_SIGNED_OFF): S.SIGNED_OFF,
    (S.READY, E.CLOSED): S.BACKOFF,
    (S.READY, E.RECONNECT): S.CONNECTING,
    (S.READY, E.DRAIN): S.DRAINING,
    (S.READY, E.DISABLE): S.DISABLED,
    (S.SIGNED_OFF, E.ECHO_FAILED): S.BACKOFF,
    (S.SIGNED_OFF, E.CLOSED): S.BACKOFF,
    (S.SIGNED_OFF, E.DISABLE): S.DISABLED,
    (S.SIGNED_OFF, E.ACQUIRER_SIGNED_ON): S.PROVING,
    (S.SIGNED_OFF, E.WAIT_OVER): S.SIGNING_ON,
    (S.SIGNED_OFF, E.RECONNECT): S.CONNECTING,
    # What was under way when it signed off may still be answered.
    (S.SIGNED_OFF, E.DRAIN): S.DRAINING,
    (S.DRAINING, E.DRAINED): S.SIGNING_OFF,
    # All steps again: it may have been signed off meanwhile.
    (S.DRAINING, E.RESUME): S.SIGNING_ON,
    (S.DRAINING, E.ECHO_FAILED): S.IDLE,
    (S.DRAINING, E.CLOSED): S.IDLE,
    (S.DRAINING, E.DISABLE): S.DISABLED,
    (S.SIGNING_OFF, E.RESUME): S.CONNECTING,
    (S.SIGNING_OFF, E.ECHO_FAILED): S.IDLE,
    (S.SIGNING_OFF, E.CLOSED): S.IDLE,
    (S.SIGNING_OFF, E.DISABLE): S.DISABLED,
    (S.SIGNING_OFF, E.SIGN_OFF_ANSWERED): S.IDLE,
    (S.SIGNING_OFF, E.NETWORK_TIMEOUT): S.IDLE,
    (S.BACKOFF, E.WAIT_OVER): S.CONNECTING,
    (S.BACKOFF, E.RECONNECT): S.CONNECTING,
    (S.BACKOFF, E.DRAIN): S.IDLE,
    (S.BACKOFF, E.DISABLE): S.DISABLED,
    (S.DISABLED, E.ENABLE): S.CONNECTING,
}

for _step in (S.SIGNING_ON, S.AGREEING_KEYS, S.PROVING):
    _MOVES |= {
        (_step, E.NETWORK_TIMEOUT): S.BACKOFF,
        (_step, E.ECHO_FAILED): S.BACKOFF,
        (_step, E.ACQUIRER_SIGNED_OFF): S.SIGNED_OFF,
        (_step, E.CLOSED): S.BACKOFF,
        (_step, E.RECONNECT): S.CONNECTING,
        (_step, E.DRAIN): S.IDLE,
        (_step, E.DISABLE): S.DISABLED,
    }

# Every pair has exactly one entry: the next state, or the same one.
TRANSITIONS: dict[tuple[LinkState, LinkEvent], LinkState] = {
    (state, event): state if event in _STAYS[state] else _MOVES[state, event]
    for state in LinkState
    for event in LinkEvent
}

# The steps of a new connection, in order; one that is not configured is passed over.
_STEPS = (S.SIGNING_ON, S.AGREEING_KEYS, S.PROVING, S.READY)
CONNECTED = frozenset((*_STEPS, S.SIGNED_OFF, S.DRAINING, S.SIGNING_OFF))
_WAITING = frozenset((S.BACKOFF, S.SIGNED_OFF))


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documents."""
    lines = ["stateDiagram-v2", "    [*] --> idle"]
    lines += [
        f"    {state.value} --> {following.value}: {event.value}"
        for (state, event), following in TRANSITIONS.items()
        if following is not state
    ]
    return "\n".join(lines)


class LinkLife:
    """One link's way through the table: what happens goes in, and `state` says what is to be done.

    `sign_on`, `keys` and `prove` say which steps a new connection takes before its first request.
    """

    def __init__(
        self, *, backoff: Backoff, sign_on: bool, keys: bool, prove: bool, now_s: float
    ) -> None:
        self.state = LinkState.IDLE
        self.since_s = now_s
        self.attempts = 0  # connections tried since the start
        self._backoff = backoff
        self._steps = frozenset(
            step
            for step, configured in (
                (S.SIGNING_ON, sign_on),
                (S.AGREEING_KEYS, keys),
                (S.PROVING, prove),
                (S.READY, True),
                (S.SIGNING_OFF, sign_on),
            )
            if configured
        )
        self._failures = 0  # ends since it was last good for `backoff.max_s`

    def handle(self, event: LinkEvent, now_s: float) -> bool:
        """Move on; returns whether that changed the state."""
        before, following = self.state, self._next(event)
        if following is before:
            return False
        if before is S.READY and now_s - self.since_s >= self._backoff.max_s:
            self._failures = 0
        if event in (E.RESUME, E.ENABLE, E.RECONNECT):
            self._failures = 0  # an operator wants it now
        elif following in _WAITING:
            self._failures += 1
        if following is S.CONNECTING:
            self.attempts += 1
        self.state = following
        self.since_s = now_s
        return True

    def wait_s(self, random: float) -> float:
        """How long to wait, backing off or signed off: exponential, with full jitter.

        `random` is from 0 to 1. The bound doubles with each connection that ended before it was
        ready for `backoff.max_s`, so that one that comes and goes is not tried ever faster.
        """
        doublings = min(max(self._failures - 1, 0), 62)
        return random * min(self._backoff.first_s * 2.0**doublings, self._backoff.max_s)

    def _next(self, event: LinkEvent) -> LinkState:
        following = TRANSITIONS[self.state, event]
        if self.state is S.SIGNED_OFF and event is E.WAIT_OVER:
            # Only a sign-on undoes the acquirer's sign-off, where links otherwise need none too.
            return following
        if following in _STEPS and following is not self.state:
            return next(s for s in _STEPS[_STEPS.index(following) :] if s in self._steps)
        if following is S.SIGNING_OFF and following not in self._steps:
            return S.IDLE
        return following
