"""Terminal: a simulated till that repeats and reverses until it is sure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from random import Random

import trio

from gateway.clock import Clock
from gateway.wire.message import (
    AMOUNT,
    APPROVAL_CODE,
    CONDITION_CODE,
    ORIGINAL_DATA,
    PROCESSING_CODE,
    RESPONSE_CODE,
    RRN,
    STAN,
    TRANSMISSION_TIME,
    Message,
    repeat_mti,
)
from loadtest.connection import Connection, NoAnswer, NoConnection
from loadtest.host import APPROVING_CODES, ORIGINAL_NOT_FOUND, REFERENCE
from loadtest.ledger import UNSETTLED, Attempt, Outcome
from loadtest.requests import transmission_time
from loadtest.wire import Wire
from tests.simulation.acquirer import DECLINES, UNKNOWN_CODES
from tests.simulation.network import SimulatedStream
from tests.simulation.plan import TerminalPlan
from tests.simulation.trace import Trace

MERCHANT_ID = "MERCHANT0000001"
_CURRENCY = "978"
_CONNECT_S = 2.0
_BACKOFF_S = 1.0
_CALM_ANSWER_S = 30.0
_ACKNOWLEDGEMENTS_MAX = 12  # how often an advice is sent before somebody is called

# Kind -> MTI, DE3, DE25.
_SHAPES = {
    "purchase": ("0200", "000000", "00"),
    "preauthorisation": ("0100", "000000", "00"),
    "completion": ("0200", "000000", "06"),
    "void": ("0200", "020000", "00"),
    "refund": ("0200", "200000", "00"),
    "offline": ("0220", "000000", "00"),
    "balance": ("0200", "310000", "00"),
    "settlement": ("0500", "920000", "00"),
}
_NOT_NOW = ("91", "96")
_ADVICES = ("offline",)
_REVERSIBLE = ("purchase", "preauthorisation", "completion", "void")
_DEBITS = ("purchase", "completion", "offline")
_FOLLOWS = {
    "void": ("purchase",),
    "refund": ("purchase", "completion"),
    "completion": ("preauthorisation",),
}
_WEIGHTS = {
    "purchase": 10,
    "preauthorisation": 2,
    "completion": 2,
    "void": 3,
    "refund": 3,
    "offline": 2,
    "balance": 1,
    "settlement": 1,
}


Dial = Callable[[], Awaitable[tuple[SimulatedStream, Callable[[], bool]]]]


@dataclass(slots=True)
class Book:
    """What a terminal writes down; it survives the terminal's power."""

    attempts: dict[str, Attempt] = field(default_factory=dict)
    originals: dict[str, str] = field(default_factory=dict)  # of follow-ups, by reference
    batch: list[str] = field(default_factory=list)  # references since the last close
    sequence: int = 0
    own_stans: int = 900_000  # of reversals that have one of their own
    objections: list[tuple[str, str]] = field(default_factory=list)  # what an answer had wrong


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
        self.terminal_id = f"T{number:07d}"
        self.book = Book()
        self.done = False
        self._number = number
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
        if kind in _FOLLOWS:
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
        if ended.outcome is Outcome.APPROVED and kind in _REVERSIBLE:
            if self._chance(self._plan.regret):
                await self._reverse(ended)
                return
        if self._chance(self._plan.ask_again):
            await self._ask_again(ended)

    def _may_follow(self, kind: str, original: Attempt) -> bool:
        """A till may try what is against the rules; refusing it is the gateway's business. It does
        not follow what it has reversed, nor reverse what was followed."""
        return original.kind in _FOLLOWS[kind] and original.outcome is Outcome.APPROVED

    # --- one transaction ----------------------------------------------------------------------

    def _attempt(self, kind: str, amount_minor: int, original: Attempt | None = None) -> Attempt:
        book = self.book
        book.sequence += 1
        now_ms = self._clock.wall_ms()
        reference = f"{self._number:03d}{book.sequence:09d}"
        attempt = Attempt(
            terminal_id=self.terminal_id,
            sequence=book.sequence,
            stan=f"{book.sequence:06d}",
            transmitted=transmission_time(now_ms),
            reference=reference,
            merchant_id=MERCHANT_ID,
            kind=kind,
            amount_minor=amount_minor,
            currency=_CURRENCY,
            started_ms=now_ms,
        )
        if original is not None:
            book.originals[reference] = original.reference
        self._write(attempt)
        if kind != "settlement":
            book.batch.append(reference)
        return attempt

    async def _perform(self, attempt: Attempt) -> None:
        """Ask, and ask again, until it is known what became of it or it is reversed."""
        request = self._request(attempt)
        answer = None
        if await self._connected():
            answer = await self._answer_to(request, attempt)
        elif attempt.kind not in _ADVICES:  # the goods are gone: it is sent once there is a line
            self._write(replace(attempt, outcome=Outcome.UNSENT))
            return
        await self._conclude(attempt, request, answer)

    async def _settle(self, attempt: Attempt) -> None:
        """What was open when the power went."""
        if attempt.outcome is Outcome.REVERSING:
            await self._reverse(attempt)
        else:
            await self._conclude(attempt, self._request(attempt), None)

    async def _conclude(self, attempt: Attempt, request: Message, answer: Message | None) -> None:
        until_sure = attempt.kind not in _REVERSIBLE
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
        if answer.response_code in APPROVING_CODES or attempt.kind in _REVERSIBLE:
            return False
        if attempt.kind in _ADVICES and sent < _ACKNOWLEDGEMENTS_MAX:
            return True
        return self._may_come_yet()

    def _is_doubtful(self, attempt: Attempt, answer: Message) -> bool:
        if attempt.kind not in _REVERSIBLE or answer.response_code in APPROVING_CODES:
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
            self._batch_closed(attempt, code)
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
        stan = attempt.stan
        if self._plan.own_stan:
            self.book.own_stans += 1
            stan = f"{self.book.own_stans:06d}"
        while True:
            if await self._connected():
                request = self._reversal(attempt, stan)
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
        answer = await self._answer_to(self._request(ended), ended)
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

    # --- batches ------------------------------------------------------------------------------

    def _totals(self) -> dict[int, str]:
        """Counts and amounts of the batch, as this till sees them (DE74, 76, 86, 88)."""
        held = [self.book.attempts[reference] for reference in self.book.batch]
        held = [one for one in held if one.outcome is Outcome.APPROVED]
        voided = {self.book.originals[one.reference] for one in held if one.kind == "void"}
        debits = [one for one in held if one.kind in _DEBITS and one.reference not in voided]
        credits_ = [one for one in held if one.kind == "refund"]
        return {
            74: f"{len(credits_):010d}",
            76: f"{len(debits):010d}",
            86: f"{sum(one.amount_minor for one in credits_):016d}",
            88: f"{sum(one.amount_minor for one in debits):016d}",
        }

    def _batch_closed(self, attempt: Attempt, code: str) -> None:
        if code in ("00", "95"):
            self.book.batch.clear()
        if code == "95":
            self._object(attempt, "the batch is out of balance")

    # --- messages -----------------------------------------------------------------------------

    def _request(self, attempt: Attempt) -> Message:
        mti, code, condition = _SHAPES[attempt.kind]
        fields = self._common(attempt, code, condition)
        if attempt.kind == "settlement":
            fields |= self._totals()
            del fields[2], fields[14]
        else:
            fields |= {RRN: attempt.reference, REFERENCE: attempt.reference, 22: "051"}
        original = self.book.originals.get(attempt.reference)
        if original is not None:
            followed = self.book.attempts[original]
            fields[ORIGINAL_DATA] = _original_data(followed)
        return Message(mti, fields)

    def _reversal(self, attempt: Attempt, stan: str) -> Message:
        _, code, condition = _SHAPES[attempt.kind]
        fields = self._common(attempt, code, condition) | {
            STAN: stan,
            TRANSMISSION_TIME: transmission_time(self._clock.wall_ms()),
            RESPONSE_CODE: "98",
            ORIGINAL_DATA: _original_data(attempt),
        }
        return Message("0401" if attempt.reversals_sent else "0400", fields)

    def _common(self, attempt: Attempt, code: str, condition: str) -> dict[int, str]:
        return {
            2: f"999999{self._number:06d}{attempt.sequence % 7:03d}0",
            PROCESSING_CODE: code,
            AMOUNT: f"{attempt.amount_minor:012d}",
            TRANSMISSION_TIME: attempt.transmitted,
            STAN: attempt.stan,
            12: attempt.transmitted[4:],
            13: attempt.transmitted[:4],
            14: "4912",
            CONDITION_CODE: condition,
            41: self.terminal_id,
            42: MERCHANT_ID,
            49: _CURRENCY,
        }

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


def _original_data(attempt: Attempt) -> str:
    """DE90: MTI, STAN and DE7 of the original, DE32 and DE33 as zeros."""
    return f"{_SHAPES[attempt.kind][0]}{attempt.stan}{attempt.transmitted}{'0' * 22}"
