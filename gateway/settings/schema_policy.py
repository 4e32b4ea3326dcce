"""The tables of what may go on: profiles, merchants, limits, rates and blocklists."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.settings.schema_base import (
    AmountMinor,
    CodeRange,
    Currency,
    EntryModeName,
    KindName,
    Name,
    OpeningHours,
    Path,
    Table,
    TimeOfDay,
    TimeZone,
)
from gateway.settings.schema_keys_use import ProfileKeys
from gateway.wire.entry_mode import EntryMode
from gateway.wire.message import Kind


class AmountBounds(Table):
    """What one request may come to in a currency."""

    currency: Currency
    min_minor: AmountMinor = 1
    max_minor: AmountMinor


class Limit(Table):
    """At most so much in a window of time, for each device, merchant or card.

    Windows are those of the clock: a minute, an hour, a business day. What was declined, not sent,
    reversed or voided does not count.
    """

    per: Literal["device", "merchant", "card"]
    window: Literal["minute", "hour", "day"]
    kinds: list[KindName] = Field(  # what counts, and is refused when it is used up
        default=[Kind.PURCHASE, Kind.CASH, Kind.CASHBACK, Kind.PREAUTHORISATION], min_length=1
    )
    currency: Currency | None = None  # only requests in it count; needed with amount_max_minor
    amount_max_minor: AmountMinor | None = None  # over it: 61
    count_max: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None  # over it: 65


class Rules(Table):
    """What a profile and a merchant have in common."""

    currencies: list[Currency] = Field(default_factory=list)  # empty: any
    card_ranges: list[CodeRange] = Field(default_factory=list)  # empty: any
    amounts: list[AmountBounds] = Field(default_factory=list)  # empty: any; else of its currency
    time_zone: TimeZone = "UTC"  # of the hours and of the business day
    day_starts: TimeOfDay = "00:00"  # when the business day of the limits begins
    hours: list[OpeningHours] = Field(default_factory=list)  # empty: always
    limits: list[Limit] = Field(default_factory=list)


class Profile(Rules):
    """What a device may do; what is not named in a list is refused."""

    name: Name
    kinds: list[KindName] = Field(min_length=1)
    entry_modes: list[EntryModeName] = Field(  # of DE22; keying a card number in must be named
        default=[mode for mode in EntryMode if mode is not EntryMode.MANUAL], min_length=1
    )
    offline_advices: bool = True  # false: reports of offline sales (0220) are refused
    keeps_advices: bool = False  # advices are answered 00 and sent later if no upstream is there
    keys: ProfileKeys = ProfileKeys()


class Merchant(Rules):
    """What narrows the profiles of a merchant's devices; it never allows what a profile does not.

    All tables that fit a merchant hold at once.
    """

    ids: list[str] = Field(min_length=1)  # merchant ids (DE42), or how they begin and *: "8981*"
    kinds: list[KindName] = Field(default_factory=list)  # empty: those of the profile
    entry_modes: list[EntryModeName] = Field(default_factory=list)  # empty: those of the profile
    offline_advices: bool = True


class Blocklists(Table):
    """Plain files that are looked at whenever they are edited: terminals, cards, bins, merchants,
    networks and certificates, one entry a line."""

    folder: Path = "blocklists"  # a list without a file in it is empty
    entries_max: int = Field(default=5_000_000, ge=1, le=50_000_000)  # of one list
    time_zone: TimeZone = "UTC"  # an entry with until= holds to the end of that day


class Rate(Table):
    """A bucket that holds `burst` messages and fills at `per_s`; what finds it empty gets 96."""

    per_s: Annotated[float, Field(gt=0, le=1_000_000)]
    burst: int = Field(ge=1, le=1_000_000)


class Rates(Table):
    """How many messages are taken a second, before anything else is asked of them."""

    device: Rate | None = None
    address: Rate | None = None
    listener: Rate | None = None
    keys_max: int = Field(default=100_000, ge=100, le=10_000_000)  # devices counted; addresses too
