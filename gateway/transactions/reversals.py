"""Store and forward: every reversal and advice owed is sent until it is acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import trio

from gateway.clock import Clock
from gateway.errors import InDoubt, KeyUnavailable, NotSent, StoreError
from gateway.policy.response_codes import may_be_approved
from gateway.settings.schema_upstreams import Upstream as UpstreamSettings
from gateway.store.store import (
    EndReversal,
    NoteAttempt,
    OwedReversal,
    OweReversal,
    Settle,
    State,
    Transaction,
)
from gateway.telemetry.events import Emit, Event
from gateway.transactions import replies
from gateway.transactions.debts import Queue, has_own_stan
from gateway.transactions.given_up import GivenUp
from gateway.transactions.late import LateAnswers
from gateway.transactions.originals import issues_rrn
from gateway.transactions.records import Records
from gateway.transactions.states import Happening, after
from gateway.upstreams.adaptation import CannotAdapt
from gateway.upstreams.pool import Pool
from gateway.upstreams.upstream import Upstream
from gateway.wire.message import Kind, Message, repeat_mti

_DONE = "00"
_ORIGINAL_UNKNOWN = "25"
_TRY_LATER = frozenset(("91", "96", "68", "98"))  # the acquirer's own trouble, not a verdict
# What follows an original and has no end yet: it is ended before the original is reversed.
_COMES_FIRST = frozenset((State.INTENDED, State.REVERSAL_OWED, State.ADVICE_OWED))
_STORE_RETRY_S = 0.5
_STAN_RETRY_S = 0.2


class Reversals:
    """The reversals owed to all upstreams, in order per upstream, several under way at once."""

    def __init__(
        self,
        *,
        records: Records,
        pool: Pool,
        clock: Clock,
        emit: Emit,
        random: Callable[[], float],
    ) -> None:
        self._records = records
        self._store = records.store
        self._pool = pool
        self._clock = clock
        self._emit = emit
        self._random = random
        # Told of each transaction that its acquirer has undone, and of what a partial reversal
        # leaves of it (-1: nothing).
        self.on_reversed: Callable[[int, int], None] = lambda _transaction_id, _left_minor: None
        self._queues = {upstream.name: Queue() for upstream in pool}
        self._nursery: trio.Nursery | None = None
        self._served: dict[str, trio.CancelScope] = {}  # by upstream
        operators = GivenUp(store=records.store, pool=pool, clock=clock, emit=emit, owe=self.owe)
        self._operators = operators
        self.handed_on, self.retry, self.resolve = operators.add, operators.retry, operators.resolve
        self._late = LateAnswers(clock=clock, emit=emit, judge=operators.judge)

    # --- owing ----------------------------------------------------------------------------

    async def owe(self, upstream_stan: int, operation: OweReversal) -> bool:
        """Make a debt durable and deliver it from now on; False where it is owed already.

        `upstream_stan` is the STAN under which the upstream knows the original. Raises StoreError
        where nothing could be written; then nothing is owed by this call either.
        """
        await self._store.commit(operation)
        return self._enqueue(upstream_stan, operation)

    async def owe_regardless(self, upstream_stan: int, operation: OweReversal) -> None:
        """As `owe`, but where the store fails the debt is written as soon as it works again.

        For what was sent already: the intent that is on disk owes it after a crash all the same.
        It is sent only once it is written, since each attempt is.
        """
        await self._records.write_regardless(operation)
        self._enqueue(upstream_stan, operation)

    def _enqueue(self, upstream_stan: int, operation: OweReversal) -> bool:
        queue = self._queue(operation.upstream)
        if operation.transaction_id in queue:
            return False  # It is the same debt.
        upstream = self._pool.get(operation.upstream)
        if upstream is not None:
            upstream.stans.hold(upstream_stan)
        self._emit(
            Event.REVERSAL_OWED,
            transaction=operation.transaction_id,
            upstream=operation.upstream,
            upstream_stan=upstream_stan,
            reason=operation.reason,
            advice=operation.advice,
        )
        queue.add(
            OwedReversal(
                transaction_id=operation.transaction_id,
                upstream=operation.upstream,
                upstream_stan=0,
                reason=operation.reason,
                created_ms=operation.created_ms,
                advice=operation.advice,
                amount_minor=operation.amount_minor,
            )
        )
        return True

    def _queue(self, upstream: str) -> Queue:
        return self._queues.setdefault(upstream, Queue())

    async def restore(self) -> int:
        """Take over what earlier runs owe; returns how many reversals that is."""
        owed = await self._store.owed_reversals()
        for reversal in owed:
            upstream = self._pool.get(reversal.upstream)
            if upstream is not None:
                transaction = await self._store.transaction(reversal.transaction_id)
                if transaction is not None:
                    upstream.stans.hold(transaction.upstream_stan)
                    if has_own_stan(reversal, transaction):
                        upstream.stans.hold(reversal.upstream_stan)
            self._queue(reversal.upstream).add(reversal)
        await self._operators.restore()
        return len(owed)

    @property
    def given_up(self) -> int:
        """How many wait for an operator."""
        return self._operators.count

    @property
    def open(self) -> int:
        """How many reversals are owed and not given up."""
        return sum(queue.open for queue in self._queues.values())

    def oldest_age_s(self) -> float:
        """How old the oldest open reversal is, in seconds; 0 where none is."""
        oldest = [q.oldest_ms for q in self._queues.values() if q.oldest_ms is not None]
        return max(0.0, (self._clock.wall_ms() - min(oldest)) / 1000) if oldest else 0.0

    # --- sending --------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._late.run)
            self._nursery = nursery
            for upstream in self._pool:
                self.serve(upstream)
            task_status.started()

    def serve(self, upstream: Upstream) -> None:
        """Deliver what is owed to this upstream as well, from now on."""
        upstream.on_late = self.late_answer
        if self._nursery is not None:
            self.leave(upstream.name)
            scope = self._served[upstream.name] = trio.CancelScope()
            self._nursery.start_soon(self._deliver_all, upstream, self._queue(upstream.name), scope)

    def leave(self, upstream: str) -> None:
        """Deliver no more to an upstream that was removed, with nothing under way to it."""
        served = self._served.pop(upstream, None)
        if served is not None:
            served.cancel()

    def open_for(self, upstream: str) -> int:
        """How many reversals are owed to it and not given up."""
        return self._queue(upstream).open

    async def _deliver_all(self, upstream: Upstream, queue: Queue, scope: trio.CancelScope) -> None:
        limiter = trio.CapacityLimiter(upstream.settings.reversals_under_way_max)
        with scope:
            async with trio.open_nursery() as nursery:
                while True:
                    # While the upstream is away its debts wait here, not one by one.
                    await upstream.until_ready()
                    owed = await queue.next(self._clock)
                    borrower = object()
                    await limiter.acquire_on_behalf_of(borrower)
                    nursery.start_soon(self._deliver, upstream, queue, owed, limiter, borrower)

    async def _deliver(
        self,
        upstream: Upstream,
        queue: Queue,
        owed: OwedReversal,
        limiter: trio.CapacityLimiter,
        borrower: object,
    ) -> None:
        """One attempt; what is not done by it goes back into the queue."""
        try:
            again = await self._attempt(upstream, queue, owed)
        except (StoreError, KeyUnavailable) as error:
            self._emit(
                Event.HANDLER_FAILED,
                transaction=owed.transaction_id,
                upstream=owed.upstream,
                reason=str(error),
            )
            # As it stands by now: the same STAN again, if it has one.
            at_ms = self._clock.wall_ms() + round(_STORE_RETRY_S * 1000)
            again = replace(queue.current(owed), next_attempt_ms=at_ms)
        finally:
            limiter.release_on_behalf_of(borrower)
        if again is not None:
            queue.again(again)

    async def _attempt(
        self, upstream: Upstream, queue: Queue, owed: OwedReversal
    ) -> OwedReversal | None:
        """Send a reversal once. Returns what is still owed of it, or None when it is ended."""
        settings = upstream.settings
        wait_ms = round(settings.reversal_backoff.first_s * 1000 * (0.5 + self._random()))
        if not upstream.ready:
            # Not an attempt: nothing could be sent. Its turn comes when a link is up.
            return _later(owed, self._clock.wall_ms() + wait_ms)
        transaction = await self._store.transaction(owed.transaction_id)
        original = self._records.request_of(transaction) if transaction is not None else None
        if transaction is None or original is None:
            await self._give_up(upstream, owed, transaction, "its request is not kept")
            return None
        # A void that was undone after its original would have its money back again.
        following = [] if owed.advice else await self._store.follow_ups(owed.transaction_id)
        if any(one.state is State.GIVEN_UP for one in following):
            await self._give_up(upstream, owed, transaction, "what follows it was given up")
            return None
        if any(one.state in _COMES_FIRST for one in following):
            return _later(owed, self._clock.wall_ms() + wait_ms)
        request = _as_sent(upstream, transaction, original)
        try:
            sent = upstream.adaptation.again(request, self._records.told_of(transaction))
        except CannotAdapt as error:
            await self._give_up(upstream, owed, transaction, str(error))
            return None
        if not transaction.answered_ms:
            came_ms = self._late.came_ms(owed.transaction_id)
            transaction = replace(transaction, answered_ms=came_ms)
        # An advice keeps the STAN of its first sending; a reversal has one of its own, but where
        # it is by its STAN that it names its original.
        same_stan = owed.advice or settings.reversal_original == "de61"
        stan = transaction.upstream_stan if same_stan else owed.upstream_stan
        if not stan:
            taken = upstream.take_stan()
            if taken is None:
                return _later(owed, self._clock.wall_ms() + round(_STAN_RETRY_S * 1000))
            stan = taken
            upstream.stans.hold(stan)
        next_ms = self._clock.wall_ms() + self._backoff_ms(upstream, owed.attempts)
        owed = replace(
            owed, upstream_stan=stan, attempts=owed.attempts + 1, next_attempt_ms=next_ms
        )
        queue.note(owed)
        await self._store.commit(
            NoteAttempt(owed.transaction_id, stan, owed.attempts, owed.next_attempt_ms)
        )
        message = upstream.adaptation.made(self._message(settings, transaction, owed, sent))
        self._emit(
            Event.REVERSAL_SENT,
            transaction=owed.transaction_id,
            upstream=owed.upstream,
            attempt=owed.attempts,
        )
        try:
            answer = await upstream.ask(message, transaction_id=0, kind=Kind.REVERSAL)
        except (NotSent, InDoubt):
            return await self._again(upstream, owed, transaction, "no answer")
        if owed.advice:
            dialect = self._records.dialect_of(transaction)
            answer = upstream.adaptation.incoming(
                answer, request=request, sent=sent, dialect=dialect
            )
            return await self._advised(upstream, owed, transaction, original, answer)
        return await self._verdict(upstream, owed, transaction, answer.response_code)

    def _message(
        self,
        settings: UpstreamSettings,
        transaction: Transaction,
        owed: OwedReversal,
        original: Message,
    ) -> Message:
        repeated = owed.attempts > 1
        if owed.advice:
            mti = repeat_mti(original.mti) if repeated or owed.reason else original.mti
            return original.changed({}, mti=mti)
        return replies.reversal(
            original,
            mti=settings.reversal_mti,
            stan=owed.upstream_stan,
            reason=owed.reason,
            approval_code=transaction.approval_code,
            amount_minor=owed.amount_minor,
            repeated=repeated,
            wall_ms=self._clock.wall_ms(),
            named_by=settings.reversal_original,
            made_ms=transaction.created_ms,
        )

    async def _advised(
        self,
        upstream: Upstream,
        owed: OwedReversal,
        transaction: Transaction,
        advice: Message,
        answer: Message,
    ) -> OwedReversal | None:
        """Any answer acknowledges an advice, but those that say "not now"; a repeat hears it."""
        code, told = answer.response_code, transaction.response_code
        if code in _TRY_LATER or not code:
            return await self._again(upstream, owed, transaction, f"code {code}")
        approving = upstream.settings.approving_codes
        if told and may_be_approved(told, approving):
            if may_be_approved(code, approving):
                await self._done(upstream, owed, transaction, code)
            else:
                # The terminal was told in the acquirer's place that it is booked.
                await self._give_up(upstream, owed, transaction, f"code {code}")
            return None
        state = after(State.ADVICE_OWED, Happening.ACKNOWLEDGED)
        heard = self._records.outcome(
            transaction, state, replies.answer(advice, answer), wipe_image=True
        )
        await self._done(upstream, owed, transaction, code, heard)
        return None

    async def _verdict(
        self, upstream: Upstream, owed: OwedReversal, transaction: Transaction, code: str
    ) -> OwedReversal | None:
        if code == _DONE:
            await self._done(upstream, owed, transaction, code)
            return None
        if code == _ORIGINAL_UNKNOWN:
            # A reversal can overtake its original, which would then be approved after it: 25 counts
            # only if the original's answer was known before the reversal was sent, or once no
            # answer of it can come any more.
            over_ms = owed.created_ms + round(upstream.settings.late_max_s * 1000)
            if transaction.answered_ms or self._clock.wall_ms() > over_ms:
                await self._done(upstream, owed, transaction, code)
                return None
            return owed  # However often it is said: only its time makes it count.
        if code in _TRY_LATER:
            return await self._again(upstream, owed, transaction, f"code {code}")
        await self._give_up(upstream, owed, transaction, f"code {code}")
        return None

    async def _done(
        self,
        upstream: Upstream,
        owed: OwedReversal,
        transaction: Transaction,
        code: str,
        *heard: Settle,
    ) -> None:
        owing = State.ADVICE_OWED if owed.advice else State.REVERSAL_OWED
        state = after(owing, Happening.ACKNOWLEDGED)
        await self._store.commit(*heard, EndReversal(owed.transaction_id, state))
        self._queue(owed.upstream).ended(owed.transaction_id)
        if not owed.advice:
            self.on_reversed(owed.transaction_id, owed.amount_minor)
        upstream.stans.release(transaction.upstream_stan)
        if has_own_stan(owed, transaction):
            upstream.stans.release(owed.upstream_stan)
        self._emit(
            Event.REVERSAL_DONE,
            transaction=owed.transaction_id,
            upstream=owed.upstream,
            terminal=transaction.terminal_id,
            stan=transaction.stan,
            attempts=owed.attempts,
            code=code,
        )

    async def _again(
        self, upstream: Upstream, owed: OwedReversal, transaction: Transaction, why: str
    ) -> OwedReversal | None:
        if owed.attempts >= upstream.settings.reversal_attempts_max:
            await self._give_up(upstream, owed, transaction, why)
            return None
        return owed

    async def _give_up(
        self, upstream: Upstream, owed: OwedReversal, transaction: Transaction | None, why: str
    ) -> None:
        """Hand it to an operator: it stays on their list until one of them ends it.

        Its original's STAN stays held until then: sent again, it must name nothing else.
        """
        owing = State.ADVICE_OWED if owed.advice else State.REVERSAL_OWED
        await self._store.commit(
            EndReversal(owed.transaction_id, after(owing, Happening.HANDED_ON))
        )
        # In one go with that: a late approval or an operator may have it owed again at once.
        self._queue(owed.upstream).ended(owed.transaction_id)
        if transaction is not None and has_own_stan(owed, transaction):
            upstream.stans.release(owed.upstream_stan)
        self.handed_on(owed.transaction_id, owed.upstream, attempts=owed.attempts, why=why)

    # --- late answers ---------------------------------------------------------------------

    def late_answer(self, transaction_id: int, answer: Message) -> None:
        """An answer came for a request that was given up; it is judged, and never delivered."""
        self._late.came(transaction_id, answer)

    def _backoff_ms(self, upstream: Upstream, attempts: int) -> int:
        backoff = upstream.settings.reversal_backoff
        ceiling_s = min(backoff.max_s, backoff.first_s * 2.0 ** min(attempts, 30))
        return round(ceiling_s * 1000 * (0.5 + self._random() / 2))


def _as_sent(upstream: Upstream, transaction: Transaction, original: Message) -> Message:
    """The request as it was made for its upstream."""
    return replies.outgoing(
        original,
        stan=transaction.upstream_stan,
        issue_rrn=issues_rrn(transaction, original, upstream.settings),
        wall_ms=transaction.created_ms,
    )


def _later(owed: OwedReversal, at_ms: int) -> OwedReversal:
    return replace(owed, next_attempt_ms=at_ms)
