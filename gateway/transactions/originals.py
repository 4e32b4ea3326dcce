"""Which transaction a reversal, void, completion or refund is about, and what it may do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager

import trio

from gateway.policy.response_codes import Reason, may_be_approved
from gateway.settings.schema import Upstream as UpstreamSettings
from gateway.store.store import (
    PutTombstone,
    State,
    Store,
    Tombstone,
    Transaction,
)
from gateway.transactions import duplicates
from gateway.transactions.request import Request
from gateway.wire.message import APPROVAL_CODE, ORIGINAL_DATA, Kind, Message

FOLLOWING_KINDS = frozenset(
    (
        Kind.VOID,
        Kind.PREAUTHORISATION_VOID,
        Kind.COMPLETION,
        Kind.COMPLETION_VOID,
        Kind.ADJUSTMENT,
        Kind.REFUND,
    )
)
VOIDS = frozenset((Kind.VOID, Kind.PREAUTHORISATION_VOID, Kind.COMPLETION_VOID))
_ORIGINAL_KINDS = {
    Kind.VOID: frozenset((Kind.PURCHASE, Kind.CASH, Kind.CASHBACK)),
    Kind.PREAUTHORISATION_VOID: frozenset((Kind.PREAUTHORISATION,)),
    Kind.COMPLETION: frozenset((Kind.PREAUTHORISATION,)),
    Kind.COMPLETION_VOID: frozenset((Kind.COMPLETION,)),
    Kind.ADJUSTMENT: frozenset((Kind.PURCHASE, Kind.CASH, Kind.CASHBACK, Kind.OFFLINE)),
    Kind.REFUND: frozenset((Kind.PURCHASE, Kind.CASHBACK, Kind.COMPLETION, Kind.OFFLINE)),
}
_APPROVED = (State.ANSWERED, State.DELIVERED)
# A follow-up that may have moved money, or still may.
_IN_FORCE = (
    State.INTENDED,
    State.SENT,
    State.TIMED_OUT,
    State.ADVICE_OWED,
    State.ADVISED,
    State.REVERSAL_OWED,
    State.GIVEN_UP,
)
_FOUND_MAX = 8
_UNIONPAY_ORIGINAL = 61  # original batch 6, original STAN 6, original date 4

Approving = Callable[[str], Collection[str]]


class Originals:
    """Finds originals in the store, and keeps what was reversed before it came."""

    def __init__(
        self, *, store: Store, approving: Approving, window_days: int, tombstones_max: int
    ) -> None:
        self._store = store
        self._approving = approving
        self._window_days = window_days
        self._tombstones_max = tombstones_max
        self._tombstones: dict[str, int] = {}
        self._locks: dict[int, tuple[trio.Lock, int]] = {}

    async def restore(self, now_ms: int) -> None:
        """Take over the tombstones of earlier runs that can still matter."""
        since_ms = now_ms - (self._window_days + 1) * 86_400_000
        for tombstone in await self._store.tombstones(since_ms):
            self._tombstones[tombstone.key_prefix] = tombstone.created_ms

    # --- tombstones -----------------------------------------------------------------------

    def is_buried(self, repeat_key: str, activation: int) -> bool:
        """Whether a reversal came for the request with this key before the request itself."""
        if not self._tombstones:
            return False
        period, terminal_id, stan = repeat_key.split("/", 3)[:3]
        return grave(f"{period}/{terminal_id}/{stan}/", activation) in self._tombstones

    def bury(self, prefixes: Iterable[str], activation: int, now_ms: int) -> list[str]:
        """Refuse from now on what comes with these keys; returns those that were not refused yet.

        In memory at once, so that an original that comes in this very moment is refused too.
        """
        graves = [grave(prefix, activation) for prefix in prefixes]
        new = [one for one in graves if one not in self._tombstones]
        for one in new:
            self._tombstones[one] = now_ms
        while len(self._tombstones) > self._tombstones_max:
            del self._tombstones[next(iter(self._tombstones))]
        return new

    def unbury(self, graves: Iterable[str]) -> None:
        for one in graves:
            self._tombstones.pop(one, None)

    async def keep_tombstones(self, graves: Iterable[str], now_ms: int) -> None:
        """Make tombstones durable; raises StoreError."""
        operations = [PutTombstone(Tombstone(one, now_ms)) for one in graves]
        if operations:
            await self._store.commit(*operations)

    # --- finding --------------------------------------------------------------------------

    def prefixes_of(self, request: Request) -> list[str]:
        """What the repeat keys of a reversal's original may start with, the likeliest first.

        DE90 names the original's STAN (ISO 8583:1987), DE61 its batch and STAN (UnionPay); without
        either the reversal bears the original's own DE11. DE13 is the original's date or today's.
        """
        message = request.message
        terminal_id = message.terminal_id
        batch, stan = _reference(message)
        found = []
        if not batch:
            batch = duplicates.batch_of(message)
        if batch:
            found.append(duplicates.key_prefix(terminal_id=terminal_id, stan=stan, batch=batch))
        days = [duplicates.day_of(message, request.wall_ms)]
        days += duplicates.days_before(request.wall_ms, count=1)
        found += [
            duplicates.key_prefix(terminal_id=terminal_id, stan=stan, day=day)
            for day in dict.fromkeys(days)
        ]
        return found

    async def find_by_prefix(self, prefixes: Iterable[str], activation: int) -> Transaction | None:
        """The newest transaction whose key starts so; a device before this one has none here."""
        for prefix in prefixes:
            for found in await self._store.find_by_key_prefix(prefix, _FOUND_MAX):
                if found.activation == activation and found.kind is not Kind.SETTLEMENT:
                    return found
        return None

    async def find_followed(self, request: Request) -> Transaction | None:
        """What a void, completion or refund follows, by DE90, DE61, or DE37 and DE38."""
        message, kinds = request.message, _ORIGINAL_KINDS[request.kind]
        if refers(message):
            _, stan = _reference(message)
            days = duplicates.days_before(request.wall_ms, count=self._window_days)
            prefixes = self.prefixes_of(request)
            prefixes += [
                duplicates.key_prefix(terminal_id=message.terminal_id, stan=stan, day=day)
                for day in days
            ]
            for prefix in dict.fromkeys(prefixes):
                for found in await self._store.find_by_key_prefix(prefix, _FOUND_MAX):
                    if found.kind in kinds and found.activation == request.device.activation:
                        return found
        if message.rrn:
            approval_code = message.get(APPROVAL_CODE)
            for found in await self._store.find_by_rrn(message.rrn, _FOUND_MAX):
                if (
                    found.kind in kinds
                    and found.merchant_id == message.merchant_id
                    and (not approval_code or found.approval_code == approval_code)
                ):
                    return found
        return None

    async def fresh(self, transaction: Transaction) -> Transaction:
        """The transaction as it stands now."""
        return await self._store.transaction(transaction.transaction_id) or transaction

    # --- bounds ---------------------------------------------------------------------------

    @asynccontextmanager
    async def held(self, original_id: int) -> AsyncIterator[None]:
        """One follow-up or reversal of an original at a time: no two find it untouched."""
        lock, users = self._locks.get(original_id, (trio.Lock(), 0))
        self._locks[original_id] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[original_id]
            if users > 1:
                self._locks[original_id] = (lock, users - 1)
            else:
                del self._locks[original_id]

    def stands(self, transaction: Transaction) -> bool:
        """Whether it is approved, or may be, and nothing undoes it."""
        return transaction.state in _APPROVED and self.may_be_approved(
            transaction.upstream, transaction.response_code
        )

    def may_be_approved(self, upstream: str, code: str) -> bool:
        """Whether this code of this upstream approves, or may."""
        return may_be_approved(code, self._approving(upstream))

    async def is_voided(self, transaction: Transaction) -> bool:
        """Whether a void of it stands: then its money has gone back already."""
        return any(
            one.kind in VOIDS and self.stands(one)
            for one in await self._store.follow_ups(transaction.transaction_id)
        )

    async def refusal(self, draft: Transaction, original: Transaction) -> Reason | None:
        """Why a follow-up of this original is refused: at most one void, one completion, refunds up
        to its amount; None where it may go on."""
        if not (self.stands(original) or original.state in (State.ADVISED, State.ADVICE_OWED)):
            return Reason.ORIGINAL_NOT_FOUND  # declined, reversed, or a reversal of it is owed
        before = [
            one
            for one in await self._store.follow_ups(original.transaction_id)
            if one.transaction_id != draft.transaction_id
            and (one.state in _IN_FORCE or self.stands(one))
        ]
        kind = draft.kind
        if any(one.kind in VOIDS for one in before):
            return Reason.ORIGINAL_NOT_FOUND  # voided: there is nothing left to follow
        if kind in VOIDS:
            return self._refusal_of_void(draft, original, before)
        if kind is Kind.COMPLETION and any(one.kind is Kind.COMPLETION for one in before):
            return Reason.INVALID_TRANSACTION
        if kind is Kind.REFUND:
            refunds = [one for one in before if one.kind is Kind.REFUND]
            if any(one.state is State.GIVEN_UP for one in refunds):
                return Reason.INVALID_TRANSACTION  # one is in doubt: an operator settles it first
            taken_minor = sum(one.amount_minor for one in refunds)
            if taken_minor + draft.amount_minor > original.amount_minor:
                return Reason.INVALID_AMOUNT
        return None

    @staticmethod
    def _refusal_of_void(
        draft: Transaction, original: Transaction, before: list[Transaction]
    ) -> Reason | None:
        """A void comes from the same terminal, in the same batch, for the full amount."""
        if draft.terminal_id != original.terminal_id or draft.batch != original.batch:
            return Reason.ORIGINAL_NOT_FOUND
        if draft.amount_minor != original.amount_minor:
            return Reason.INVALID_AMOUNT
        if any(one.kind in (Kind.REFUND, Kind.COMPLETION) for one in before):
            return Reason.INVALID_TRANSACTION
        return None


def grave(key_prefix: str, activation: int) -> str:
    """The name of a tombstone: a device bound later starts its STANs anew and meets none."""
    return f"{key_prefix}#{activation}"


def refers(message: Message) -> bool:
    """Whether a message names its original by DE90 or DE61."""
    return bool(message.get(ORIGINAL_DATA)) or len(message.get(_UNIONPAY_ORIGINAL)) >= 12


def _reference(message: Message) -> tuple[str, str]:
    """Batch (where it is named) and STAN of the original that a message is about."""
    original_data = message.get(ORIGINAL_DATA)
    if len(original_data) >= 10:
        return "", original_data[4:10]
    unionpay = message.get(_UNIONPAY_ORIGINAL)
    if len(unionpay) >= 12 and unionpay[:12].isdigit():
        return unionpay[:6], unionpay[6:12]
    return "", message.stan


def issues_rrn(transaction: Transaction, message: Message, settings: UpstreamSettings) -> bool:
    """Whether a request gets an RRN of ours: not where its RRN is what names its original."""
    named_by_rrn = transaction.original_id and not refers(message)
    return settings.rrn == "issue" and not named_by_rrn


def pointing_upstream(message: Message, original: Transaction, sent: Message | None) -> Message:
    """A follow-up whose DE90 and DE61 name the original as its upstream knows it."""
    changes: dict[int, str] = {}
    stan = f"{original.upstream_stan:06d}"
    if message.get(ORIGINAL_DATA):
        transmitted = sent.get(7) if sent is not None else ""
        acquirer, forwarder = (sent.get(32), sent.get(33)) if sent is not None else ("", "")
        changes[ORIGINAL_DATA] = (
            f"{original.mti[:3]}0{stan}{transmitted:0>10}{acquirer:0>11}{forwarder:0>11}"
        )
    unionpay = message.get(_UNIONPAY_ORIGINAL)
    if len(unionpay) >= 12 and unionpay[:12].isdigit():
        changes[_UNIONPAY_ORIGINAL] = unionpay[:6] + stan + unionpay[12:]
    return message.changed(changes) if changes else message
