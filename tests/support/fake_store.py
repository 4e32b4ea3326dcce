"""FakeStore: the whole Store protocol in memory, with switches for failure and delay."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from gateway.errors import StoreError, StoreOverloaded
from gateway.keys.records import KeyPurpose, StoredKey, StoredKeyState
from gateway.store.store import (
    Batch,
    BatchTotals,
    Compared,
    Criteria,
    DestroyKeys,
    Device,
    DeviceEvent,
    EndReversal,
    Forget,
    ForgetKeys,
    FreeKey,
    Incident,
    Leftover,
    MarkDelivered,
    MarkManyDelivered,
    NoteAttempt,
    NoteDevice,
    Operation,
    OwedReversal,
    OweReversal,
    PutBatch,
    PutDevice,
    PutIncident,
    PutKey,
    PutNote,
    PutReplacement,
    PutTombstone,
    PutUpload,
    Replacement,
    Reroute,
    ReserveStans,
    RevokeCertificate,
    RevokedCertificate,
    RewrapKey,
    Sealed,
    SealedStep,
    Settle,
    Spent,
    StanBlock,
    State,
    StoreHealth,
    Tombstone,
    TouchDevice,
    Transaction,
    Trim,
)
from gateway.wire.message import Kind

OPEN_STATES = frozenset(
    (
        State.INTENDED,
        State.TIMED_OUT,
        State.REVERSAL_OWED,
        State.ADVICE_OWED,
        State.GIVEN_UP,
    )
)
APPROVING = frozenset(("00", "08", "10", "11", "16", "A2", "A4", "A5", "A6"))
_TOLD_APPROVED = frozenset((State.ANSWERED, State.DELIVERED, State.ADVICE_OWED, State.ADVISED))
_ADVICES = frozenset((Kind.OFFLINE, Kind.ADJUSTMENT))
_SETTLED = frozenset((State.GIVEN_UP, State.CLOSED, State.BOOKED))
_VOIDS = frozenset((Kind.VOID, Kind.COMPLETION_VOID))
_DEBITS = _ADVICES | {Kind.PURCHASE, Kind.CASH, Kind.CASHBACK, Kind.COMPLETION}


@dataclass
class FakeStore:
    """What was committed is in the public dictionaries; `commits` is every call, in order.

    `failing` makes each coroutine raise StoreError, `commit_s` makes each commit take that long,
    and `fail_after` lets that many more commits and intents through and then fails.
    """

    failing: bool = False
    commit_s: float = 0.0
    fail_after: int | None = None
    queue_max: int = 10_000
    transactions: dict[int, Transaction] = field(default_factory=dict)
    reversals: dict[int, OwedReversal] = field(default_factory=dict)
    devices_by_id: dict[int, Device] = field(default_factory=dict)
    blocks: dict[tuple[str, int], StanBlock] = field(default_factory=dict)
    tombs: dict[str, Tombstone] = field(default_factory=dict)
    batches_by_key: dict[tuple[str, int], Batch] = field(default_factory=dict)
    uploaded: dict[tuple[str, int, str], PutUpload] = field(default_factory=dict)
    noted: dict[str, str] = field(default_factory=dict)
    events_by_id: dict[int, DeviceEvent] = field(default_factory=dict)
    incidents_by_id: dict[int, Incident] = field(default_factory=dict)
    replacements_by_id: dict[int, Replacement] = field(default_factory=dict)
    revoked: dict[str, RevokedCertificate] = field(default_factory=dict)
    kept_keys: dict[tuple[str, KeyPurpose, int], StoredKey] = field(default_factory=dict)
    partly_reversed: dict[int, int] = field(default_factory=dict)
    following: dict[int, int] = field(default_factory=dict)  # what follows -> its original
    rrns: dict[int, str] = field(default_factory=dict)  # as answered
    commits: list[tuple[Operation, ...]] = field(default_factory=list)
    intents: list[Transaction] = field(default_factory=list)
    posted: list[Operation] = field(default_factory=list)
    closed: bool = False

    async def intend(self, transaction: Transaction) -> Transaction | None:
        await self._write()
        known = self._repeat(transaction.repeat_key)
        if known is not None:
            return known
        self.intents.append(transaction)
        # A copy: what the flow changes in its own without saying so is not on disk.
        self.transactions[transaction.transaction_id] = replace(transaction)
        if transaction.original_id:
            self.following[transaction.transaction_id] = transaction.original_id
        return None

    async def commit(self, *operations: Operation) -> None:
        await self._write()
        before = [dict(table) for table in self._tables()]
        try:
            for operation in operations:
                self._apply(operation)
        except StoreError:
            for table, was in zip(self._tables(), before, strict=True):
                table.clear()
                table.update(was)
            raise
        self.commits.append(operations)

    def post(self, operation: Operation) -> None:
        if len(self.posted) >= self.queue_max:
            raise StoreOverloaded("the queue is full")
        self.posted.append(operation)

    async def transaction(self, transaction_id: int) -> Transaction | None:
        await self._read()
        return self.transactions.get(transaction_id)

    async def find_repeat(self, repeat_key: str) -> Transaction | None:
        await self._read()
        return self._repeat(repeat_key)

    async def find_by_key_prefix(self, prefix: str, limit: int) -> list[Transaction]:
        await self._read()
        found = [t for t in self.transactions.values() if t.repeat_key.startswith(prefix)]
        return sorted(found, key=lambda t: -t.transaction_id)[:limit]

    async def find_by_rrn(self, rrn: str, limit: int) -> list[Transaction]:
        await self._read()
        found = [t for t in self.transactions.values() if self.rrns.get(t.transaction_id) == rrn]
        return sorted(found, key=lambda t: -t.transaction_id)[:limit]

    async def follow_ups(self, original_id: int) -> list[Transaction]:
        await self._read()
        return [t for t in self._in_order() if self.following.get(t.transaction_id) == original_id]

    async def select(self, criteria: Criteria, limit: int) -> list[Transaction]:
        await self._read()
        found = [
            t
            for t in self._in_order()
            if _fits(t, criteria)
            and (not criteria.rrn or self.rrns.get(t.transaction_id) == criteria.rrn)
        ]
        return found[::-1][:limit]

    async def undelivered(self, *, since_ms: int, until_ms: int, limit: int) -> list[Transaction]:
        await self._read()
        return [
            t
            for t in self._in_order()
            if t.state is State.ANSWERED
            and not t.delivered_ms
            and t.response_code in APPROVING
            and since_ms <= t.answered_ms < until_ms
        ][:limit]

    async def tombstones(self, since_ms: int) -> list[Tombstone]:
        await self._read()
        found = [t for t in self.tombs.values() if t.created_ms >= since_ms]
        return sorted(found, key=lambda t: (t.created_ms, t.key_prefix))

    async def is_buried(self, key_prefix: str) -> bool:
        await self._read()
        return key_prefix in self.tombs

    async def open_batches(self) -> list[Batch]:
        await self._read()
        return [b for _, b in sorted(self.batches_by_key.items()) if not b.closed_ms]

    async def batches(self, terminal_id: str, limit: int) -> list[Batch]:
        await self._read()
        found = [b for b in self.batches_by_key.values() if b.terminal_id == terminal_id]
        return sorted(found, key=lambda b: -b.number)[:limit]

    async def batch_totals(self, terminal_id: str, number: int) -> BatchTotals:
        await self._read()
        batch = self.batches_by_key.get((terminal_id, number))
        names = [f"{terminal_id.rstrip()}/{number}", *(batch.carried if batch else ())]
        counted = [
            (t.kind, self.partly_reversed.get(t.transaction_id, t.amount_minor))
            for t in self._in_order()
            if f"{t.terminal_id.rstrip()}/{t.batch}" in names and self._counts(t)
        ]
        debits = [amount for kind, amount in counted if kind in _DEBITS]
        refunds = [amount for kind, amount in counted if kind is Kind.REFUND]
        return BatchTotals(len(debits), sum(debits), len(refunds), sum(refunds))

    async def uploads(self, terminal_id: str, batch: int) -> dict[Compared, int]:
        await self._read()
        found = [one for key, one in self.uploaded.items() if key[:2] == (terminal_id, batch)]
        return dict(Counter(one.compared for one in found))

    async def oldest(self, *, after_id: int, until_ms: int, limit: int) -> list[Transaction]:
        await self._read()
        return [
            replace(t, image=b"", answer=b"")
            for t in self._in_order()
            if t.transaction_id > after_id and t.created_ms < until_ms
        ][:limit]

    async def spent(self, *, since_ms: int, after_id: int, limit: int) -> list[Spent]:
        await self._read()
        found = [
            Spent(
                transaction_id=t.transaction_id,
                created_ms=t.created_ms,
                terminal_id=t.terminal_id,
                merchant_id=t.merchant_id,
                kind=t.kind,
                amount_minor=t.amount_minor,
                currency=t.currency,
                card_token=t.card_token,
                original_id=t.original_id,
                upstream=t.upstream,
                state=t.state,
                response_code=t.response_code,
                left_minor=self.partly_reversed.get(t.transaction_id, -1),
            )
            for t in self._in_order()
            if t.transaction_id > after_id and t.created_ms >= since_ms
        ]
        return sorted(found, key=lambda one: one.transaction_id)[:limit]

    async def trimmable(self, what: Leftover, before_ms: int) -> int:
        await self._read()
        return len(self._old(what, before_ms))

    async def unsettled(self, limit: int) -> list[Transaction]:
        await self._read()
        return [t for t in self._in_order() if t.state is State.INTENDED][:limit]

    async def owed_reversals(self) -> list[OwedReversal]:
        await self._read()
        return [r for r in self._reversals_in_order() if not r.given_up]

    async def given_up_reversals(self, limit: int) -> list[OwedReversal]:
        await self._read()
        return [r for r in self._reversals_in_order() if r.given_up][:limit]

    async def owed_reversal(self, transaction_id: int) -> OwedReversal | None:
        await self._read()
        return self.reversals.get(transaction_id)

    async def stan_blocks(self, upstream: str) -> Sequence[StanBlock]:
        await self._read()
        return [block for block in self.blocks.values() if block.upstream == upstream]

    async def sealed_otherwise(
        self, what: Sealed, *, version: int, after_id: int, limit: int
    ) -> SealedStep:
        await self._read()
        return SealedStep([], 0)  # What is kept here is under no key.

    async def sealed_under(self) -> dict[int, int]:
        await self._read()
        return {}

    async def devices(self) -> list[Device]:
        await self._read()
        return list(self.devices_by_id.values())

    async def device_history(
        self, terminal_id: str, limit: int, *, before_id: int = 0
    ) -> list[DeviceEvent]:
        await self._read()
        return [
            one
            for event_id, one in sorted(self.events_by_id.items(), reverse=True)
            if one.terminal_id == terminal_id and (not before_id or event_id < before_id)
        ][:limit]

    async def incidents(self) -> list[Incident]:
        await self._read()
        return [one for _, one in sorted(self.incidents_by_id.items())]

    async def replacements(self) -> list[Replacement]:
        await self._read()
        return [one for _, one in sorted(self.replacements_by_id.items())]

    async def revoked_certificates(self) -> list[RevokedCertificate]:
        await self._read()
        return list(self.revoked.values())

    async def keys(self) -> list[StoredKey]:
        await self._read()
        return [key for _, key in sorted(self.kept_keys.items())]

    async def notes(self, prefix: str) -> dict[str, str]:
        await self._read()
        return {name: text for name, text in self.noted.items() if name.startswith(prefix)}

    async def last_transaction_id(self) -> int:
        await self._read()
        return max(self.transactions, default=0)

    async def count_by_state(self) -> dict[State, int]:
        await self._read()
        counts: dict[State, int] = {}
        for transaction in self.transactions.values():
            if transaction.state in OPEN_STATES:
                counts[transaction.state] = counts.get(transaction.state, 0) + 1
        return counts

    def health(self) -> StoreHealth:
        return StoreHealth(
            kind="fake",
            healthy=not self.failing,
            queue_depth=len(self.posted),
            queue_max=self.queue_max,
            last_error="told to fail" if self.failing else "",
            commits=len(self.commits),
            operations=sum(map(len, self.commits)),
        )

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self._apply_posted()
        self.closed = True

    # --- helpers ----------------------------------------------------------------------------------

    async def _read(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.failing or self.closed:
            raise StoreError("the store was told to fail" if self.failing else "closed")
        self._apply_posted()

    async def _write(self) -> None:
        if self.commit_s:
            await trio.sleep(self.commit_s)
        await self._read()
        if self.fail_after is not None:
            if self.fail_after <= 0:
                raise StoreError("the store was told to fail after some commits")
            self.fail_after -= 1

    def _counts(self, transaction: Transaction) -> bool:
        told = transaction.state in _TOLD_APPROVED or (
            transaction.kind in _ADVICES and transaction.state in _SETTLED
        )
        left = self.partly_reversed.get(transaction.transaction_id, 0)
        return (
            (
                transaction.response_code in APPROVING
                or (
                    not transaction.response_code
                    and transaction.kind in _ADVICES
                    and transaction.state in (State.ADVICE_OWED, State.GIVEN_UP)
                )
            )
            and (told or left > 0)
            and not any(
                void.original_id == transaction.transaction_id
                and void.kind in _VOIDS
                and void.response_code in APPROVING
                and void.state in (State.ANSWERED, State.DELIVERED)
                for void in self.transactions.values()
            )
        )

    def _apply_posted(self) -> None:
        posted, self.posted = self.posted, []
        for operation in posted:
            with contextlib.suppress(StoreError):  # Nobody waits who could be told.
                self._apply(operation)

    def _repeat(self, repeat_key: str) -> Transaction | None:
        return next((t for t in self.transactions.values() if t.repeat_key == repeat_key), None)

    def _in_order(self) -> list[Transaction]:
        return sorted(self.transactions.values(), key=lambda t: t.transaction_id)

    def _reversals_in_order(self) -> list[OwedReversal]:
        return sorted(self.reversals.values(), key=lambda r: (r.created_ms, r.transaction_id))

    def _tables(self) -> tuple[dict[Any, Any], ...]:
        return (
            self.transactions,
            self.reversals,
            self.devices_by_id,
            self.blocks,
            self.tombs,
            self.batches_by_key,
            self.uploaded,
            self.noted,
            self.events_by_id,
            self.incidents_by_id,
            self.replacements_by_id,
            self.revoked,
            self.kept_keys,
            self.partly_reversed,
            self.rrns,
            self.following,
        )

    def _change(self, transaction_id: int, **changes: Any) -> None:
        known = self.transactions.get(transaction_id)
        if known is None:
            raise StoreError("refused by the store: no such transaction")
        self.transactions[transaction_id] = replace(known, **changes)

    def _put_key(self, key: StoredKey) -> None:
        name = key.owner, key.purpose, key.version
        known = self.kept_keys.get(name)
        if known is not None and known.state is StoredKeyState.DESTROYED:
            raise StoreError("refused by the store: the key is destroyed")
        self.kept_keys[name] = key

    def _destroy_keys(self, operation: DestroyKeys) -> None:
        for name, key in self.kept_keys.items():
            if (
                key.owner == operation.owner
                and key.state is not StoredKeyState.DESTROYED
                and (not operation.purposes or key.purpose in operation.purposes)
            ):
                end_ms = min(key.end_ms or operation.at_ms, operation.at_ms)
                self.kept_keys[name] = replace(
                    key, state=StoredKeyState.DESTROYED, wrapped=b"", end_ms=end_ms
                )

    def _rewrap_key(self, operation: RewrapKey) -> None:
        before = operation.before
        name = before.owner, before.purpose, before.version
        key = self.kept_keys.get(name)
        if key is not None and (key.kek, key.wrapped) == (before.kek, before.wrapped):
            self.kept_keys[name] = replace(key, kek=operation.kek, wrapped=operation.wrapped)

    def _forget_keys(self, operation: ForgetKeys) -> None:
        owner, purpose = operation.owner, operation.purpose
        names = [name for name in self.kept_keys if name[:2] == (owner, purpose)]
        highest = max((version for _, _, version in names), default=0)
        for name in names:
            over = self.kept_keys[name].state in (StoredKeyState.EXPIRED, StoredKeyState.DESTROYED)
            if over and name[2] < min(operation.below_version, highest):
                del self.kept_keys[name]

    def _apply(self, operation: Operation) -> None:
        match operation:
            case PutKey():
                self._put_key(operation.key)
            case DestroyKeys():
                self._destroy_keys(operation)
            case RewrapKey():
                self._rewrap_key(operation)
            case ForgetKeys():
                self._forget_keys(operation)
            case Reroute():
                self._change(
                    operation.transaction_id,
                    upstream=operation.upstream,
                    upstream_stan=operation.upstream_stan,
                )
            case Settle():
                kept: dict[str, object] = {"image": b""} if operation.wipe_image else {}
                if operation.rrn:
                    kept["rrn"] = self.rrns[operation.transaction_id] = operation.rrn
                self._change(
                    operation.transaction_id,
                    state=operation.state,
                    response_code=operation.response_code,
                    approval_code=operation.approval_code,
                    answer=operation.answer,
                    answered_ms=operation.answered_ms,
                    **kept,
                )
            case MarkDelivered():
                self._mark(operation.transaction_id, operation.delivered_ms)
            case MarkManyDelivered():
                for transaction_id, delivered_ms in operation.marks:
                    self._mark(transaction_id, delivered_ms)
            case PutDevice():
                self.devices_by_id[operation.device.device_id] = operation.device
            case TouchDevice():
                device = self.devices_by_id.get(operation.device_id)
                if device is not None:
                    self.devices_by_id[operation.device_id] = replace(
                        device, last_seen_ms=operation.last_seen_ms
                    )
            case NoteDevice() | PutIncident() | PutReplacement() | RevokeCertificate():
                self._apply_to_life(operation)
            case ReserveStans():
                block = StanBlock(operation.upstream, operation.first, operation.reserved_ms)
                self.blocks[operation.upstream, operation.first] = block
            case FreeKey():
                known = self.transactions.get(operation.transaction_id)
                key = "" if known is None else f"{known.repeat_key}#{known.transaction_id}"
                self._change(operation.transaction_id, repeat_key=key)
            case PutNote():
                self.noted.pop(operation.name, None)
                if operation.text:
                    self.noted[operation.name] = operation.text
            case PutTombstone():
                self.tombs[operation.tombstone.key_prefix] = operation.tombstone
            case PutBatch():
                batch = operation.batch
                self.batches_by_key[batch.terminal_id, batch.number] = batch
            case PutUpload():
                key = operation.terminal_id, operation.batch, operation.stan
                self.uploaded[key] = operation
            case OweReversal() | NoteAttempt() | EndReversal():
                self._apply_to_reversal(operation)
            case Forget():
                for transaction_id in operation.transaction_ids:
                    self._forget(transaction_id)
            case Trim():
                old = self._old(operation.what, operation.before_ms)
                for entry in old[: operation.rows_max]:
                    del self._leftovers(operation.what)[entry]

    def _apply_to_life(
        self, operation: NoteDevice | PutIncident | PutReplacement | RevokeCertificate
    ) -> None:
        match operation:
            case NoteDevice():
                event_id = max(self.events_by_id, default=0) + 1
                self.events_by_id[event_id] = replace(operation.event, event_id=event_id)
            case PutIncident():
                self.incidents_by_id[operation.incident.incident_id] = operation.incident
            case PutReplacement():
                made = operation.replacement
                self.replacements_by_id[made.replacement_id] = made
            case RevokeCertificate():
                self.revoked[operation.certificate.sha256] = operation.certificate

    def _forget(self, transaction_id: int) -> None:
        known = self.transactions.get(transaction_id)
        if known is not None and (
            known.state in OPEN_STATES
            or transaction_id in self.reversals
            or transaction_id == max(self.transactions)
        ):
            return
        for table in (self.transactions, self.partly_reversed, self.rrns):
            table.pop(transaction_id, None)
        for one in [one for one, of in self.following.items() if of == transaction_id]:
            del self.following[one]

    def _leftovers(self, what: Leftover) -> dict[Any, Any]:
        match what:
            case Leftover.TOMBSTONES:
                return self.tombs
            case Leftover.UPLOADS:
                return self.uploaded
            case Leftover.BATCHES:
                return self.batches_by_key
            case Leftover.DEVICE_HISTORY:
                return self.events_by_id

    def _old(self, what: Leftover, before_ms: int) -> list[Any]:
        """Keys of what can be trimmed, the oldest first."""

        def age(key: Any, one: Any) -> int:
            match one:
                case Tombstone():
                    return one.created_ms
                case PutUpload():
                    batch = self.batches_by_key.get(key[:2])
                    return before_ms if batch and not batch.closed_ms else one.received_ms
                case DeviceEvent():
                    known = self.incidents_by_id.values()
                    open_of = {of.terminal_id for of in known if not of.closed_ms}
                    return before_ms if one.terminal_id in open_of else one.at_ms
                case _:
                    return one.closed_ms or before_ms

        ages = {key: age(key, one) for key, one in self._leftovers(what).items()}
        return sorted((key for key in ages if ages[key] < before_ms), key=lambda key: ages[key])

    def _mark(self, transaction_id: int, delivered_ms: int) -> None:
        known = self.transactions.get(transaction_id)
        if known is not None and known.state is not State.INTENDED:
            state = State.DELIVERED if known.state is State.ANSWERED else known.state
            self._change(transaction_id, delivered_ms=delivered_ms, state=state)

    def _apply_to_reversal(self, operation: OweReversal | NoteAttempt | EndReversal) -> None:
        transaction_id = operation.transaction_id
        needed = isinstance(operation, NoteAttempt) or operation.state is State.GIVEN_UP
        if needed and transaction_id not in self.reversals:
            raise StoreError("no such reversal")
        match operation:
            case OweReversal():
                known = self.reversals.get(transaction_id)
                if known is None:
                    known = OwedReversal(
                        transaction_id=transaction_id,
                        upstream=operation.upstream,
                        upstream_stan=0,
                        reason=operation.reason,
                        created_ms=operation.created_ms,
                        advice=operation.advice,
                        amount_minor=operation.amount_minor,
                    )
                elif known.given_up:
                    known = replace(known, given_up=False, attempts=0, next_attempt_ms=0)
                self.reversals[transaction_id] = known
                self.partly_reversed.pop(transaction_id, None)
                if known.amount_minor >= 0:
                    self.partly_reversed[transaction_id] = known.amount_minor
                told = (
                    {"response_code": operation.response_code, "answer": operation.answer}
                    if operation.response_code
                    else {}
                )
                self._change(
                    transaction_id,
                    state=operation.state,
                    left_minor=max(known.amount_minor, -1),
                    **told,
                )
            case NoteAttempt():
                self.reversals[transaction_id] = replace(
                    self._reversal(transaction_id),
                    upstream_stan=operation.upstream_stan,
                    attempts=operation.attempts,
                    next_attempt_ms=operation.next_attempt_ms,
                )
            case EndReversal():
                if operation.state is State.GIVEN_UP:
                    owed = self._reversal(transaction_id)
                    self.reversals[transaction_id] = replace(owed, given_up=True)
                    self._change(transaction_id, state=operation.state)
                    return
                # Ended twice is ended; of an intent there is nothing to end.
                known_one = self.transactions.get(transaction_id)
                if known_one is None or known_one.state is State.INTENDED:
                    raise StoreError("refused by the store: no such reversal")
                self.reversals.pop(transaction_id, None)
                left = self.partly_reversed.get(transaction_id, 0)
                rest = operation.state is State.REVERSED and left > 0
                image = known_one.image if rest else b""
                self._change(transaction_id, state=operation.state, image=image)

    def _reversal(self, transaction_id: int) -> OwedReversal:
        if transaction_id not in self.reversals:
            raise StoreError("refused by the store: no such reversal")
        return self.reversals[transaction_id]


def _fits(transaction: Transaction, criteria: Criteria) -> bool:
    """Whether a transaction is one of those looked for."""
    c, t = criteria, transaction
    return (
        (not c.terminal_id or t.terminal_id == c.terminal_id)
        and (not c.stan or t.stan == c.stan)
        and t.created_ms >= c.from_ms
        and (not c.until_ms or t.created_ms < c.until_ms)
        and (c.amount_minor < 0 or t.amount_minor == c.amount_minor)
        and t.card_masked.endswith(c.last_four)
        and (c.state is None or t.state is c.state)
        and (not c.upstream or t.upstream == c.upstream)
        and (not c.before_id or t.transaction_id < c.before_id)
    )
