"""Which terminals are signed on at an upstream that knows them one by one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

import trio

# Fewer than a link remembers of its own network messages, so that none is forgotten, nor an echo.
_AT_ONCE = 8
_NOT_SIGNED_ON = frozenset(("77", "63"))  # UnionPay: sign on again; ISO: not signed on

# Sends a terminal's sign-on and returns whether it was accepted.
SignOn = Callable[[], Awaitable[bool]]


class SignOns:
    """Signs each terminal on before its first request, and again when the acquirer says so.

    Bounded: the terminal that was signed on first is forgotten first, and signs on once more. After
    a start all of them come at once: a few sign on at a time, and the others wait for their turn.
    """

    def __init__(self, *, terminals_max: int) -> None:
        self._terminals_max = terminals_max
        self._signed_on: OrderedDict[str, None] = OrderedDict()
        self._under_way: dict[str, trio.Event] = {}
        self._turns = trio.Semaphore(_AT_ONCE)

    async def ensure(self, terminal_id: str, sign_on: SignOn, *, turn_s: float) -> bool:
        """Whether the terminal is signed on now. Those who ask at once share one sign-on.

        `turn_s` bounds the wait for its turn, as `sign_on` bounds that for the answer.
        """
        while terminal_id not in self._signed_on:
            under_way = self._under_way.get(terminal_id)
            if under_way is not None:
                await under_way.wait()
                if terminal_id not in self._signed_on:
                    return False
                continue
            done = self._under_way[terminal_id] = trio.Event()
            try:
                if not await self._in_turn(sign_on, turn_s):
                    return False
                self._signed_on[terminal_id] = None
                if len(self._signed_on) > self._terminals_max:
                    self._signed_on.popitem(last=False)
            finally:
                del self._under_way[terminal_id]
                done.set()
        return True

    async def _in_turn(self, sign_on: SignOn, turn_s: float) -> bool:
        with trio.move_on_after(turn_s) as limit:
            await self._turns.acquire()
        if limit.cancelled_caught:
            return False
        try:
            return await sign_on()
        finally:
            self._turns.release()

    def heard(self, terminal_id: str, code: str) -> None:
        """An answer came: it may say that the terminal is signed on no more."""
        if code in _NOT_SIGNED_ON:
            self._signed_on.pop(terminal_id, None)
