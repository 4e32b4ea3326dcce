"""Device: one terminal of a run; what it asks, what it makes of the answer, and what it owes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from gateway.wire.message import APPROVAL_CODE, Message
from loadtest import requests
from loadtest.cards import TEST_BIN, luhn_digit
from loadtest.connection import NoAnswer, NoConnection
from loadtest.host import APPROVING_CODES, ORIGINAL_NOT_FOUND
from loadtest.ledger import Outcome
from loadtest.run.arrivals import amount_minor
from loadtest.run.line import Line
from loadtest.run.messages import NOT_REVERSIBLE, Deal, Totals, framed
from loadtest.run.scenario import FOLLOWS
from loadtest.run.secure import NotGenuine, Secure
from loadtest.run.shared import Shared
from loadtest.run.tally import FAULT_CODES, Ending

_STANS = 999_999
_CARDS = 7
_ORIGINALS_KEPT = 4
_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.1, 2.0
_REVERSAL_ENDS = frozenset(("00", ORIGINAL_NOT_FOUND))
_NO_ANSWER_IN_TIME, _OTHER_REASON = "98", "06"
_BALANCED = "1"


class Device:
    """One terminal; its transactions come one after the other."""

    def __init__(
        self,
        *,
        number: int,
        terminal_id: str,
        merchant_id: str,
        line: Line,
        shared: Shared,
        secure: Secure | None = None,
    ) -> None:
        self.number = number
        self.terminal_id = terminal_id
        self.merchant_id = merchant_id
        self.line = line
        self.must_reconnect = False
        self.blocked = False  # on purpose, by an event
        self.batch_balanced: bool | None = None
        self._shared = shared
        self._secure = secure
        self._sequence = 0
        self._stan = 0
        self._open: Deal | None = None
        self._originals: dict[str, deque[Deal]] = {}
        self._totals = Totals()
        self._backoff_s = _BACKOFF_FIRST_S

    # --- a customer ----------------------------------------------------------------------------

    async def serve(self, due_s: float) -> None:
        """One transaction of a customer who was due at that moment; returns once it is settled."""
        shared = self._shared
        shared.in_flight += 1
        try:
            await self._serve(due_s)
        finally:
            shared.in_flight -= 1
        if shared.scenario.devices.connection == "each-time":
            await self.hang_up()

    async def _serve(self, due_s: float) -> None:
        deal = self._deal()
        if not await self.connected():
            self._told(deal, Ending.UNSENT, due_s)
            self._write(deal, Outcome.UNSENT)
            return
        self._open = deal
        answer = await self._asked(deal)
        if answer is None and deal.kind in NOT_REVERSIBLE:
            told_s = trio.current_time()
            answer = await self._repeated_until_answered(deal)
            self._take(deal, answer)
            self._told(deal, Ending.UNANSWERED, due_s, told_s=told_s)
        elif answer is None:
            self._told(deal, Ending.UNANSWERED, due_s)
            await self._reverse(deal, _NO_ANSWER_IN_TIME)
            self._open = None
            return
        else:
            self._take(deal, answer)
            self._told(deal, self._ending(deal), due_s)
            if await self._taken_back(deal):
                self._open = None
                return
        self._open = None
        approved = deal.response_code in APPROVING_CODES
        if approved:
            self._keep(deal)
        self._write(deal, Outcome.APPROVED if approved else Outcome.DECLINED)

    async def _taken_back(self, deal: Deal) -> bool:
        """Of what was answered, a share is sent again, and a share of approvals taken back."""
        devices, random = self._shared.scenario.devices, self._shared.random
        if devices.repeats and random.random() < devices.repeats:
            await self._repeat(deal)
        if (
            devices.reversals
            and deal.kind == "purchase"
            and deal.response_code in APPROVING_CODES
            and random.random() < devices.reversals
        ):
            self._shared.tally.counts["taken_back"] += 1
            await self._reverse(deal, _OTHER_REASON)
            return True
        return False

    def _deal(self) -> Deal:
        """A transaction of the drawn kind, or of the one it follows where there is none of that."""
        shared = self._shared
        mixed = shared.draw()
        kind: str = mixed.kind
        original: Deal | None = None
        if kind in FOLLOWS:
            kept = self._originals.get(FOLLOWS[mixed.kind])
            if kept:
                original = kept.popleft()
            else:
                kind = FOLLOWS[mixed.kind]
        if kind == "balance":
            amount = 0
        elif original is not None:
            # A void is of all of it; what a customer brings back or leaves is often less.
            part = 1 if kind == "void" else shared.random.randint(1, 2)
            amount = max(1, original.amount_minor // part)
        else:
            amount = amount_minor(mixed.amount, shared.random)
        self._sequence += 1
        wall_ms = shared.wall_ms()
        deal = Deal(
            kind=kind,
            sequence=self._sequence,
            stan=self._next_stan(),
            transmitted=shared.transmitted(wall_ms),
            reference=f"{self.terminal_id}-{self._sequence:010d}",
            pan=original.pan if original is not None else self._pan(),
            amount_minor=amount,
            started_ms=wall_ms,
        )
        if original is not None:
            deal.original = original.named
        return deal

    def _next_stan(self) -> str:
        self._stan = self._stan % _STANS + 1
        return f"{self._stan:06d}"

    def _pan(self) -> str:
        number = f"{TEST_BIN}{self.number:06d}{self._sequence % _CARDS:03d}"
        return number + luhn_digit(number)

    # --- asking --------------------------------------------------------------------------------

    async def _asked(self, deal: Deal, *, repeated: bool = False) -> Message | None:
        """The answer to a deal's request; None: nobody knows what became of it."""
        mti = deal.mti
        if self._secure is None:
            frame = self._shared.requests.frame(
                deal, self.terminal_id, self.merchant_id, repeated=repeated
            )
            return await self._answer_to(frame, mti=mti, stan=deal.stan)
        message = self._shared.requests.message(deal, self.terminal_id, self.merchant_id)
        if repeated:
            message = requests.repeated(message)
        return await self._ask(message, pan=deal.pan, with_pin=deal.kind != "refund")

    async def _ask(
        self, message: Message, *, pan: str = "", with_pin: bool = False
    ) -> Message | None:
        if self._secure is None:
            frame = self._shared.wire.pack(message)
        else:
            body = self._secure.seal(message, pan=pan, with_pin=with_pin)
            frame = framed(self._shared.wire, body)
        answer = await self._answer_to(frame, mti=message.mti, stan=message.stan)
        if answer is not None and self._secure is not None:
            try:
                self._secure.check(answer)
            except NotGenuine as error:
                self._shared.tally.troubles[str(error)] += 1
                return None
        return answer

    async def _answer_to(self, frame: bytes, *, mti: str, stan: str) -> Message | None:
        try:
            return await self.line.ask(
                frame, mti=mti, stan=stan, timeout_s=self._shared.scenario.devices.answer_s
            )
        except NoAnswer as error:
            self._shared.tally.troubles[str(error)] += 1
            return None

    async def _repeat(self, deal: Deal) -> None:
        """Send an answered request again: the gateway must say the same."""
        counts = self._shared.tally.counts
        counts["repeats"] += 1
        answer = await self._asked(deal, repeated=True) if await self.connected() else None
        if answer is None:
            counts["repeats_unanswered"] += 1
        elif (
            answer.response_code != deal.response_code
            or answer.get(APPROVAL_CODE) != deal.approval_code
        ):
            counts["repeats_differing"] += 1
            counts[f"repeat: {deal.kind} {deal.response_code} then {answer.response_code}"] += 1

    async def _repeated_until_answered(self, deal: Deal) -> Message:
        """What cannot be reversed is asked again, openly, until somebody says what became of it."""
        while True:
            if await self.connected():
                answer = await self._asked(deal, repeated=True)
                if answer is not None:
                    return answer
            await self._pause()

    async def _reverse(self, deal: Deal, reason: str) -> None:
        """Reverse a deal, again and again until that is answered."""
        while True:
            if await self.connected():
                request = self._shared.requests.reversal(
                    deal, self.terminal_id, self.merchant_id, reason=reason, now=self._now()
                )
                deal.reversals_sent += 1
                answer = await self._ask(request, pan=deal.pan)
                if answer is not None and answer.response_code in _REVERSAL_ENDS:
                    deal.reversal_code = answer.response_code
                    self._shared.tally.counts["reversed"] += 1
                    self._write(deal, Outcome.REVERSED)
                    return
                if answer is not None:
                    self._shared.tally.counts[f"reversal answered {answer.response_code}"] += 1
            await self._pause()

    # --- what is made of it --------------------------------------------------------------------

    @staticmethod
    def _take(deal: Deal, answer: Message) -> None:
        deal.response_code = answer.response_code
        deal.approval_code = answer.get(APPROVAL_CODE)
        deal.rrn = answer.rrn

    def _ending(self, deal: Deal) -> Ending:
        code = deal.response_code
        if code in APPROVING_CODES:
            return Ending.APPROVED
        return Ending.FAULT if code in FAULT_CODES else Ending.DECLINED

    def _told(self, deal: Deal, ending: Ending, due_s: float, *, told_s: float = 0.0) -> None:
        """Count what the customer was told, and when."""
        shared = self._shared
        if self.blocked and ending is not Ending.APPROVED:
            ending = Ending.BLOCKED
        due_at_s = due_s - shared.start_s
        told_at_s = (told_s or trio.current_time()) - shared.start_s
        shared.tally.ended(
            deal.kind,
            ending,
            code=deal.response_code,
            due_s=due_at_s,
            told_s=told_at_s,
            disturbed=shared.windows.excuse(due_at_s, told_at_s),
        )

    def _keep(self, deal: Deal) -> None:
        """What may be followed later, and what the batch comes to."""
        totals = self._totals
        totals.count(deal.kind, deal.amount_minor)
        if deal.kind in ("purchase", "preauthorisation"):
            kept = self._originals.setdefault(deal.kind, deque(maxlen=_ORIGINALS_KEPT))
            kept.append(deal)
        elif deal.kind == "void":
            totals.count("purchase", deal.amount_minor, sign=-1)

    def _write(self, deal: Deal, outcome: Outcome) -> None:
        self._shared.journal.write(
            deal, outcome, self.terminal_id, self.merchant_id, ended_ms=self._shared.wall_ms()
        )

    def give_up(self) -> None:
        """Write down what is open: the run is over, and it will not be settled."""
        if self._open is not None:
            reversing = self._open.reversals_sent > 0
            self._write(self._open, Outcome.REVERSING if reversing else Outcome.OPEN)

    # --- the line ------------------------------------------------------------------------------

    async def connected(self) -> bool:
        """Whether there is a connection, after one attempt to have one."""
        if self.line.is_open:
            return True
        shared = self._shared
        began_s = trio.current_time()
        resumed = self.line.resumed
        try:
            await self.line.open()
            if shared.scenario.devices.sign_on:
                await self._sign_on()
        except (NoConnection, NoAnswer, NotGenuine) as error:
            shared.tally.troubles[str(error)] += 1
            self.line.drop()
            return False
        shared.tally.connecting.record(trio.current_time() - began_s)
        shared.tally.counts["connections"] += 1
        shared.tally.counts["resumed"] += self.line.resumed - resumed
        self._backoff_s = _BACKOFF_FIRST_S
        return True

    async def reconnect(self, give_up: Callable[[], bool]) -> None:
        """Hang up and call again until there is a connection, or nobody wants it any more."""
        self.must_reconnect = False
        self.line.drop()
        while not give_up() and not await self.connected():
            await self._pause()

    async def hang_up(self) -> None:
        """End the connection as a terminal does that has nothing more to say."""
        await self.line.close()

    async def _sign_on(self) -> None:
        wall_ms = self._shared.wall_ms()
        request = requests.sign_on(
            terminal_id=self.terminal_id,
            merchant_id=self.merchant_id,
            stan=f"{self.line.opened % _STANS:06d}",
            wall_ms=wall_ms,
        )
        if self._secure is not None:
            request = self._secure.sign_on(request)
        answer = await self.line.ask(
            self._shared.wire.pack(request),
            mti=request.mti,
            stan=request.stan,
            timeout_s=self._shared.scenario.devices.answer_s,
        )
        if answer.response_code != "00":
            raise NoConnection(f"sign-on was answered with {answer.response_code}")
        if self._secure is not None:
            self._secure.signed_on(answer)

    async def _pause(self) -> None:
        """Before the next attempt: longer each time, and not in step with others."""
        await trio.sleep(self._backoff_s * (0.5 + self._shared.random.random() / 2))
        self._backoff_s = min(self._backoff_s * 2, _BACKOFF_MAX_S)

    def _now(self) -> str:
        return self._shared.transmitted(self._shared.wall_ms())

    # --- the end of the day ----------------------------------------------------------------------

    async def close_batch(self) -> None:
        """Close the batch with this device's own totals; `batch_balanced` says what came of it."""
        if not self._sequence or self.blocked or not await self.connected():
            return
        wall_ms = self._shared.wall_ms()
        self._sequence += 1
        deal = Deal(
            kind="settlement",
            sequence=self._sequence,
            stan=self._next_stan(),
            transmitted=self._shared.transmitted(wall_ms),
            reference=f"{self.terminal_id}-{self._sequence:010d}",
            pan="",
            amount_minor=0,
            started_ms=wall_ms,
        )
        request = self._shared.requests.settlement(
            self._totals, self.terminal_id, self.merchant_id, stan=deal.stan, now=deal.transmitted
        )
        answer = await self._ask(request)
        counts = self._shared.tally.counts
        if answer is None:
            counts["batches_unanswered"] += 1
        else:
            self.batch_balanced = answer.get(66) == _BALANCED
            counts["batches_closed"] += 1
            counts["batches_unbalanced"] += not self.batch_balanced
        self._write(deal, Outcome.OPEN if answer is None else Outcome.APPROVED)
