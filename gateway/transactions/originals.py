"""Which transaction a reversal, void, completion or refund is about, and what it may do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

import trio

from gateway.policy.response_codes import Reason, may_be_approved
from gateway.settings.schema_upstreams import Upstream as UpstreamSettings
from gateway.store.store import Device, State, Store, Transaction
from gateway.transactions import duplicates, replies
from gateway.transactions.gaps import Gaps
from gateway.transactions.graves import Graves
from gateway.transactions.matching import Description, Fit, reference
from gateway.transactions.replies import Naming
from gateway.transactions.request import Request
from gateway.wire.message import (
    APPROVAL_CODE,
    ORIGINAL_DATA,
    STAN,
    TERMINAL_ID,
    VOID_KINDS,
    Kind,
    Message,
)

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
    State.BOOKED,
)
_FOUND_MAX = 8
_JUST_SENT_MS = 3_600_000
_UNIONPAY_ORIGINAL = 61  # original batch 6, original STAN 6, original date 4

Approving = Callable[[str], Collection[str]]
SameBatch = Callable[[Transaction, str, int], bool]


class Originals:
    """Finds originals in the store; `graves` keeps what was reversed before it came."""

    def __init__(
        self,
        *,
        store: Store,
        approving: Approving,
        window_days: int,
        tombstones_max: int,
        gaps: Gaps | None = None,
        same_batch: SameBatch | None = None,
    ) -> None:
        """`gaps`: what is not found may be of the time between a backup and its restore.

        `same_batch` says whether a transaction is of a terminal's batch, as far as voids go.
        """
        self._store = store
        self._same_batch = same_batch or _of_batch
        self.gaps = gaps
        self._approving = approving
        self._window_days = window_days
        self.graves = Graves(store=store, count_max=tombstones_max, keep_days=window_days + 1)
        self._locks: dict[int, tuple[trio.Lock, int]] = {}

    # --- finding --------------------------------------------------------------------------

    def prefixes_of(self, request: Request, *, days: int = 1, terminal_id: str = "") -> list[str]:
        """What the repeat keys of an original may start with, the likeliest first.

        DE90 names the original's STAN (ISO 8583:1987), DE61 its batch and STAN (UnionPay); without
        either a reversal bears the original's own DE11. DE13 is the original's date or today's.
        `days` is how many days ago it may have been at most; `terminal_id` is the original's, if
        not the request's own.
        """
        message = request.message
        terminal_id = terminal_id or message.terminal_id
        batch, stan = reference(message) or ("", message.stan)
        batch = batch or duplicates.batch_of(message)
        likely = [duplicates.day_of(message, request.wall_ms)]
        likely += duplicates.days_before(request.wall_ms, count=days)
        found = [
            duplicates.key_prefix(terminal_id=terminal_id, stan=stan, day=day)
            for day in dict.fromkeys(likely)
        ]
        if batch:
            found.insert(0, duplicates.key_prefix(terminal_id=terminal_id, stan=stan, batch=batch))
        return found

    async def find_reversed(
        self, request: Request, prefixes: Sequence[str], description: Description
    ) -> Transaction | None:
        """What a reversal is about, by `prefixes` or what a device before this one sent.

        On another day than DE13 names it is what DE90 names to the second or, where DE90 names no
        time, what was just sent. A device before this one sent it only if the time says so too:
        STANs begin again with each, and what never came is not another's approval.
        """
        device = request.device
        best, best_fit = await self._reversed(request, prefixes, description, device.activation)
        for terminal_id, activation in reversed(device.inherits):
            if best_fit is Fit.SURELY:
                break
            former = self.prefixes_of(request, terminal_id=terminal_id)
            found, fit = await self._reversed(request, former, description, activation)
            if fit >= Fit.PROBABLY and fit > best_fit:
                best, best_fit = found, fit
        return best

    async def _reversed(
        self,
        request: Request,
        prefixes: Sequence[str],
        description: Description,
        activation: int,
    ) -> tuple[Transaction | None, Fit]:
        own_day = duplicates.day_of(request.message, request.wall_ms)
        best, best_fit = None, Fit.NOT
        for prefix in prefixes:
            own = prefix.startswith(("B", f"D{own_day}"))
            for found in await self._store.find_by_key_prefix(prefix, _FOUND_MAX):
                if found.activation != activation or found.kind is Kind.SETTLEMENT:
                    continue
                fit = description.fit(found)
                just_sent = request.wall_ms - found.created_ms < _JUST_SENT_MS
                if not own and not (fit is Fit.SURELY or (fit >= Fit.MAYBE and just_sent)):
                    continue
                if fit > best_fit:
                    best, best_fit = found, fit
            if best_fit is Fit.SURELY:
                break
        return best, best_fit

    async def find_followed(self, request: Request, description: Description) -> Transaction | None:
        """What a void, completion or refund follows, by DE90, DE61, or DE37 and DE38.

        Of transactions with the same STAN it is the device's own, unless one of a device that it
        replaced fits better.
        """
        message, kinds = request.message, _ORIGINAL_KINDS[request.kind]
        if refers(message):
            device = request.device
            best, best_fit = await self._named(
                request, description, (device.terminal_id, device.activation)
            )
            for former in reversed(device.inherits):
                if best_fit is Fit.SURELY:
                    break
                found_one, fit = await self._named(request, description, former)
                if fit > best_fit:
                    best, best_fit = found_one, fit
            if best is not None:
                return best
        if message.rrn:
            approval_code = message.get(APPROVAL_CODE)
            for found in await self._store.find_by_rrn(message.rrn, _FOUND_MAX):
                if (
                    found.kind in kinds
                    and found.merchant_id == message.merchant_id
                    and (not approval_code or found.approval_code == approval_code)
                    and description.fit(found) is not Fit.NOT
                ):
                    return found
        return None

    async def _named(
        self, request: Request, description: Description, of: tuple[str, int]
    ) -> tuple[Transaction | None, Fit]:
        """What a follow-up names among the transactions of a terminal id and activation."""
        terminal_id, activation = of
        kinds = _ORIGINAL_KINDS[request.kind]
        best, best_fit = None, Fit.HARDLY
        prefixes = self.prefixes_of(request, days=self._window_days, terminal_id=terminal_id)
        for prefix in prefixes:
            for found in await self._store.find_by_key_prefix(prefix, _FOUND_MAX):
                if found.kind in kinds and found.activation == activation:
                    fit = description.fit(found)
                    if fit > best_fit:
                        best, best_fit = found, fit
            if best_fit is Fit.SURELY or (best is not None and not description.names_second):
                break
        return best, best_fit

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

    async def standing_on(self, original: Transaction) -> list[Transaction]:
        """What followed this transaction and is approved."""
        followed = await self._store.follow_ups(original.transaction_id)
        return [one for one in followed if self.stands(one)]

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
        if any(one.kind in VOID_KINDS for one in before):
            return Reason.ORIGINAL_NOT_FOUND  # voided: there is nothing left to follow
        if kind in VOID_KINDS:
            return self._refusal_of_void(draft, original, before)
        if kind is Kind.COMPLETION and any(one.kind is Kind.COMPLETION for one in before):
            return Reason.INVALID_TRANSACTION
        if kind is Kind.REFUND:
            refunds = [one for one in before if one.kind is Kind.REFUND]
            # One is in doubt: an operator settles it first. (An intent is not under way any more:
            # its doubt is not written yet.)
            if any(one.state in (State.GIVEN_UP, State.INTENDED) for one in refunds):
                return Reason.INVALID_TRANSACTION
            taken_minor = sum(one.amount_minor for one in refunds)
            if taken_minor + draft.amount_minor > original.amount_minor:
                return Reason.INVALID_AMOUNT
        return None

    def _refusal_of_void(
        self, draft: Transaction, original: Transaction, before: list[Transaction]
    ) -> Reason | None:
        """A void comes from the same terminal, or the one that replaced it, in the same batch, for
        the full amount."""
        if not self._same_batch(original, draft.terminal_id, draft.batch):
            return Reason.ORIGINAL_NOT_FOUND
        if draft.amount_minor != original.amount_minor:
            return Reason.INVALID_AMOUNT
        if any(one.kind in (Kind.REFUND, Kind.COMPLETION) for one in before):
            return Reason.INVALID_TRANSACTION
        return None


def _of_batch(transaction: Transaction, terminal_id: str, number: int) -> bool:
    return (transaction.terminal_id, transaction.batch) == (terminal_id, number)


def refers(message: Message) -> bool:
    """Whether a message names its original by DE90 or DE61."""
    return reference(message) is not None


def issues_rrn(transaction: Transaction, message: Message, settings: UpstreamSettings) -> bool:
    """Whether a request gets an RRN of ours: not where its RRN is what names its original."""
    named_by_rrn = transaction.original_id and not refers(message)
    return settings.rrn == "issue" and not named_by_rrn


def pointing_upstream(
    message: Message,
    original: Transaction,
    sent: Message | None,
    device: Device,
    *,
    named_by: Naming | None = None,
) -> dict[int, str | None]:
    """The fields by which a follow-up names its original as the original's upstream knows it.

    `sent` is the original as that upstream got it, if that is known; `named_by` says in which
    element it wants the reference, and is None where the terminal uses the same one.

    From a `device` with an id of its own that replaced the original's it goes under that one's
    terminal id: under another the upstream would find nothing.
    """
    changes: dict[int, str | None] = {}
    if message.terminal_id != original.terminal_id and any(
        terminal_id == original.terminal_id for terminal_id, _ in device.inherits
    ):
        changes[TERMINAL_ID] = original.terminal_id
    stan = f"{original.upstream_stan:06d}"
    if sent is None:
        sent = Message(original.mti, {})
    if named_by is not None:
        if refers(message):
            known = sent.changed({STAN: stan}, mti=sent.mti[:3] + "0")
            number, name = replies.naming(known, named_by, made_ms=original.created_ms)
            changes |= dict.fromkeys((ORIGINAL_DATA, 56, _UNIONPAY_ORIGINAL))
            changes[number] = name
        return changes
    if message.get(ORIGINAL_DATA):
        changes[ORIGINAL_DATA] = (
            f"{sent.mti[:3]}0{stan}{sent.get(7):0>10}{sent.get(32):0>11}{sent.get(33):0>11}"
        )
    unionpay = message.get(_UNIONPAY_ORIGINAL)
    if len(unionpay) >= 12 and unionpay[:12].isdigit():
        changes[_UNIONPAY_ORIGINAL] = unionpay[:6] + stan + unionpay[12:]
    return changes
