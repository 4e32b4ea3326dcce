"""What the routes ask of a request, held against all of them at once (no I/O).

Each condition's table says, for a value, which routes it lets pass, as the bits of a number: bit 0
is the first route. The routes that fit are the bits that all tables leave, and the lowest of them
is the first route that fits, however many there are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from gateway.settings.schema_base import OpeningHours
from gateway.settings.schema_upstreams import Route, TerminalGroup
from gateway.wire.entry_mode import EntryMode, entry_mode
from gateway.wire.id_patterns import MerchantSet, TerminalSet
from gateway.wire.message import (
    AMOUNT,
    CURRENCY,
    MERCHANT_ID,
    PAN,
    TERMINAL_ID,
    Kind,
    Message,
)

T = TypeVar("T")

# Whether a moment (milliseconds since 1970, UTC) lies in the hours of a time zone: made elsewhere,
# since time zones are read from files.
IsOpen = Callable[[int], bool]
OpeningTimes = Callable[[Sequence[OpeningHours], str], IsOpen]

_MINUTE_MS = 60_000
_BEHIND_ALL = "\U0010ffff"  # behind whatever may follow the last card number of a range
_REMEMBERED_MAX = 100_000
_SHOWN_MAX = 6
_BIN_DIGITS = 6


class Subject(NamedTuple):
    """What of a request decides its route."""

    kind: Kind
    card: str = ""  # a card number, a wallet's code, or how it begins
    entry_mode: EntryMode = EntryMode.UNKNOWN
    currency: str = ""
    amount_minor: int | None = None
    merchant_id: str = ""
    terminal_id: str = ""  # padded, as DE41 carries it
    wall_ms: int = 0


def subject_of(message: Message, kind: Kind, wall_ms: int) -> Subject:
    """What of a message decides its route; `wall_ms` is when it came."""
    get = message.fields.get
    amount = get(AMOUNT)
    # As `Subject(…)`, in a third of the time: every request comes by here.
    return tuple.__new__(
        Subject,
        (
            kind,
            get(PAN) or message.pan,
            entry_mode(message),
            get(CURRENCY, ""),
            message.amount_minor if amount else None,
            get(MERCHANT_ID, ""),
            get(TERMINAL_ID, ""),
            wall_ms,
        ),
    )


# Of a value and of the routes that ask nothing: the routes that let it pass.
_Lookup = Callable[[Any, int], int]


class _Condition(NamedTuple):
    """One thing that routes may ask, of one part of the subject."""

    part: int  # which of the subject
    lookup: _Lookup
    unasked: int  # the routes that do not ask it
    refusal: Callable[[Route, Subject], str]  # in words


class Conditions:
    """The conditions of all routes, in their order."""

    def __init__(
        self,
        routes: Sequence[Route],
        terminal_groups: Iterable[TerminalGroup],
        opening_times: OpeningTimes,
    ) -> None:
        """Raises ValueError where a pattern is none."""
        self._routes = routes
        groups = {group.name: TerminalSet.parse(group.terminals) for group in terminal_groups}
        found = (
            _Condition(0, *_listed(routes, lambda route: route.kinds), _kind_refused),
            _Condition(2, *_listed(routes, lambda route: route.entry_modes), _entry_refused),
            _Condition(3, *_listed(routes, lambda route: route.currencies), _currency_refused),
            _Condition(1, *_card_ranges(routes), _card_refused),
            _Condition(4, *_amounts(routes), _amount_refused),
            _Condition(
                5,
                *_members(routes, [_merchants(route) for route in routes]),
                _merchant_refused,
            ),
            _Condition(
                6,
                *_members(routes, [_terminals(route, groups) for route in routes]),
                _terminal_refused,
            ),
            _Condition(7, *_hours(routes, opening_times), _hours_refused),
        )
        self._every = (1 << len(routes)) - 1
        self._conditions = [one for one in found if one.unasked != self._every]
        self._lookups = [(one.part, one.lookup, one.unasked) for one in self._conditions]

    @property
    def ask_something(self) -> bool:
        """Whether any route asks anything; else the first takes all."""
        return bool(self._lookups)

    def first(self, subject: Subject) -> int:
        """The index of the first route that fits; -1 where none does."""
        fitting = self._every
        for part, lookup, unasked in self._lookups:
            fitting &= lookup(subject[part], unasked)
        return (fitting & -fitting).bit_length() - 1

    def refusal(self, index: int, subject: Subject) -> str:
        """The first condition of a route that the subject does not meet, in words; "": it fits."""
        for one in self._conditions:
            if not one.lookup(subject[one.part], one.unasked) >> index & 1:
                return one.refusal(self._routes[index], subject)
        return ""


# --- tables --------------------------------------------------------------------------------------


def _unasked(asked: Iterable[object]) -> int:
    return sum(1 << index for index, what in enumerate(asked) if not what)


def _listed(
    routes: Sequence[Route], values_of: Callable[[Route], Sequence[T]]
) -> tuple[_Lookup, int]:
    unasked = _unasked(map(values_of, routes))
    table: dict[T, int] = {}
    for index, route in enumerate(routes):
        for value in values_of(route):
            table[value] = table.get(value, unasked) | 1 << index
    return table.get, unasked


def _spans(spans: Iterable[tuple[Any, Any, int]], unasked: int) -> _Lookup:
    """Of values in a row: each span (from, until, route) lies between two of all their ends."""
    spans = list(spans)
    ends = sorted({end for start, until, _ in spans for end in (start, until)})
    masks = [unasked]
    for end in ends:
        inside = (1 << index for start, until, index in spans if start <= end < until)
        mask = unasked
        for bit in inside:
            mask |= bit
        masks.append(mask)

    def lookup(value: Any, unasked: int) -> int:
        return masks[bisect_right(ends, value)] if value or value == 0 else unasked

    return lookup


def _card_ranges(routes: Sequence[Route]) -> tuple[_Lookup, int]:
    spans = []
    for index, route in enumerate(routes):
        for text in route.bins:
            low, _, high = text.partition("-")
            spans.append((low, (high or low) + _BEHIND_ALL, index))
    unasked = _unasked(route.bins for route in routes)
    return _spans(spans, unasked), unasked


def _amounts(routes: Sequence[Route]) -> tuple[_Lookup, int]:
    spans = []
    asked = []
    for index, route in enumerate(routes):
        low, high = route.amount_minor_min, route.amount_minor_max
        asked.append(low is not None or high is not None)
        if asked[-1]:
            spans.append((low or 0, 10**12 if high is None else high + 1, index))
    unasked = _unasked(asked)
    return _spans(spans, unasked), unasked


def _merchants(route: Route) -> list[Container[str]]:
    return [MerchantSet.parse(route.merchants)] if route.merchants else []


def _terminals(route: Route, groups: dict[str, TerminalSet]) -> list[Container[str]]:
    return [groups[name] for name in route.terminal_groups]


def _members(
    routes: Sequence[Route], sets: Sequence[Sequence[Container[str]]]
) -> tuple[_Lookup, int]:
    """Ids are compared with patterns once, and remembered: there are as many as devices."""
    unasked = _unasked(sets)
    remembered: dict[str, int] = {}

    def lookup(value: str, unasked: int) -> int:
        mask = remembered.get(value)
        if mask is None:
            mask = unasked
            for index, any_of in enumerate(sets):
                if value and any(value in one for one in any_of):
                    mask |= 1 << index
            if len(remembered) >= _REMEMBERED_MAX:
                remembered.clear()
            remembered[value] = mask
        return mask

    return lookup, unasked


def _hours(routes: Sequence[Route], opening_times: OpeningTimes) -> tuple[_Lookup, int]:
    unasked = _unasked(route.hours for route in routes)
    open_at = [
        (1 << index, opening_times(route.hours, route.time_zone))
        for index, route in enumerate(routes)
        if route.hours
    ]
    minute, mask = -1, 0

    def lookup(wall_ms: int, unasked: int) -> int:
        # Every zone's hours begin and end with a minute, and requests come many to a minute.
        nonlocal minute, mask
        if wall_ms // _MINUTE_MS != minute:
            minute = wall_ms // _MINUTE_MS
            mask = unasked
            for bit, is_open in open_at:
                mask |= bit if is_open(wall_ms) else 0
        return mask

    return lookup, unasked


# --- refusals in words ---------------------------------------------------------------------------


def _among(values: Sequence[object]) -> str:
    shown = ", ".join(str(value) for value in values[:_SHOWN_MAX])
    return shown + (", …" if len(values) > _SHOWN_MAX else "")


def _kind_refused(route: Route, subject: Subject) -> str:
    return f"it takes {_among(route.kinds)}, and this is a {subject.kind}"


def _entry_refused(route: Route, subject: Subject) -> str:
    return f"it takes entry by {_among(route.entry_modes)}, and this is by {subject.entry_mode}"


def _currency_refused(route: Route, subject: Subject) -> str:
    this = f"this is in {subject.currency}" if subject.currency else "this names no currency"
    return f"it takes currency {_among(route.currencies)}, and {this}"


def _card_refused(route: Route, subject: Subject) -> str:
    if not subject.card:
        return f"it takes cards of {_among(route.bins)}, and this names no card"
    return f"card {subject.card[:_BIN_DIGITS]} is not in {_among(route.bins)}"


def _amount_refused(route: Route, subject: Subject) -> str:
    if subject.amount_minor is None:
        return "it asks for an amount, and this has none"
    low, high = route.amount_minor_min, route.amount_minor_max
    if low is not None and subject.amount_minor < low:
        return f"amount {subject.amount_minor} (minor units) is under {low}"
    return f"amount {subject.amount_minor} (minor units) is over {high}"


def _merchant_refused(route: Route, subject: Subject) -> str:
    if not subject.merchant_id.strip():
        return f"it takes merchants {_among(route.merchants)}, and none is named"
    return f"merchant {subject.merchant_id.rstrip()} is not in {_among(route.merchants)}"


def _terminal_refused(route: Route, subject: Subject) -> str:
    groups = _among(route.terminal_groups)
    return f"terminal {subject.terminal_id.rstrip()} is in none of the terminal groups {groups}"


def _hours_refused(route: Route, subject: Subject) -> str:
    hours = _among([f"{' '.join(one.days)} {one.time}" for one in route.hours])
    return f"it is not within {hours} ({route.time_zone})"
