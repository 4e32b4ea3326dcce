"""Each rule of profiles and merchants: what it refuses, with which code, and how it is named."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateway.policy.blockfiles import assemble, parse, written_token
from gateway.policy.blocklists import ListName
from gateway.policy.decide import Allowed, Policy, Refused, Subject
from gateway.policy.limits import Limits
from gateway.policy.permissions import CardRanges, Permissions
from gateway.policy.response_codes import CodeSet, Reason, response_code
from gateway.settings.lines import KeyPath
from gateway.settings.schema_base import OpeningHours
from gateway.settings.schema_policy import AmountBounds, Limit, Merchant, Profile
from gateway.wire.entry_mode import EntryMode
from gateway.wire.message import Kind, Message

PARIS = ZoneInfo("Europe/Paris")
PAN = "9999990000000007"
TOKEN = "1:" + "0f" * 16
NOON_MS = round(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp() * 1000)  # a Friday
GOOD = Message(
    "0200",
    {
        2: PAN,
        3: "000000",
        4: "000000001000",
        11: "000001",
        22: "051",
        41: "T0000001",
        42: "MERCHANT0000001",
        49: "978",
    },
)
KINDS = [Kind.PURCHASE, Kind.VOID, Kind.REFUND, Kind.BALANCE]


def place(path: KeyPath) -> str:
    return "gateway.toml:" + "/".join(map(str, path))


def policy(
    profile: dict[str, Any] | None = None, *merchants: dict[str, Any], **lists: bytes
) -> Policy:
    parsed = [
        parse(ListName(name), text, file=f"{name}.txt", zone=UTC) for name, text in lists.items()
    ]
    assert not [one.problems for one in parsed if one.problems]
    return Policy(
        permissions=Permissions(
            [Profile(**{"name": "retail", "kinds": KINDS} | (profile or {}))],
            [Merchant(**merchant) for merchant in merchants],
            zone_of=ZoneInfo,
            place=place,
        ),
        version="v1",
        blocklists=assemble(parsed),
        limits=Limits(),
    )


def decide(
    of: Policy, message: Message = GOOD, kind: Kind = Kind.PURCHASE, **known: Any
) -> Allowed | Refused:
    values = {"transaction_id": 1, "wall_ms": NOON_MS, "card_token": TOKEN} | known
    return of.decide(Subject(message, kind, profile="retail", **values))


def refused(
    of: Policy, message: Message = GOOD, kind: Kind = Kind.PURCHASE, **known: Any
) -> Refused:
    decision = decide(of, message, kind, **known)
    assert isinstance(decision, Refused)
    return decision


def manual() -> Message:
    return GOOD.changed({22: "011"})


EVERY_RULE: list[tuple[Policy, Message, Kind, Reason, str, tuple[str, str]]] = [
    (policy(), GOOD, Kind.UNKNOWN, Reason.INVALID_TRANSACTION, "kind", ("12", "12")),
    (policy(), GOOD.without([11]), Kind.PURCHASE, Reason.FORMAT_ERROR, "DE11", ("30", "30")),
    (policy(), GOOD.without([4]), Kind.PURCHASE, Reason.INVALID_AMOUNT, "DE4", ("13", "13")),
    (
        policy(terminals=b"T0000001\n"),
        GOOD,
        Kind.PURCHASE,
        Reason.TERMINAL_BLOCKED,
        "terminals.txt:1",
        ("58", "97"),
    ),
    (
        policy(merchants=b'MERCHANT0000001 reason="fraud"\n'),
        GOOD,
        Kind.PURCHASE,
        Reason.MERCHANT_BLOCKED,
        "merchants.txt:1 (fraud)",
        ("03", "03"),
    ),
    (
        policy(networks=b"203.0.113.0/24\n"),
        GOOD,
        Kind.PURCHASE,
        Reason.NETWORK_BLOCKED,
        "networks.txt:1",
        ("58", "97"),
    ),
    (
        policy(certificates=b"# stolen\nserial:0a:1b\n"),
        GOOD,
        Kind.PURCHASE,
        Reason.CERTIFICATE_BLOCKED,
        "certificates.txt:2",
        ("58", "97"),
    ),
    (
        policy(),
        GOOD,
        Kind.CASH,
        Reason.KIND_NOT_PERMITTED,
        "profiles.retail.kinds (gateway.toml:profiles/0/kinds)",
        ("58", "58"),
    ),
    (
        policy(),
        manual(),
        Kind.PURCHASE,
        Reason.ENTRY_MODE_NOT_PERMITTED,
        "profiles.retail.entry_modes (gateway.toml:profiles/0/entry_modes)",
        ("58", "58"),
    ),
    (
        policy({"currencies": ["840"]}),
        GOOD,
        Kind.PURCHASE,
        Reason.CURRENCY_NOT_PERMITTED,
        "profiles.retail.currencies (gateway.toml:profiles/0/currencies)",
        ("58", "58"),
    ),
    (
        policy({"hours": [OpeningHours(time="13:00-14:00")]}),
        GOOD,
        Kind.PURCHASE,
        Reason.OUT_OF_HOURS,
        "profiles.retail.hours (gateway.toml:profiles/0/hours)",
        ("58", "58"),
    ),
    (
        policy({"card_ranges": ["4", "510000-559999"]}),
        GOOD,
        Kind.PURCHASE,
        Reason.CARD_RANGE_NOT_ALLOWED,
        "profiles.retail.card_ranges (gateway.toml:profiles/0/card_ranges)",
        ("57", "57"),
    ),
    (
        policy(cards=f"{written_token(TOKEN)}\n".encode()),
        GOOD,
        Kind.PURCHASE,
        Reason.CARD_BLOCKED,
        "cards.txt:1",
        ("62", "62"),
    ),
    (
        policy(bins=b"999999\n"),
        GOOD,
        Kind.PURCHASE,
        Reason.CARD_BLOCKED,
        "bins.txt:1",
        ("62", "62"),
    ),
    (
        policy({"amounts": [AmountBounds(currency="978", min_minor=1_001, max_minor=2_000)]}),
        GOOD,
        Kind.PURCHASE,
        Reason.INVALID_AMOUNT,
        "profiles.retail.amounts (gateway.toml:profiles/0/amounts)",
        ("13", "13"),
    ),
    (
        policy({"amounts": [AmountBounds(currency="978", max_minor=999)]}),
        GOOD,
        Kind.PURCHASE,
        Reason.AMOUNT_LIMIT,
        "profiles.retail.amounts (gateway.toml:profiles/0/amounts)",
        ("61", "61"),
    ),
    (
        policy(
            {
                "limits": [
                    Limit(per="device", window="day", currency="978", amount_max_minor=999),
                ]
            }
        ),
        GOOD,
        Kind.PURCHASE,
        Reason.AMOUNT_LIMIT,
        "profiles.retail.limits[0] (gateway.toml:profiles/0/limits/0)",
        ("61", "61"),
    ),
    (
        policy({"limits": [Limit(per="card", window="hour", count_max=0)]}),
        GOOD,
        Kind.PURCHASE,
        Reason.COUNT_LIMIT,
        "profiles.retail.limits[0] (gateway.toml:profiles/0/limits/0)",
        ("65", "65"),
    ),
    (
        policy({"offline_advices": False}),
        GOOD,
        Kind.OFFLINE,
        Reason.KIND_NOT_PERMITTED,
        "profiles.retail.offline_advices (gateway.toml:profiles/0/offline_advices)",
        ("58", "58"),
    ),
]


@pytest.mark.parametrize(
    ("of", "message", "kind", "reason", "rule", "codes"),
    EVERY_RULE,
    ids=[f"{entry[3]}-{entry[4].split(' ')[0]}" for entry in EVERY_RULE],
)
def test_every_rule_refuses_with_its_code_in_both_code_sets(
    of: Policy, message: Message, kind: Kind, reason: Reason, rule: str, codes: tuple[str, str]
) -> None:
    decision = refused(of, message, kind, address="203.0.113.9", certificate_serial=0x0A1B)
    assert (decision.reason, decision.rule) == (reason, rule)
    sets: list[CodeSet] = ["iso", "unionpay"]
    assert tuple(decision.code or response_code(reason, one) for one in sets) == codes


@pytest.mark.parametrize("code", ["41", "43"])
def test_a_list_says_which_code_speaks_of_its_card(code: str) -> None:
    line = f"{written_token(TOKEN)} code={code}\n".encode()
    assert refused(policy(cards=line)).code == code
    assert refused(policy(bins=f"9999990 code={code}\n".encode())).code == code


def test_the_checks_have_their_order() -> None:
    """With everything wrong the first says so; mended one by one, the next does."""
    wrong: dict[str, Any] = {
        "kinds": [Kind.CASH],
        "entry_modes": [EntryMode.CONTACTLESS],
        "currencies": ["840"],
        "hours": [OpeningHours(time="00:00-00:01")],
        "card_ranges": ["4"],
        "amounts": [AmountBounds(currency="978", max_minor=1)],
        "limits": [Limit(per="device", window="day", count_max=0)],
    }
    right: dict[str, Any] = {
        "kinds": KINDS,
        "entry_modes": [EntryMode.CHIP],
        "currencies": ["978"],
        "hours": [],
        "card_ranges": ["9"],
        "amounts": [],
        "limits": [],
    }
    lists = {
        "terminals": b"T0000001\n",
        "merchants": b"MERCHANT0000001\n",
        "cards": f"{written_token(TOKEN)}\n".encode(),
        "bins": b"999999\n",
    }
    seen = []
    for name in ("terminals", "merchants", *list(wrong)[:5], "cards", "bins", "amounts", "limits"):
        seen.append(refused(policy(wrong, **lists)).reason)
        if name in lists:
            del lists[name]
        else:
            wrong[name] = right[name]
    assert seen == [
        Reason.TERMINAL_BLOCKED,
        Reason.MERCHANT_BLOCKED,
        Reason.KIND_NOT_PERMITTED,
        Reason.ENTRY_MODE_NOT_PERMITTED,
        Reason.CURRENCY_NOT_PERMITTED,
        Reason.OUT_OF_HOURS,
        Reason.CARD_RANGE_NOT_ALLOWED,
        Reason.CARD_BLOCKED,
        Reason.CARD_BLOCKED,
        Reason.AMOUNT_LIMIT,
        Reason.COUNT_LIMIT,
    ]
    assert isinstance(decide(policy(wrong)), Allowed)


def test_an_offline_advice_reports_what_was_done_and_passes_the_rest() -> None:
    strict = policy(
        {
            "kinds": [Kind.CASH],
            "currencies": ["840"],
            "limits": [Limit(per="device", window="day", kinds=[Kind.OFFLINE], count_max=0)],
        },
        terminals=b"T0000001\n",
        bins=b"9999\n",
    )
    assert isinstance(decide(strict, kind=Kind.OFFLINE), Allowed)
    assert isinstance(decide(strict, kind=Kind.ADJUSTMENT), Allowed)


def test_keying_in_a_card_number_must_be_named() -> None:
    assert isinstance(decide(policy({"entry_modes": [EntryMode.MANUAL]}), manual()), Allowed)
    assert isinstance(decide(policy(), GOOD.without([22])), Allowed)


def test_a_void_is_not_held_against_amounts() -> None:
    of = policy({"amounts": [AmountBounds(currency="978", max_minor=1)]})
    assert isinstance(decide(of, kind=Kind.VOID), Allowed)
    assert isinstance(decide(of, GOOD.without([4]), Kind.BALANCE), Allowed)


# --- merchants ----------------------------------------------------------------------------------


def test_a_merchant_narrows_its_profile() -> None:
    of = policy({}, {"ids": ["MERCHANT*"], "kinds": [Kind.PURCHASE], "currencies": ["978"]})
    decision = refused(of, kind=Kind.REFUND)
    assert decision.rule == "merchants[0].kinds (gateway.toml:merchants/0/kinds)"
    assert isinstance(decide(of), Allowed)
    other = GOOD.changed({42: "OTHER"})
    assert isinstance(decide(of, other, Kind.REFUND), Allowed)


def test_a_merchant_never_widens_its_profile() -> None:
    wide = {
        "ids": ["*"],
        "kinds": list(Kind),
        "entry_modes": list(EntryMode),
        "currencies": ["978", "840"],
        "card_ranges": ["9", "4"],
    }
    narrow = {"kinds": [Kind.PURCHASE], "currencies": ["840"], "card_ranges": ["4"]}
    of = policy(narrow, wide)
    assert refused(of, kind=Kind.CASH).rule.startswith("profiles.retail")
    assert refused(of).reason is Reason.CURRENCY_NOT_PERMITTED
    assert refused(of, GOOD.changed({49: "840"})).reason is Reason.CARD_RANGE_NOT_ALLOWED
    assert refused(of, manual()).reason is Reason.ENTRY_MODE_NOT_PERMITTED


def test_all_tables_that_fit_a_merchant_hold() -> None:
    of = policy(
        {},
        {"ids": ["MERCHANT*"], "kinds": [Kind.PURCHASE, Kind.VOID]},
        {"ids": ["OTHER*"], "kinds": [Kind.CASH]},
        {"ids": ["MERCHANT0000001"], "kinds": [Kind.PURCHASE, Kind.REFUND]},
    )
    assert isinstance(decide(of), Allowed)
    assert refused(of, kind=Kind.VOID).rule.startswith("merchants[2].kinds")
    assert refused(of, kind=Kind.REFUND).rule.startswith("merchants[0].kinds")


# --- hours --------------------------------------------------------------------------------------


def at(year: int, month: int, day: int, hour: int, minute: int = 0, *, fold: int = 0) -> int:
    local = datetime(year, month, day, hour, minute, tzinfo=PARIS, fold=fold)
    return round(local.timestamp() * 1000)


def is_open(wall_ms: int, *windows: OpeningHours) -> bool:
    of = policy({"hours": list(windows), "time_zone": "Europe/Paris"})
    return isinstance(decide(of, wall_ms=wall_ms), Allowed)


def test_hours_are_those_of_the_wall_clock() -> None:
    shop = OpeningHours(days=["mon", "tue", "wed", "thu", "fri"], time="08:00-20:00")
    assert not is_open(at(2026, 7, 3, 7, 59), shop)  # summer time: 05:59 UTC
    assert is_open(at(2026, 7, 3, 8), shop)
    assert is_open(at(2026, 12, 4, 8), shop)  # winter time: 07:00 UTC
    assert is_open(at(2026, 12, 4, 19, 59), shop)
    assert not is_open(at(2026, 12, 4, 20), shop)
    assert not is_open(at(2026, 12, 5, 12), shop)  # a Saturday


def test_a_window_over_midnight_belongs_to_the_day_it_began_on() -> None:
    bar = OpeningHours(days=["fri", "sun"], time="18:00-02:00")
    assert is_open(at(2026, 12, 4, 23), bar)
    assert is_open(at(2026, 12, 5, 1, 59), bar)
    assert not is_open(at(2026, 12, 5, 2), bar)
    assert not is_open(at(2026, 12, 5, 18), bar)
    assert is_open(at(2026, 12, 7, 1), bar)  # the week goes round: Monday after Sunday's
    assert not is_open(at(2026, 12, 4, 1), bar)


def test_the_hour_that_comes_twice_is_open_or_not_both_times() -> None:
    night = OpeningHours(time="02:00-03:00")
    assert is_open(at(2026, 10, 25, 2, 30, fold=0), night)
    assert is_open(at(2026, 10, 25, 2, 30, fold=1), night)
    assert not is_open(at(2026, 10, 25, 3), night)
    # In spring 02:30 never comes: half an hour after 01:59 is 03:29.
    assert not is_open(at(2026, 3, 29, 1, 59) + 1_800_000, night)


# --- card ranges --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranges", "pan", "expected"),
    [
        (["4"], "4111111111111111", True),
        (["4"], "5111111111111111", False),
        (["400000-499999"], "4999999999999999999", True),
        (["400000-499999"], "3999999999999999999", False),
        (["62", "6217-6219"], "6220000000000000", True),
        (["1", "3"], "2000000000000", False),
        ([], "4111111111111111", False),
        (["4"], "4111X", False),
        (["4"], "", False),
    ],
)
def test_card_ranges(ranges: list[str], pan: str, expected: bool) -> None:
    assert (pan in CardRanges(ranges)) is expected
