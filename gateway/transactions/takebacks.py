"""A terminal's own reversal: its original is found, waited for, and owed to its upstream."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.policy.response_codes import Reason
from gateway.store.store import OweReversal, State, Transaction
from gateway.transactions.delivery import Delivery
from gateway.transactions.duplicates import Exchange
from gateway.transactions.originals import Originals
from gateway.transactions.request import Request
from gateway.transactions.reversals import Reversals
from gateway.transactions.states import Happening, after
from gateway.wire.message import REPLACEMENT_AMOUNTS, REVERSIBLE_KINDS, Kind, Message

_OTHER = "06"  # DE39 of a reversal whose terminal gives no reason
_OWED_NOTHING = (Kind.BALANCE,)


class TakeBacks:
    """Takes terminals' reversals (0400, 0420 and their repeats)."""

    def __init__(
        self,
        *,
        originals: Originals,
        reversals: Reversals,
        delivery: Delivery,
        under_way: Mapping[str, Exchange],
        clock: Clock,
    ) -> None:
        self._originals = originals
        self._reversals = reversals
        self._delivery = delivery
        self._under_way = under_way
        self._clock = clock

    async def take(self, request: Request) -> Transaction | Reason:
        """The original, once its reversal is durable or it needs none; else why it is refused.

        Raises StoreError where that could not be made durable: then the answer is never 00 or 25.
        """
        original = await self._original(request)
        if original is None:
            return Reason.ORIGINAL_NOT_FOUND
        if original.kind not in REVERSIBLE_KINDS:
            return original if original.kind in _OWED_NOTHING else Reason.INVALID_TRANSACTION
        async with self._originals.held(original.transaction_id):
            unheard = self._delivery.unheard(original.transaction_id)
            if not self._delivery.claim(original.transaction_id):
                await self._delivery.gone_back()
            try:
                # As it is by now: what undid it meanwhile has it done already.
                await self._undo(request, await self._originals.fresh(original))
            except StoreError:
                if unheard:
                    self._delivery.wait(original.transaction_id)
                raise
        return original

    async def _undo(self, request: Request, original: Transaction) -> None:
        if not await self._needs_reversal(original):
            return
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

    async def _needs_reversal(self, original: Transaction) -> bool:
        if original.state is State.INTENDED:
            return True  # nobody waits for its answer any more
        return self._originals.stands(original) and not await self._originals.is_voided(original)

    async def _original(self, request: Request) -> Transaction | None:
        """The transaction to be undone, after it is no longer under way.

        For one that was never seen a tombstone is left, so that it is refused should it come.
        """
        originals = self._originals
        activation = request.device.activation
        prefixes = originals.prefixes_of(request)
        # Before the look-up: an original that comes while it goes on is refused, not missed.
        graves = originals.bury(prefixes, activation, request.wall_ms)
        try:
            for key, exchange in list(self._under_way.items()):
                if key.startswith(tuple(prefixes)):
                    await exchange.wait()
            found = await originals.find_by_prefix(prefixes, activation)
            if found is None:
                await originals.keep_tombstones(graves, request.wall_ms)
                return None
        except BaseException:
            originals.unbury(graves)
            raise
        originals.unbury(graves)
        return found


def left_minor(message: Message) -> int:
    """What a partial reversal leaves (the first 12 digits of DE95); -1 for a full one."""
    text = message.get(REPLACEMENT_AMOUNTS)[:12]
    return int(text) if len(text) == 12 and text.isdigit() and int(text) else -1
