"""Pending requests of a link, and the late and unknown answers of an upstream (no I/O)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from gateway.errors import InvariantBroken
from gateway.wire.message import AMOUNT, STAN, TERMINAL_ID, Message, response_mti

# Response MTI, STAN and terminal id: never the STAN alone. The link is the table's own.
Key = tuple[str, str, str]


class Pending:
    """A request that waits for its answer on one link."""

    __slots__ = (
        "amount",
        "asked_s",
        "deadline_s",
        "handed",
        "key",
        "transaction_id",
        "wait_s",
        "waiter",
    )

    def __init__(
        self, request: Message, *, transaction_id: int, asked_s: float, wait_s: float
    ) -> None:
        fields = request.fields
        self.key: Key = (
            response_mti(request.mti),
            fields.get(STAN, ""),
            fields.get(TERMINAL_ID, ""),
        )
        self.amount = fields.get(AMOUNT)
        self.transaction_id = transaction_id
        self.asked_s = asked_s
        self.wait_s = wait_s
        self.deadline_s = asked_s + wait_s
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
    fields = answer.fields
    return (answer.mti, fields.get(STAN, ""), fields.get(TERMINAL_ID, ""))


class PendingTable:
    """The requests under way on one link, in the order they were asked.

    Those that wait equally long expire in the order asked, so that there is a row for each length
    of wait, and only the first of each row is looked at. `count` and `full` are asked about every
    link with each request, so that they are kept and not computed.
    """

    __slots__ = ("_count_max", "_pending", "_rows", "count", "full")

    def __init__(self, *, count_max: int) -> None:
        self.count = 0
        self.full = False
        self._count_max = count_max
        self._pending: dict[Key, Pending] = {}
        self._rows: dict[float, OrderedDict[Key, Pending]] = {}

    def __len__(self) -> int:
        return self.count

    def add(self, pending: Pending) -> None:
        """Raises InvariantBroken where a request with this key is under way already."""
        if pending.key in self._pending:
            raise InvariantBroken(f"two requests with STAN {pending.key[1]} under way on one link")
        self._pending[pending.key] = pending
        row = self._rows.get(pending.wait_s)
        if row is None:
            row = self._rows[pending.wait_s] = OrderedDict()
        row[pending.key] = pending
        self.count += 1
        self.full = self.count >= self._count_max

    def _remove(self, pending: Pending) -> None:
        key = pending.key
        del self._pending[key]
        del self._rows[pending.wait_s][key]
        self.count -= 1
        self.full = False

    def discard(self, pending: Pending) -> None:
        """Forget a request that nobody waits for any more."""
        if self._pending.get(pending.key) is pending:
            self._remove(pending)

    def match(self, answer: Message) -> Pending | Match:
        """The request that this answers, which is then no longer pending."""
        pending = self._pending.get(answer_key(answer))
        if pending is None:
            return Match.UNKNOWN
        amount = answer.fields.get(AMOUNT)
        if amount is not None and pending.amount is not None and amount != pending.amount:
            return Match.MISMATCHED
        self._remove(pending)
        return pending

    def asked_s(self) -> Iterator[float]:
        """When each request was asked, the oldest first."""
        return (pending.asked_s for pending in self._pending.values())

    def next_deadline_s(self) -> float | None:
        """When the first request expires; None while nothing is pending."""
        firsts = [next(iter(row.values())).deadline_s for row in self._rows.values() if row]
        return min(firsts, default=None)

    def expired(self, now_s: float) -> list[Pending]:
        """Take out the requests whose time is over."""
        over = []
        for row in self._rows.values():
            for pending in row.values():
                if pending.deadline_s > now_s:
                    break
                over.append(pending)
        for pending in over:
            self._remove(pending)
        return over

    def clear(self) -> list[Pending]:
        """Take out all requests: their link is gone."""
        everything = list(self._pending.values())
        self._pending.clear()
        self._rows.clear()
        self.count = 0
        self.full = False
        return everything
