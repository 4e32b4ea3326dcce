"""A device's life as a table: its states, what can be done in each, and what then (no I/O)."""

from __future__ import annotations

from enum import StrEnum

from gateway.store.devices import DeviceState

S = DeviceState


class Move(StrEnum):
    """What is done to a device's state."""

    ENROL = "enrol"
    ACTIVATE = "activate"
    SUSPEND = "suspend"
    RESUME = "resume"
    LOST = "lost"
    STOLEN = "stolen"
    FOUND = "found"  # begins anew: another certificate, other keys
    REPLACE = "replace"  # its work, or the device itself, goes on under another terminal id
    TAKE_OVER = "take over"  # another device goes on under its id, or it goes on for another
    UNDO = "undo"  # a replacement: it is again what it was
    DEREGISTER = "deregister"


_BEFORE = (S.PENDING, S.ACTIVE, S.SUSPENDED, S.LOST)  # a replacement

_MOVES: dict[tuple[DeviceState | None, Move], tuple[DeviceState, ...]] = {
    # A terminal id is enrolled once: not while it is in use, and not after it was deregistered.
    (None, Move.ENROL): (S.PENDING,),
    (S.PENDING, Move.ACTIVATE): (S.ACTIVE,),
    (S.PENDING, Move.LOST): (S.LOST,),
    (S.PENDING, Move.STOLEN): (S.LOST,),
    (S.PENDING, Move.REPLACE): (S.REPLACED,),
    (S.PENDING, Move.TAKE_OVER): (S.ACTIVE,),
    (S.PENDING, Move.DEREGISTER): (S.DEREGISTERED,),
    (S.ACTIVE, Move.SUSPEND): (S.SUSPENDED,),
    (S.ACTIVE, Move.LOST): (S.LOST,),
    (S.ACTIVE, Move.STOLEN): (S.LOST,),
    (S.ACTIVE, Move.REPLACE): (S.REPLACED,),
    (S.ACTIVE, Move.TAKE_OVER): (S.ACTIVE,),
    (S.ACTIVE, Move.UNDO): _BEFORE,
    (S.ACTIVE, Move.DEREGISTER): (S.DEREGISTERED,),
    (S.SUSPENDED, Move.RESUME): (S.ACTIVE,),
    (S.SUSPENDED, Move.LOST): (S.LOST,),
    (S.SUSPENDED, Move.STOLEN): (S.LOST,),
    (S.SUSPENDED, Move.REPLACE): (S.REPLACED,),
    (S.SUSPENDED, Move.TAKE_OVER): (S.ACTIVE,),
    (S.SUSPENDED, Move.DEREGISTER): (S.DEREGISTERED,),
    # Found again it is not resumed: whoever had it may have its keys.
    (S.LOST, Move.FOUND): (S.PENDING,),
    (S.LOST, Move.REPLACE): (S.REPLACED,),
    (S.LOST, Move.TAKE_OVER): (S.ACTIVE,),
    (S.LOST, Move.DEREGISTER): (S.DEREGISTERED,),
    (S.REPLACED, Move.UNDO): _BEFORE,
    (S.REPLACED, Move.DEREGISTER): (S.DEREGISTERED,),
}

# Every pair has exactly one entry: where it leads (several: to what it was before), or nowhere.
TRANSITIONS: dict[tuple[DeviceState | None, Move], tuple[DeviceState, ...]] = {
    (state, move): _MOVES.get((state, move), ()) for state in (None, *DeviceState) for move in Move
}

# Whose messages are refused, and noted as sightings; pending devices are merely not there yet.
KEPT_OUT = frozenset((S.SUSPENDED, S.LOST, S.REPLACED, S.DEREGISTERED))
# Reversals of what was sent before are still taken. A lost device is in nobody knows whose hands.
MAY_REVERSE = frozenset((S.SUSPENDED, S.REPLACED))


def legal(state: DeviceState) -> list[Move]:
    """What can be done to a device in a state, in the order of a life."""
    return [move for move in Move if TRANSITIONS[state, move]]


def refusal(state: DeviceState, move: Move) -> str:
    """Why a move is refused in a state, in words; "" where it is legal."""
    if TRANSITIONS[state, move]:
        return ""
    if state is S.DEREGISTERED:
        return f"it cannot {_said(move)}: that is for good, and its id is not used again"
    return f"it cannot {_said(move)}; what can be done is: {', '.join(legal(state))}"


def after(state: DeviceState, move: Move, *, before: DeviceState = S.ACTIVE) -> DeviceState:
    """Where a legal move leads; `before` is what a replacement found, for its undoing.

    Raises KeyError where the move is not legal.
    """
    following = TRANSITIONS[state, move]
    if not following:
        raise KeyError((state, move))
    return before if len(following) > 1 else following[0]


def diagram() -> str:
    """The table as a Mermaid state diagram, for the documents."""
    lines = ["stateDiagram-v2"]
    for (state, move), following in TRANSITIONS.items():
        name = "[*]" if state is None else state.value
        lines += [f"    {name} --> {one.value}: {move.value}" for one in following]
    return "\n".join(lines)


def _said(move: Move) -> str:
    return f"be reported {move}" if move in (Move.LOST, Move.STOLEN, Move.FOUND) else str(move)
