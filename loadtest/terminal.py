"""Terminal: a simulated till that buys, and settles what it is in doubt about until it is sure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Protocol, TypeVar

import trio

from gateway.clock import Clock
from gateway.wire.message import APPROVAL_CODE, Message
from loadtest import requests
from loadtest.cards import Basket, Shop
from loadtest.connection import Connection, NoAnswer, NoConnection
from loadtest.host import APPROVING_CODES, ORIGINAL_NOT_FOUND
from loadtest.ledger import Attempt, Outcome

T = TypeVar("T")

_STANS = 999_999
_REVERSAL_ENDS = frozenset(("00", ORIGINAL_NOT_FOUND))


class Book(Protocol):
    """Where a terminal writes its attempts down: a TerminalLedger, or its like."""

    def put(self, attempt: Attempt) -> None: ...

    def last_sequence(self, terminal_id: str) -> int: ...

    def unsettled(self, terminal_id: str) -> list[Attempt]: ...


class Commit(Protocol):
    """How what is written to the book is made to last: a GroupCommit, or its like."""

    async def submit(self, work: Callable[[], T]) -> T: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How a terminal behaves."""

    purchases_per_s: float = 1.0  # 0: the next as soon as the last is done
    currency: str = "978"
    answer_s: float = 30.0  # how long it waits for an answer
    reversal_answer_s: float = 0.0  # how long for that to a reversal; 0: the same
    repeats: int = 0  # how often an unanswered purchase is sent again before it is reversed
    plain_repeats: float = 0.0  # share of them that do not say that they are repeats
    sign_on: bool = True
    waits_for_line: bool = False  # and starts no purchase without one
    backoff_first_s: float = 0.1
    backoff_max_s: float = 5.0


@dataclass(frozen=True, slots=True)
class TerminalName:
    """Who a terminal is; `number` keeps its cards apart from all others'."""

    terminal_id: str
    merchant_id: str
    number: int


@dataclass(frozen=True, slots=True)
class Sale:
    """One purchase and how it ended at the till; times are on trio's clock."""

    attempt: Attempt
    due_s: float  # when it should have started
    started_s: float
    ended_s: float  # settled, by a reversal where no answer came
    told_s: float  # when the till had its answer, or no longer waited for one


class Terminal:
    """One till: one purchase at a time, each in the ledger before it is sent and when it ends."""

    def __init__(
        self,
        *,
        name: TerminalName,
        behaviour: Behaviour,
        shop: Shop,
        connection: Connection,
        ledger: Book,
        commit: Commit,
        clock: Clock,
        random: Random,
        observe: Callable[[Sale], None],
    ) -> None:
        """Reads from the ledger where it stood; to be made before `commit` runs."""
        self.name = name
        self.connection = connection
        self._behaviour = behaviour
        self._shop = shop
        self._ledger = ledger
        self._commit = commit
        self._clock = clock
        self._random = random
        self._observe = observe
        self._sequence = ledger.last_sequence(name.terminal_id)
        self._unsettled = ledger.unsettled(name.terminal_id)
        self._stopping = trio.Event()
        self._backoff_s = behaviour.backoff_first_s
        self._told_s = 0.0
        self.trouble = ""  # why it was last without a connection

    def stop(self) -> None:
        """Buy nothing more; what is open is still settled."""
        self._stopping.set()

    async def run(self) -> None:
        """Settles what an earlier life left, buys at its rate until `stop`, and hangs up.

        Returns once nothing is open, which takes as long as the gateway does not answer.
        """
        try:
            for attempt in self._unsettled:
                await self._settle(attempt)
            await self.wait_for_line()
            await self._buy_until_stopped()
            await self.connection.close()
        finally:
            await self.connection.drop()

    async def _buy_until_stopped(self) -> None:
        rate = self._behaviour.purchases_per_s
        period_s = 1 / rate if rate else 0.0
        # Spread evenly, or all would buy in the same moment.
        due_s = trio.current_time() + self._random.random() * period_s
        while not self._stopping.is_set():
            with trio.move_on_at(due_s):
                await self._stopping.wait()
            if self._behaviour.waits_for_line:
                await self.wait_for_line()
            if self._stopping.is_set():
                return
            await self.sell(due_s)
            # A till does not catch up on customers who came while it was busy.
            due_s = max(due_s + period_s, trio.current_time())

    # --- one purchase ------------------------------------------------------------------------

    async def sell(self, due_s: float) -> None:
        """One purchase of a customer who came at `due_s`; returns once it is settled."""
        started_s = trio.current_time()
        self._sequence += 1
        basket = self._shop.basket(self._sequence)
        attempt = self._attempt(basket)
        if await self._connected():
            await self._write(attempt)
            ended = await self._ask(attempt, basket)
        else:
            self._told_s = trio.current_time()
            ended = self._ended(attempt, Outcome.UNSENT)
            await self._write(ended)
        self._observe(Sale(ended, due_s, started_s, trio.current_time(), self._told_s))
        if ended.outcome is Outcome.UNSENT:
            await self._pause()

    def _attempt(self, basket: Basket) -> Attempt:
        now_ms = self._clock.wall_ms()
        sequence = self._sequence
        return Attempt(
            terminal_id=self.name.terminal_id,
            sequence=sequence,
            stan=f"{(sequence - 1) % _STANS + 1:06d}",
            transmitted=requests.transmission_time(now_ms),
            reference=f"{self.name.terminal_id.strip()}-{sequence:010d}",
            merchant_id=self.name.merchant_id,
            kind="purchase",
            amount_minor=basket.amount_minor,
            currency=self._behaviour.currency,
            started_ms=now_ms,
        )

    async def _ask(self, attempt: Attempt, basket: Basket) -> Attempt:
        """The attempt as it ended, and as it is in the ledger."""
        answer = await self._answer_to(requests.purchase(attempt, basket))
        return await self._conclude(attempt, answer or await self._repeat(attempt, basket))

    async def _settle(self, attempt: Attempt) -> None:
        """Ends what an earlier life of this terminal left open."""
        if attempt.outcome is Outcome.REVERSING:
            await self._reverse(attempt)
        else:
            basket = self._shop.basket(attempt.sequence)
            await self._conclude(attempt, await self._repeat(attempt, basket))

    async def _repeat(self, attempt: Attempt, basket: Basket) -> Message | None:
        """The answer to the purchase sent again, over a new connection where the last was lost."""
        request = requests.purchase(attempt, basket)
        for _ in range(self._behaviour.repeats):
            plain = self._random.random() < self._behaviour.plain_repeats
            if not await self._connected_in_time():
                continue
            answer = await self._answer_to(request if plain else requests.repeated(request))
            if answer is not None:
                return answer
        return None

    async def _conclude(self, attempt: Attempt, answer: Message | None) -> Attempt:
        """Write down what an answer says; without one the attempt is reversed."""
        self._told_s = trio.current_time()
        if answer is None:
            return await self._reverse(attempt)
        code = answer.response_code
        ended = replace(
            self._ended(attempt, Outcome.APPROVED if code in APPROVING_CODES else Outcome.DECLINED),
            response_code=code,
            approval_code=answer.get(APPROVAL_CODE),
            rrn=answer.rrn,
        )
        await self._write(ended)
        return ended

    async def _answer_to(self, request: Message, *, timeout_s: float = 0.0) -> Message | None:
        timeout_s = timeout_s or self._behaviour.answer_s
        try:
            return await self.connection.ask(request, timeout_s=timeout_s)
        except NoAnswer as error:
            self.trouble = str(error)
            return None

    async def _reverse(self, attempt: Attempt) -> Attempt:
        """Reverses an attempt, again and again until that is answered."""
        basket = self._shop.basket(attempt.sequence)
        attempt = replace(attempt, outcome=Outcome.REVERSING)
        await self._write(attempt)
        while True:
            if await self._connected():
                request = requests.reversal(attempt, basket, wall_ms=self._clock.wall_ms())
                attempt = replace(attempt, reversals_sent=attempt.reversals_sent + 1)
                await self._write(attempt)
                answer = await self._answer_to(request, timeout_s=self._behaviour.reversal_answer_s)
                if answer is not None and answer.response_code in _REVERSAL_ENDS:
                    ended = replace(
                        self._ended(attempt, Outcome.REVERSED),
                        reversal_code=answer.response_code,
                    )
                    await self._write(ended)
                    return ended
            await self._pause()

    def _ended(self, attempt: Attempt, outcome: Outcome) -> Attempt:
        return replace(attempt, outcome=outcome, ended_ms=self._clock.wall_ms())

    async def _write(self, attempt: Attempt) -> None:
        await self._commit.submit(partial(self._ledger.put, attempt))

    # --- the line ----------------------------------------------------------------------------

    async def _connected(self) -> bool:
        """Whether there is a line, after one attempt to have one."""
        if self.connection.is_open:
            return True
        try:
            await self.connection.open()
            if self._behaviour.sign_on:
                await self._sign_on()
        except (NoConnection, NoAnswer) as error:
            self.trouble = str(error)
            await self.connection.drop()
            return False
        self._backoff_s = self._behaviour.backoff_first_s
        return True

    async def wait_for_line(self) -> None:
        """Returns once there is a line, or nothing more is to be bought."""
        while not self._stopping.is_set() and not await self._connected():
            await self._pause()

    async def _connected_in_time(self) -> bool:
        """Whether there is a line within the time that an answer may take."""
        with trio.move_on_after(self._behaviour.answer_s):
            while not await self._connected():
                await self._pause()
            return True
        return False

    async def _sign_on(self) -> None:
        answer = await self.connection.ask(
            requests.sign_on(
                terminal_id=self.name.terminal_id,
                merchant_id=self.name.merchant_id,
                stan=f"{self.connection.opened % _STANS:06d}",
                wall_ms=self._clock.wall_ms(),
            ),
            timeout_s=self._behaviour.answer_s,
        )
        if answer.response_code != "00":
            raise NoConnection(f"sign-on was answered with {answer.response_code}")

    async def _pause(self) -> None:
        """Waits before the next attempt: longer each time, and not in step with others."""
        await trio.sleep(self._backoff_s * (0.5 + self._random.random() / 2))
        self._backoff_s = min(self._backoff_s * 2, self._behaviour.backoff_max_s)
