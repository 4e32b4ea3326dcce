"""A bank with a ledger, a store that can be left at each await, and cuts at the n-th of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from gateway.errors import StoreError
from gateway.store.store import Operation, Transaction
from gateway.wire.message import Message
from tests.support.acquirer import FakeAcquirer, approve, with_code
from tests.support.fake_store import FakeStore


@dataclass
class Entry:
    """What a bank has booked."""

    message: Message
    approved: bool
    reversed: bool = False


@dataclass
class Bank:
    """An acquirer that books before it answers, loses no book, and outlives the node.

    `first` is what it does with the first request: answer, decline, say nothing or hang up (once
    it is booked), or never get it. All others are answered.
    """

    first: str = "answer"
    acquirer: FakeAcquirer = field(default_factory=FakeAcquirer)
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    doubles: list[Message] = field(default_factory=list)
    _asked: int = 0

    def __post_init__(self) -> None:
        self.acquirer.script = self._answer
        self.acquirer.outlives = True

    def be(self, first: str) -> None:
        """From now on; the next request is the first one."""
        self.first, self._asked = first, 0

    def standing(self, message: Message) -> list[Entry]:
        """What stands of a terminal's request, which is known by its DE7."""
        return [
            entry
            for entry in self.entries.values()
            if entry.message.get(7) == message.get(7) and entry.approved and not entry.reversed
        ]

    def _answer(self, request: Message) -> Message | None:
        if request.mti[1] == "4":
            return self._reverse(request)
        self._asked += 1
        first = self.first if self._asked == 1 else "answer"
        if first == "never get":
            return None
        key = (request.terminal_id, request.stan)
        if key in self.entries and not request.is_repeat:
            self.doubles.append(request)
        entry = self.entries.setdefault(key, Entry(request, approved=first != "decline"))
        if first == "say nothing":
            return None
        if first == "hang up":
            self.acquirer.hang_up_now()
            return None
        return approve(request) if entry.approved else with_code("51")(request)

    def _reverse(self, request: Message) -> Message | None:
        entry = self.entries.get((request.terminal_id, request.get(90)[4:10]))
        if entry is None or entry.message.get(7) != request.get(90)[10:20]:
            return with_code("25")(request)
        entry.reversed = True
        return with_code("00")(request)


class SteppingStore(FakeStore):
    """Can be left at each await: before an operation is durable, and after, before it is told.

    It can be told to fail from its n-th write on, for a while.
    """

    _writes_left = 0
    _fails_s = 0.0
    _fails_until_s = -1.0
    failed = False

    def fail_at(self, number: int, *, for_s: float) -> None:
        """The n-th write from now fails, and all that come within this time of it."""
        self._writes_left, self._fails_s, self.failed = number, for_s, False

    def heal(self) -> None:
        """No write fails any more."""
        self._writes_left, self._fails_until_s = 0, -1.0

    async def intend(self, transaction: Transaction) -> Transaction | None:
        await trio.lowlevel.checkpoint()
        self._fail_if_told()
        found = await super().intend(transaction)
        await trio.lowlevel.checkpoint()
        return found

    async def commit(self, *operations: Operation) -> None:
        await trio.lowlevel.checkpoint()
        self._fail_if_told()
        await super().commit(*operations)
        await trio.lowlevel.checkpoint()

    def _fail_if_told(self) -> None:
        if self._writes_left:
            self._writes_left -= 1
            if not self._writes_left:
                self._fails_until_s = trio.current_time() + self._fails_s
                self.failed = True
        if trio.current_time() <= self._fails_until_s:
            raise StoreError("the disk is full")


class AtStep(trio.abc.Instrument):
    """Does something when a task yields for the n-th time."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self._left = number
        self._act = act
        self._task: trio.lowlevel.Task | None = None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._act()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count the steps of the task that runs this."""
        self._task = trio.lowlevel.current_task()
        trio.lowlevel.add_instrument(self)
        try:
            yield
        finally:
            self._task = None
            trio.lowlevel.remove_instrument(self)

    @property
    def acted(self) -> bool:
        return self._left <= 0
