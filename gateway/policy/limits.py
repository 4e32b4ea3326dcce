"""Amount and count limits: what each device, merchant and card has used of the clock's windows.

Windows are fixed and those of the clock: the minute, the hour, the business day. A sliding window
would refuse what arrives within 60 minutes of the last, wherever the hour began; but nobody could
tell a shop from its receipts why it was refused, a restart could not count again what was used
without every moment of it, and each counter would be a list. The price is known: around the end of
a minute or an hour twice the limit can go through, which the day's limit bounds.

A window's counters are one dict, and it goes as a whole when the window is over: nothing expires
one by one, and what is given back after the end reaches a counter that nobody asks any more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import NamedTuple

from gateway.policy.calendars import business_day, hour_window, minute_of_day, minute_window
from gateway.policy.response_codes import Reason
from gateway.settings.schema_policy import Limit
from gateway.wire.message import Kind

# A clock that is put right by less than this stays in its window; beyond, the old one was wrong.
_BACK_MAX_MS = 60_000
_PER = ("device", "merchant", "card")
_CARD = _PER.index("card")
_NOTHING_LEFT = -1
_UNUSED = (0, 0)

# [count, amount_minor] that one device, merchant or card has used of a window.
_Counter = list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRule:
    """A limit of a profile or merchant, ready to be asked.

    `key` names what is counted, but not how much of it is allowed: a limit that is only raised or
    lowered goes on with the counts that it has.
    """

    key: str
    rule: str  # as people are told
    per: int  # index in the subjects: device, merchant, card
    kinds: frozenset[Kind]
    currency: str  # "": any
    amount_max_minor: int  # -1: no such bound
    count_max: int
    window: Callable[[int], tuple[int, int]]


def limit_rule(
    limit: Limit,
    *,
    owner: str,
    nth: int,
    rule: str,
    zone: tzinfo,
    zone_name: str,
    day_starts: str,
) -> LimitRule:
    """The rule of a table `[[profiles.limits]]` or `[[merchants.limits]]`.

    `owner` names the profile or merchant that it belongs to; `nth` tells it from those of the same
    owner before it that count the same.
    """
    day = f"{zone_name} {day_starts}" if limit.window == "day" else ""
    kinds = ",".join(sorted(limit.kinds))
    # Two limits that count the same have a counter each all the same.
    parts = (owner, limit.per, limit.window, day, kinds, limit.currency, f"{nth}")
    amount_max, count_max = limit.amount_max_minor, limit.count_max
    return LimitRule(
        key=" / ".join(part or "-" for part in parts),
        rule=rule,
        per=_PER.index(limit.per),
        kinds=frozenset(limit.kinds),
        currency=limit.currency or "",
        amount_max_minor=-1 if amount_max is None else amount_max,
        count_max=-1 if count_max is None else count_max,
        window=_window(limit, zone, minute_of_day(day_starts)),
    )


def _window(limit: Limit, zone: tzinfo, starts_minute: int) -> Callable[[int], tuple[int, int]]:
    if limit.window == "minute":
        return minute_window
    if limit.window == "hour":
        return hour_window
    return lambda wall_ms: business_day(wall_ms, zone, starts_minute)


class Use(NamedTuple):
    """What a transaction uses of limits."""

    transaction_id: int
    subjects: tuple[str, str, str]  # device, merchant and card (its token; "": none is named)
    currency: str
    amount_minor: int
    former_cards: tuple[str, ...] = ()  # what the card was counted as before its key was rotated


@dataclass(frozen=True, slots=True)
class OverLimit:
    """The limit that stands against it; nothing was taken from any."""

    reason: Reason
    rule: str


class _Window:
    """The counters of one limit in the window that is open now."""

    __slots__ = ("counters", "ends_ms", "starts_ms")

    def __init__(self) -> None:
        self.starts_ms = self.ends_ms = 0
        self.counters: dict[str, _Counter] = {}


# A limit's window, who is counted in it, and the counter, where there is one yet.
_Found = tuple[_Window, str, _Counter | None]


class Limits:
    """The counters of all limits; one to a node, and it outlives versions of the configuration."""

    def __init__(self, *, counters_max: int = 1_000_000, takings_max: int = 200_000) -> None:
        """`counters_max` bounds the counters in all windows: no new one is begun over it.

        `takings_max` bounds how many transactions can still give back; beyond it the oldest cannot,
        so that a limit is rather too strict than too wide.
        """
        self._windows: dict[str, _Window] = {}
        self._counters = 0
        self._counters_max = counters_max
        # transaction_id -> the counters it was taken from, and its amount.
        self._takings: OrderedDict[int, tuple[int, tuple[_Counter, ...]]] = OrderedDict()
        self._takings_max = takings_max
        # void -> what it undid, and what that had taken: to be taken again if it is undone itself.
        self._voided: OrderedDict[int, tuple[int, int, tuple[_Counter, ...]]] = OrderedDict()

    @property
    def counters(self) -> int:
        """How many counters are held, those of windows that nobody asked for since included."""
        return self._counters

    @property
    def takings(self) -> int:
        """How many transactions can still give back."""
        return len(self._takings)

    def take(self, rules: Sequence[LimitRule], use: Use, *, now_ms: int) -> OverLimit | None:
        """Take a transaction from every limit that holds for it, or from none.

        None where it was taken. To be called once for a transaction, before it is forwarded; what
        becomes of it is told by `give_back`.
        """
        transaction_id, subjects, currency, used_minor, former = use
        if transaction_id in self._takings:
            return None
        found: list[_Found] = []
        for rule in rules:
            subject = subjects[rule.per]
            if not subject or (rule.currency and rule.currency != currency):
                continue
            window = self._windows.get(rule.key)
            if window is None or not window.starts_ms <= now_ms < window.ends_ms:
                window = self._open(rule, now_ms)
            counter = window.counters.get(subject)
            count, amount_minor = counter or _UNUSED
            if former and rule.per == _CARD:
                for token in former:
                    before = window.counters.get(token, _UNUSED)
                    count, amount_minor = count + before[0], amount_minor + before[1]
            if 0 <= rule.amount_max_minor < amount_minor + used_minor:
                return OverLimit(Reason.AMOUNT_LIMIT, rule.rule)
            if 0 <= rule.count_max <= count:
                return OverLimit(Reason.COUNT_LIMIT, rule.rule)
            found.append((window, subject, counter))
        if not found:
            return None
        if self._counters + len(found) > self._counters_max and not self._has_room(found, now_ms):
            return OverLimit(Reason.OVERLOAD, "limits.counters_max")
        self._add(found, transaction_id, used_minor)
        return None

    def give_back(self, transaction_id: int, *, left_minor: int = _NOTHING_LEFT) -> bool:
        """Undo what a transaction took: it was declined, not sent, reversed or voided.

        Once for each: whether this was that once. `left_minor` of a partial reversal stays taken,
        and still counts as one. What was taken in a window that is over changes nothing. What a
        void had given back is taken again where the void comes to nothing.
        """
        self._unvoid(transaction_id, left_minor)
        taking = self._takings.pop(transaction_id, None)
        if taking is None:
            return False
        amount_minor, counters = taking
        left = max(left_minor, 0)
        for counter in counters:
            counter[1] -= max(amount_minor - left, 0)
            if left_minor < 0:
                counter[0] -= 1
        return True

    def voided(self, original_id: int, *, by: int) -> None:
        """Give back what a transaction took, since another undid it."""
        taking = self._takings.get(original_id)
        if taking is not None and self.give_back(original_id):
            self._voided[by] = (original_id, *taking)
            if len(self._voided) > self._takings_max:
                self._voided.popitem(last=False)

    def _unvoid(self, void_id: int, left_minor: int) -> None:
        """The void was undone, but for what a partial reversal of it left."""
        voided = self._voided.pop(void_id, None)
        if voided is None:
            return
        original_id, voided_minor, counters = voided
        amount_minor = max(voided_minor - max(left_minor, 0), 0)
        for counter in counters:
            counter[0] += 1
            counter[1] += amount_minor
        self._takings[original_id] = (amount_minor, counters)
        if len(self._takings) > self._takings_max:
            self._takings.popitem(last=False)

    def restore(self, rules: Sequence[LimitRule], use: Use, *, taken_ms: int, now_ms: int) -> None:
        """Count what was taken before a restart, in the windows that are still open.

        Nothing is refused: it has happened. A transaction that is counted already is not again.
        """
        if use.transaction_id in self._takings:
            return
        found: list[_Found] = []
        for rule in rules:
            subject = use.subjects[rule.per]
            if not subject or (rule.currency and rule.currency != use.currency):
                continue
            window = self._open(rule, now_ms)
            if window.starts_ms <= taken_ms < window.ends_ms:
                found.append((window, subject, window.counters.get(subject)))
        if found:
            self._add(found, use.transaction_id, use.amount_minor)

    def oldest_ms(self, rules: Collection[LimitRule], now_ms: int) -> int:
        """Where the longest of the open windows began: what `restore` is to be given from."""
        return min((rule.window(now_ms)[0] for rule in rules), default=now_ms)

    def used(self, rule: LimitRule, subject: str, *, now_ms: int) -> tuple[int, int]:
        """The count and the amount that a device, merchant or card has used of a limit."""
        count, amount_minor = self._open(rule, now_ms).counters.get(subject, (0, 0))
        return count, amount_minor

    def _open(self, rule: LimitRule, now_ms: int) -> _Window:
        window = self._windows.get(rule.key)
        if window is None:
            window = self._windows[rule.key] = _Window()
        if not window.starts_ms - _BACK_MAX_MS <= now_ms < window.ends_ms:
            self._counters -= len(window.counters)
            window.counters = {}
            window.starts_ms, window.ends_ms = rule.window(now_ms)
        return window

    def _has_room(self, found: Sequence[_Found], now_ms: int) -> bool:
        """Clear windows that nobody asked for since they ended; is there room then?"""
        for window in self._windows.values():
            if window.ends_ms <= now_ms:
                self._counters -= len(window.counters)
                window.counters = {}
        new = sum(counter is None for _, _, counter in found)
        return self._counters + new <= self._counters_max

    def _add(self, found: Sequence[_Found], transaction_id: int, amount_minor: int) -> None:
        counters = []
        for window, subject, counter in found:
            if counter is None:
                counter = window.counters[subject] = [0, 0]
                self._counters += 1
            counter[0] += 1
            counter[1] += amount_minor
            counters.append(counter)
        self._takings[transaction_id] = (amount_minor, tuple(counters))
        if len(self._takings) > self._takings_max:
            self._takings.popitem(last=False)


class Looking(Limits):
    """The counters of others, to be asked and not taken from."""

    def __init__(self, counted: Limits) -> None:
        super().__init__()
        self._counted = counted

    def take(self, rules: Sequence[LimitRule], use: Use, *, now_ms: int) -> OverLimit | None:
        """The limit that would stand against it, or None; nothing is taken."""
        for rule in rules:
            subject = use.subjects[rule.per]
            if not subject or (rule.currency and rule.currency != use.currency):
                continue
            count, amount_minor = self._counted.used(rule, subject, now_ms=now_ms)
            for token in use.former_cards if rule.per == _CARD else ():
                before = self._counted.used(rule, token, now_ms=now_ms)
                count, amount_minor = count + before[0], amount_minor + before[1]
            if 0 <= rule.amount_max_minor < amount_minor + use.amount_minor:
                return OverLimit(Reason.AMOUNT_LIMIT, rule.rule)
            if 0 <= rule.count_max <= count:
                return OverLimit(Reason.COUNT_LIMIT, rule.rule)
        return None
