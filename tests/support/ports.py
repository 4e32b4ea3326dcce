"""Ports for listeners under test that nobody else takes before they are listened on."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator

# Below what connections take theirs from, and what the load test's own listeners do.
_FIRST, _END = 4_000, 10_000


def _own_range() -> range:
    """The ports that are this test process's among those that pytest-xdist runs at once."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    each = (_END - _FIRST) // count
    return range(_FIRST + number * each, _FIRST + (number + 1) * each)


def _from_somewhere() -> Iterator[int]:
    """Without end; two test runs at once do not begin at the same one."""
    own = _own_range()
    start = os.getpid() * 16 % len(own)
    return itertools.cycle((*own[start:], *own[:start]))


_next = _from_somewhere()


def own_ports(count: int) -> list[int]:
    """Loopback TCP ports on which nobody listens, and which no other test is given for long."""
    found: list[int] = []
    for port in itertools.islice(_next, len(_own_range())):
        if len(found) == count:
            return found
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        found.append(port)
    raise AssertionError(f"no {count} free ports in {_own_range()}")
