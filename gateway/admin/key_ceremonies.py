"""Ceremonies: keys that wait for the rest of their components, in memory only."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.admin.key_room import NewKey
from gateway.errors import OperatorError
from gateway.keys.components import Component, combine

_COUNT_MAX = 16


@dataclass(slots=True)
class _Ceremony:
    wanted: NewKey
    of: int
    ends_ms: int
    parts: dict[int, Component] = field(default_factory=dict)
    operators: dict[int, str] = field(default_factory=dict)


class Ceremonies:
    """What people have entered so far, for a time. A stop of the process forgets it."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], _Ceremony] = {}

    def enter(
        self,
        component: Component,
        wanted: NewKey,
        *,
        part: int,
        of: int,
        who: str,
        now_ms: int,
        wait_ms: int,
        different_operators: bool,
    ) -> bytes | None:
        """Take a component; returns the key once all are there, and forgets them; None before.

        Raises OperatorError where it does not go with what was entered before.
        """
        self._expire(now_ms)
        name = wanted.owner, wanted.purpose.value
        ceremony = self._open.get(name)
        if part > of:
            raise OperatorError(f"part {part} of {of}: there is no such part")
        if ceremony is None or part in ceremony.parts:
            # Whoever enters a part again starts anew: somebody has mistyped, or given up.
            if len(self._open) >= _COUNT_MAX and ceremony is None:
                raise OperatorError(
                    f"{_COUNT_MAX} keys wait for components already: finish one, or wait"
                )
            ceremony = _Ceremony(wanted, of, now_ms + wait_ms)
        if (ceremony.wanted, ceremony.of) != (wanted, of):
            raise OperatorError(
                f"another component of {wanted.owner}/{wanted.purpose} was entered with another"
                " algorithm, number of parts or time: enter all of them alike"
            )
        if different_operators and who in ceremony.operators.values():
            raise OperatorError(
                f"{who} has entered a component of this key already, and"
                " keys.different_operators wants another operator for each"
            )
        ceremony.parts[part] = component
        ceremony.operators[part] = who
        ceremony.ends_ms = now_ms + wait_ms
        self._open[name] = ceremony
        if len(ceremony.parts) < of:
            return None
        del self._open[name]
        return combine(list(ceremony.parts.values()))

    def _expire(self, now_ms: int) -> None:
        for name in [name for name, one in self._open.items() if one.ends_ms <= now_ms]:
            del self._open[name]

    def __repr__(self) -> str:
        return f"<Ceremonies, {len(self._open)} open>"
