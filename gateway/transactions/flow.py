"""READ FIRST: one request from top to bottom.

A terminal's request comes in identified. If it repeats one that was seen, it gets that one's
answer. Otherwise the policy decides, a route names the upstreams that may take it, the intent is
made durable, and only then does a byte leave. The answer is made durable before the terminal hears
it. Whatever is in doubt is owed a reversal, on disk, before the terminal is told no.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import trio

from gateway.clock import Clock
from gateway.errors import InDoubt, KeyUnavailable, NotSent, StoreError
from gateway.keys.security_module import SecurityModule
from gateway.policy.decide import Policy, Refused
from gateway.policy.response_codes import Reason, response_code
from gateway.store.store import (
    MarkDelivered,
    OweReversal,
    Reroute,
    Settle,
    State,
    Store,
    Transaction,
)
from gateway.telemetry.events import Emit, Event
from gateway.transactions import duplicates, images, replies
from gateway.transactions.request import Reply, Request
from gateway.transactions.reversals import Reversals
from gateway.upstreams.pool import Pool, Upstream
from gateway.upstreams.routing import Router
from gateway.wire.message import (
    APPROVAL_CODE,
    CURRENCY,
    NETWORK_KINDS,
    ORIGINAL_DATA,
    REVERSIBLE_KINDS,
    Kind,
    Message,
    mask_pan,
)

_FINANCIAL_KINDS = REVERSIBLE_KINDS | {
    Kind.REFUND,
    Kind.BALANCE,
    Kind.OFFLINE,
    Kind.ADJUSTMENT,
    Kind.UNKNOWN,
}
_NO_ANSWER_REASON = "68"  # DE39 of a reversal: no answer in time
_TERMINAL_REASON = "06"  # DE39 of a reversal: other, where the terminal's own says nothing
_ORIGINALS_MAX = 8


class Measures(Protocol):
    """What the flow tells the metrics."""

    def transaction(
        self, *, kind: str, response_code: str, upstream: str, seconds: float
    ) -> None: ...

    def refused(self, reason: str) -> None: ...


class _Exchange:
    """A transaction under way, and the repeats that wait for its outcome."""

    __slots__ = ("_done", "draft", "reply")

    def __init__(self, draft: Transaction) -> None:
        self.draft = draft
        self.reply: Reply | None = None
        self._done: trio.Event | None = None  # made only where somebody waits

    async def wait(self) -> Reply | None:
        """The reply, once there is one; None where the exchange ended without."""
        if self._done is None:
            self._done = trio.Event()
        await self._done.wait()
        return self.reply

    def end(self) -> None:
        if self._done is not None:
            self._done.set()


class Flow:
    """Serves requests; one instance to a node."""

    def __init__(
        self,
        *,
        store: Store,
        security: SecurityModule,
        policy: Policy,
        router: Router,
        pool: Pool,
        reversals: Reversals,
        clock: Clock,
        emit: Emit,
        measures: Measures,
        transaction_ids: Iterator[int],
        under_way_max: int,
    ) -> None:
        self._store = store
        self._security = security
        self._policy = policy
        self._router = router
        self._pool = pool
        self._reversals = reversals
        self._clock = clock
        self._emit = emit
        self._measures = measures
        self._ids = transaction_ids
        self._under_way_max = under_way_max
        self._under_way: dict[str, _Exchange] = {}

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    async def serve(self, request: Request) -> Reply:
        """The reply to a request of an identified device; never silence, never a traceback."""
        kind = request.kind
        try:
            if kind in _FINANCIAL_KINDS:
                return await self._financial(request)
            if kind in NETWORK_KINDS:
                return self._network(request)
            if kind is Kind.REVERSAL:
                return await self._reversal(request)
        except StoreError:
            # The store has raised its own alarm; nothing was sent that is not on disk.
            return self._refuse(request, Reason.INTERNAL, "store")
        except KeyUnavailable:
            return self._refuse(request, Reason.KEY_SERVICE_FAILED, "keys")
        return self._refuse(request, Reason.NOT_SUPPORTED, "kind")

    # --- a financial request --------------------------------------------------------------

    async def _financial(self, request: Request) -> Reply:
        key = duplicates.repeat_key(
            request.message,
            request.kind,
            activation=request.device.activation,
            wall_ms=request.wall_ms,
        )
        draft = self._draft(request, key)
        under_way = self._under_way.get(key)
        if under_way is not None:
            return await self._join(under_way, request, draft)
        if len(self._under_way) >= self._under_way_max:
            return self._refuse(request, Reason.OVERLOAD, "limits.under_way_max")
        exchange = _Exchange(draft)
        self._under_way[key] = exchange
        try:
            exchange.reply = await self._exchange(request, draft)
            return exchange.reply
        finally:
            del self._under_way[key]
            exchange.end()

    async def _exchange(self, request: Request, draft: Transaction) -> Reply:
        """Decide on a request that is not under way, and take it to an upstream."""
        message = request.message
        decision = self._policy.decide(message, request.kind, request.device.profile)
        if isinstance(decision, Refused) or message.is_repeat:
            # A repeat passes identity only: what was done before is answered as it was.
            seen = await self._store.find_repeat(draft.repeat_key)
            if seen is not None:
                return self._answer_again(seen, request, draft)
        if isinstance(decision, Refused):
            return self._refuse(request, decision.reason, decision.rule)

        intended = False
        for upstream in self._candidates(request.kind):
            stan = upstream.take_stan()
            if stan is None:
                continue
            outgoing = self._outgoing(request, upstream, stan)
            # On disk before the first byte leaves: recovery must know what may have been sent.
            if not intended:
                self._plan(draft, upstream, stan, outgoing)
                seen = await self._store.intend(draft)
                if seen is not None:
                    return self._answer_again(seen, request, draft)
                intended = True
            else:
                draft.upstream, draft.upstream_stan = upstream.name, stan
                await self._store.commit(Reroute(draft.transaction_id, upstream.name, stan))
            try:
                answer = await upstream.ask(outgoing, transaction_id=draft.transaction_id)
            except NotSent:
                continue
            except InDoubt:
                return await self._in_doubt(request, draft)
            if not answer.response_code:
                return await self._in_doubt(request, draft)
            return await self._answered(request, draft, upstream, answer)
        return await self._nothing_sent(request, draft if intended else None)

    def _candidates(self, kind: Kind) -> Iterator[Upstream]:
        for name in self._router.candidates(kind):
            upstream = self._pool[name]
            if upstream.ready:
                yield upstream

    def _outgoing(self, request: Request, upstream: Upstream, stan: int) -> Message:
        rrn = None
        if upstream.settings.rrn == "issue":
            rrn = replies.issued_rrn(wall_ms=request.wall_ms, stan=stan)
        return replies.forwarded(request.message, stan=stan, rrn=rrn)

    def _draft(self, request: Request, key: str) -> Transaction:
        """The record of a request as far as it is known before a route is taken."""
        message = request.message
        pan = message.pan
        return Transaction(
            transaction_id=next(self._ids),
            repeat_key=key,
            content=duplicates.content_of(message),
            created_ms=request.wall_ms,
            terminal_id=message.terminal_id,
            merchant_id=message.merchant_id,
            activation=request.device.activation,
            kind=request.kind,
            mti=message.mti,
            stan=message.stan,
            rrn=message.rrn,
            amount_minor=message.amount_minor or 0,
            currency=message.get(CURRENCY),
            card_masked=mask_pan(pan),
            card_token=self._security.card_token(pan) if pan else "",
            upstream="",
            upstream_stan=0,
            config_version=self._policy.version,
            image=b"",
        )

    def _plan(self, draft: Transaction, upstream: Upstream, stan: int, outgoing: Message) -> None:
        """Add the route, and what a reversal would need of the request."""
        draft.upstream = upstream.name
        draft.upstream_stan = stan
        draft.rrn = outgoing.rrn
        draft.image = self._security.seal(
            images.pack_request(outgoing), context=images.context_of(draft.transaction_id)
        )

    # --- what became of it ----------------------------------------------------------------

    async def _answered(
        self, request: Request, transaction: Transaction, upstream: Upstream, answer: Message
    ) -> Reply:
        """On disk before the terminal hears it: else a crash would reverse what the shop sold."""
        code = answer.response_code
        reply = replies.answer(request.message, answer)
        await self._settle(
            transaction,
            State.ANSWERED,
            reply,
            # Only what may have been approved can still want a reversal, which needs the image.
            wipe_image=code not in upstream.settings.approving_codes,
        )
        self._log(request, transaction, upstream.name, code)
        return Reply(reply, transaction.transaction_id)

    async def _in_doubt(self, request: Request, transaction: Transaction) -> Reply:
        """Never resent. What is owed is on disk before the terminal is told no."""
        code = response_code(Reason.NO_ANSWER, request.code_set)
        reply = replies.refusal(request.message, code)
        transaction_id = transaction.transaction_id
        if request.kind in REVERSIBLE_KINDS:
            await self._reversals.owe_regardless(
                transaction.upstream_stan,
                OweReversal(
                    transaction_id,
                    transaction.upstream,
                    _NO_ANSWER_REASON,
                    self._clock.wall_ms(),
                    response_code=code,
                    answer=self._seal_answer(transaction_id, reply),
                ),
            )
        else:
            # A refund or an advice cannot be reversed: an operator settles it. An enquiry is over.
            over = State.CLOSED if request.kind is Kind.BALANCE else State.GIVEN_UP
            await self._settle(transaction, over, reply, wipe_image=over is State.CLOSED)
        self._log(request, transaction, transaction.upstream, code)
        return Reply(reply, transaction_id)

    async def _nothing_sent(self, request: Request, transaction: Transaction | None) -> Reply:
        if transaction is None:
            return self._refuse(request, Reason.NO_UPSTREAM, "routes")
        code = response_code(Reason.NO_UPSTREAM, request.code_set)
        reply = replies.refusal(request.message, code)
        await self._settle(transaction, State.NOTHING_SENT, reply, wipe_image=True)
        self._log(request, transaction, "", code)
        return Reply(reply, transaction.transaction_id)

    async def _settle(
        self, transaction: Transaction, state: State, reply: Message, *, wipe_image: bool
    ) -> None:
        transaction_id = transaction.transaction_id
        await self._store.commit(
            Settle(
                transaction_id,
                state,
                reply.response_code,
                reply.get(APPROVAL_CODE),
                self._seal_answer(transaction_id, reply),
                self._clock.wall_ms(),
                wipe_image,
            )
        )

    def _seal_answer(self, transaction_id: int, reply: Message) -> bytes:
        return self._security.seal(
            images.pack_answer(reply), context=images.context_of(transaction_id)
        )

    def delivered(self, reply: Reply) -> None:
        """The reply was handed to the terminal's connection, in part or whole."""
        if reply.transaction_id:
            try:
                self._store.post(MarkDelivered(reply.transaction_id, self._clock.wall_ms()))
            except StoreError:
                return  # It stays "answered", which recovery never reverses either.

    def undelivered(self, reply: Reply) -> None:
        """The terminal had left before a byte of the reply could be handed over."""
        self._emit(
            Event.UNDELIVERED,
            transaction=reply.transaction_id,
            terminal=reply.message.terminal_id,
            stan=reply.message.stan,
            code=reply.message.response_code,
        )

    # --- repeats --------------------------------------------------------------------------

    async def _join(self, under_way: _Exchange, request: Request, repeat: Transaction) -> Reply:
        """A repeat of a request under way waits for that one's answer."""
        if not duplicates.same_content(under_way.draft, repeat):
            return self._refuse(request, Reason.REPEAT_DIFFERS, "repeat")
        reply = await under_way.wait()
        if reply is None:
            return self._refuse(request, Reason.INTERNAL, "repeat")
        self._emit(
            Event.REPEAT_ANSWERED,
            terminal=repeat.terminal_id,
            stan=repeat.stan,
            code=reply.message.response_code,
        )
        return reply

    def _answer_again(self, seen: Transaction, request: Request, repeat: Transaction) -> Reply:
        """The stored answer to a repeat of a request that is over."""
        if not duplicates.same_content(seen, repeat):
            return self._refuse(request, Reason.REPEAT_DIFFERS, "repeat")
        undone = seen.state in (State.REVERSAL_OWED, State.REVERSED, State.GIVEN_UP)
        if seen.answer:
            stored = images.unpack(
                self._security.unseal(seen.answer, context=images.context_of(seen.transaction_id))
            )
            code = stored.response_code
            if undone and self._approving(seen.upstream, code):
                return self._refuse(request, Reason.ALREADY_REVERSED, "repeat")
        else:
            # Found without an outcome: it is in doubt, and its reversal is owed.
            code = response_code(Reason.NO_ANSWER, request.code_set)
            stored = replies.refusal(request.message, code)
        self._emit(Event.REPEAT_ANSWERED, terminal=repeat.terminal_id, stan=repeat.stan, code=code)
        return Reply(stored, 0)

    def _approving(self, upstream: str, code: str) -> bool:
        known = self._pool.get(upstream)
        return known is None or code in known.settings.approving_codes

    # --- a terminal's own reversal --------------------------------------------------------

    async def _reversal(self, request: Request) -> Reply:
        """Durable, then answered 00; merged with a reversal already owed for the same original."""
        message = request.message
        original_data = message.get(ORIGINAL_DATA)
        stan = original_data[4:10] if len(original_data) >= 10 else message.stan
        original = await self._find_original(request, stan)
        if original is None:
            return self._refuse(request, Reason.ORIGINAL_NOT_FOUND, "original")
        if original.state in (State.ANSWERED, State.DELIVERED) and self._approving(
            original.upstream, original.response_code
        ):
            await self._reversals.owe(
                original.upstream_stan,
                OweReversal(
                    original.transaction_id,
                    original.upstream,
                    message.response_code or _TERMINAL_REASON,
                    self._clock.wall_ms(),
                ),
            )
        self._log(request, original, original.upstream, "00")
        return Reply(replies.refusal(message, "00"))

    async def _find_original(self, request: Request, stan: str) -> Transaction | None:
        """The transaction that a reversal undoes, once it is no longer under way."""
        message = request.message
        days = {
            duplicates.day_of(message, request.wall_ms),
            *duplicates.days_before(request.wall_ms, count=2),
        }
        prefixes = [
            duplicates.key_prefix(terminal_id=message.terminal_id, stan=stan, day=day)
            for day in sorted(days, reverse=True)
        ]
        batch = duplicates.batch_of(message)
        if batch:
            prefixes.insert(
                0,
                duplicates.key_prefix(terminal_id=message.terminal_id, stan=stan, batch=batch),
            )
        for prefix in prefixes:
            for key, exchange in list(self._under_way.items()):
                if key.startswith(prefix):
                    await exchange.wait()
            for found in await self._store.find_by_key_prefix(prefix, _ORIGINALS_MAX):
                if found.activation == request.device.activation:
                    return found
        return None

    # --- answers of our own ---------------------------------------------------------------

    def _network(self, request: Request) -> Reply:
        """Echo, sign-on and sign-off are answered here; keys come with the key service."""
        message = request.message
        if request.kind in (Kind.KEY_CHANGE, Kind.NETWORK):
            return self._refuse(request, Reason.NOT_SUPPORTED, "network")
        self._emit(
            Event.NETWORK_MESSAGE,
            terminal=message.terminal_id,
            kind=request.kind.value,
            stan=message.stan,
        )
        return Reply(replies.network_answer(message, "00"))

    def _refuse(self, request: Request, reason: Reason, rule: str) -> Reply:
        code = response_code(reason, request.code_set)
        message = request.message
        self._measures.refused(reason.value)
        self._emit(
            Event.REQUEST_REFUSED,
            terminal=message.terminal_id,
            kind=request.kind.value,
            stan=message.stan,
            reason=reason.value,
            rule=rule,
            code=code,
            config=self._policy.version,
        )
        return Reply(replies.refusal(message, code))

    def _log(self, request: Request, transaction: Transaction, upstream: str, code: str) -> None:
        """The one line and the one measurement of a transaction."""
        seconds = self._clock.monotonic_s() - request.started_s
        kind = request.kind.value
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
