"""Every pair of a device's state and what is done to it, and the diagram made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.store.devices import DeviceState
from gateway.terminals.life import (
    KEPT_OUT,
    MAY_REVERSE,
    TRANSITIONS,
    Move,
    after,
    diagram,
    legal,
    refusal,
)

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "devices.md"


@pytest.mark.parametrize("state", list(DeviceState))
@pytest.mark.parametrize("move", list(Move))
def test_every_pair_leads_somewhere_or_says_what_does(state: DeviceState, move: Move) -> None:
    following = TRANSITIONS[state, move]
    assert (move in legal(state)) == bool(following) == (not refusal(state, move))
    if not following:
        with pytest.raises(KeyError):
            after(state, move)
        words = refusal(state, move)
        assert (
            "for good" in words if state is DeviceState.DEREGISTERED else legal(state)[0] in words
        )
        return
    assert after(state, move, before=following[-1]) is following[-1]
    assert (len(following) > 1) == (move is Move.UNDO)


def test_what_must_never_be() -> None:
    assert not legal(DeviceState.DEREGISTERED)
    assert TRANSITIONS[None, Move.ENROL] == (DeviceState.PENDING,)
    assert not any(TRANSITIONS[state, Move.ENROL] for state in DeviceState)
    # Out of the hands of whoever has it a device comes back only as a new one.
    assert not TRANSITIONS[DeviceState.LOST, Move.RESUME]
    assert after(DeviceState.LOST, Move.FOUND) is DeviceState.PENDING
    assert DeviceState.LOST not in MAY_REVERSE
    assert DeviceState.ACTIVE not in KEPT_OUT
    # Every state but the last can be left, and every state is reached.
    reached = {one for following in TRANSITIONS.values() for one in following}
    assert reached == set(DeviceState)


def test_the_diagram_in_the_documents_is_the_table() -> None:
    assert diagram() in DOCUMENT.read_text(encoding="utf-8")
