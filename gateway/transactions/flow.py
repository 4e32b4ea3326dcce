"""READ FIRST: one request from top to bottom.

A terminal's request comes in identified. If it repeats one that was seen, it gets that one's
answer. Otherwise the policy decides, a route names the upstreams that may take it (a void, refund
or completion goes where its original went), the intent is made durable, and only then does a byte
leave. The answer is made durable before the terminal hears it. Whatever is in doubt is owed a
reversal, or what its kind allows, on disk, before the terminal is told no.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.clock import Clock
from gateway.errors import KeyUnavailable, StoreError
from gateway.policy.decide import Policy, Refused, Subject
from gateway.policy.response_codes import APPROVED, Reason, response_code
from gateway.store.store import Device, State, Store, Transaction
from gateway.telemetry.events import Emit, Event
from gateway.transactions import duplicates, replies
from gateway.transactions.batches import Batches
from gateway.transactions.delivery import Delivery
from gateway.transactions.duplicates import Exchange
from gateway.transactions.forwarding import Forwarding, Untaken
from gateway.transactions.gaps import Gaps
from gateway.transactions.matching import Description
from gateway.transactions.originals import (
    Originals,
    pointing_upstream,
    refers,
)
from gateway.transactions.outcomes import Measures, Outcomes
from gateway.transactions.records import Records
from gateway.transactions.repeats import Repeats
from gateway.transactions.request import Reply, Request
from gateway.transactions.reversals import Reversals
from gateway.transactions.takebacks import TakeBacks
from gateway.transactions.version import Version
from gateway.upstreams.adaptation import NO_CHANGES, CannotAdapt, Changes
from gateway.upstreams.pool import Pool
from gateway.upstreams.routing import Router
from gateway.upstreams.upstream import Upstream
from gateway.wire.message import (
    ADVICE_KINDS,
    FOLLOWING_KINDS,
    NETWORK_KINDS,
    REVERSIBLE_KINDS,
    Kind,
    Message,
)

_ADVICE_KEPT = (State.ADVICE_OWED, State.GIVEN_UP)
_OF_ANYBODY = NETWORK_KINDS | {Kind.REVERSAL}  # who is frozen may undo what was sent
_FINANCIAL_KINDS = REVERSIBLE_KINDS | ADVICE_KINDS | {Kind.REFUND, Kind.BALANCE, Kind.UNKNOWN}


class Flow:
    """Serves requests; one instance to a node."""

    def __init__(
        self,
        *,
        store: Store,
        records: Records,
        policy: Policy,
        router: Router,
        pool: Pool,
        reversals: Reversals,
        originals: Originals,
        delivery: Delivery,
        batches: Batches,
        clock: Clock,
        emit: Emit,
        measures: Measures,
        under_way_max: int,
        refusals_max: int = 50_000,
        repeats_window_s: float = 86_400.0,
        in_service: Callable[[Device], bool] = lambda _: True,
    ) -> None:
        """`in_service`: whether a device that was identified may still begin something new."""
        self._records = records
        self._version = Version(policy, router)
        self._pool = pool
        self._originals = originals
        self._delivery = delivery
        self._batches = batches
        self._emit = emit
        self._measures = measures
        self._under_way_max = under_way_max
        self.in_service = in_service
        self._under_way: dict[str, Exchange] = {}
        self._repeats = Repeats(store, window_ms=round(repeats_window_s * 1000))
        self._refusals = duplicates.Refusals(count_max=refusals_max)
        self._outcomes = Outcomes(
            records=records,
            pool=pool,
            reversals=reversals,
            clock=clock,
            emit=emit,
            measures=measures,
        )
        self._forwarding = Forwarding(
            store=store,
            records=records,
            repeats=self._repeats,
            outcomes=self._outcomes,
            pool=pool,
        )
        self._takebacks = TakeBacks(
            records=records,
            originals=originals,
            reversals=reversals,
            delivery=delivery,
            under_way=self._under_way,
            clock=clock,
        )
        self.delivered = delivery.delivered
        self.undelivered = delivery.undelivered

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def busy(self, terminal_id: str) -> bool:
        """Whether a transaction of a terminal is under way."""
        return any(one.draft.terminal_id == terminal_id for one in self._under_way.values())

    @property
    def version(self) -> Version:
        """What new requests are decided by."""
        return self._version

    def swap(self, version: Version) -> None:
        """Decide new requests by another version; those under way end under the one they began
        with."""
        self._version = version

    async def serve(self, request: Request) -> Reply:
        """The reply to a request of an identified device; never silence, never a traceback."""
        kind = request.kind
        request.version = self._version
        if self._batches.closing and kind not in NETWORK_KINDS:
            # What begins during a close is of the next batch.
            await self._batches.until_open(request.message.terminal_id)
        if kind not in _OF_ANYBODY and not self.in_service(request.device):
            # It was replaced, lost or ended while this was on its way here.
            return self._refuse(request, Reason.NOT_ACTIVE, "device")
        try:
            if kind in _FINANCIAL_KINDS:
                return await self._once(request)
            if kind in NETWORK_KINDS:
                return self._network(request)
            if kind is Kind.REVERSAL:
                return await self._take_back(request)
            if kind is Kind.SETTLEMENT:
                return await self._once(request)
            if kind is Kind.BATCH_UPLOAD:
                await self._batches.upload(request)
                return Reply(replies.refusal(request.message, APPROVED))
        except StoreError:
            return self._refuse(request, Reason.INTERNAL, "store")
        except KeyUnavailable:
            return self._refuse(request, Reason.KEY_SERVICE_FAILED, "keys")
        return self._refuse(request, Reason.NOT_SUPPORTED, "kind")

    # --- once, however often it is sent -----------------------------------------------------

    async def _once(self, request: Request) -> Reply:
        """What a repeat asks for is done once: it waits for the one under way, or finds it done."""
        key = duplicates.repeat_key(
            request.message,
            request.kind,
            activation=request.device.activation,
            wall_ms=request.wall_ms,
        )
        batch = self._batches.number(request.message.terminal_id)
        draft = self._records.draft(request, key, batch=batch)
        draft.config_version = request.version.id
        under_way = self._under_way.get(key)
        if under_way is not None:
            return await self._join(under_way, request, draft)
        if len(self._under_way) >= self._under_way_max:
            reply = await self._refuse_new(request, draft, Reason.OVERLOAD, "limits.under_way_max")
            self._refusals.remember(draft, reply)
            return reply
        refused = self._refusals.of(draft)
        if refused is not None:
            # Of what was done before, and could not be read when the refusal was given?
            seen = await self._repeats.find(draft)
            return refused if seen is None else self._answer_again(seen, request, draft)
        exchange = Exchange(draft)
        self._under_way[key] = exchange
        try:
            exchange.reply = await self._done(request, draft)
            if exchange.reply.transaction_id != draft.transaction_id:
                # Refused, or a repeat after all: nothing came of this one.
                request.version.policy.give_back(draft.transaction_id)
            self._refusals.remember(draft, exchange.reply)
            return exchange.reply
        finally:
            del self._under_way[key]
            exchange.end()

    async def _done(self, request: Request, draft: Transaction) -> Reply:
        try:
            if request.kind is Kind.SETTLEMENT:
                return await self._close_batch(request, draft)
            return await self._decided(request, draft)
        except StoreError:
            # The store has raised its own alarm; nothing was sent that is not on disk.
            return self._refuse(request, Reason.INTERNAL, "store")
        except KeyUnavailable:
            return self._refuse(request, Reason.KEY_SERVICE_FAILED, "keys")

    async def _decided(self, request: Request, draft: Transaction) -> Reply:
        """A request that is not under way: is it a repeat, may it go on, and where does it go?"""
        message, kind = request.message, request.kind
        decision = request.withheld or request.version.policy.decide(
            Subject(
                message,
                kind,
                profile=request.device.profile,
                transaction_id=draft.transaction_id,
                wall_ms=request.wall_ms,
                card_token=draft.card_token,
                former_cards=draft.former_card_tokens,
                certificate_sha256=request.certificate_sha256 or request.device.certificate_sha256,
                certificate_serial=request.certificate_serial,
                address=request.address,
            )
        )
        if isinstance(decision, Refused) or message.is_repeat or kind in FOLLOWING_KINDS:
            # A repeat passes identity only: what was done before is answered as it was. (For all
            # others the insert of the intent finds a repeat, at no cost of its own.)
            seen = await self._repeats.find(draft)
            if seen is not None:
                return self._answer_again(seen, request, draft)
        if self._originals.gaps is not None and self._originals.gaps.any:
            refused = await self._lost_in_restore(request, self._originals.gaps)
            if refused is not None:
                return refused
        if await self._originals.graves.holds(draft):
            return await self._refuse_new(
                request, draft, Reason.ALREADY_REVERSED, "reversed before it came"
            )
        if isinstance(decision, Refused):
            return self._refuse(request, decision.reason, decision.rule, code=decision.code)
        if kind in FOLLOWING_KINDS:
            return await self._following(request, draft)
        return await self._routed(request, draft)

    async def _lost_in_restore(self, request: Request, gaps: Gaps) -> Reply | None:
        """After a restore: the refusal of what may have been done in the time that is lost."""
        line = None
        if request.message.is_repeat and request.kind is not Kind.BALANCE:
            line = await gaps.repeat(request)
        if line is None:
            line = gaps.undone(request)
        if line is None:
            return None
        return self._refuse(request, Reason.LOST_IN_RESTORE, f"restore gap, line {line.number}")

    async def _routed(self, request: Request, draft: Transaction) -> Reply:
        choice = request.version.router.choose_for(request.message, request.kind, request.wall_ms)
        # One may have been removed since this version was replaced.
        found = [self._pool.get(name) for name in choice.upstreams]
        upstreams = [upstream for upstream in found if upstream is not None]
        return await self._forwarded(request, draft, upstreams, why=choice.why)

    async def _following(self, request: Request, draft: Transaction) -> Reply:
        """A void, completion, adjustment or refund goes to the upstream that got its original."""
        description = Description(request.message, self._records, whole_amount=False)
        original = await self._originals.find_followed(request, description)
        if original is None:
            if request.kind is Kind.REFUND and not refers(request.message):
                # A refund of what was bought elsewhere, or long ago: it names no original.
                return await self._routed(request, draft)
            gaps = self._originals.gaps
            if gaps is not None and await gaps.follow_up(request) is not None:
                return self._refuse(request, Reason.LOST_IN_RESTORE, "original")
            return self._refuse(request, Reason.ORIGINAL_NOT_FOUND, "original")
        async with self._originals.held(original.transaction_id):
            original = await self._originals.fresh(original)
            reason = await self._originals.refusal(draft, original)
            if reason is not None:
                return self._refuse(request, reason, f"original {original.transaction_id}")
            draft.original_id = original.transaction_id
            upstream = self._pool.get(original.upstream)
            if upstream is None:
                return self._refuse(request, Reason.NO_UPSTREAM, original.upstream)
            if not self._delivery.claim(original.transaction_id):
                return self._refuse(request, Reason.ORIGINAL_NOT_FOUND, "never delivered")
            sent = self._records.request_of(original)
            if sent is not None:
                try:
                    sent = upstream.adaptation.again(sent, self._records.told_of(original))
                except CannotAdapt as error:
                    return self._refuse(request, Reason.NO_UPSTREAM, str(error))
            named_by = upstream.adaptation.original_named_by(request.dialect)
            pointing = pointing_upstream(
                request.message, original, sent, request.device, named_by=named_by
            )
            return await self._forwarded(request, draft, [upstream], pointing)

    async def _forwarded(
        self,
        request: Request,
        draft: Transaction,
        upstreams: Sequence[Upstream],
        pointing: Changes = NO_CHANGES,
        *,
        why: str = "routes",
    ) -> Reply:
        """To the first upstream that it can be sent to. `pointing` names the original of what
        follows one, as its upstream knows it."""
        ended = await self._forwarding.forward(request, draft, upstreams, pointing, why=why)
        if isinstance(ended, Reply):
            return ended
        if isinstance(ended, Untaken):
            return await self._refuse_new(request, draft, ended.reason, ended.rule)
        return self._answer_again(ended, request, draft)

    async def _refuse_new(
        self, request: Request, draft: Transaction, reason: Reason, rule: str
    ) -> Reply:
        """Refuse what cannot even be intended, unless it is a repeat: that was answered before."""
        seen = await self._repeats.find(draft)
        if seen is not None:
            return self._answer_again(seen, request, draft)
        return self._refuse(request, reason, rule)

    # --- repeats --------------------------------------------------------------------------

    async def _join(self, under_way: Exchange, request: Request, repeat: Transaction) -> Reply:
        """A repeat of a request under way waits for that one's answer."""
        if not duplicates.same_content(under_way.draft, repeat):
            return self._refuse(request, Reason.REPEAT_DIFFERS, "repeat")
        reply = await under_way.wait()
        if reply is None:
            return self._refuse(request, Reason.INTERNAL, "repeat")
        if reply.transaction_id and not self._delivery.claim(reply.transaction_id):
            return self._refuse(request, Reason.ALREADY_REVERSED, "repeat")
        self._emit_repeat(repeat, reply.message.response_code)
        return reply

    def _answer_again(self, seen: Transaction, request: Request, repeat: Transaction) -> Reply:
        """The stored answer to a repeat of a request that is over."""
        if not duplicates.same_content(seen, repeat):
            return self._refuse(request, Reason.REPEAT_DIFFERS, "repeat")
        stored = self._records.answer_of(seen, request.message)
        if stored is None:
            # Found without an outcome: it is in doubt, and what it is owed is on its way.
            code = response_code(Reason.NO_ANSWER, request.code_set)
            keeps = request.version.policy.keeps_advices(request.device.profile)
            if keeps and seen.kind in ADVICE_KINDS and seen.state in _ADVICE_KEPT:
                code = APPROVED
            stored = replies.refusal(request.message, code)
        approved = self._originals.may_be_approved(seen.upstream, stored.response_code)
        unheard = self._delivery.unheard(seen.transaction_id)
        undone = duplicates.is_undone(seen) or not self._delivery.claim(seen.transaction_id)
        if undone and approved:
            return self._refuse(request, Reason.ALREADY_REVERSED, "repeat")
        self._emit_repeat(repeat, stored.response_code)
        return Reply(stored, seen.transaction_id, unheard=unheard, repeated=True)

    def _emit_repeat(self, repeat: Transaction, code: str) -> None:
        self._emit(Event.REPEAT_ANSWERED, terminal=repeat.terminal_id, stan=repeat.stan, code=code)

    # --- a terminal's own reversal, and its batch -----------------------------------------

    async def _take_back(self, request: Request) -> Reply:
        """Durable, then answered 00; merged with a reversal already owed for the same original."""
        taken = await self._takebacks.take(request)
        if isinstance(taken, Reason):
            return self._refuse(request, taken, "original")
        if taken is None:
            return Reply(replies.refusal(request.message, APPROVED))
        self._outcomes.log(request, taken, taken.upstream, APPROVED)
        return Reply(replies.refusal(request.message, APPROVED))

    async def _close_batch(self, request: Request, draft: Transaction) -> Reply:
        """Recorded like a transaction, so that a repeat of it does not close the next batch."""
        seen = await self._repeats.intend(draft)
        if seen is not None:
            if seen.response_code or not duplicates.same_content(seen, draft):
                return self._answer_again(seen, request, draft)
            draft = seen  # Not durable, and so not done, when it was first asked for.

        def answer(totals: dict[int, str]) -> Message:
            return replies.refusal(request.message, totals[39]).changed(totals)

        async with self._batches.held(draft.terminal_id):
            if not self.in_service(request.device):
                # Its batch is another's by now, and not closed for it a second time.
                await self._outcomes.not_done(draft)
                return self._refuse(request, Reason.NOT_ACTIVE, "device")
            try:
                await self._ended_before_close(draft.terminal_id)
                totals = await self._batches.close(
                    request,
                    lambda totals: self._records.outcome(
                        draft, State.ANSWERED, answer(totals), wipe_image=True
                    ),
                )
            except StoreError:
                await self._outcomes.not_done(draft)  # A repeat of it may do it yet.
                raise
        reply = answer(totals)
        self._outcomes.log(request, draft, "", reply.response_code)
        return Reply(reply, draft.transaction_id)

    async def _ended_before_close(self, terminal_id: str) -> None:
        """What the terminal has under way is of the batch, and counted in it. Raises StoreError."""
        for exchange in list(self._under_way.values()):
            draft = exchange.draft
            if draft.terminal_id == terminal_id and draft.kind is not Kind.SETTLEMENT:
                await exchange.wait()
        await self._records.catch_up()

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
        return Reply(replies.network_answer(message, APPROVED))

    def _refuse(self, request: Request, reason: Reason, rule: str, *, code: str = "") -> Reply:
        code = code or response_code(reason, request.code_set)
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
            config=request.version.id,
        )
        reply = Reply(replies.refusal(message, code))
        reply.reason = reason
        return reply
