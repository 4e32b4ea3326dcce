"""The life of a link: the whole table, what is done on each way through it, and its waits."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from gateway.settings.schema import Backoff
from gateway.upstreams.protocol import (
    _MOVES,
    _STAYS,
    TRANSITIONS,
    Action,
    LinkEvent,
    LinkLife,
    LinkState,
    diagram,
)

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "upstreams.md"
S, E, A = LinkState, LinkEvent, Action
BACKOFF = Backoff(first_s=0.2, max_s=5.0)

# How each state is reached by a link that takes every step.
WAYS: dict[LinkState, tuple[LinkEvent, ...]] = {
    S.IDLE: (),
    S.CONNECTING: (E.START,),
    S.SIGNING_ON: (E.START, E.CONNECTED),
    S.AGREEING_KEYS: (E.START, E.CONNECTED, E.SIGNED_ON),
    S.PROVING: (E.START, E.CONNECTED, E.SIGNED_ON, E.KEYS_AGREED),
    S.READY: (E.START, E.CONNECTED, E.SIGNED_ON, E.KEYS_AGREED, E.ECHO_ANSWERED),
    S.SIGNED_OFF: (E.START, E.CONNECTED, E.SIGN_ON_REFUSED),
    S.DRAINING: (E.START, E.CONNECTED, E.SIGN_ON_REFUSED, E.DRAIN),
    S.SIGNING_OFF: (E.START, E.CONNECTED, E.SIGN_ON_REFUSED, E.DRAIN, E.DRAINED),
    S.BACKOFF: (E.START, E.CONNECT_FAILED),
    S.DISABLED: (E.DISABLE,),
}
CONNECTED = set(S) - {S.IDLE, S.CONNECTING, S.BACKOFF, S.DISABLED}


def life(*, sign_on: bool = True, keys: bool = True, prove: bool = True) -> LinkLife:
    return LinkLife(backoff=BACKOFF, sign_on=sign_on, keys=keys, prove=prove, now_s=0.0)


def at(state: LinkState) -> LinkLife:
    link = life()
    for event in WAYS[state]:
        link.handle(event, 0.0)
    assert link.state is state
    return link


def test_every_pair_of_state_and_event_has_exactly_one_entry() -> None:
    assert set(TRANSITIONS) == set(product(LinkState, LinkEvent))
    assert not [pair for pair in _MOVES if pair[1] in _STAYS[pair[0]]]
    assert all(len(set(events)) == len(events) for events in _STAYS.values())


@pytest.mark.parametrize(("state", "event"), list(product(LinkState, LinkEvent)))
def test_each_pair_leads_to_its_entry_and_does_what_that_takes(
    state: LinkState, event: LinkEvent
) -> None:
    link = at(state)
    actions = link.handle(event, 1.0)
    following = TRANSITIONS[state, event]
    assert link.state is following
    if following is state:
        assert actions == ()
        assert link.since_s == 0.0
        return
    assert link.since_s == 1.0
    # A connection is closed exactly where it was ours to close, and opened where one is wanted.
    closes = state in CONNECTED and following not in CONNECTED and event is not E.CLOSED
    gives_up = state is S.CONNECTING and event in (E.DRAIN, E.DISABLE)
    assert (A.CLOSE in actions) is (closes or gives_up)
    assert (A.CONNECT in actions) is (following is S.CONNECTING)
    # Requests are taken in one state only, and whoever waits is told when that is over.
    assert (A.OPEN in actions) is (following is S.READY)
    assert (A.HOLD in actions) is (state is S.READY)
    assert (A.WAIT in actions) is (following in (S.BACKOFF, S.SIGNED_OFF))
    waited = state in (S.BACKOFF, S.SIGNED_OFF)
    assert (A.STOP_WAITING in actions) is (waited and event is not E.WAIT_OVER)
    if A.CLOSE in actions and A.CONNECT in actions:
        assert actions.index(A.CLOSE) < actions.index(A.CONNECT)


@pytest.mark.parametrize("state", list(LinkState))
def test_an_operator_always_gets_his_way(state: LinkState) -> None:
    link = at(state)
    link.handle(E.DISABLE, 1.0)
    assert link.state is S.DISABLED
    drained = at(state)
    drained.handle(E.DRAIN, 1.0)
    assert drained.state in (S.IDLE, S.DRAINING, S.SIGNING_OFF, S.DISABLED)


@pytest.mark.parametrize(
    ("sign_on", "keys", "prove"), list(product((False, True), (False, True), (False, True)))
)
def test_steps_that_are_not_configured_are_passed_over(
    *, sign_on: bool, keys: bool, prove: bool
) -> None:
    link = life(sign_on=sign_on, keys=keys, prove=prove)
    link.handle(E.START, 0.0)
    taken = list(link.handle(E.CONNECTED, 0.0))
    for wanted, event in (
        (S.SIGNING_ON, E.SIGNED_ON),
        (S.AGREEING_KEYS, E.KEYS_AGREED),
        (S.PROVING, E.ECHO_ANSWERED),
    ):
        if link.state is wanted:
            taken += link.handle(event, 0.0)
    steps = ((sign_on, A.SEND_SIGN_ON), (keys, A.AGREE_KEYS), (prove, A.SEND_ECHO), (True, A.OPEN))
    assert taken == [action for configured, action in steps if configured]
    assert link.state is S.READY
    assert link.handle(E.DRAIN, 1.0) == (A.HOLD, A.DRAIN)
    ended = link.handle(E.DRAINED, 2.0)
    assert ended == ((A.SEND_SIGN_OFF,) if sign_on else (A.CLOSE,))
    assert link.state is (S.SIGNING_OFF if sign_on else S.IDLE)


def test_after_the_acquirers_sign_off_only_a_sign_on_brings_the_link_back() -> None:
    link = life(sign_on=False, keys=False, prove=False)
    link.handle(E.START, 0.0)
    link.handle(E.CONNECTED, 0.0)
    assert link.handle(E.ACQUIRER_SIGNED_OFF, 1.0) == (A.HOLD, A.WAIT)
    # Ours is tried, though no link signs on at first here.
    assert link.handle(E.WAIT_OVER, 2.0) == (A.SEND_SIGN_ON,)
    assert link.handle(E.SIGN_ON_REFUSED, 3.0) == (A.WAIT,)
    assert link.handle(E.ACQUIRER_SIGNED_ON, 4.0) == (A.STOP_WAITING, A.OPEN)


def test_waits_have_full_jitter_and_double_up_to_the_bound() -> None:
    link = life(sign_on=False, keys=False, prove=False)
    link.handle(E.START, 0.0)
    bounds = []
    for _ in range(8):
        link.handle(E.CONNECT_FAILED, 0.0)
        assert link.wait_s(0.0) == 0.0
        assert link.wait_s(0.5) == link.wait_s(1.0) / 2
        bounds.append(link.wait_s(1.0))
        link.handle(E.WAIT_OVER, 0.0)
    assert bounds == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


def flaps(*, up_s: float, seconds: float, random: float) -> LinkLife:
    """A link that is up for `up_s` each time and then is closed."""
    link = life(sign_on=False, keys=False, prove=True)
    now_s = 0.0
    link.handle(E.START, now_s)
    while now_s < seconds:
        link.handle(E.CONNECTED, now_s)
        link.handle(E.ECHO_ANSWERED, now_s)
        now_s += up_s
        link.handle(E.CLOSED, now_s)
        now_s += link.wait_s(random)
        link.handle(E.WAIT_OVER, now_s)
    return link


def test_a_link_that_comes_and_goes_is_not_tried_ever_faster() -> None:
    assert flaps(up_s=0.0, seconds=60.0, random=1.0).attempts <= 20
    assert flaps(up_s=2.0, seconds=60.0, random=0.5).attempts <= 20
    # Good for as long as the longest wait, it starts over.
    link = flaps(up_s=6.0, seconds=60.0, random=1.0)
    link.handle(E.CONNECT_FAILED, 100.0)
    assert link.wait_s(1.0) <= 0.4


def test_an_operator_that_wants_it_now_waits_no_more() -> None:
    for event in (E.RECONNECT, E.DRAIN, E.DISABLE):
        link = flaps(up_s=0.0, seconds=30.0, random=1.0)
        link.handle(E.CONNECT_FAILED, 31.0)
        assert link.state is S.BACKOFF
        assert A.STOP_WAITING in link.handle(event, 31.0)
        link.handle(E.RESUME, 32.0)
        link.handle(E.ENABLE, 32.0)
        assert link.state is S.CONNECTING
        link.handle(E.CONNECT_FAILED, 33.0)
        assert link.wait_s(1.0) == BACKOFF.first_s


def test_the_documents_show_this_table() -> None:
    assert diagram() in DOCUMENT.read_text(encoding="utf-8")
