"""What became of a request that was intended: on disk first, and then the reply to its terminal."""

from __future__ import annotations

from typing import Protocol

from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.policy.response_codes import APPROVED, Reason, may_be_approved, response_code
from gateway.store.store import OweReversal, Settle, State, Transaction
from gateway.telemetry.events import Emit, Event
from gateway.transactions import replies
from gateway.transactions.records import Records
from gateway.transactions.request import Reply, Request
from gateway.transactions.reversals import Reversals
from gateway.transactions.states import Happening, after
from gateway.upstreams.pool import Pool
from gateway.upstreams.upstream import Upstream
from gateway.wire.message import ADVICE_KINDS, REVERSIBLE_KINDS, VOID_KINDS, Kind, Message


class Measures(Protocol):
    """What is told to the metrics."""

    def transaction(
        self, *, kind: str, response_code: str, upstream: str, seconds: float
    ) -> None: ...

    def refused(self, reason: str) -> None: ...


class Outcomes:
    """Writes what became of each request, and what its kind is owed."""

    def __init__(
        self,
        *,
        records: Records,
        pool: Pool,
        reversals: Reversals,
        clock: Clock,
        emit: Emit,
        measures: Measures,
    ) -> None:
        self._records = records
        self._pool = pool
        self._reversals = reversals
        self._clock = clock
        self._emit = emit
        self._measures = measures

    async def answered(
        self, request: Request, transaction: Transaction, upstream: Upstream, answer: Message
    ) -> Reply:
        """On disk before the terminal hears it: else a crash would reverse what the shop sold."""
        code = answer.response_code
        reply = replies.answer(request.message, answer)
        approved = may_be_approved(code, upstream.settings.approving_codes)
        state = after(State.SENT, Happening.ANSWERED)
        # Only what may have been approved can still want a reversal, which needs the image.
        outcome = self._records.outcome(transaction, state, reply, wipe_image=not approved)
        try:
            await self._records.store.commit(outcome)
        except StoreError:
            if approved:
                # Nobody may hear of an approval that is not on disk: it is undone instead.
                return await self.in_doubt(request, transaction)
            await self._records.write_regardless(outcome)
        if not approved:
            request.version.policy.give_back(transaction.transaction_id)
        elif request.kind in VOID_KINDS and code in upstream.settings.approving_codes:
            request.version.policy.voided(transaction.original_id, by=transaction.transaction_id)
        self.log(request, transaction, upstream.name, code)
        return Reply(
            reply,
            transaction.transaction_id,
            unheard=approved and request.kind in REVERSIBLE_KINDS,
        )

    async def in_doubt(
        self, request: Request, transaction: Transaction, *, unbelieved: bool = False
    ) -> Reply:
        """Never resent. What its kind is owed is on disk before the terminal is told no.

        `unbelieved`: an answer came, and its MAC was wrong; the reversal may say so.
        """
        code = response_code(Reason.NO_ANSWER, request.code_set)
        reply = replies.refusal(request.message, code)
        doubt = after(State.SENT, Happening.IN_DOUBT)
        if request.kind in REVERSIBLE_KINDS:
            state = after(doubt, Happening.REVERSAL_OWED)
            await self._owe(transaction, reply, state, unbelieved=unbelieved)
        elif request.kind in ADVICE_KINDS:
            # The same advice again, to the same upstream, until it is answered.
            if request.version.policy.keeps_advices(request.device.profile):
                reply = replies.refusal(request.message, APPROVED)
            await self._owe(transaction, reply, after(doubt, Happening.ADVICE_OWED))
        else:
            # A refund is never reversed and never repeated: an operator settles it. An enquiry is
            # over.
            enquiry = request.kind is Kind.BALANCE
            state = after(doubt, Happening.OVER if enquiry else Happening.HANDED_ON)
            await self._records.write_regardless(
                self._records.outcome(transaction, state, reply, wipe_image=enquiry)
            )
            if not enquiry:
                self._reversals.handed_on(
                    transaction.transaction_id, transaction.upstream, attempts=0, why="in doubt"
                )
        self.log(request, transaction, transaction.upstream, reply.response_code)
        return Reply(reply, transaction.transaction_id)

    async def advice_kept(self, request: Request, transaction: Transaction) -> Reply:
        """An advice that no upstream could take is answered in its place, and sent later."""
        reply = replies.refusal(request.message, APPROVED)
        await self._owe(transaction, reply, after(State.INTENDED, Happening.ADVICE_OWED))
        self.log(request, transaction, transaction.upstream, APPROVED)
        return Reply(reply, transaction.transaction_id)

    async def nothing_sent(
        self, request: Request, transaction: Transaction, reason: Reason
    ) -> Reply:
        """No byte of it left, and none will: it is over."""
        code = response_code(reason, request.code_set)
        reply = replies.refusal(request.message, code)
        state = after(State.INTENDED, Happening.NOTHING_SENT)
        request.version.policy.give_back(transaction.transaction_id)
        await self._records.write_regardless(
            self._records.outcome(transaction, state, reply, wipe_image=True)
        )
        self.log(request, transaction, "", code)
        return Reply(reply, transaction.transaction_id)

    async def not_done(self, transaction: Transaction) -> None:
        """Nothing was done, and nothing said that a repeat would hear: it may be done yet."""
        await self._records.write_regardless(
            Settle(
                transaction.transaction_id,
                after(State.INTENDED, Happening.NOTHING_SENT),
                response_code="",
                approval_code="",
                answer=b"",
                answered_ms=0,
                wipe_image=True,
            )
        )

    async def _owe(
        self, transaction: Transaction, reply: Message, state: State, *, unbelieved: bool = False
    ) -> None:
        advice = state is State.ADVICE_OWED
        upstream = self._pool.get(transaction.upstream)
        reason = upstream.settings.reversal_reason if upstream is not None else ""
        if unbelieved and upstream is not None:
            reason = upstream.settings.keys.bad_mac_reason or reason
        await self._reversals.owe_regardless(
            transaction.upstream_stan,
            OweReversal(
                transaction.transaction_id,
                transaction.upstream,
                reason,
                self._clock.wall_ms(),
                response_code=reply.response_code,
                answer=self._records.sealed_answer(transaction.transaction_id, reply),
                state=state,
                advice=advice,
            ),
        )

    def log(self, request: Request, transaction: Transaction, upstream: str, code: str) -> None:
        """The one line and the one measurement of a transaction."""
        seconds = self._clock.monotonic_s() - request.started_s
        kind = str(request.kind)
        self._measures.transaction(
            kind=kind, response_code=code, upstream=upstream, seconds=seconds
        )
        self._emit(
            Event.TRANSACTION,
            transaction=transaction.transaction_id,
            terminal=transaction.terminal_id,
            merchant=transaction.merchant_id,
            kind=kind,
            stan=request.message.stan,
            rrn=transaction.rrn,
            amount=transaction.amount_minor,
            currency=transaction.currency,
            card=transaction.card_masked,
            upstream=upstream,
            code=code,
            ms=round(seconds * 1000, 2),
        )
