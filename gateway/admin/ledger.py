"""What operators find out about transactions and reversals, as types: see `admin/api.py`."""

from __future__ import annotations

from typing import Annotated, Protocol, TypedDict

from pydantic import Field

from gateway.admin.api import Arguments
from gateway.store.store import State

PAGE_MAX = 250  # an answer fits the socket's buffer: nobody who stops reading holds us up


class TransactionView(TypedDict):
    """A transaction as commands show it; times are ISO 8601 in UTC, "" for never."""

    transaction_id: int
    created: str
    terminal_id: str  # without the blanks that pad it
    merchant_id: str
    kind: str
    mti: str
    stan: str
    rrn: str
    amount_minor: int
    currency: str
    card: str  # at most first six and last four digits
    state: str
    response_code: str  # as the terminal was told
    approval_code: str
    upstream: str
    upstream_stan: int
    answered: str
    delivered: str
    original_id: int  # 0: it follows no other
    batch: int  # 0: in none


class Step(TypedDict):
    """Something that happened to a transaction; "" where its time was not recorded."""

    at: str
    what: str
    detail: str


class ReversalView(TypedDict):
    """What is owed to an upstream for a transaction, or was given up."""

    transaction_id: int
    terminal_id: str
    stan: str
    rrn: str
    kind: str
    card: str
    amount_minor: int
    left_minor: int  # after a partial reversal; -1: the whole amount is reversed
    currency: str
    owed: str  # reversal, advice, or nothing: then only an operator can settle it
    state: str  # owed or given_up
    upstream: str
    reason: str
    since: str
    age_s: float
    attempts: int
    upstream_stan: int  # of the latest attempt
    next_attempt: str


class History(TypedDict):
    """One transaction, all that is known of it."""

    transaction: TransactionView
    timeline: list[Step]
    reversal: ReversalView | None
    follow_ups: list[TransactionView]


class TransactionPage(TypedDict):
    """Some transactions; `next` is the id to go on from, 0 where there are no more."""

    transactions: list[TransactionView]
    next: int


class ReversalPage(TypedDict):
    reversals: list[ReversalView]
    next: int


class IdArguments(Arguments):
    transaction_id: int = Field(ge=1)


class ResolveArguments(IdArguments):
    reason: str = Field(min_length=1, max_length=200)
    booked: bool | None = None  # whether the acquirer has it


class FindArguments(Arguments):
    """What to look for, the newest first; what is absent is not asked for."""

    terminal_id: str = ""
    rrn: str = ""
    stan: str = ""
    from_ms: int = Field(default=0, ge=0)
    until_ms: int = Field(default=0, ge=0)
    amount_minor: int = Field(default=-1, ge=-1)
    last_four: str = Field(default="", pattern=r"^([0-9]{4})?$")
    state: Annotated[State, Field(strict=False)] | None = None
    upstream: str = ""
    before_id: int = Field(default=0, ge=0)
    limit: int = Field(default=PAGE_MAX, ge=1, le=PAGE_MAX)


class UndeliveredArguments(Arguments):
    """Approvals of which no hand-over is known, the oldest first."""

    from_ms: int = Field(ge=0)
    after_id: int = Field(default=0, ge=0)
    limit: int = Field(default=PAGE_MAX, ge=1, le=PAGE_MAX)


class ReversalListArguments(Arguments):
    upstream: str = ""
    given_up: bool | None = None  # None: both
    after: int = Field(default=0, ge=0)  # how many to pass over
    limit: int = Field(default=PAGE_MAX, ge=1, le=PAGE_MAX)


class ReversalsApi(Protocol):
    """The reversals of a running node, as far as operators steer them."""

    async def retry(self, transaction_id: int) -> None:
        """Have what was given up sent again. Raises OperatorError and StoreError."""
        ...

    async def resolve(
        self, transaction_id: int, reason: str, *, booked: bool | None = None
    ) -> None:
        """Close what was settled by hand; `booked` is whether the acquirer has it.

        Raises OperatorError and StoreError.
        """
        ...
