"""Takes a request to an upstream: the intent is durable before a byte leaves, and it goes once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import trio

from gateway.errors import AnswerNotBelieved, InDoubt, KeyUnavailable, NotSent, StoreError
from gateway.keys.message_security import MalformedPin
from gateway.policy.response_codes import Reason
from gateway.store.store import Reroute, Store, Transaction
from gateway.transactions import replies
from gateway.transactions.originals import issues_rrn
from gateway.transactions.outcomes import Outcomes
from gateway.transactions.records import Records
from gateway.transactions.repeats import Repeats
from gateway.transactions.request import Reply, Request
from gateway.upstreams.adaptation import Adaptation, Changes
from gateway.upstreams.pool import Pool
from gateway.upstreams.upstream import Upstream
from gateway.upstreams.zone_keys import ZoneKeys
from gateway.wire.message import ADVICE_KINDS, PIN_BLOCK, TERMINAL_ID, Message


class Untaken(NamedTuple):
    """No upstream can be given the request now, and nothing of it is on disk."""

    reason: Reason
    rule: str


# What came of a request: the reply, or the transaction that it repeats, or nobody took it.
Ended = Reply | Transaction | Untaken


class Forwarding:
    """Gives each request to the first upstream that takes it, and to no other after."""

    def __init__(
        self, *, store: Store, records: Records, repeats: Repeats, outcomes: Outcomes, pool: Pool
    ) -> None:
        self._store = store
        self._records = records
        self._repeats = repeats
        self._outcomes = outcomes
        self._pool = pool

    async def forward(
        self,
        request: Request,
        draft: Transaction,
        upstreams: Sequence[Upstream],
        pointing: Changes,
        *,
        why: str,
    ) -> Ended:
        """Try the upstreams in their order, as long as no byte left.

        `pointing` names the original of what follows one, as its upstream knows it; `why` says what
        chose the upstreams. Raises StoreError where the intent cannot be written.
        """
        message, dialect = request.message, request.dialect
        fit, unfit = _fit(request, upstreams, pointing)
        # A request ends under the rules that it began with, whatever is edited meanwhile.
        adaptations = {one.name: one.adaptation for one in fit}
        self._pool.moves.served()
        intended = False
        untaken = Untaken(Reason.NO_UPSTREAM, why if fit else unfit or why)
        for upstream in self._pool.candidates(fit):
            if intended and not self._pool.moves.take(trio.current_time()):
                break  # Whatever failed under this load must not have the next one fail too.
            stan = upstream.take_stan()
            if stan is None:
                continue
            adaptation = adaptations[upstream.name]
            outgoing = _outgoing(draft, message, upstream, stan)
            sent = adaptation.outgoing(outgoing, dialect, pointing, at_ms=draft.created_ms)
            if upstream.zone is not None:
                protected = await _protected(request, upstream, upstream.zone, sent)
                if isinstance(protected, Untaken):
                    untaken = protected
                    continue
                sent = protected
            # On disk before the first byte leaves: recovery must know what may have been sent.
            if not intended:
                seen = await self._intended(
                    request, draft, upstream, stan, outgoing, adaptations, pointing
                )
                if seen is not None:
                    return seen
                intended = True
            elif not await self._moved(draft, upstream, stan):
                return await self._outcomes.nothing_sent(request, draft, Reason.INTERNAL)
            reply = await self._asked(request, draft, upstream, adaptation, outgoing, sent)
            if reply is not None:
                return reply
        if untaken.reason is Reason.NO_UPSTREAM and self._pool.any_full(fit):
            untaken = Untaken(Reason.OVERLOAD, untaken.rule)
        return await self._untaken(request, draft, fit, pointing, untaken, intended=intended)

    async def _asked(
        self,
        request: Request,
        draft: Transaction,
        upstream: Upstream,
        adaptation: Adaptation,
        outgoing: Message,
        sent: Message,
    ) -> Reply | None:
        """The reply that came of asking an upstream; None where nothing of it left."""
        try:
            answer = await upstream.ask(
                sent, transaction_id=draft.transaction_id, kind=request.kind
            )
        except NotSent:
            return None
        except InDoubt as doubt:
            unbelieved = isinstance(doubt, AnswerNotBelieved)
            return await self._outcomes.in_doubt(request, draft, unbelieved=unbelieved)
        if not answer.response_code:
            return await self._outcomes.in_doubt(request, draft)
        own = adaptation.incoming(answer, request=outgoing, sent=sent, dialect=request.dialect)
        return await self._outcomes.answered(request, draft, upstream, own)

    async def _intended(
        self,
        request: Request,
        draft: Transaction,
        upstream: Upstream,
        stan: int,
        outgoing: Message,
        adaptations: Mapping[str, Adaptation],
        pointing: Changes,
    ) -> Transaction | None:
        """Make the intent durable, with what each upstream that it may move to would be told;
        returns the transaction that it repeats, where it does."""
        self._records.plan(
            draft,
            request.message,
            upstream=upstream.name,
            stan=stan,
            outgoing=outgoing,
            told={
                name: one.changes(
                    request.message, request.dialect, pointing, at_ms=draft.created_ms
                )
                for name, one in adaptations.items()
            },
            dialect=request.dialect,
        )
        return await self._repeats.intend(draft)

    async def _moved(self, draft: Transaction, upstream: Upstream, stan: int) -> bool:
        """Whether it is durable that the request goes to another upstream, the first having got
        nothing of it."""
        try:
            await self._store.commit(Reroute(draft.transaction_id, upstream.name, stan))
        except StoreError:
            return False
        draft.upstream, draft.upstream_stan = upstream.name, stan
        return True

    async def _untaken(
        self,
        request: Request,
        draft: Transaction,
        upstreams: Sequence[Upstream],
        pointing: Changes,
        untaken: Untaken,
        *,
        intended: bool,
    ) -> Ended:
        """No upstream takes it now: at once, without a queue, its terminal is told so."""
        keeps = request.version.policy.keeps_advices(request.device.profile)
        if keeps and request.kind in ADVICE_KINDS and upstreams:
            return await self._kept(request, draft, upstreams[0], pointing, intended=intended)
        if intended:
            return await self._outcomes.nothing_sent(request, draft, untaken.reason)
        return untaken

    async def _kept(
        self,
        request: Request,
        draft: Transaction,
        upstream: Upstream,
        pointing: Changes,
        *,
        intended: bool,
    ) -> Ended:
        """An advice that no upstream could take is kept, and sent later."""
        if not intended:
            stan = upstream.take_stan()
            if stan is None:
                return Untaken(Reason.NO_UPSTREAM, "STANs")
            outgoing = _outgoing(draft, request.message, upstream, stan)
            told = {upstream.name: upstream.adaptation}
            seen = await self._intended(request, draft, upstream, stan, outgoing, told, pointing)
            if seen is not None:
                return seen
        return await self._outcomes.advice_kept(request, draft)


def _fit(
    request: Request, upstreams: Sequence[Upstream], pointing: Changes
) -> tuple[list[Upstream], str]:
    """The upstreams that the request can go to, and why it cannot to the last of the others."""
    message, dialect = request.message, request.dialect
    # What follows another device's transaction goes under the terminal id of that one.
    under = pointing.get(TERMINAL_ID)
    if under is not None:
        message = message.changed({TERMINAL_ID: under})
    fit, unfit = [], ""
    for upstream in upstreams:
        refusal = upstream.adaptation.refusal(message, dialect)
        if refusal:
            unfit = refusal
        else:
            fit.append(upstream)
    return fit, unfit


def _outgoing(draft: Transaction, message: Message, upstream: Upstream, stan: int) -> Message:
    return replies.outgoing(
        message,
        stan=stan,
        issue_rrn=issues_rrn(draft, message, upstream.settings),
        wall_ms=draft.created_ms,
    )


async def _protected(
    request: Request, upstream: Upstream, zone: ZoneKeys, sent: Message
) -> Message | Untaken:
    """The message with its PIN as this upstream takes it, or why it cannot have the message.

    It is made anew, from the terminal's own block, for each upstream that is tried.
    """
    lacking = zone.lacking(sent)
    if lacking:
        return Untaken(Reason.KEY_SERVICE_FAILED, lacking)
    if PIN_BLOCK not in request.message.fields:
        return sent
    try:
        return await upstream.with_pin(sent, request.pins, request.message.pan)
    except MalformedPin as error:
        return Untaken(Reason.PIN_MALFORMED, str(error))
    except KeyUnavailable as error:
        return Untaken(Reason.KEY_SERVICE_FAILED, str(error))
    except NotSent as error:
        return Untaken(Reason.NO_UPSTREAM, str(error))
