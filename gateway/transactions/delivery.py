"""Was the answer handed over? Marks what was, and takes back approvals that nobody can have got."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

import trio

from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.store.store import MarkManyDelivered, OweReversal, State, Store
from gateway.telemetry.events import Emit, Event
from gateway.transactions.request import Reply
from gateway.transactions.reversals import Reversals
from gateway.transactions.states import Happening, after

_UNDELIVERED_REASON = "68"  # DE39 of a reversal: the answer came too late
_MARK_EVERY_S = 0.1
_MARKS_MAX = 2_000  # to one operation
_REMEMBERED_MAX = 10_000
_STORE_RETRY_S = 0.5

TakeBack = Callable[[int], Awaitable[None]]


class Delivery:
    """Knows within this process what was handed to a terminal's connection, and what was not.

    An approval of which no byte was handed over waits for the terminal's repeat or reversal, and is
    reversed after its grace time. One that was handed over in part or whole is never reversed here:
    the shop may have it.
    """

    def __init__(
        self, *, store: Store, clock: Clock, emit: Emit, grace_s: float, take_back: TakeBack
    ) -> None:
        self._store = store
        self._clock = clock
        self._emit = emit
        self._grace_s = grace_s
        self._take_back = take_back
        self._marks: list[tuple[int, int]] = []
        self._undelivered: OrderedDict[int, float] = OrderedDict()  # transaction -> end of grace
        self._undelivered_wanted = trio.Event()
        # Both are about few: what nobody got, and what was asked for again.
        self._taken_back = _Remembered()  # reversed: a repeat must not be approved any more
        self._heard_again = _Remembered()  # a repeat's answer was handed over
        self._going_back = trio.Lock()

    @property
    def undelivered_count(self) -> int:
        return len(self._undelivered)

    def delivered(self, reply: Reply) -> None:
        """From here on some of the reply may be with the terminal."""
        if reply.transaction_id:
            reply.handed_over = True
            if reply.repeated:
                self._heard_again.add(reply.transaction_id)
            self._marks.append((reply.transaction_id, self._clock.wall_ms()))
            self._undelivered.pop(reply.transaction_id, None)

    def undelivered(self, reply: Reply, *, cut_off: bool = False) -> None:
        """The terminal had left before a byte of the reply could be handed over.

        `cut_off`: the gateway had closed its connection, since it may not come any more.
        """
        if not reply.transaction_id:
            return  # Nothing was done that it would have to know.
        self._emit(
            Event.UNDELIVERED,
            transaction=reply.transaction_id,
            terminal=reply.message.terminal_id,
            stan=reply.message.stan,
            code=reply.message.response_code,
        )
        if reply.handed_over or reply.transaction_id in self._heard_again:
            return  # Over another connection: the terminal may have it.
        if reply.unheard:
            self.wait(reply.transaction_id)
            if cut_off:
                # Nobody is let in to ask for it again: it is taken back next of all.
                self._undelivered[reply.transaction_id] = trio.current_time()
                self._undelivered.move_to_end(reply.transaction_id, last=False)

    def wait(self, transaction_id: int) -> None:
        """Nobody has heard of this approval: its grace time begins."""
        self._undelivered[transaction_id] = trio.current_time() + self._grace_s
        self._undelivered_wanted.set()

    def unheard(self, transaction_id: int) -> bool:
        """Whether nobody has heard of this approval, as far as this process knows for certain."""
        return transaction_id in self._undelivered

    def claim(self, transaction_id: int) -> bool:
        """A repeat of it came, or what undoes it: its grace time is over.

        False where it is too late for that, since it is being reversed or was.
        """
        self._undelivered.pop(transaction_id, None)
        return transaction_id not in self._taken_back

    async def gone_back(self) -> None:
        """Wait until what is being taken back now is owed."""
        async with self._going_back:
            pass

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write marks and watch grace times, until cancelled; the last marks are written then."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._mark)
                nursery.start_soon(self._watch)
                task_status.started()
        finally:
            self._write_marks()

    async def _mark(self) -> None:
        while True:
            await trio.sleep(_MARK_EVERY_S)
            self._write_marks()

    def _write_marks(self) -> None:
        """Queue the marks. They may be lost in a crash: an approval found answered is not reversed
        either, whether it was delivered or not."""
        while self._marks:
            some, rest = self._marks[:_MARKS_MAX], self._marks[_MARKS_MAX:]
            try:
                self._store.post(MarkManyDelivered(tuple(some)))
            except StoreError:
                self._marks = rest
                return
            self._marks = rest

    async def _watch(self) -> None:
        while True:
            self._undelivered_wanted = trio.Event()
            if not self._undelivered:
                await self._undelivered_wanted.wait()
                continue
            transaction_id, until_s = next(iter(self._undelivered.items()))
            if until_s > trio.current_time():
                with trio.move_on_at(until_s):
                    await self._undelivered_wanted.wait()  # one whose time is over may come first
                continue
            del self._undelivered[transaction_id]
            # In one go with the removal: no repeat may slip in between and be approved. Nor later:
            # it may have read long ago that this was approved.
            self._taken_back.add(transaction_id)
            async with self._going_back:
                await self._take_back_surely(transaction_id)

    async def _take_back_surely(self, transaction_id: int) -> None:
        while True:
            try:
                return await self._take_back(transaction_id)
            except StoreError:
                await trio.sleep(_STORE_RETRY_S)  # Nobody else knows that it is to be reversed.


class _Remembered:
    """The transactions of a kind that were last heard of, a bounded number of them."""

    def __init__(self) -> None:
        self._ids: OrderedDict[int, None] = OrderedDict()

    def add(self, transaction_id: int) -> None:
        self._ids[transaction_id] = None
        if len(self._ids) > _REMEMBERED_MAX:
            self._ids.popitem(last=False)

    def __contains__(self, transaction_id: object) -> bool:
        return transaction_id in self._ids


async def take_back_undelivered(
    store: Store, reversals: Reversals, clock: Clock, transaction_id: int
) -> None:
    """Owe the reversal of an approval that nobody got and nobody asked for again."""
    transaction = await store.transaction(transaction_id)
    if transaction is None or transaction.state is not State.ANSWERED:
        return
    await reversals.owe_regardless(
        transaction.upstream_stan,
        OweReversal(
            transaction_id,
            transaction.upstream,
            _UNDELIVERED_REASON,
            clock.wall_ms(),
            state=after(transaction.state, Happening.REVERSAL_OWED),
        ),
    )
