"""What makes two requests the same one: the key of a repeat, and its content."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache

import trio

from gateway.clock import utc
from gateway.policy.response_codes import Reason
from gateway.store.store import State, Transaction
from gateway.transactions.keyed_hashes import differ
from gateway.transactions.request import Reply
from gateway.wire.message import (
    ADVICE_KINDS,
    EMV_DATA,
    LOCAL_DATE,
    LOCAL_TIME,
    MERCHANT_ID,
    ORIGINAL_DATA,
    PROCESSING_CODE,
    REVERSIBLE_KINDS,
    STAN,
    TERMINAL_ID,
    TRANSMISSION_TIME,
    Kind,
    Message,
)

# States in which an approval is no longer one: its repeat hears no.
_UNDONE = frozenset(
    (State.TIMED_OUT, State.REVERSAL_OWED, State.REVERSED, State.GIVEN_UP, State.CLOSED)
)

BATCH_MARK = "B"  # begins a repeat key with a batch number, which has no date in it
_DAY_MS = 86_400_000
_DAYS_AHEAD_MAX = 7  # a local date further ahead than this belongs to last year
_PRIVATE = 60
_ATC_TAG = "9F3602"  # application transaction counter, always two bytes


def day_of(message: Message, wall_ms: int) -> str:
    """The date of DE13 with its year, as YYYYMMDD; that of DE7, or today's, where DE13 is none.

    Neither has a year: it is the one that puts the date nearest before a week from now.
    """
    month_day = message.fields.get(LOCAL_DATE) or message.get(TRANSMISSION_TIME)[:4]
    return _with_year(month_day, wall_ms // _DAY_MS)


@lru_cache(maxsize=64)  # every request asks, and mostly about today
def _with_year(month_day: str, day: int) -> str:
    """A MMDD as YYYYMMDD on a day, counted from 1970; that day itself where it is no MMDD."""
    today = utc(day * _DAY_MS)
    if len(month_day) != 4 or not (month_day.isascii() and month_day.isdigit()):
        return today.strftime("%Y%m%d")
    year = today.year
    # Compared as month * 31 + day: it need not be exact, only far from ambiguous.
    ahead = (int(month_day[:2]) - today.month) * 31 + int(month_day[2:]) - today.day
    if ahead > _DAYS_AHEAD_MAX:
        year -= 1
    elif ahead < -12 * 31 + 31 + _DAYS_AHEAD_MAX:
        year += 1
    return f"{year}{month_day}"


def days_before(wall_ms: int, *, count: int) -> list[str]:
    """Today and the `count` days before it, as YYYYMMDD."""
    return [utc(wall_ms - ago * _DAY_MS).strftime("%Y%m%d") for ago in range(count + 1)]


def batch_of(message: Message) -> str:
    """The batch number in DE60.2 (positions 3 to 8 of a UnionPay DE60), or nothing."""
    private = message.fields.get(_PRIVATE, "")
    if len(private) < 8:
        return ""
    batch = private[2:8]
    return batch if batch.isdigit() else ""


def key_prefix(*, terminal_id: str, stan: str, day: str = "", batch: str = "") -> str:
    """What the keys of all requests with this STAN start with, on a day or in a batch.

    The day comes first so that the store's index grows at its end.
    """
    period = f"{BATCH_MARK}{batch}" if batch else f"D{day}"
    return f"{period}/{terminal_id}/{stan}/"


def repeat_key(message: Message, kind: Kind, *, activation: int, wall_ms: int) -> str:
    """The key that two requests share exactly if one is a repeat of the other.

    Activation number, DE41, DE42, DE11, kind, and DE60.2 where there is one, else DE12 and DE13
    with the year.
    """
    fields = message.fields
    terminal_id, stan = fields.get(TERMINAL_ID, ""), fields.get(STAN, "")
    batch = batch_of(message) if _PRIVATE in fields else ""
    if batch:
        prefix, time = key_prefix(terminal_id=terminal_id, stan=stan, batch=batch), ""
    else:
        day = day_of(message, wall_ms)
        prefix = key_prefix(terminal_id=terminal_id, stan=stan, day=day)
        time = fields.get(LOCAL_TIME, "")
    return f"{prefix}{time}/{kind}/{fields.get(MERCHANT_ID, '')}/{activation}"


def content_of(message: Message, *, follows: bool = False) -> str:
    """What else must be equal in a true repeat, beside amount, currency and card.

    DE3, the EMV transaction counter (tag 9F36 of DE55) and the original's reference: DE90, DE61
    or, in what follows another transaction, DE37.
    """
    fields = message.fields
    counter = ""
    chip = fields.get(EMV_DATA)
    if chip is not None:
        at = chip.upper().find(_ATC_TAG)
        if at >= 0:
            counter = chip[at + 6 : at + 10].upper()
    original = fields.get(ORIGINAL_DATA, "") or fields.get(61, "")
    if follows and not original:
        original = message.rrn
    return f"{fields.get(PROCESSING_CODE, '')}/{counter}/{original}"


def same_content(one: Transaction, other: Transaction) -> bool:
    """Whether two requests with one key also ask for the same thing."""
    return (
        one.amount_minor == other.amount_minor
        and one.currency == other.currency
        and bool(one.card_token) == bool(other.card_token)
        and (
            one.card_token == other.card_token
            or not differ(
                (one.card_token, *one.former_card_tokens),
                (other.card_token, *other.former_card_tokens),
            )
        )
        and (
            one.content == other.content
            or not differ(
                (one.content, *one.former_contents), (other.content, *other.former_contents)
            )
        )
    )


def is_undone(transaction: Transaction) -> bool:
    """Whether what was approved is reversed, or owed a reversal. An advice never is."""
    return transaction.state in _UNDONE and transaction.kind not in ADVICE_KINDS


class Exchange:
    """A transaction under way, and the repeats that wait for its outcome."""

    __slots__ = ("_done", "_ended", "draft", "reply")

    def __init__(self, draft: Transaction) -> None:
        self.draft = draft
        self.reply: Reply | None = None
        self._ended = False
        self._done: trio.Event | None = None  # made only where somebody waits

    async def wait(self) -> Reply | None:
        """The reply, once there is one; None where the exchange ended without."""
        if self._done is None:
            self._done = trio.Event()
            if self._ended:
                self._done.set()
        await self._done.wait()
        return self.reply

    def end(self) -> None:
        self._ended = True
        if self._done is not None:
            self._done.set()


class Refusals:
    """Refusals for what passes (no upstream, no room, no store): no repeat of one is approved.

    Not those of advices and batch closes: they report what was done, and are sent until taken.
    Such a request is nowhere on disk, so that its repeat would be a new request once things are
    better, while the terminal holds the refusal. Bounded; a restart forgets them, but it also ends
    the connections on which a repeat may still be on its way.
    """

    _PASSING = frozenset(
        (Reason.NO_UPSTREAM, Reason.OVERLOAD, Reason.INTERNAL, Reason.KEY_SERVICE_FAILED)
    )

    _KINDS = REVERSIBLE_KINDS | {Kind.REFUND}

    def __init__(self, *, count_max: int) -> None:
        self._count_max = count_max
        self._refused: OrderedDict[str, tuple[Transaction, Reply]] = OrderedDict()

    def remember(self, draft: Transaction, reply: Reply) -> None:
        """Keep a reply if it is a refusal of this kind."""
        if reply.reason in self._PASSING and draft.kind in self._KINDS:
            self._refused[draft.repeat_key] = (draft, reply)
            if len(self._refused) > self._count_max:
                self._refused.popitem(last=False)

    def of(self, repeat: Transaction) -> Reply | None:
        """The refusal that this request repeats, if it asks for the same thing."""
        draft, reply = self._refused.get(repeat.repeat_key, (None, None))
        return reply if draft is not None and same_content(draft, repeat) else None
