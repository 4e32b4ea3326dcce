"""When devices were last heard of: in memory at once, in the store every so often."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from gateway.clock import Clock
from gateway.store.store import Device, Store, TouchDevice

COMMIT_DEVICES_MAX = 500  # to one commit: large enough to be quick, small enough to show progress

T = TypeVar("T")


class LastSeen:
    """The latest sign of life of each device."""

    def __init__(self, store: Store, *, rows: Mapping[str, Device], clock: Clock) -> None:
        """`rows` are the devices that the store has, by terminal id."""
        self._store = store
        self._rows = rows
        self._clock = clock
        self._fresh: dict[str, int] = {}  # not yet in the store
        self._seen: dict[str, int] = {}

    def touch(self, device: Device) -> None:
        """Note that a device was heard of now; `flush` writes it."""
        self._fresh[device.terminal_id] = self._clock.wall_ms()

    async def flush(self) -> int:
        """Write when devices were last seen; returns how many rows were touched.

        Raises StoreError; what was not written then waits for the next call.
        """
        rows = 0
        for batch in batches(list(self._fresh.items()), COMMIT_DEVICES_MAX):
            touches = [
                TouchDevice(self._rows[terminal_id].device_id, seen_ms)
                for terminal_id, seen_ms in batch
                if terminal_id in self._rows
            ]
            if touches:
                await self._store.commit(*touches)
                rows += len(touches)
            for terminal_id, seen_ms in batch:
                self._seen[terminal_id] = seen_ms
                if self._fresh.get(terminal_id) == seen_ms:
                    del self._fresh[terminal_id]
        return rows

    def of(self, device: Device) -> int:
        """When a device was last heard of, 0 if never; its own field may be older."""
        terminal_id = device.terminal_id
        return max(
            self._fresh.get(terminal_id, 0), self._seen.get(terminal_id, 0), device.last_seen_ms
        )


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in runs of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
