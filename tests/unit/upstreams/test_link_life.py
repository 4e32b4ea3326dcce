"""The life of a link: the whole table, the ways through it, and its waits."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from gateway.settings.schema_base import Backoff
from gateway.upstreams.protocol import (
    _MOVES,
    _STAYS,
    CONNECTED,
    TRANSITIONS,
    LinkEvent,
    LinkLife,
    LinkState,
    diagram,
)

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "upstreams.md"
S, E = LinkState, LinkEvent
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
def test_each_pair_leads_to_its_entry(state: LinkState, event: LinkEvent) -> None:
    link = at(state)
    attempts = link.attempts
    changed = link.handle(event, 1.0)
    following = TRANSITIONS[state, event]
    assert link.state is following
    assert changed is (following is not state)
    assert link.since_s == (1.0 if changed else 0.0)
    assert link.attempts == attempts + (changed and following is S.CONNECTING)


def test_a_connection_is_left_or_entered_by_the_states_that_have_one() -> None:
    assert set(S) - {S.IDLE, S.CONNECTING, S.BACKOFF, S.DISABLED} == CONNECTED
    entered = {
        pair for pair, to in TRANSITIONS.items() if to in CONNECTED and pair[0] not in CONNECTED
    }
    assert entered == {(S.CONNECTING, E.CONNECTED)}
    # What the acquirer ends, or an operator, leaves no state that counts on a connection.
    assert not [state for state in S if TRANSITIONS[state, E.CLOSED] in CONNECTED]
    assert not [state for state in S if TRANSITIONS[state, E.DISABLE] in CONNECTED]


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
    link.handle(E.CONNECTED, 0.0)
    taken = [link.state]
    for wanted, event in (
        (S.SIGNING_ON, E.SIGNED_ON),
        (S.AGREEING_KEYS, E.KEYS_AGREED),
        (S.PROVING, E.ECHO_ANSWERED),
    ):
        if link.state is wanted:
            link.handle(event, 0.0)
            taken.append(link.state)
    steps = ((sign_on, S.SIGNING_ON), (keys, S.AGREEING_KEYS), (prove, S.PROVING), (True, S.READY))
    assert taken == [state for configured, state in steps if configured]
    link.handle(E.DRAIN, 1.0)
    assert link.state is S.DRAINING
    link.handle(E.DRAINED, 2.0)
    assert link.state is (S.SIGNING_OFF if sign_on else S.IDLE)


def test_after_the_acquirers_sign_off_only_a_sign_on_brings_the_link_back() -> None:
    link = life(sign_on=False, keys=False, prove=False)
    link.handle(E.START, 0.0)
    link.handle(E.CONNECTED, 0.0)
    for event, state in (
        (E.ACQUIRER_SIGNED_OFF, S.SIGNED_OFF),
        (E.WAIT_OVER, S.SIGNING_ON),  # ours is tried, though no link signs on at first here
        (E.SIGN_ON_REFUSED, S.SIGNED_OFF),
        (E.ACQUIRER_SIGNED_ON, S.READY),
    ):
        assert link.handle(event, 1.0)
        assert link.state is state


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
        assert link.handle(event, 31.0)
        link.handle(E.RESUME, 32.0)
        link.handle(E.ENABLE, 32.0)
        assert link.state is S.CONNECTING
        link.handle(E.CONNECT_FAILED, 33.0)
        assert link.wait_s(1.0) == BACKOFF.first_s


def test_the_documents_show_this_table() -> None:
    assert diagram() in DOCUMENT.read_text(encoding="utf-8")
