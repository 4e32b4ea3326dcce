"""Terminal: a simulated till that repeats and reverses until it is sure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random

import trio

from gateway.clock import Clock
from gateway.wire.message import APPROVAL_CODE, Message, repeat_mti
from loadtest.connection import Connection, NoAnswer, NoConnection
from loadtest.host import APPROVING_CODES, ORIGINAL_NOT_FOUND
from loadtest.ledger import UNSETTLED, Attempt, Outcome
from loadtest.wire import Wire
from tests.simulation.acquirer import DECLINES, UNKNOWN_CODES
from tests.simulation.book import ADVICES, FOLLOWS, REVERSIBLE, Book
from tests.simulation.network import SimulatedStream
from tests.simulation.plan import TerminalPlan
from tests.simulation.trace import Trace

_CONNECT_S = 2.0
_BACKOFF_S = 1.0
_CALM_ANSWER_S = 30.0
_ACKNOWLEDGEMENTS_MAX = 12  # how often an advice is sent before somebody is called
_BY_RRN = 0.3  # share of follow-ups that name their original by DE37
_NOT_NOW = ("91", "96")
_WEIGHTS = {
    "purchase": 10,
    "preauthorisation": 2,
    "completion": 2,
    "void": 3,
    "refund": 3,
    "offline": 2,
    "adjustment": 1,
    "balance": 1,
    "settlement": 1,
}

Dial = Callable[[], Awaitable[tuple[SimulatedStream, Callable[[], bool]]]]


class SimulatedTerminal:
    """One till: one transaction at a time, each in its book before it is sent and when it ends."""

    def __init__(
        self,
        number: int,
        *,
        plan: TerminalPlan,
        dial: Dial,
        wire: Wire,
        clock: Clock,
        random: Random,
        trace: Trace,
        closing: Callable[[], bool],
    ) -> None:
        self.book = Book(number)
        self.terminal_id = self.book.terminal_id
        self.done = False
        self._plan = plan
        self._dial = dial
        self._lines: list[SimulatedStream] = []  # those in use and those left alone
        self._wire = wire
        self._clock = clock
        self._random = random
        self._trace = trace
        self._closing = closing
        self._power: trio.CancelScope | None = None
        self._take_line()

    def _take_line(self) -> None:
        """From now on another line; the one before is left as it is."""
        self._connection = Connection(dial=self._dialled, wire=self._wire, connect_s=_CONNECT_S)
        self._unanswered = 0  # requests sent over it

    async def _dialled(self) -> tuple[SimulatedStream, Callable[[], bool]]:
        stream, alive = await self._dial()
        self._unanswered = 0
        self._lines = [line for line in self._lines if line.in_flight] + [stream]
        return stream, alive

    # --- the life of a till -------------------------------------------------------------------

    async def run(self) -> None:
        """Trade until the shop closes, settle everything, and close the batch."""
        while True:
            with trio.CancelScope() as self._power:
                await self._trade()
                break
            self._trace(self.terminal_id, "power cut")
            self._take_line()  # the old one is nobody's any more
            await trio.sleep(self._random.expovariate(1 / 2.0))
        await self._connection.drop()
        self.done = True

    async def go_wrong(self) -> None:
        """Power cuts, until cancelled."""
        while self._plan.power_cut_every_s:
            await trio.sleep(self._random.expovariate(1 / self._plan.power_cut_every_s))
            if self._power is not None:
                self._power.cancel()

    async def _trade(self) -> None:
        for attempt in list(self.book.attempts.values()):
            if attempt.outcome in UNSETTLED:
                await self._settle(attempt)
        while not self._closing():
            await trio.sleep(self._random.expovariate(1 / self._plan.think_s))
            if self._closing():
                break
            await self._transact()
        await self._perform(self._attempt("settlement", 0))

    async def _transact(self) -> None:
        [kind] = self._random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        original = None
        if kind in FOLLOWS:
            standing = [one for one in self.book.attempts.values() if self._may_follow(kind, one)]
            if not standing:
                kind = "purchase"
            else:
                original = self._random.choice(standing[-4:])
        amount_minor = self._random.randint(100, 99_999)
        if original is not None:
            amount_minor = original.amount_minor
            if kind == "refund" and self._random.random() < 0.7:
                amount_minor = self._random.randint(1, amount_minor)
        elif kind in ("balance", "settlement"):
            amount_minor = 0
        attempt = self._attempt(kind, amount_minor, original)
        await self._perform(attempt)
        ended = self.book.attempts[attempt.reference]
        if ended.outcome is Outcome.APPROVED and kind in REVERSIBLE:
            if self._chance(self._plan.regret):
                await self._reverse(ended)
                return
        if self._chance(self._plan.ask_again):
            await self._ask_again(ended)

    def _may_follow(self, kind: str, original: Attempt) -> bool:
        """A till may try what is against the rules; refusing it is the gateway's business. It does
        not follow what it has reversed, nor reverse what was followed."""
        return original.kind in FOLLOWS[kind] and original.outcome is Outcome.APPROVED

    # --- one transaction ----------------------------------------------------------------------

    def _attempt(self, kind: str, amount_minor: int, original: Attempt | None = None) -> Attempt:
        attempt = self.book.begin(
            kind,
            amount_minor,
            now_ms=self._clock.wall_ms(),
            original=original,
            by_rrn=self._random.random() < _BY_RRN,
        )
        self._write(attempt)
        return attempt

    async def _perform(self, attempt: Attempt) -> None:
        """Ask, and ask again, until it is known what became of it or it is reversed."""
        request = self.book.request(attempt)
        answer = None
        if await self._connected():
            answer = await self._answer_to(request, attempt)
        elif attempt.kind not in ADVICES:  # the goods are gone: it is sent once there is a line
            self._write(replace(attempt, outcome=Outcome.UNSENT))
            return
        await self._conclude(attempt, request, answer)

    async def _settle(self, attempt: Attempt) -> None:
        """What was open when the power went."""
        if attempt.outcome is Outcome.REVERSING:
            await self._reverse(attempt)
        else:
            await self._conclude(attempt, self.book.request(attempt), None)

    async def _conclude(self, attempt: Attempt, request: Message, answer: Message | None) -> None:
        until_sure = attempt.kind not in REVERSIBLE
        repeats = self._random.randint(0, self._plan.repeats_max)
        sent = 1
        while True:
            if answer is not None and not self._asks_for_more(attempt, answer, sent):
                self._write(self._ended(attempt, answer))
                if self._is_doubtful(attempt, answer):
                    await self._reverse(attempt)
                return
            if answer is None and not until_sure and sent > repeats:
                await self._reverse(attempt)
                return
            await trio.sleep(_BACKOFF_S * self._random.random())
            if answer is not None:
                await self._let_copies_arrive()
            answer = None
            if await self._connected():
                plain = self._random.random() < self._plan.plain_repeats
                again = request if plain else request.changed({}, mti=repeat_mti(request.mti))
                answer = await self._answer_to(again, attempt)
            sent += answer is not None or not until_sure

    def _asks_for_more(self, attempt: Attempt, answer: Message, sent: int) -> bool:
        """An advice is sent until it is taken: what it tells of has happened."""
        if answer.response_code in APPROVING_CODES or attempt.kind in REVERSIBLE:
            return False
        if attempt.kind in ADVICES and sent < _ACKNOWLEDGEMENTS_MAX:
            return True
        return self._may_come_yet()

    def _is_doubtful(self, attempt: Attempt, answer: Message) -> bool:
        if attempt.kind not in REVERSIBLE or answer.response_code in APPROVING_CODES:
            return False
        return answer.response_code in UNKNOWN_CODES or self._may_come_yet()

    def _may_come_yet(self) -> bool:
        """Whether a copy sent earlier may reach the gateway yet: a no to a later one proves nothing
        then."""
        return self._unanswered > 0 or any(line.in_flight for line in self._lines)

    def _ended(self, attempt: Attempt, answer: Message) -> Attempt:
        code = answer.response_code
        approved = code in APPROVING_CODES
        if attempt.kind == "settlement":
            self.book.close_batch(attempt, code)
        return replace(
            attempt,
            outcome=Outcome.APPROVED if approved else Outcome.DECLINED,
            response_code=code,
            approval_code=answer.get(APPROVAL_CODE),
            rrn=answer.rrn,
            ended_ms=self._clock.wall_ms(),
        )

    async def _reverse(self, attempt: Attempt) -> None:
        """Reverse it, again and again until that is answered."""
        attempt = replace(attempt, outcome=Outcome.REVERSING)
        self._write(attempt)
        stan = self.book.another_stan() if self._plan.own_stan else attempt.stan
        while True:
            if await self._connected():
                request = self.book.reversal(attempt, stan=stan, now_ms=self._clock.wall_ms())
                attempt = replace(attempt, reversals_sent=attempt.reversals_sent + 1)
                self._write(attempt)
                answer = await self._answer_to(request, attempt)
                code = "" if answer is None else answer.response_code
                if code in ("00", ORIGINAL_NOT_FOUND):
                    self._write(
                        replace(
                            attempt,
                            outcome=Outcome.REVERSED,
                            reversal_code=code,
                            ended_ms=self._clock.wall_ms(),
                        )
                    )
                    return
            await trio.sleep(_BACKOFF_S * (0.5 + self._random.random()))

    async def _let_copies_arrive(self) -> None:
        """Hang up, and wait until nothing that was sent earlier is on its way any more."""
        if not self._may_come_yet():
            return
        await self._connection.drop()
        self._take_line()
        while self._may_come_yet():
            await trio.sleep(_BACKOFF_S)

    async def _ask_again(self, ended: Attempt) -> None:
        """The same once more, though it is answered: it must be answered the same."""
        if ended.outcome not in (Outcome.APPROVED, Outcome.DECLINED) or ended.kind == "balance":
            return
        if ended.outcome is Outcome.DECLINED and ended.response_code not in DECLINES:
            return  # Nobody has it: it would be done now.
        if not await self._connected():
            return
        answer = await self._answer_to(self.book.request(ended), ended)
        if answer is None:
            return
        code = answer.response_code
        if ended.outcome is Outcome.DECLINED and code in APPROVING_CODES:
            self._object(ended, f"declined with {ended.response_code}, then approved with {code}")
        elif ended.outcome is Outcome.APPROVED and code not in _NOT_NOW:
            if (code, answer.get(APPROVAL_CODE)) != (ended.response_code, ended.approval_code):
                self._object(ended, f"approved with {ended.response_code}, then {code}")

    def _object(self, attempt: Attempt, why: str) -> None:
        self.book.objections.append((attempt.reference, why))

    # --- the line -----------------------------------------------------------------------------

    async def _connected(self) -> bool:
        """Whether there is a line, after one attempt to have one."""
        if self._connection.is_open:
            return True
        try:
            await self._connection.open()
        except NoConnection:
            await trio.sleep(_BACKOFF_S * (0.2 + self._random.random()))
            return False
        return True

    async def _answer_to(self, request: Message, attempt: Attempt) -> Message | None:
        answer_s = _CALM_ANSWER_S if self._closing() else self._plan.answer_s
        if self._chance(self._plan.impatient):
            answer_s = self._random.uniform(0, 0.3)
        self._note("asks", attempt, mti=request.mti)
        try:
            answer = await self._connection.ask(request, timeout_s=answer_s)
        except NoAnswer as error:
            self._note("no answer", attempt, why=str(error))
            self._unanswered += 1
            if self._random.random() < self._plan.redial:
                if self._random.random() >= self._plan.linger:
                    await self._connection.drop()
                self._take_line()
            return None
        self._note("hears", attempt, mti=answer.mti, code=answer.response_code)
        return answer

    def _chance(self, share: float) -> bool:
        return not self._closing() and self._random.random() < share

    def _write(self, attempt: Attempt) -> None:
        self.book.attempts[attempt.reference] = attempt
        self._note("writes", attempt, outcome=attempt.outcome.value)

    def _note(self, what: str, attempt: Attempt, **fields: object) -> None:
        self._trace(
            self.terminal_id,
            what,
            kind=attempt.kind,
            terminal=attempt.terminal_id,
            stan=attempt.stan,
            **fields,
        )
