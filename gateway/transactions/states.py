"""The states of a transaction and what moves it on, as one table with an entry for every pair."""

from __future__ import annotations

from enum import StrEnum

from gateway.errors import InvariantBroken
from gateway.store.store import State


class Happening(StrEnum):
    """What can become of a transaction."""

    SENT = "sent"  # some bytes of it may have left
    NOTHING_SENT = "nothing sent"  # no candidate was left, and no byte left for any
    ANSWERED = "answered"  # by its acquirer, in time
    DELIVERED = "delivered"  # the answer was handed to the terminal's connection
    IN_DOUBT = "in doubt"  # timed out, link lost, node killed, no usable answer
    REVERSAL_OWED = "reversal owed"  # by doubt, by the terminal, or not delivered in its grace time
    ADVICE_OWED = "advice owed"  # the advice itself is to be sent until it is answered
    ACKNOWLEDGED = "acknowledged"  # by the acquirer: what was owed is done
    HANDED_ON = "handed on"  # too many attempts, or an answer that settles nothing
    LATE_APPROVAL = "late approval"  # the acquirer approved after the terminal was told no
    RETRIED = "retried"  # an operator has it sent again
    RESOLVED = "resolved"  # an operator settled it by hand
    FOUND_BOOKED = "found booked"  # an operator knows that the acquirer has it
    REST_OWED = "rest owed"  # what a partial reversal left is to be reversed too
    OVER = "over"  # in doubt, but of a kind that is owed nothing


S, H = State, Happening

# Pairs that change nothing: who asks again has his answer already.
_STAYS = {
    S.INTENDED: (H.LATE_APPROVAL,),  # its doubt is being written just now
    S.SENT: (H.SENT,),
    S.NOTHING_SENT: (H.DELIVERED,),
    S.ANSWERED: (),
    S.DELIVERED: (H.DELIVERED,),
    S.TIMED_OUT: (H.IN_DOUBT, H.LATE_APPROVAL),
    # A late approval changes nothing: the terminal was already told no.
    S.REVERSAL_OWED: (H.DELIVERED, H.REVERSAL_OWED, H.LATE_APPROVAL, H.RETRIED),
    # Acknowledged with 00: the acquirer has undone it, whenever its answer reaches us.
    S.REVERSED: (H.DELIVERED, H.REVERSAL_OWED, H.LATE_APPROVAL),
    S.ADVICE_OWED: (H.DELIVERED, H.ADVICE_OWED, H.LATE_APPROVAL, H.RETRIED),
    S.ADVISED: (H.DELIVERED, H.LATE_APPROVAL),
    S.BOOKED: (H.DELIVERED, H.LATE_APPROVAL),
    S.GIVEN_UP: (H.DELIVERED, H.HANDED_ON),
    S.CLOSED: (H.DELIVERED, H.LATE_APPROVAL),
}

_MOVES = {
    (S.INTENDED, H.SENT): S.SENT,
    (S.INTENDED, H.NOTHING_SENT): S.NOTHING_SENT,
    (S.INTENDED, H.IN_DOUBT): S.TIMED_OUT,  # found by a restart
    (S.INTENDED, H.REVERSAL_OWED): S.REVERSAL_OWED,  # the terminal takes back what nobody answered
    (S.INTENDED, H.ADVICE_OWED): S.ADVICE_OWED,  # no acquirer could be reached
    (S.SENT, H.ANSWERED): S.ANSWERED,
    (S.SENT, H.IN_DOUBT): S.TIMED_OUT,
    (S.SENT, H.NOTHING_SENT): S.NOTHING_SENT,  # the link was lost before its turn came
    (S.TIMED_OUT, H.REVERSAL_OWED): S.REVERSAL_OWED,
    (S.TIMED_OUT, H.ADVICE_OWED): S.ADVICE_OWED,
    (S.TIMED_OUT, H.HANDED_ON): S.GIVEN_UP,  # a refund: never reversed, never repeated
    (S.TIMED_OUT, H.OVER): S.CLOSED,  # an enquiry
    (S.ANSWERED, H.DELIVERED): S.DELIVERED,
    (S.ANSWERED, H.REVERSAL_OWED): S.REVERSAL_OWED,
    (S.DELIVERED, H.REVERSAL_OWED): S.REVERSAL_OWED,
    (S.REVERSAL_OWED, H.ACKNOWLEDGED): S.REVERSED,
    (S.REVERSAL_OWED, H.HANDED_ON): S.GIVEN_UP,
    (S.REVERSAL_OWED, H.RESOLVED): S.CLOSED,
    (S.REVERSED, H.REST_OWED): S.REVERSAL_OWED,
    (S.ADVICE_OWED, H.ACKNOWLEDGED): S.ADVISED,
    (S.ADVICE_OWED, H.HANDED_ON): S.GIVEN_UP,
    (S.ADVICE_OWED, H.RESOLVED): S.CLOSED,
    (S.GIVEN_UP, H.LATE_APPROVAL): S.REVERSAL_OWED,  # 12 was said, and then it was approved
    (S.GIVEN_UP, H.REVERSAL_OWED): S.REVERSAL_OWED,
    (S.GIVEN_UP, H.RETRIED): S.REVERSAL_OWED,
    (S.GIVEN_UP, H.RESOLVED): S.CLOSED,
    (S.GIVEN_UP, H.FOUND_BOOKED): S.BOOKED,
}

# Every pair has exactly one entry: the next state, the same one, or None for what cannot happen.
TRANSITIONS: dict[tuple[State, Happening], State | None] = {
    (state, happening): _MOVES.get(
        (state, happening), state if happening in _STAYS[state] else None
    )
    for state in State
    for happening in Happening
}


def after(state: State, happening: Happening) -> State:
    """The state that a transaction is in after this happened to it.

    Raises InvariantBroken where it cannot have happened in this state.
    """
    following = TRANSITIONS[state, happening]
    if following is None:
        raise InvariantBroken(f"a transaction that is {state} cannot be {happening}")
    return following


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documents."""
    lines = ["stateDiagram-v2", "    [*] --> intended"]
    lines += [
        f"    {state.value} --> {following.value}: {happening.value}"
        for (state, happening), following in TRANSITIONS.items()
        if following is not None and following is not state
    ]
    return "\n".join(lines)
