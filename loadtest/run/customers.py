"""Customers: who come on time, and the devices that wait for them."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, Protocol, TypeVar

import outcome
import trio


class Waiting(Protocol):
    """Who can wait for customers: anything that can be a key."""

    def __hash__(self) -> int: ...


DeviceT = TypeVar("DeviceT", bound=Waiting)


class Queue(Generic[DeviceT]):
    """An open loop: a customer takes the device that has been idle longest, or waits for one.

    A device that waits is woken without a task of its own being made: with thousands a second
    that is most of what a customer costs.
    """

    def __init__(self) -> None:
        self.queued = 0  # customers who found no idle device
        self._idle: OrderedDict[DeviceT, trio.lowlevel.Task] = OrderedDict()
        self._customers: deque[float] = deque()
        self._closed = False

    @property
    def idle(self) -> list[DeviceT]:
        """The devices that wait, the longest first."""
        return list(self._idle)

    @property
    def waiting(self) -> int:
        """Customers who wait for a device."""
        return len(self._customers)

    def come(self, due_s: float) -> None:
        """A customer is here, who was due at that moment."""
        if self._idle:
            _, task = self._idle.popitem(last=False)
            trio.lowlevel.reschedule(task, outcome.Value(due_s))
        else:
            self.queued += 1
            self._customers.append(due_s)

    def call_away(self, device: DeviceT) -> bool:
        """Wake an idle device without a customer: its `next` returns None. False: it is busy."""
        task = self._idle.pop(device, None)
        if task is None:
            return False
        trio.lowlevel.reschedule(task, outcome.Value(None))
        return True

    def close(self) -> None:
        """Nobody comes any more; who waits is still served."""
        self._closed = True
        for device in self.idle:
            self.call_away(device)

    @property
    def over(self) -> bool:
        """Whether nobody comes any more and nobody waits."""
        return self._closed and not self._customers

    async def next(self, device: DeviceT) -> float | None:
        """When the device's next customer was due; None where it is called away, or all is over."""
        if self._customers:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return self._customers.popleft() if self._customers else None
        if self._closed:
            await trio.lowlevel.checkpoint()
            return None
        self._idle[device] = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            del self._idle[device]
            return trio.lowlevel.Abort.SUCCEEDED

        due_s: float | None = await trio.lowlevel.wait_task_rescheduled(abort)
        return due_s
