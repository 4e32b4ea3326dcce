"""How people enter components of keys: at the terminal without echo, or from files of their own."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.cli.output import say
from gateway.errors import OperatorError
from gateway.keys.components import Component
from gateway.keys.kek_sources import component_lines, kek_component

_TRIES = 3


@dataclass(frozen=True, slots=True)
class Entered:
    """A component as it was entered; its repr shows nothing of it."""

    component: str = field(repr=False)
    check_value: str


def entered(part: int, of: int, *, file: Path | None, what: str) -> Entered:
    """One person's component and its check value, from a file or asked for without echo.

    Raises OperatorError where there is neither a file nor a terminal.
    """
    if file is not None:
        return Entered(*component_lines(file))
    if not sys.stdin.isatty():
        raise OperatorError(
            "components are entered at a terminal, or come from files of mode 0600 or 0400, one for"
            " each person (--component-file)"
        )
    say(f"Component {part} of {of} of {what}: its holder alone sits here now", "bold")
    component = getpass.getpass(f"component {part} (hex, not shown): ")
    return Entered(component, input(f"check value of component {part}: "))


def ask_kek(what: str) -> Sequence[Component]:
    """Two components of a key-encryption key, each asked for until it is right, three times."""
    found: list[Component] = []
    for part in (1, 2):
        for attempt in range(1, _TRIES + 1):
            given = entered(part, 2, file=None, what=f"the key-encryption key ({what})")
            try:
                found.append(
                    kek_component(given.component, given.check_value, where=f"component {part}")
                )
                break
            except OperatorError as error:
                if attempt == _TRIES:
                    raise
                say(str(error), "red")
    return found
