"""Pending requests of a link, and the late and unknown answers of an upstream (no I/O)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from gateway.errors import InvariantBroken
from gateway.wire.message import AMOUNT, Message, response_mti

# Response MTI, STAN and terminal id: never the STAN alone. The link is the table's own.
Key = tuple[str, str, str]


class Pending:
    """A request that waits for its answer on one link."""

    __slots__ = ("amount", "asked_s", "deadline_s", "handed", "key", "transaction_id", "waiter")

    def __init__(
        self, request: Message, *, transaction_id: int, asked_s: float, deadline_s: float
    ) -> None:
        self.key: Key = (response_mti(request.mti), request.stan, request.terminal_id)
        self.amount = request.fields.get(AMOUNT)
        self.transaction_id = transaction_id
        self.asked_s = asked_s
        self.deadline_s = deadline_s
        self.handed = False  # some bytes of it may have left
        self.waiter: Any = None  # who is woken with the answer; the link's business


class Match(Enum):
    """Why an answer belongs to no pending request."""

    UNKNOWN = auto()
    MISMATCHED = auto()  # the key fits, the amount does not: it proves nothing about the request


@dataclass(frozen=True, slots=True)
class Late:
    """A request whose time was over before its answer came."""

    transaction_id: int
    until_s: float


class LateRequests:
    """The requests of one upstream that were given up but may still be answered; bounded."""

    def __init__(self, *, count_max: int) -> None:
        self._count_max = count_max
        self._late: OrderedDict[Key, Late] = OrderedDict()

    def add(self, pending: Pending, *, until_s: float) -> None:
        self._late[pending.key] = Late(pending.transaction_id, until_s)
        if len(self._late) > self._count_max:
            self._late.popitem(last=False)

    def pop(self, key: Key, *, now_s: float) -> int | None:
        """The transaction whose answer this is, if one of that key was given up recently."""
        while self._late:
            oldest = next(iter(self._late.values()))
            if oldest.until_s > now_s:
                break
            self._late.popitem(last=False)
        found = self._late.pop(key, None)
        return None if found is None else found.transaction_id

    def __len__(self) -> int:
        return len(self._late)


def answer_key(answer: Message) -> Key:
    """The key that an answer is matched by."""
    return (answer.mti, answer.stan, answer.terminal_id)


class PendingTable:
    """The requests under way on one link, in the order they were asked.

    All wait equally long, so the order asked is the order in which they expire.
    """

    def __init__(self, *, count_max: int) -> None:
        self._count_max = count_max
        self._pending: OrderedDict[Key, Pending] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def full(self) -> bool:
        return len(self._pending) >= self._count_max

    def add(self, pending: Pending) -> None:
        """Raises InvariantBroken where a request with this key is under way already."""
        if pending.key in self._pending:
            raise InvariantBroken(f"two requests with STAN {pending.key[1]} under way on one link")
        self._pending[pending.key] = pending

    def discard(self, pending: Pending) -> None:
        """Forget a request that nobody waits for any more."""
        if self._pending.get(pending.key) is pending:
            del self._pending[pending.key]

    def match(self, answer: Message) -> Pending | Match:
        """The request that this answers, which is then no longer pending."""
        key = answer_key(answer)
        pending = self._pending.get(key)
        if pending is None:
            return Match.UNKNOWN
        amount = answer.fields.get(AMOUNT)
        if amount is not None and pending.amount is not None and amount != pending.amount:
            return Match.MISMATCHED
        del self._pending[key]
        return pending

    def next_deadline_s(self) -> float | None:
        """When the oldest request expires; None while nothing is pending."""
        for pending in self._pending.values():
            return pending.deadline_s
        return None

    def expired(self, now_s: float) -> list[Pending]:
        """Take out the requests whose time is over."""
        over = []
        for pending in self._pending.values():
            if pending.deadline_s > now_s:
                break
            over.append(pending)
        for pending in over:
            del self._pending[pending.key]
        return over

    def clear(self) -> list[Pending]:
        """Take out all requests: their link is gone."""
        everything = list(self._pending.values())
        self._pending.clear()
        return everything
