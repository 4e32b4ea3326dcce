"""Uploads: each record of a batch upload (0320) is kept, sealed, and held against the batch."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.keys.security_module import SecurityModule
from gateway.store.store import Batch, Compared, Criteria, PutUpload, State, Store, Transaction
from gateway.telemetry.events import Emit, Event
from gateway.transactions import images
from gateway.transactions.duplicates import batch_of
from gateway.transactions.matching import reference
from gateway.transactions.request import Request
from gateway.wire.message import Message

_FOUND_MAX = 8
_HOUR_MS = 3_600_000
_DETAILS = 48  # UnionPay: count 2, and for each card type 2, STAN 6, card number 20, amount 12
_DETAIL_DIGITS = 40
_TAKEN = frozenset((State.ANSWERED, State.DELIVERED, State.ADVICE_OWED, State.ADVISED))


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a terminal says that it did."""

    stan: str
    rrn: str
    amount_minor: int
    card_tokens: tuple[str, ...]  # under each version of the key; empty where it names none


def context_of_upload(terminal_id: str, batch: int, stan: str) -> bytes:
    """Associated data of an upload's sealed record."""
    return b"upload:%s:%d:%s" % (terminal_id.encode(), batch, stan.encode())


class Uploads:
    """Keeps what terminals upload after a batch that was out of balance, and compares it."""

    def __init__(self, *, store: Store, security: SecurityModule, emit: Emit) -> None:
        self._store = store
        self._security = security
        self._emit = emit

    async def take(self, request: Request, open_number: int) -> None:
        """Keep a record, with how it compares; raises StoreError and KeyUnavailable."""
        message = request.message
        terminal_id = message.terminal_id
        batch = await self._batch(terminal_id, open_number)
        compared = Compared.SAME
        for claim in self._claims(message):
            one = await self._compare(terminal_id, batch, claim)
            if one is not Compared.SAME:
                compared = one
                self._emit(
                    Event.UPLOAD_DIFFERS,
                    terminal=terminal_id,
                    batch=batch.number,
                    stan=claim.stan,
                    rrn=claim.rrn,
                    amount=claim.amount_minor,
                    reason=one.value,
                )
        context = context_of_upload(terminal_id, batch.number, message.stan)
        record = self._security.seal(images.pack_upload(message), context=context)
        await self._store.commit(
            PutUpload(
                terminal_id, batch.number, message.stan, request.wall_ms, record, compared=compared
            )
        )

    async def _batch(self, terminal_id: str, open_number: int) -> Batch:
        """The one that was closed out of balance: records are asked for then; else the open one."""
        found = await self._store.batches(terminal_id, 2)
        closed = next((one for one in found if one.closed_ms and not one.balanced), None)
        if closed is not None:
            return closed
        known = next((one for one in found if one.number == open_number), None)
        return known or Batch(terminal_id=terminal_id, number=open_number, opened_ms=0)

    def _claims(self, message: Message) -> list[_Claim]:
        details = message.get(_DETAILS)
        if batch_of(message) and len(details) >= 2 and details.isascii() and details.isdigit():
            starts = range(2, len(details) - _DETAIL_DIGITS + 1, _DETAIL_DIGITS)
            some = [details[at : at + _DETAIL_DIGITS] for at in starts][: int(details[:2])]
            return [_Claim(one[2:8], "", int(one[28:]), ()) for one in some]
        if message.amount_minor is None:
            return []  # the last message of an upload, or one that says nothing
        named = reference(message)
        security, pan = self._security, message.pan
        tokens = (security.card_token(pan), *security.former_card_tokens(pan)) if pan else ()
        stan = named[1] if named is not None else message.stan
        return [_Claim(stan, message.rrn, message.amount_minor, tokens)]

    async def _compare(self, terminal_id: str, batch: Batch, claim: _Claim) -> Compared:
        found: list[Transaction] = []
        if claim.rrn:
            found = await self._store.find_by_rrn(claim.rrn, _FOUND_MAX)
        if not found:
            since_ms = max(0, batch.opened_ms - _HOUR_MS)
            criteria = Criteria(terminal_id=terminal_id, stan=claim.stan, from_ms=since_ms)
            found = await self._store.select(criteria, _FOUND_MAX)
            # What a device before this one sold is counted in its batch, and uploaded with it.
            for former in {name.rpartition("/")[0].ljust(8) for name in batch.carried}:
                criteria = Criteria(terminal_id=former, stan=claim.stan)
                found += await self._store.select(criteria, _FOUND_MAX)
        names = {batch.name, *batch.carried}
        found = [one for one in found if f"{one.terminal_id.rstrip()}/{one.batch}" in names]
        if not found:
            return Compared.UNKNOWN
        same = any(
            one.state in _TAKEN
            and one.amount_minor == claim.amount_minor
            and (not claim.card_tokens or one.card_token in claim.card_tokens)
            for one in found
        )
        return Compared.SAME if same else Compared.DIFFERS
