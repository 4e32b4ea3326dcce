"""What a profile lets its devices do, and how a merchant narrows it.

The tables that hold for a request are its profile's and those of its merchant. Each is asked in
turn, and one that says no is enough: so a merchant can only narrow. What is asked for each request
is worked out once for each profile and merchant.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, tzinfo
from functools import partial
from typing import Protocol, TypeVar

from gateway.policy.calendars import WeeklyHours
from gateway.policy.limits import LimitRule, limit_rule
from gateway.settings.lines import KeyPath
from gateway.settings.schema_policy import Limit, Merchant, Profile
from gateway.wire.entry_mode import EntryMode
from gateway.wire.id_patterns import MerchantSet
from gateway.wire.message import Kind

_PAN_DIGITS_MAX = 19
_SEEN_MAX = 20_000  # pairs of profile and merchant whose rules are remembered

T = TypeVar("T")


class Place(Protocol):
    """Where a key of the configuration stands, such as "gateway.toml:105"; "" where unknown."""

    def __call__(self, path: KeyPath, /) -> str: ...


def nowhere(_path: KeyPath, /) -> str:
    """The place of rules that stand in no file."""
    return ""


class CardRanges:
    """Ranges of card numbers, each given by the first digits: `6217`, `622126-622925`."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: Iterable[str]) -> None:
        """Ranges that overlap or touch become one."""
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in sorted(_ends(text) for text in ranges):
            if self._lasts and first <= self._lasts[-1] + 1:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def __contains__(self, pan: object) -> bool:
        if not isinstance(pan, str) or not (pan.isascii() and pan.isdigit()):
            return False
        number = int(pan[:_PAN_DIGITS_MAX].ljust(_PAN_DIGITS_MAX, "0"))
        index = bisect_right(self._firsts, number) - 1
        return index >= 0 and number <= self._lasts[index]


def _counts_alike(one: Limit, other: Limit) -> bool:
    bounds = {"amount_max_minor": None, "count_max": None}
    return one.model_copy(update=bounds) == other.model_copy(update=bounds)


def _ends(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low.ljust(_PAN_DIGITS_MAX, "0")), int((high or low).ljust(_PAN_DIGITS_MAX, "9"))


class Grant:
    """One table `[[profiles]]` or `[[merchants]]`; None stands for "whatever it is"."""

    __slots__ = (
        "_path",
        "_place",
        "amounts",
        "cards",
        "currencies",
        "entry_modes",
        "hours",
        "kinds",
        "limits",
        "name",
        "offline_advices",
    )

    def __init__(
        self,
        table: Profile | Merchant,
        *,
        name: str,
        path: KeyPath,
        place: Place,
        zone_of: Callable[[str], tzinfo],
    ) -> None:
        self.name = name
        self._path = path
        self._place = place
        zone = zone_of(table.time_zone)
        self.kinds = frozenset(table.kinds) or None
        self.entry_modes = frozenset(table.entry_modes) or None
        self.currencies = frozenset(table.currencies) or None
        self.hours = WeeklyHours(table.hours, zone) if table.hours else None
        self.cards = CardRanges(table.card_ranges) if table.card_ranges else None
        self.amounts = {a.currency: (a.min_minor, a.max_minor) for a in table.amounts} or None
        self.offline_advices = table.offline_advices
        self.limits = tuple(
            limit_rule(
                limit,
                owner=name,
                nth=sum(map(partial(_counts_alike, limit), table.limits[:index])),
                rule=self.rule("limits", index),
                zone=zone,
                zone_name=table.time_zone,
                day_starts=table.day_starts,
            )
            for index, limit in enumerate(table.limits)
        )

    def rule(self, key: str, *rest: int) -> str:
        """A key of this table as people are told of it: `profiles.retail.kinds (gateway.toml:7)`"""
        place = self._place((*self._path, key, *rest))
        index = "".join(f"[{number}]" for number in rest)
        return f"{self.name}.{key}{index}" + (f" ({place})" if place else "")


class Rules:
    """What holds for the devices of one profile at one merchant: all its grants at once."""

    __slots__ = (
        "_limits",
        "amounts",
        "cards",
        "currencies",
        "entry_modes",
        "grants",
        "hours",
        "kinds",
        "offline_advices",
    )

    def __init__(self, grants: Sequence[Grant]) -> None:
        self.grants = tuple(grants)
        self.kinds = _common([grant.kinds for grant in grants]) or frozenset[Kind]()
        self.entry_modes = _common([grant.entry_modes for grant in grants])
        self.currencies = _common([grant.currencies for grant in grants])
        self.hours = tuple(grant for grant in grants if grant.hours is not None)
        self.cards = tuple(grant for grant in grants if grant.cards is not None)
        self.amounts = tuple(grant for grant in grants if grant.amounts is not None)
        self.offline_advices = all(grant.offline_advices for grant in grants)
        limits = [limit for grant in grants for limit in grant.limits]
        self._limits = {
            kind: tuple(limit for limit in limits if kind in limit.kinds)
            for kind in {kind for limit in limits for kind in limit.kinds}
        }

    def limits(self, kind: Kind) -> tuple[LimitRule, ...]:
        """The limits that a transaction of this kind is taken from."""
        return self._limits.get(kind, ())

    # --- which rule says no; "" where none does -------------------------------------------------

    def against_kind(self, kind: Kind) -> str:
        return next(
            (g.rule("kinds") for g in self.grants if g.kinds is not None and kind not in g.kinds),
            "",
        )

    def against_entry_mode(self, mode: EntryMode) -> str:
        return next(
            (
                g.rule("entry_modes")
                for g in self.grants
                if g.entry_modes is not None and mode not in g.entry_modes
            ),
            "",
        )

    def against_currency(self, currency: str) -> str:
        return next(
            (
                g.rule("currencies")
                for g in self.grants
                if g.currencies is not None and currency not in g.currencies
            ),
            "",
        )

    def against_hour(self, wall_ms: int) -> str:
        for grant in self.hours:
            if grant.hours is not None and not grant.hours.is_open(wall_ms):
                return grant.rule("hours")
        return ""

    def against_card(self, pan: str) -> str:
        """A message that names no card is not held against ranges: a void may come without one."""
        if pan:
            for grant in self.cards:
                if grant.cards is not None and pan not in grant.cards:
                    return grant.rule("card_ranges")
        return ""

    def against_amount(self, currency: str, amount_minor: int) -> tuple[str, bool]:
        """The rule, and whether the amount is too high rather than too low."""
        for grant in self.amounts:
            bounds = grant.amounts.get(currency) if grant.amounts is not None else None
            if bounds is not None and not bounds[0] <= amount_minor <= bounds[1]:
                return grant.rule("amounts"), amount_minor > bounds[1]
        return "", False

    def against_offline(self) -> str:
        return next((g.rule("offline_advices") for g in self.grants if not g.offline_advices), "")


def _common(sets: Iterable[frozenset[T] | None]) -> frozenset[T] | None:
    """What is in all of the sets; None where there is none."""
    given = [one for one in sets if one is not None]
    return frozenset.intersection(*given) if given else None


class Permissions:
    """The rules of every profile and merchant; an unknown profile allows nothing."""

    def __init__(
        self,
        profiles: Iterable[Profile],
        merchants: Iterable[Merchant] = (),
        *,
        zone_of: Callable[[str], tzinfo] = lambda _name: UTC,
        place: Place = nowhere,
    ) -> None:
        """`zone_of` gives the time zone of a name: zones are read from files, which is not done
        here. `place` says where a key stands, for the rule's text."""
        profiles = list(profiles)
        self._keepers = frozenset(profile.name for profile in profiles if profile.keeps_advices)
        self._profiles = {
            profile.name: Grant(
                profile,
                name=f"profiles.{profile.name}",
                path=("profiles", index),
                place=place,
                zone_of=zone_of,
            )
            for index, profile in enumerate(profiles)
        }
        self._merchants = [
            (
                MerchantSet.parse(merchant.ids),
                Grant(
                    merchant,
                    name=f"merchants[{index}]",
                    path=("merchants", index),
                    place=place,
                    zone_of=zone_of,
                ),
            )
            for index, merchant in enumerate(merchants)
        ]
        self._of_profile = {name: Rules([grant]) for name, grant in self._profiles.items()}
        self._seen: dict[tuple[str, str], Rules] = {}

    def of(self, profile: str, merchant_id: str) -> Rules | None:
        """What holds for a profile's devices at a merchant; None for an unknown profile."""
        if not self._merchants:
            return self._of_profile.get(profile)
        pair = (profile, merchant_id)
        rules = self._seen.get(pair)
        if rules is None and profile in self._profiles:
            narrowing = [grant for ids, grant in self._merchants if merchant_id in ids]
            rules = Rules([self._profiles[profile], *narrowing])
            if len(self._seen) >= _SEEN_MAX:
                self._seen.clear()
            self._seen[pair] = rules
        return rules

    def limits(self) -> list[LimitRule]:
        """Every limit that there is."""
        grants = [*self._profiles.values(), *(grant for _, grant in self._merchants)]
        return [limit for grant in grants for limit in grant.limits]

    def keeps_advices(self, profile: str) -> bool:
        """Whether advices are answered 00 and sent later, if no upstream takes them now."""
        return profile in self._keepers
