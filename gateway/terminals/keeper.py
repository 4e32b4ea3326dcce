"""What happens to devices by itself: suspensions end, replacements become final, reports grow."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping

import trio

from gateway.errors import StoreError
from gateway.terminals.incidents import Incidents
from gateway.terminals.replacements import Replacements
from gateway.terminals.surroundings import Surroundings

_LOOK_EVERY_S = 1.0
_SETTLE_EVERY = 10  # looks

# Told of what was done: the action, its subject, and what is so now.
WriteDown = Callable[[str, str, Mapping[str, object]], Awaitable[None]]


class Keeper:
    """Looks after devices every second; what the store does not take now waits for the next."""

    def __init__(
        self,
        around: Surroundings,
        *,
        replacements: Replacements,
        incidents: Incidents,
        write_down: WriteDown,
    ) -> None:
        """`write_down` puts it into the audit log, and raises nothing that has to stop the work."""
        self._around = around
        self._replacements = replacements
        self._incidents = incidents
        self._write_down = write_down

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look every second, until cancelled."""
        task_status.started()
        looks = 0
        while True:
            with contextlib.suppress(StoreError):  # It says so itself.
                await self.look(settle=looks % _SETTLE_EVERY == 0)
            looks += 1
            await trio.sleep(_LOOK_EVERY_S)

    async def look(self, *, settle: bool = True) -> None:
        """Do once whatever is due; raises StoreError."""
        registry = self._around.registry
        for device in registry.suspended_until(self._around.clock.wall_ms()):
            if await registry.resume_due(device):
                name = device.terminal_id.rstrip()
                await self._write_down("terminals.resume", name, {"why": "its time is over"})
        for device in registry.overlapping_until(self._around.clock.wall_ms()):
            if await registry.end_overlap(device):
                await self._write_down(
                    "terminals.renewed",
                    device.terminal_id.rstrip(),
                    {"certificate_sha256": device.certificate_sha256},
                )
        if settle:
            for made in await self._replacements.settle():
                what = {"old": made.old_id.rstrip(), "new": made.new_id.rstrip()}
                await self._write_down("terminals.replacement_final", what["old"], what)
        await self._incidents.write_changed()
