"""What limits take and give back, in which window, and within which bounds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from gateway.policy.calendars import business_day
from gateway.policy.limits import LimitRule, Limits, Looking, OverLimit, Use, limit_rule
from gateway.policy.response_codes import Reason
from gateway.settings.schema_policy import Limit

PARIS = ZoneInfo("Europe/Paris")
HOUR_MS = 3_600_000
NOON_MS = round(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp() * 1000)


def rule(
    per: str, window: str, *, nth: int = 0, day_starts: str = "00:00", **bounds: Any
) -> LimitRule:
    if "amount_max_minor" in bounds:
        bounds.setdefault("currency", "978")
    return limit_rule(
        Limit.model_validate({"per": per, "window": window} | bounds),
        owner="profiles.retail",
        nth=nth,
        rule=f"{per} {window}",
        zone=PARIS,
        zone_name="Europe/Paris",
        day_starts=day_starts,
    )


def use(
    number: int,
    amount_minor: int = 100,
    *,
    device: str = "T1",
    merchant: str = "M1",
    card: str = "1:00",
    currency: str = "978",
) -> Use:
    return Use(number, (device, merchant, card), currency, amount_minor)


def test_an_amount_limit_is_reached_but_not_passed() -> None:
    limits, rules = Limits(), [rule("device", "day", amount_max_minor=250)]
    assert limits.take(rules, use(1), now_ms=NOON_MS) is None
    assert limits.take(rules, use(2), now_ms=NOON_MS) is None
    over = limits.take(rules, use(3, 51), now_ms=NOON_MS)
    assert over == OverLimit(Reason.AMOUNT_LIMIT, "device day")
    assert limits.take(rules, use(4, 50), now_ms=NOON_MS) is None
    assert limits.used(rules[0], "T1", now_ms=NOON_MS) == (3, 250)


def test_a_count_limit_is_reached_but_not_passed() -> None:
    limits, rules = Limits(), [rule("card", "minute", count_max=1)]
    assert limits.take(rules, use(1), now_ms=NOON_MS) is None
    assert limits.take(rules, use(2), now_ms=NOON_MS) == OverLimit(
        Reason.COUNT_LIMIT, "card minute"
    )


def test_what_one_limit_refuses_is_taken_from_none() -> None:
    limits = Limits()
    first, second = rule("device", "day", count_max=9), rule("merchant", "day", count_max=0)
    assert limits.take([first, second], use(1), now_ms=NOON_MS) is not None
    assert limits.used(first, "T1", now_ms=NOON_MS) == (0, 0)
    assert limits.counters == limits.takings == 0


@pytest.mark.parametrize(
    ("per", "other"),
    [("device", {"device": "T2"}), ("merchant", {"merchant": "M2"}), ("card", {"card": "1:01"})],
)
def test_each_device_merchant_and_card_has_a_limit_of_its_own(
    per: str, other: dict[str, str]
) -> None:
    limits, rules = Limits(), [rule(per, "hour", count_max=1)]
    assert limits.take(rules, use(1), now_ms=NOON_MS) is None
    assert limits.take(rules, use(2, **other), now_ms=NOON_MS) is None
    assert limits.take(rules, use(3), now_ms=NOON_MS) is not None


def test_a_limit_for_each_card_holds_not_where_no_card_is_named() -> None:
    limits, rules = Limits(), [rule("card", "day", count_max=0)]
    assert limits.take(rules, use(1, card=""), now_ms=NOON_MS) is None


def test_an_amount_limit_counts_its_currency_alone() -> None:
    limits, rules = Limits(), [rule("device", "day", amount_max_minor=100)]
    assert limits.take(rules, use(1, 5_000, currency="840"), now_ms=NOON_MS) is None
    assert limits.take(rules, use(2), now_ms=NOON_MS) is None


@pytest.mark.parametrize(
    ("window", "later_ms"), [("minute", 60_000), ("hour", HOUR_MS), ("day", 24 * HOUR_MS)]
)
def test_a_new_window_begins_at_nothing(window: str, later_ms: int) -> None:
    limits, rules = Limits(), [rule("device", window, count_max=1)]
    assert limits.take(rules, use(1), now_ms=NOON_MS) is None
    assert limits.take(rules, use(2), now_ms=NOON_MS + 59_999) is not None
    assert limits.take(rules, use(3), now_ms=NOON_MS + later_ms) is None
    assert limits.used(rules[0], "T1", now_ms=NOON_MS + later_ms) == (1, 100)


def test_a_clock_put_back_a_little_stays_in_its_window() -> None:
    limits, rules = Limits(), [rule("device", "hour", count_max=1)]
    assert limits.take(rules, use(1), now_ms=NOON_MS) is None
    assert limits.take(rules, use(2), now_ms=NOON_MS - 5_000) is not None
    assert limits.take(rules, use(3), now_ms=NOON_MS - HOUR_MS) is None


# --- business days ------------------------------------------------------------------------------


def at(day: int, hour: int, minute: int = 0, *, month: int = 11, fold: int = 0) -> int:
    local = datetime(2026, month, day, hour, minute, tzinfo=PARIS, fold=fold)
    return round(local.timestamp() * 1000)


def test_a_business_day_begins_at_its_hour() -> None:
    before, after = business_day(at(20, 3, 59), PARIS, 240), business_day(at(20, 4), PARIS, 240)
    assert before == (at(19, 4), at(20, 4))
    assert after == (at(20, 4), at(21, 4))


def test_a_business_day_is_an_hour_longer_or_shorter_when_the_clocks_change() -> None:
    autumn = business_day(at(25, 12, month=10), PARIS, 0)
    spring = business_day(at(29, 12, month=3), PARIS, 0)
    assert autumn[1] - autumn[0] == 25 * HOUR_MS
    assert spring[1] - spring[0] == 23 * HOUR_MS


@pytest.mark.parametrize("starts_minute", [0, 130, 150, 179, 180])
@pytest.mark.parametrize(("month", "day"), [(3, 29), (10, 25)])
def test_business_days_follow_each_other_without_a_gap(
    month: int, day: int, starts_minute: int
) -> None:
    now_ms = at(day - 1, 0, month=month)
    while now_ms < at(day, 23, month=month):
        start, end = business_day(now_ms, PARIS, starts_minute)
        assert start <= now_ms < end
        assert business_day(end, PARIS, starts_minute)[0] == end
        now_ms += HOUR_MS // 4


# --- giving back --------------------------------------------------------------------------------


def test_what_is_given_back_can_be_taken_again_once() -> None:
    limits, rules = Limits(), [rule("device", "day", count_max=1)]
    assert limits.take(rules, use(1), now_ms=NOON_MS) is None
    assert limits.give_back(1)
    assert not limits.give_back(1)
    assert limits.take(rules, use(2), now_ms=NOON_MS) is None
    assert limits.take(rules, use(3), now_ms=NOON_MS) is not None


def test_what_was_never_taken_gives_nothing_back() -> None:
    limits, rules = Limits(), [rule("device", "day", count_max=1)]
    assert limits.take(rules, use(1), now_ms=NOON_MS) is None
    assert not limits.give_back(99)
    assert limits.used(rules[0], "T1", now_ms=NOON_MS) == (1, 100)


def test_a_partial_reversal_leaves_the_rest_taken() -> None:
    limits, rules = Limits(), [rule("device", "day", amount_max_minor=100)]
    assert limits.take(rules, use(1), now_ms=NOON_MS) is None
    assert limits.give_back(1, left_minor=30)
    assert limits.used(rules[0], "T1", now_ms=NOON_MS) == (1, 30)
    assert limits.take(rules, use(2, 71), now_ms=NOON_MS) is not None


def test_what_is_given_back_after_its_window_frees_nothing_of_the_next() -> None:
    limits, rules = Limits(), [rule("device", "hour", count_max=1)]
    assert limits.take(rules, use(1), now_ms=NOON_MS) is None
    assert limits.take(rules, use(2), now_ms=NOON_MS + HOUR_MS) is None
    limits.give_back(1)
    assert limits.take(rules, use(3), now_ms=NOON_MS + HOUR_MS) is not None


# --- versions, bounds and restarts ----------------------------------------------------------------


def test_a_limit_that_is_lowered_goes_on_with_its_counts() -> None:
    limits = Limits()
    assert limits.take([rule("device", "day", count_max=5)], use(1), now_ms=NOON_MS) is None
    assert limits.take([rule("device", "day", count_max=1)], use(2), now_ms=NOON_MS) is not None


def test_two_limits_that_count_the_same_have_a_counter_each() -> None:
    limits = Limits()
    rules = [rule("device", "day", count_max=2), rule("device", "day", nth=1, count_max=3)]
    assert limits.take(rules, use(1), now_ms=NOON_MS) is None
    assert limits.used(rules[0], "T1", now_ms=NOON_MS) == (1, 100)


def test_counters_have_a_bound_and_those_of_past_windows_make_room() -> None:
    limits, rules = Limits(counters_max=2), [rule("card", "minute", count_max=9)]
    assert limits.take(rules, use(1, card="a"), now_ms=NOON_MS) is None
    assert limits.take(rules, use(2, card="b"), now_ms=NOON_MS) is None
    assert limits.take(rules, use(3, card="a"), now_ms=NOON_MS) is None
    over = limits.take(rules, use(4, card="c"), now_ms=NOON_MS)
    assert over == OverLimit(Reason.OVERLOAD, "limits.counters_max")
    other = [rule("device", "minute", count_max=9)]
    assert limits.take(other, use(5), now_ms=NOON_MS + 60_000) is None
    assert limits.counters == 1


def test_what_can_be_given_back_has_a_bound() -> None:
    limits, rules = Limits(takings_max=2), [rule("device", "day", count_max=9)]
    for number in (1, 2, 3):
        assert limits.take(rules, use(number), now_ms=NOON_MS) is None
    assert limits.takings == 2
    assert not limits.give_back(1)
    assert limits.give_back(3)


def test_what_was_taken_before_a_restart_counts_in_the_windows_still_open() -> None:
    limits = Limits()
    rules = [rule("device", "hour", count_max=1), rule("device", "day", count_max=2)]
    limits.restore(rules, use(1), taken_ms=NOON_MS - HOUR_MS, now_ms=NOON_MS)
    limits.restore(rules, use(1), taken_ms=NOON_MS - HOUR_MS, now_ms=NOON_MS)
    assert limits.used(rules[0], "T1", now_ms=NOON_MS) == (0, 0)
    assert limits.used(rules[1], "T1", now_ms=NOON_MS) == (1, 100)
    assert limits.oldest_ms(rules, NOON_MS) == at(20, 0)
    assert limits.take(rules, use(2), now_ms=NOON_MS) is None
    assert limits.take(rules, use(3), now_ms=NOON_MS) is not None
    assert limits.give_back(1)


def test_looking_says_what_stands_against_it_and_takes_nothing() -> None:
    limits = Limits()
    once = rule("device", "hour", count_max=1)
    looking = Looking(limits)
    asked = Use(1, ("T1", "M1", ""), "978", 100)
    for _ in range(3):
        assert looking.take([once], asked, now_ms=NOON_MS) is None
    assert limits.take([once], asked, now_ms=NOON_MS) is None
    over = looking.take([once], Use(2, ("T1", "M1", ""), "978", 100), now_ms=NOON_MS)
    assert over is not None
    assert over.reason is Reason.COUNT_LIMIT
    assert (limits.counters, limits.takings, looking.takings) == (1, 1, 0)
