"""What must survive: the records, the operations on them, and the Protocol the rest sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from gateway.keys.records import KeyPurpose, StoredKey
from gateway.store.devices import Device as Device
from gateway.store.devices import DeviceEvent as DeviceEvent
from gateway.store.devices import DeviceState as DeviceState
from gateway.store.devices import Incident as Incident
from gateway.store.devices import NoteDevice as NoteDevice
from gateway.store.devices import PutDevice as PutDevice
from gateway.store.devices import PutIncident as PutIncident
from gateway.store.devices import PutReplacement as PutReplacement
from gateway.store.devices import Replacement as Replacement
from gateway.store.devices import RevokeCertificate as RevokeCertificate
from gateway.store.devices import RevokedCertificate as RevokedCertificate
from gateway.store.devices import TouchDevice as TouchDevice
from gateway.wire.message import Kind


class State(StrEnum):
    """Where a transaction stands; the legal moves are the table in transactions/states.py."""

    INTENDED = "intended"
    SENT = "sent"  # known to this process only: on disk it is an intent until its outcome
    NOTHING_SENT = "nothing_sent"
    ANSWERED = "answered"
    DELIVERED = "delivered"
    TIMED_OUT = "timed_out"  # in doubt, until what is owed for it is on disk
    REVERSAL_OWED = "reversal_owed"
    REVERSED = "reversed"
    ADVICE_OWED = "advice_owed"
    ADVISED = "advised"
    BOOKED = "booked"  # it was in doubt, and an operator knows that the acquirer has it
    GIVEN_UP = "given_up"
    CLOSED = "closed"


class Compared(StrEnum):
    """How a record of a batch upload compares with what the store has."""

    SAME = "same"
    DIFFERS = "differs"  # another amount or card, or it was declined or undone
    UNKNOWN = "unknown"  # nothing like it is in the batch


class Sealed(StrEnum):
    """The columns whose values are sealed under a key of the gateway's own."""

    IMAGES = "images"  # what a reversal or an advice needs of a request
    ANSWERS = "answers"
    UPLOADS = "uploads"  # records of batch uploads


# --- records -----------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Transaction:
    """One request of a terminal and what became of it; a row of `transactions`.

    Not frozen: the flow fills in the route once it is known, and a copy would cost every payment.
    """

    transaction_id: int
    repeat_key: str
    content: str  # keyed hash of what must be equal in a true repeat
    created_ms: int
    terminal_id: str
    merchant_id: str
    activation: int
    kind: Kind
    mti: str
    stan: str
    rrn: str
    amount_minor: int
    currency: str
    card_masked: str  # at most first six and last four
    card_token: str  # keyed HMAC of the card number
    upstream: str
    upstream_stan: int
    config_version: str
    image: bytes  # sealed: what a reversal or an advice needs of the request; b"" once wiped
    original_id: int = 0  # of a void, completion, adjustment or refund: what it follows
    batch: int = 0  # the terminal's batch it belongs to, counted by the gateway
    left_minor: int = -1  # what a partial reversal leaves; -1: there is none
    state: State = State.INTENDED
    response_code: str = ""
    approval_code: str = ""
    answer: bytes = b""  # sealed: the response the terminal got
    answered_ms: int = 0
    delivered_ms: int = 0
    # Under former versions of their keys; not kept: a record stands under those of its time.
    former_card_tokens: tuple[str, ...] = ()
    former_contents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedReversal:
    """A reversal that an upstream has not acknowledged yet; a row of `reversals`.

    `advice`: not a reversal but the advice itself is owed, under its own upstream STAN.
    """

    transaction_id: int
    upstream: str
    upstream_stan: int  # STAN of the reversal itself, 0 until the first attempt
    reason: str  # DE39 of the reversal
    created_ms: int
    attempts: int = 0
    next_attempt_ms: int = 0
    given_up: bool = False
    advice: bool = False
    amount_minor: int = -1  # what is left after a partial reversal (DE95); -1: it is a full one


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A reversal whose original was never seen: should that come later, it is refused."""

    key_prefix: str  # of the original's repeat key
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A terminal's batch; the one without an end is open."""

    terminal_id: str
    number: int  # counted by the gateway from 1
    opened_ms: int
    closed_ms: int = 0
    debits: int = 0  # approved and not reversed at the close
    debits_minor: int = 0
    credits: int = 0
    credits_minor: int = 0
    balanced: bool = True
    reported: str = ""  # the terminal's own totals, as it sent them
    # Batches of devices that this one replaced, counted in it: TERMINAL/NUMBER, tabs between.
    carries: str = ""

    @property
    def name(self) -> str:
        """What `carries` calls it."""
        return f"{self.terminal_id.rstrip()}/{self.number}"

    @property
    def carried(self) -> tuple[str, ...]:
        """The names of the batches that are counted in it."""
        return tuple(self.carries.split("\t")) if self.carries else ()


@dataclass(frozen=True, slots=True)
class Spent:
    """As much of a transaction as limits are counted by."""

    transaction_id: int
    created_ms: int
    terminal_id: str
    merchant_id: str
    kind: Kind
    amount_minor: int
    currency: str
    card_token: str
    original_id: int
    upstream: str
    state: State
    response_code: str
    left_minor: int  # after a partial reversal; -1: there was none


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """What a terminal's approved and not reversed transactions of a batch come to."""

    debits: int
    debits_minor: int
    credits: int
    credits_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedValue:
    """A sealed value, and what it is bound to: a transaction's id, or an upload's terminal, batch
    and STAN."""

    row_id: int
    value: bytes
    terminal_id: str = ""
    batch: int = 0
    stan: str = ""


@dataclass(frozen=True, slots=True)
class SealedStep:
    """The values of so many rows that are under another key than the newest."""

    values: list[SealedValue]
    last_id: int  # of the rows looked at; 0: there were none


@dataclass(frozen=True, slots=True)
class StanBlock:
    """A run of upstream STANs reserved at one moment; a row of `stan_blocks`."""

    upstream: str
    first: int
    reserved_ms: int


# --- operations --------------------------------------------------------------------------------
# Each is one change. Those given to one call of `commit` become durable together or not at all.


@dataclass(frozen=True, slots=True)
class Reroute:
    """The intent moves to another upstream; nothing left for the one before."""

    transaction_id: int
    upstream: str
    upstream_stan: int


@dataclass(slots=True)
class Settle:
    """The outcome is known: what was answered, and whether the sealed request can be wiped.

    Not frozen: that makes one ten times as dear, and each payment makes one.
    """

    transaction_id: int
    state: State
    response_code: str
    approval_code: str
    answer: bytes
    answered_ms: int
    wipe_image: bool
    rrn: str = ""  # as answered; voids and refunds find their original by it


@dataclass(frozen=True, slots=True)
class MarkDelivered:
    """The answer was handed to the terminal's connection.

    ANSWERED becomes DELIVERED, any other outcome stays what it is; an intent has nothing to mark.
    """

    transaction_id: int
    delivered_ms: int


@dataclass(frozen=True, slots=True)
class MarkManyDelivered:
    """As MarkDelivered, for many: pairs of transaction_id and delivered_ms."""

    marks: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class OweReversal:
    """The transaction is in doubt or was undone: its reversal is owed to its upstream.

    One that is owed already goes on as it is; one that was given up starts anew.
    """

    transaction_id: int
    upstream: str
    reason: str
    created_ms: int
    response_code: str = ""  # what the terminal is told; "" leaves what is there
    answer: bytes = b""
    state: State = State.REVERSAL_OWED
    advice: bool = False
    amount_minor: int = -1  # as in OwedReversal; like `advice` it stays what it is in one given up


@dataclass(frozen=True, slots=True)
class NoteAttempt:
    """A reversal is about to be sent (again)."""

    transaction_id: int
    upstream_stan: int
    attempts: int
    next_attempt_ms: int


@dataclass(frozen=True, slots=True)
class EndReversal:
    """The reversal needs no more sending: acknowledged (REVERSED, ADVISED), settled by an operator
    (CLOSED, BOOKED), or handed on to one (GIVEN_UP).

    Acknowledged, it is owed no more, and the sealed request is wiped, unless part of the amount is
    left that may be reversed yet. An operator still needs both.
    """

    transaction_id: int
    state: State


@dataclass(frozen=True, slots=True)
class PutTombstone:
    """A reversal came whose original is not known."""

    tombstone: Tombstone


@dataclass(frozen=True, slots=True)
class PutBatch:
    """A batch is opened, or closed with its totals."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class PutUpload:
    """One record of a batch upload (0320), sealed, and how it compares."""

    terminal_id: str
    batch: int
    stan: str
    received_ms: int
    record: bytes
    compared: Compared = Compared.SAME


@dataclass(frozen=True, slots=True)
class ReserveStans:
    """STANs from `first` on may be issued from now on; durable before one of them is."""

    upstream: str
    first: int
    reserved_ms: int


@dataclass(frozen=True, slots=True)
class Reseal:
    """A sealed value is replaced by the same under another key, unless it has changed meanwhile."""

    what: Sealed
    row_id: int
    old: bytes
    new: bytes


@dataclass(frozen=True, slots=True)
class FreeKey:
    """A transaction's repeat key may come again: it keeps it only as the beginning of its own."""

    transaction_id: int


@dataclass(frozen=True, slots=True)
class PutNote:
    """A small fact that holds until it is changed, by name: what an operator has set."""

    name: str
    text: str  # empty: there is no such fact any more


@dataclass(frozen=True, slots=True)
class PutKey:
    """A version of a key is new, or takes another state or end.

    One that is destroyed stays so: to put it again fails the whole call.
    """

    key: StoredKey


@dataclass(frozen=True, slots=True)
class DestroyKeys:
    """An owner's keys are destroyed: their wrapped values go, the rows stay as a record of them."""

    owner: str
    at_ms: int
    purposes: tuple[KeyPurpose, ...] = ()  # empty: all


@dataclass(frozen=True, slots=True)
class RewrapKey:
    """A key's value is wrapped under another key-encryption key.

    Nothing is changed where the key is no longer wrapped as `before` was: it was destroyed, or is
    wrapped anew already.
    """

    before: StoredKey
    kek: str
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class ForgetKeys:
    """The rows of an owner's old versions go, once they are expired or destroyed."""

    owner: str
    purpose: KeyPurpose
    below_version: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete transactions and all that belongs to them.

    What is open stays: intents without an outcome, and whatever is owed or given up. So does the
    one with the highest id, from which the ids go on.
    """

    transaction_ids: tuple[int, ...]


class Leftover(StrEnum):
    """What comes to the end of its time apart from transactions."""

    TOMBSTONES = "tombstones"
    UPLOADS = "uploads"  # those of an open batch stay
    BATCHES = "batches"  # closed ones
    DEVICE_HISTORY = "device_history"  # that of devices with an open incident stays


@dataclass(frozen=True, slots=True)
class Trim:
    """Delete the oldest of what is older than that, at most so many."""

    what: Leftover
    before_ms: int
    rows_max: int


Operation = (
    Reroute
    | Settle
    | MarkDelivered
    | MarkManyDelivered
    | OweReversal
    | NoteAttempt
    | EndReversal
    | PutTombstone
    | PutBatch
    | PutUpload
    | Forget
    | Trim
    | ReserveStans
    | PutDevice
    | TouchDevice
    | NoteDevice
    | PutIncident
    | PutReplacement
    | RevokeCertificate
    | PutNote
    | FreeKey
    | Reseal
    | PutKey
    | DestroyKeys
    | RewrapKey
    | ForgetKeys
)


@dataclass(slots=True)
class StoreHealth:
    """How the store does, for status and metrics."""

    kind: str
    healthy: bool
    queue_depth: int
    queue_max: int
    last_error: str = ""
    commits: int = 0
    operations: int = 0
    commit_s: list[float] = field(default_factory=list)  # durations of the latest commits


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """What to look for; what is empty is not asked for."""

    terminal_id: str = ""
    rrn: str = ""
    stan: str = ""
    from_ms: int = 0
    until_ms: int = 0
    amount_minor: int = -1
    last_four: str = ""
    state: State | None = None
    upstream: str = ""
    before_id: int = 0  # for the next page: only those with a smaller id


class Store(Protocol):
    """A durable store. Every coroutine raises `StoreError` where it could not do its work.

    Reads see all that was committed before them.
    """

    async def intend(self, transaction: Transaction) -> Transaction | None:
        """Make an intent durable.

        Returns None once it is, or the stored transaction with the same repeat key, in which
        case nothing was written. The fields of an outcome are not kept: an intent has none.
        """
        ...

    async def commit(self, *operations: Operation) -> None:
        """Make operations durable, together and in the order given, and return once they are.

        Once queued they are committed even if the caller is cancelled in the wait: whoever must
        know shields it. An operation without a row to change (an outcome of an unknown transaction)
        fails its whole call, and no other's.
        """
        ...

    def post(self, operation: Operation) -> None:
        """Queue an operation whose loss in a crash is harmless; it goes with the next commit.

        Raises StoreOverloaded where the queue is full.
        """
        ...

    async def transaction(self, transaction_id: int) -> Transaction | None: ...

    async def find_repeat(self, repeat_key: str) -> Transaction | None:
        """The transaction with exactly this repeat key."""
        ...

    async def find_by_key_prefix(self, prefix: str, limit: int) -> list[Transaction]:
        """Transactions whose repeat key starts so, the newest first."""
        ...

    async def find_by_rrn(self, rrn: str, limit: int) -> list[Transaction]:
        """Transactions answered with this retrieval reference number, the newest first."""
        ...

    async def follow_ups(self, original_id: int) -> list[Transaction]:
        """The voids, completions, adjustments and refunds of a transaction, the oldest first."""
        ...

    async def select(self, criteria: Criteria, limit: int) -> list[Transaction]:
        """Transactions that fit, the newest first."""
        ...

    async def undelivered(self, *, since_ms: int, until_ms: int, limit: int) -> list[Transaction]:
        """Approvals answered in that time of which no hand-over is known, the oldest first.

        All outcomes of the time are read, some millions a second: ask for short times.
        """
        ...

    async def tombstones(self, since_ms: int) -> list[Tombstone]:
        """Those left since then, the oldest first."""
        ...

    async def is_buried(self, key_prefix: str) -> bool:
        """Whether there is a tombstone of exactly this name."""
        ...

    async def open_batches(self) -> list[Batch]:
        """The open batch of each terminal that has one."""
        ...

    async def batches(self, terminal_id: str, limit: int) -> list[Batch]:
        """A terminal's batches, the newest first."""
        ...

    async def batch_totals(self, terminal_id: str, number: int) -> BatchTotals:
        """What the store holds for a batch and those it carries, reversals and voids taken off."""
        ...

    async def uploads(self, terminal_id: str, batch: int) -> dict[Compared, int]:
        """How many records were uploaded for a batch, by how they compare."""
        ...

    async def oldest(self, *, after_id: int, until_ms: int, limit: int) -> list[Transaction]:
        """Transactions with a higher id that were made before then, in order, without images.

        Their `image` and `answer` are b"": this is for those who count, copy and delete them.
        """
        ...

    async def spent(self, *, since_ms: int, after_id: int, limit: int) -> list[Spent]:
        """Transactions made since then with a higher id, in order; some older ones may be among
        them. What a limit's windows held before a restart is counted from it."""
        ...

    async def trimmable(self, what: Leftover, before_ms: int) -> int:
        """How many rows `Trim` would delete, were there no bound."""
        ...

    async def unsettled(self, limit: int) -> list[Transaction]:
        """Intents without an outcome, the oldest first: what a restart owes."""
        ...

    async def owed_reversals(self) -> list[OwedReversal]:
        """All reversals not acknowledged yet and not given up, the oldest first."""
        ...

    async def given_up_reversals(self, limit: int) -> list[OwedReversal]:
        """Reversals handed to an operator, the oldest first."""
        ...

    async def owed_reversal(self, transaction_id: int) -> OwedReversal | None:
        """What is owed for a transaction, or was given up."""
        ...

    async def stan_blocks(self, upstream: str) -> Sequence[StanBlock]:
        """Every run of STANs ever reserved for an upstream, each with its latest moment."""
        ...

    async def sealed_otherwise(
        self, what: Sealed, *, version: int, after_id: int, limit: int
    ) -> SealedStep:
        """Of the next rows of a column those whose value is under another version of the key."""
        ...

    async def sealed_under(self) -> dict[int, int]:
        """How many values are under each version of the key that seals them; reads them all."""
        ...

    async def devices(self) -> list[Device]: ...

    async def device_history(
        self, terminal_id: str, limit: int, *, before_id: int = 0
    ) -> list[DeviceEvent]:
        """What was done to a device, the newest first; those before an event's id, if given."""
        ...

    async def incidents(self) -> list[Incident]:
        """Every incident, the oldest first."""
        ...

    async def replacements(self) -> list[Replacement]:
        """Every replacement, the oldest first."""
        ...

    async def revoked_certificates(self) -> list[RevokedCertificate]:
        """The certificates that prove nothing any more."""
        ...

    async def keys(self) -> list[StoredKey]:
        """Every version of every key, the oldest of an owner's purpose first."""
        ...

    async def notes(self, prefix: str) -> dict[str, str]:
        """The small facts whose names begin so."""
        ...

    async def last_transaction_id(self) -> int:
        """The highest id in use; 0 in a new store."""
        ...

    async def count_by_state(self) -> dict[State, int]:
        """How many transactions are INTENDED, TIMED_OUT, REVERSAL_OWED and GIVEN_UP.

        Those are the states in which somebody still has something to do.
        """
        ...

    def health(self) -> StoreHealth: ...

    async def aclose(self) -> None:
        """Commit what is queued and close; after it nothing is taken."""
        ...
