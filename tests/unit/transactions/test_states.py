"""The table of states: whole, closed, and the one that the documents show."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from gateway.errors import InvariantBroken
from gateway.store.store import State
from gateway.transactions.states import _MOVES, _STAYS, TRANSITIONS, Happening, after, diagram

ARCHITECTURE = Path(__file__).resolve().parents[3] / "docs" / "ARCHITECTURE.md"


def test_every_pair_of_state_and_happening_has_exactly_one_entry() -> None:
    assert set(TRANSITIONS) == set(product(State, Happening))
    both = [pair for pair in _MOVES if pair[1] in _STAYS[pair[0]]]
    assert not both


@pytest.mark.parametrize(("state", "happening"), list(product(State, Happening)))
def test_each_pair_leads_to_its_entry_or_is_refused(state: State, happening: Happening) -> None:
    following = TRANSITIONS[state, happening]
    if following is None:
        with pytest.raises(InvariantBroken):
            after(state, happening)
    else:
        assert after(state, happening) is following


def test_every_state_is_reached_and_money_in_doubt_ends_only_by_a_verdict() -> None:
    reached = {following for following in TRANSITIONS.values() if following is not None}
    assert reached | {State.INTENDED} == set(State)
    # What may hold money at an acquirer leaves that state only by an answer, a debt or a person.
    for state in (State.REVERSAL_OWED, State.GIVEN_UP):
        leaving = {
            happening
            for (held, happening), following in TRANSITIONS.items()
            if held is state and following not in (None, state)
        }
        assert leaving <= {
            Happening.ACKNOWLEDGED,
            Happening.HANDED_ON,
            Happening.RESOLVED,
            Happening.FOUND_BOOKED,
            Happening.LATE_APPROVAL,
            Happening.REVERSAL_OWED,
            Happening.RETRIED,
        }


def test_nothing_that_was_told_no_becomes_approved() -> None:
    approved = (State.ANSWERED, State.DELIVERED)
    told_no = set(State) - {State.INTENDED, State.SENT, *approved}
    for state, happening in product(told_no, Happening):
        assert TRANSITIONS[state, happening] not in approved


def test_the_documents_show_this_table() -> None:
    assert diagram() in ARCHITECTURE.read_text()
