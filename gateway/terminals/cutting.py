"""Cutting off: open connections of those who are blocked or suspended by now are closed."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from gateway.telemetry.events import Emit, Event
from gateway.terminals.gate import Gate
from gateway.terminals.listener import Listener

_LOOKED_AT_ONCE = 200  # connections; each costs some microseconds, and terminals are served between


class Cutting:
    """Looks at every open connection once, each time that lists or devices have changed.

    Whoever comes during a look meets the gate itself, which asks the same lists.
    """

    def __init__(self, listeners: Sequence[Listener], *, gate: Gate, emit: Emit) -> None:
        self._listeners = listeners
        self._gate = gate
        self._emit = emit
        self._wanted = trio.Event()

    def look_now(self) -> None:
        """Somebody may be blocked who was not."""
        self._wanted.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Cut off whom the gate does not let stay, until cancelled."""
        task_status.started()
        while True:
            await self._wanted.wait()
            # Before the look: what changes meanwhile is for the next one.
            self._wanted = trio.Event()
            await self._look()

    async def _look(self) -> None:
        looked = 0
        for listener in self._listeners:
            for connection in listener.open_connections():
                caller = connection.caller
                blocked = None if caller is None else self._gate.stays(caller)
                if blocked is not None and caller is not None:
                    connection.cut_off()
                    bound = caller.bound
                    self._emit(
                        Event.CONNECTION_CUT,
                        listener=listener.settings.name,
                        address=connection.address,
                        terminal="" if bound is None else bound.terminal_id.rstrip(),
                        reason=blocked.words,
                    )
                looked += 1
                if looked % _LOOKED_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
