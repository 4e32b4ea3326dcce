"""Batches: totals at their close (0500), and uploads (0320)."""

from __future__ import annotations

from collections.abc import Callable

from gateway.clock import Clock
from gateway.keys.security_module import SecurityModule
from gateway.store.store import BatchTotals, Compared, Operation, PutBatch, Store
from gateway.telemetry.events import Emit
from gateway.transactions import duplicates
from gateway.transactions.open_batches import OpenBatches
from gateway.transactions.request import Request
from gateway.transactions.uploads import Uploads
from gateway.wire.message import PROCESSING_CODE, Message

_BALANCED, _OUT_OF_BALANCE = "1", "2"  # DE66, settlement code
_CODE_BALANCED, _CODE_OUT_OF_BALANCE = "00", "95"
_AFTER_UPLOAD = "96"  # DE3 of the 0500 that ends a batch upload
_UNIONPAY_TOTALS = 48  # debits: amount 12, count 3; credits: amount 12, count 3; more may follow


class Batches(OpenBatches):
    """Closes terminals' open batches, and takes what they upload."""

    def __init__(self, *, store: Store, security: SecurityModule, clock: Clock, emit: Emit) -> None:
        super().__init__(store=store, clock=clock)
        self._uploads = Uploads(store=store, security=security, emit=emit)

    async def close(
        self, request: Request, outcome: Callable[[dict[int, str]], Operation]
    ) -> dict[int, str]:
        """Close the terminal's batch and open the next, durably and together with its `outcome`.

        Returns the fields of the answer that say how its totals compare with ours, of which the
        outcome is made. Raises StoreError; then nothing is closed.
        """
        terminal_id = request.message.terminal_id
        if request.message.get(PROCESSING_CODE)[:2] == _AFTER_UPLOAD:
            settled = await self._settled_by_upload(terminal_id)
            if settled is not None:
                await self._store.commit(outcome(settled))
                return settled
        number = self.number(terminal_id)
        ours = await self._store.batch_totals(terminal_id, number)
        theirs = reported_totals(request.message)
        balanced = theirs is None or theirs == ours
        answer = _answer(request.message, ours, balanced=balanced)
        reported = "" if theirs is None else _text(theirs)
        closed, following = self.ends(terminal_id, ours, balanced=balanced, reported=reported)
        await self._store.commit(PutBatch(closed), PutBatch(following), outcome(answer))
        self.put(following)
        return answer

    async def _settled_by_upload(self, terminal_id: str) -> dict[int, str] | None:
        """The answer to the 0500 that ends an upload; None where there was none.

        It is about the batch that was out of balance, and closes no other. The records are with us
        now, and how each compares is written beside it: what is left is for people.
        """
        found = await self._store.batches(terminal_id, 2)
        closed = next((one for one in found if one.closed_ms), None)
        if closed is None or closed.balanced:
            return None
        uploaded = await self._store.uploads(terminal_id, closed.number)
        if not uploaded:
            return None
        same = set(uploaded) == {Compared.SAME}
        return {39: _CODE_BALANCED, 66: _BALANCED if same else _OUT_OF_BALANCE}

    async def upload(self, request: Request) -> None:
        """Keep one record of a batch upload; raises StoreError and KeyUnavailable."""
        await self._uploads.take(request, self.number(request.message.terminal_id))


def reported_totals(message: Message) -> BatchTotals | None:
    """The terminal's own totals; None where it sent none that can be read.

    ISO 8583:1987: DE74 and DE76 count credits and debits, DE86 and DE88 are their amounts.
    UnionPay: DE48 has amount and count of debits, then of credits.
    """
    iso = [message.get(number) for number in (76, 88, 74, 86)]
    if any(iso):
        debits, debits_minor, credits_, credits_minor = (
            int(text) if _is_number(text) else 0 for text in iso
        )
        return BatchTotals(debits, debits_minor, credits_, credits_minor)
    text = message.get(_UNIONPAY_TOTALS)
    if len(text) >= 30 and _is_number(text[:30]) and duplicates.batch_of(message):
        return BatchTotals(int(text[12:15]), int(text[:12]), int(text[27:30]), int(text[15:27]))
    return None


def _answer(message: Message, ours: BatchTotals, *, balanced: bool) -> dict[int, str]:
    if len(message.get(_UNIONPAY_TOTALS)) >= 30 and duplicates.batch_of(message):
        # UnionPay says it in DE48, in the digit after the totals, and approves in any case.
        flag = _BALANCED if balanced else _OUT_OF_BALANCE
        return {39: _CODE_BALANCED, _UNIONPAY_TOTALS: message.get(_UNIONPAY_TOTALS)[:30] + flag}
    return {
        39: _CODE_BALANCED if balanced else _CODE_OUT_OF_BALANCE,
        66: _BALANCED if balanced else _OUT_OF_BALANCE,
        74: f"{ours.credits:010d}",
        76: f"{ours.debits:010d}",
        86: f"{ours.credits_minor:016d}",
        88: f"{ours.debits_minor:016d}",
    }


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _text(totals: BatchTotals) -> str:
    return f"{totals.debits}/{totals.debits_minor}/{totals.credits}/{totals.credits_minor}"
