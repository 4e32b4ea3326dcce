"""The rules for profiles, merchants and their limits."""

from __future__ import annotations

from gateway.settings.draft import Part
from gateway.settings.findings import Findings, shown_value
from gateway.settings.route_rules import check_time_zone
from gateway.wire.id_patterns import MerchantSet
from gateway.wire.message import Kind

_RANGE_REMEDY = "write the first digits of the lower and of the higher number, as many of each"


def check_policy(top: Part, findings: Findings) -> None:
    """Report what profiles and merchants say that cannot be meant."""
    for profile in top.parts("profiles"):
        _rules(profile, findings)
    for merchant in top.parts("merchants"):
        _rules(merchant, findings)
        _ids(merchant, findings)


def _rules(part: Part, findings: Findings) -> None:
    check_time_zone(part, findings)
    if part.has("day_starts") and not any(
        limit.text("window") == "day" for limit in part.parts("limits")
    ):
        findings.warning(
            part.at("day_starts"),
            "is not used: no limit here is for each day",
            'add a limit with window = "day", or remove it',
        )
    for path, text in part.texts("card_ranges"):
        low, dash, high = text.partition("-")
        if dash and (len(low) != len(high) or high < low):
            findings.error(path, f"{shown_value(text)} is no range", _RANGE_REMEDY)
    for window in part.parts("hours"):
        opens, _, closes = (window.text("time") or "").partition("-")
        if opens and opens == closes:
            findings.error(
                window.at("time"),
                "closes when it opens",
                'write "00:00-24:00" for a whole day',
            )
    _amounts(part, findings)
    for limit in part.parts("limits"):
        _limit(limit, findings)


def _amounts(part: Part, findings: Findings) -> None:
    seen: set[str] = set()
    for bounds in part.parts("amounts"):
        least, most = bounds.number("min_minor"), bounds.number("max_minor")
        if least is not None and most is not None and most < least:
            findings.error(
                bounds.at("max_minor"),
                f"max_minor ({most:g}) is less than min_minor ({least:g})",
                "let the bounds leave room for an amount",
            )
        currency = bounds.text("currency")
        if currency in seen:
            findings.error(
                bounds.at("currency"),
                f"{shown_value(currency)} has bounds here already",
                "write one pair of bounds for each currency",
            )
        seen.update((currency,) if currency else ())


def _limit(limit: Part, findings: Findings) -> None:
    has_amount = limit.has("amount_max_minor")
    if not has_amount and not limit.has("count_max"):
        findings.error(
            limit.path, "limits nothing", "add count_max, or amount_max_minor with currency"
        )
    if has_amount and not limit.has("currency"):
        findings.error(
            limit.at("amount_max_minor"),
            "an amount is one of some currency",
            'add currency, such as currency = "978"',
        )
    kinds = limit.raw.get("kinds")
    if has_amount and isinstance(kinds, list) and Kind.BALANCE.value in kinds:
        findings.warning(
            limit.at("kinds"), "balance enquiries have no amount", "count them in a limit apart"
        )


def _ids(merchant: Part, findings: Findings) -> None:
    for path, text in merchant.texts("ids"):
        try:
            MerchantSet.parse([text])
        except ValueError as error:
            problem, _, remedy = str(error).partition(": ")
            findings.error(path, problem, remedy)
