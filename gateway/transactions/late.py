"""Late answers: when one came for what was given up, and what is still to be judged by it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

import trio

from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.telemetry.events import Emit, Event
from gateway.wire.message import Message

_WAITING_MAX = 10_000
_KNOWN_MAX = 100_000
_STORE_RETRY_S = 0.5

Judge = Callable[[int, Message], Awaitable[None]]


class LateAnswers:
    """Answers that came too late to be delivered, in the order they came; both tables bounded."""

    def __init__(self, *, clock: Clock, emit: Emit, judge: Judge) -> None:
        """`judge` is told the transaction and the answer; it is asked again after a StoreError."""
        self._clock = clock
        self._emit = emit
        self._judge = judge
        self._to_judge: trio.MemorySendChannel[tuple[int, Message]]
        self._to_judge, self._judged = trio.open_memory_channel(_WAITING_MAX)
        self._came_ms: OrderedDict[int, int] = OrderedDict()  # by transaction

    def came(self, transaction_id: int, answer: Message) -> None:
        """Take an answer; one to no transaction of a terminal's (0) says nothing."""
        if not transaction_id:
            return
        self._came_ms[transaction_id] = self._clock.wall_ms()
        while len(self._came_ms) > _KNOWN_MAX:
            self._came_ms.popitem(last=False)
        try:
            self._to_judge.send_nowait((transaction_id, answer))
        except trio.WouldBlock:
            # The reversal that is owed stands in any case; only one given up needs the judgement.
            self._emit(Event.ANSWER_UNKNOWN, transaction=transaction_id, reason="too many at once")

    def came_ms(self, transaction_id: int) -> int:
        """When a late answer to this transaction came; 0: none is known of."""
        return self._came_ms.get(transaction_id, 0)

    async def run(self) -> None:
        """Have them judged, until cancelled."""
        async for transaction_id, answer in self._judged:
            while True:
                try:
                    await self._judge(transaction_id, answer)
                    break
                except StoreError as error:
                    self._emit(Event.HANDLER_FAILED, transaction=transaction_id, reason=str(error))
                    await trio.sleep(_STORE_RETRY_S)
