"""A terminal's own reversal: its original is found, waited for, and owed to its upstream."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.policy.response_codes import Reason
from gateway.store.store import OweReversal, State, Transaction
from gateway.transactions.delivery import Delivery
from gateway.transactions.duplicates import Exchange
from gateway.transactions.gaps import Line
from gateway.transactions.matching import Description
from gateway.transactions.originals import Originals
from gateway.transactions.records import Records
from gateway.transactions.request import Request
from gateway.transactions.reversals import Reversals
from gateway.transactions.states import Happening, after
from gateway.wire.message import REPLACEMENT_AMOUNTS, REVERSIBLE_KINDS, VOID_KINDS, Kind, Message

_OTHER = "06"  # DE39 of a reversal whose terminal gives no reason
_OWED_NOTHING = (Kind.BALANCE,)


class TakeBacks:
    """Takes terminals' reversals (0400, 0420 and their repeats)."""

    def __init__(
        self,
        *,
        records: Records,
        originals: Originals,
        reversals: Reversals,
        delivery: Delivery,
        under_way: Mapping[str, Exchange],
        clock: Clock,
    ) -> None:
        self._records = records
        self._originals = originals
        self._reversals = reversals
        self._delivery = delivery
        self._under_way = under_way
        self._clock = clock

    async def take(self, request: Request) -> Transaction | Reason | None:
        """The original, once its reversal is durable or it needs none; else why it is refused.

        None: an operator has settled it, the original being lost in a restore.

        Raises StoreError where that could not be made durable: then the answer is never 00 or 25.
        """
        original = await self._original(request)
        if original is None:
            return Reason.ORIGINAL_NOT_FOUND
        if isinstance(original, Line):
            return Reason.LOST_IN_RESTORE if original.is_open else None
        if original.kind not in REVERSIBLE_KINDS:
            return original if original.kind in _OWED_NOTHING else Reason.INVALID_TRANSACTION
        if left_minor(request.message) >= original.amount_minor:
            return Reason.INVALID_AMOUNT  # It would take nothing back.
        async with self._originals.held(original.transaction_id):
            unheard = self._delivery.unheard(original.transaction_id)
            if not self._delivery.claim(original.transaction_id):
                await self._delivery.gone_back()
            try:
                await self._records.catch_up(original.transaction_id)
                # As it is by now: what undid it meanwhile has it done already.
                return await self._undo(request, await self._originals.fresh(original))
            except StoreError:
                if unheard:
                    self._delivery.wait(original.transaction_id)
                raise

    async def _undo(self, request: Request, original: Transaction) -> Transaction | Reason:
        if original.state is not State.INTENDED:  # else nobody waits for its answer any more
            if not self._originals.stands(original):
                return await self._undo_again(request, original)
            following = await self._originals.standing_on(original)
            if any(one.kind in VOID_KINDS for one in following):
                return original  # Its money has gone back already.
            if following:
                return Reason.INVALID_TRANSACTION  # refunded or completed: it was no failure
        await self._reversals.owe(
            original.upstream_stan,
            OweReversal(
                original.transaction_id,
                original.upstream,
                request.message.response_code or _OTHER,
                self._clock.wall_ms(),
                state=after(original.state, Happening.REVERSAL_OWED),
                amount_minor=left_minor(request.message),
            ),
        )
        return original

    async def _undo_again(self, request: Request, original: Transaction) -> Transaction | Reason:
        """Of what is undone, or is being undone, only what a partial reversal left can be owed."""
        wanted_minor = max(left_minor(request.message), 0)
        now_minor = max(original.left_minor, 0)
        if original.state in (State.REVERSAL_OWED, State.GIVEN_UP):
            return original if wanted_minor == now_minor else Reason.REPEAT_DIFFERS
        if original.state is not State.REVERSED or not now_minor or wanted_minor == now_minor:
            return original
        if wanted_minor > now_minor:
            return Reason.INVALID_AMOUNT  # It would take nothing back.
        await self._reversals.owe(
            original.upstream_stan,
            OweReversal(
                original.transaction_id,
                original.upstream,
                request.message.response_code or _OTHER,
                self._clock.wall_ms(),
                state=after(original.state, Happening.REST_OWED),
                # Said as what is left of the whole, so that it means the same however often it
                # comes, and whatever the acquirer made of the reversal before.
                amount_minor=wanted_minor,
            ),
        )
        return original

    async def _original(self, request: Request) -> Transaction | Line | None:
        """The transaction to be undone, after it is no longer under way.

        For one that was never seen a tombstone is left, so that it is refused should it come; for
        one that may have been lost in a restore, a line for operators.
        """
        originals = self._originals
        prefixes = originals.prefixes_of(request)
        description = Description(request.message, self._records, whole_amount=True)
        # What a device before this one had under way as it was replaced is waited for as well.
        waited = [*prefixes]
        for terminal_id, _ in request.device.inherits:
            waited += originals.prefixes_of(request, terminal_id=terminal_id)
        with originals.graves.sought(prefixes, request.device.activation) as graves:
            for key, exchange in list(self._under_way.items()):
                if key.startswith(tuple(waited)):
                    await exchange.wait()
            found = await originals.find_reversed(request, prefixes, description)
            if found is None:
                if originals.gaps is not None and not await originals.graves.hold_any(graves):
                    line = await originals.gaps.reversal(request)
                    if line is not None:
                        return line
                await originals.graves.bury(graves, request.wall_ms)
            return found


def left_minor(message: Message) -> int:
    """What a partial reversal leaves (the first 12 digits of DE95); -1 for a full one."""
    text = message.get(REPLACEMENT_AMOUNTS)[:12]
    if len(text) != 12 or not (text.isascii() and text.isdigit()):
        return -1
    return int(text) or -1
