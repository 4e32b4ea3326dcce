"""Crowd: customers who come to many tills at a set rate, however long each of them takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import trio

from loadtest.fleet import FleetOptions, terminals_of
from loadtest.ledger import Attempt, TerminalLedger
from loadtest.terminal import Book, Commit, Sale, T, Terminal

_OPENING_AT_ONCE = 50


class Notes:
    """What the tills write down, in memory until it is saved.

    For runs whose terminals nobody kills: a thread and a commit for each purchase would be a load
    of their own on the machine that is to be measured.
    """

    def __init__(self) -> None:
        self._attempts: dict[tuple[str, int], Attempt] = {}

    def put(self, attempt: Attempt) -> None:
        self._attempts[attempt.terminal_id, attempt.sequence] = attempt

    def last_sequence(self, terminal_id: str) -> int:
        return 0

    def unsettled(self, terminal_id: str) -> list[Attempt]:
        return []

    async def submit(self, work: Callable[[], T]) -> T:
        """What `work` returned; there is nothing to wait for."""
        return work()

    def save(self, path: Path) -> None:
        """Write everything to a terminals' ledger, which reconciliation reads."""
        ledger = TerminalLedger(path)
        try:
            with ledger.database:
                for attempt in self._attempts.values():
                    ledger.put(attempt)
        finally:
            ledger.close()


class Make(Protocol):
    """How tills are made: `terminals_of`, or a test's."""

    def __call__(
        self,
        options: FleetOptions,
        *,
        ledger: Book,
        commit: Commit,
        observe: Callable[[Sale], None],
    ) -> list[Terminal]: ...


class Crowd:
    """An open loop: a slow gateway does not make the next customer come later.

    A customer takes the till that has been idle longest. Where none is idle he queues for one, and
    his purchase is counted from the moment he came.
    """

    def __init__(self, options: FleetOptions, *, make: Make = terminals_of) -> None:
        """Raises gateway.errors.CertificateUnusable for certificates that cannot be used."""
        self.notes = Notes()
        self.sales: list[Sale] = []
        self.came: list[float] = []  # when each customer came, on trio's clock
        self.lags_s: list[float] = []  # how late this process noticed each of them
        self.queued = 0  # of them, those who found no idle till
        self._terminals = make(
            options, ledger=self.notes, commit=self.notes, observe=self.sales.append
        )
        self._idle: deque[Terminal] = deque(self._terminals)
        self._queue: deque[float] = deque()

    async def open(self) -> None:
        """Connects and signs on every till; returns once all are."""
        limit = trio.CapacityLimiter(_OPENING_AT_ONCE)

        async def call(terminal: Terminal) -> None:
            async with limit:
                await terminal.wait_for_line()

        async with trio.open_nursery() as nursery:
            for terminal in self._terminals:
                nursery.start_soon(call, terminal)

    async def come(
        self, *, start_s: float, per_s: float, seconds: float, till: trio.Nursery
    ) -> None:
        """Sends customers for so long, evenly spaced; their purchases end in the nursery `till`."""
        for number in range(round(per_s * seconds)):
            due_s = start_s + number / per_s
            await trio.sleep_until(due_s)
            self.came.append(due_s)
            self.lags_s.append(trio.current_time() - due_s)
            if self._idle:
                till.start_soon(self._sell, self._idle.popleft(), due_s)
            else:
                self.queued += 1
                self._queue.append(due_s)

    async def _sell(self, terminal: Terminal, due_s: float) -> None:
        await terminal.sell(due_s)
        while self._queue:
            await terminal.sell(self._queue.popleft())
        self._idle.append(terminal)

    async def close(self) -> None:
        """Hangs up everywhere."""
        for terminal in self._terminals:
            await terminal.connection.drop()
