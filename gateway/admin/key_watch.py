"""Watches the ends of keys: tells of them ahead of time, and marks those that are over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import trio

from gateway.admin.key_room import KeyRoom
from gateway.clock import iso_time
from gateway.errors import StoreError
from gateway.keys.key_life import KeyEvent, moved
from gateway.keys.records import KeyPurpose, StoredKey, StoredKeyState
from gateway.telemetry.events import Emit, Event

LOOK_S = 600.0
_DAY_MS = 86_400_000
# A terminal's working keys are replaced when it signs on: nobody is woken for their ends.
_RENEWED = frozenset((KeyPurpose.PIN, KeyPurpose.MAC, KeyPurpose.DATA))
_OPEN = frozenset((StoredKeyState.PENDING, StoredKeyState.ACTIVE, StoredKeyState.RETIRING))


@dataclass(frozen=True, slots=True)
class Ending:
    """Keys of one kind of owner and purpose that end soon, and nothing replaces them yet."""

    keys: str  # as "terminal/terminal-master"
    within_days: int  # the smallest of the steps that the first of them is within
    count: int
    first: StoredKey


def endings(keys: Iterable[StoredKey], *, now_ms: int, warn_days: Sequence[int]) -> list[Ending]:
    """What ends within the longest of the steps, by kind of owner and purpose.

    A key that another one of its owner and purpose outlasts is replaced already.
    """
    until_ms = now_ms + max(warn_days) * _DAY_MS
    last: dict[tuple[str, KeyPurpose], StoredKey] = {}
    for key in keys:
        if key.state is StoredKeyState.ACTIVE and key.purpose not in _RENEWED:
            name = key.owner, key.purpose
            known = last.get(name)
            if known is None or _outlasts(key, known):
                last[name] = key
    groups: dict[str, list[StoredKey]] = {}
    for key in last.values():
        if now_ms < key.end_ms <= until_ms:
            owners = key.owner.partition(":")[0]
            groups.setdefault(f"{owners}/{key.purpose.value}", []).append(key)
    found = []
    for kind, members in sorted(groups.items()):
        first = min(members, key=lambda key: key.end_ms)
        within = min(days for days in warn_days if first.end_ms <= now_ms + days * _DAY_MS)
        found.append(Ending(kind, within, len(members), first))
    return found


def _over(keys: Iterable[StoredKey], now_ms: int) -> list[StoredKey]:
    """What has ended, and is not marked so yet."""
    return [key for key in keys if key.end_ms and key.end_ms <= now_ms and key.state in _OPEN]


def _outlasts(one: StoredKey, other: StoredKey) -> bool:
    return not one.end_ms or (other.end_ms != 0 and one.end_ms > other.end_ms)


class KeyWatch:
    """Looks at all keys every so often."""

    def __init__(self, room: KeyRoom, *, emit: Emit) -> None:
        self._room = room
        self._emit = emit
        self._told: dict[str, tuple[int, int]] = {}  # the step and the end that were told last
        self.ending: Mapping[str, int] = {}  # for the metric

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look until cancelled."""
        task_status.started()
        while True:
            await self.look()
            await trio.sleep(LOOK_S)

    async def look(self) -> None:
        """Tell what ends soon, once for each step, and mark what is over as expired."""
        room = self._room
        now_ms = room.now_ms()
        warn_days = room.settings.warn_days
        keys = list(room.table)  # a copy: what follows takes a thread some 0.5 µs a key
        found, over = await trio.to_thread.run_sync(
            lambda: (endings(keys, now_ms=now_ms, warn_days=warn_days), _over(keys, now_ms))
        )
        self.ending = {one.keys: one.count for one in found}
        for one in found:
            step = one.within_days, one.first.end_ms
            if self._told.get(one.keys) != step:
                self._emit(
                    Event.KEY_EXPIRING,
                    keys=one.keys,
                    within_days=one.within_days,
                    count=one.count,
                    first=one.first.name,
                    ends=iso_time(one.first.end_ms),
                )
        self._told = {one.keys: (one.within_days, one.first.end_ms) for one in found}
        with contextlib.suppress(StoreError):  # it says so itself; the next look does it
            await self._mark_ended(over, now_ms)

    async def _mark_ended(self, over: Sequence[StoredKey], now_ms: int) -> None:
        room = self._room
        step_rows = room.settings.step_rows
        for first in range(0, len(over), step_rows):
            async with room.changing:
                rows = [
                    moved(key, KeyEvent.ENDED, now_ms=now_ms)
                    for key in over[first : first + step_rows]
                    if room.is_as(key)
                ]
                if rows:
                    await room.commit(rows, who="")
            await trio.sleep(room.settings.pause_ms / 1_000)
