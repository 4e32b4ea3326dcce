"""Turns: the costly steps of handshakes a few at a time, and everybody else served in between.

A step of a TLS handshake is a millisecond or two of one processor. A scheduler runs all who are
ready before it looks for news: when thousands call at once, as after a failed network, their steps
would be one batch of seconds, and a purchase would have to wait for several such batches.
"""

from __future__ import annotations

import trio

_ENDS_A_ROUND = 4  # an end costs a quarter of a handshake's step, or less


class Turns:
    """Whose turn it is; who waits is served in the order of asking. One for all of a node.

    Handshakes go on by a step to a round of the scheduler, and lost connections end by a few.
    """

    def __init__(self) -> None:
        self._turn = trio.Semaphore(1)
        self._ends = trio.Semaphore(_ENDS_A_ROUND)

    async def take(self) -> None:
        """Wait for the turn, one round of the scheduler at least; end it with `give_back`."""
        await self._turn.acquire()

    def give_back(self) -> None:
        """End the turn that was taken: in the next round it is another's."""
        self._turn.release()

    async def one(self) -> None:
        """Wait for the turn, for what is done in this round of the scheduler."""
        await self._turn.acquire()
        self._turn.release()

    async def end(self) -> None:
        """Wait until a lost connection may be ended."""
        await self._ends.acquire()
        self._ends.release()


class InTurn(trio.abc.Stream):
    """A stream whose reader goes on with what it received only when it has its turn.

    The turn lasts until the reader wants more, so that nobody holds one while he waits for a peer.
    What a peer says is bounded by what the reader asks for, as ever.
    """

    def __init__(self, stream: trio.abc.Stream, turns: Turns) -> None:
        self._stream = stream
        self._turns = turns
        self._has_turn = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        self.end()
        data = await self._stream.receive_some(max_bytes)
        await self._turns.take()
        self._has_turn = True
        return data

    def end(self) -> None:
        """Give the turn back, if there is one."""
        if self._has_turn:
            self._has_turn = False
            self._turns.give_back()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self.end()
        await self._stream.aclose()
