from __future__ import annotations

from pathlib import Path

from gateway.keys.key_life import TRANSITIONS, KeyEvent
from gateway.keys.records import StoredKeyState

PAGE = Path(__file__).parents[3] / "docs" / "keys.md"


def test_the_states_of_a_key_are_those_of_the_table() -> None:
    expected = ["| state | " + " | ".join(event.value for event in KeyEvent) + " |"]
    for state in StoredKeyState:
        moves = [TRANSITIONS[state, event] for event in KeyEvent]
        cells = [state.value, *("-" if move is None else move.value for move in moves)]
        expected.append("| " + " | ".join(cells) + " |")
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index(expected[0])
    assert [lines[start], *lines[start + 2 : start + 2 + len(StoredKeyState)]] == expected
