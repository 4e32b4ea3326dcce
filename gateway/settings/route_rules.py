"""The rules of routes: what they name exists, can fit, and is not taken by a route before."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable, Collection, Iterable, Sequence

from gateway.settings.draft import Part
from gateway.settings.findings import Findings, shown_value
from gateway.settings.lines import KeyPath
from gateway.settings.wording import did_you_mean
from gateway.wire.id_patterns import MERCHANT_ID_CHARS_MAX, MerchantSet, TerminalSet

_CARD_DIGITS_MAX = 19
_LISTS = ("kinds", "entry_modes", "currencies", "merchants", "terminal_groups")
_CONDITIONS = (*_LISTS, "bins", "amount_minor_min", "amount_minor_max", "hours")
_AMOUNT_MAX = 10**12


def check_routes(top: Part, findings: Findings) -> None:
    """Report what is wrong with routes and groups of terminals, and routes that nothing reaches."""
    groups = _terminal_groups(top, findings)
    routes = list(top.parts("routes"))
    for route in routes:
        for path, name in route.texts("terminal_groups"):
            if name not in groups:
                findings.error(
                    path,
                    f"no terminal group is named {shown_value(name)}",
                    did_you_mean(name, groups, what="terminal group"),
                )
        for path, text in route.texts("bins"):
            _card_range(path, text, findings)
        check_merchants(route, findings)
        _amounts(route, findings)
        check_time_zone(route, findings)
    _unreachable(routes, findings)


def _terminal_groups(top: Part, findings: Findings) -> set[str]:
    """The names of all groups, even of those that are wrong otherwise."""
    names: set[str] = set()
    for group in top.parts("terminal_groups"):
        name = group.raw.get("name")
        names.update((name,) if isinstance(name, str) else ())
        for path, text in group.texts("terminals"):
            try:
                TerminalSet.parse([text])
            except ValueError:
                findings.error(
                    path,
                    f"{shown_value(text)} names no terminal",
                    'write an id ("T0000001"), a prefix ("T00*") or a range ("T0000001-T0000999")',
                )
    return names


def check_merchants(part: Part, findings: Findings) -> None:
    """Report patterns of merchants that are none."""
    for path, text in part.texts("merchants"):
        try:
            MerchantSet.parse([text])
        except ValueError:
            findings.error(
                path,
                f"{shown_value(text)} names no merchant",
                f'write up to {MERCHANT_ID_CHARS_MAX} characters ("M0000001"), or the first of'
                ' them and * ("M00*")',
            )


def check_time_zone(part: Part, findings: Findings) -> None:
    """Report a time zone that this machine does not know."""
    name = part.text("time_zone")
    if name is None or not part.has("time_zone"):
        return
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        known = zoneinfo.available_timezones()
        findings.error(
            part.at("time_zone"),
            f"no time zone is named {shown_value(name)}",
            did_you_mean(name, known, what="time zone")
            if known
            else "this machine has no time zones: install its package tzdata",
        )


def _card_range(path: KeyPath, text: str, findings: Findings) -> None:
    low, dash, high = text.partition("-")
    if not dash:
        return
    if len(low) != len(high):
        findings.error(
            path,
            f"the ends of {shown_value(text)} have {len(low)} and {len(high)} digits",
            'write as many digits on both sides, such as "622126-622925"',
        )
    elif high < low:
        findings.error(
            path, f"{shown_value(text)} ends before it begins", f'did you mean "{high}-{low}"?'
        )


def _amounts(route: Part, findings: Findings) -> None:
    low, high = route.number("amount_minor_min"), route.number("amount_minor_max")
    if low is not None and high is not None and high < low:
        findings.error(
            route.at("amount_minor_max"),
            f"amount_minor_max ({high:g}) is under amount_minor_min ({low:g})",
            "no amount can fit: correct one of them",
        )


# --- routes that nothing reaches -----------------------------------------------------------------


def _unreachable(routes: Sequence[Part], findings: Findings) -> None:
    for at, route in enumerate(routes):
        for before in routes[:at]:
            if not any(before.raw.get(key) for key in _CONDITIONS):
                findings.warning(
                    route.path,
                    f"never used: the route on line {findings.line_of(before.path)} takes every"
                    " kind and all else",
                    "put the route without conditions last",
                )
                break
            if _takes_all_of(before, route):
                findings.warning(
                    route.path,
                    f"never used: the route on line {findings.line_of(before.path)} takes all that"
                    " would fit here",
                    "put the narrower route first, or remove it",
                )
                break


def _takes_all_of(before: Part, route: Part) -> bool:
    """Whether every request that fits a route fits the one before it, as far as it can be told."""
    return (
        all(_contains(before, route, key, _same) for key in _LISTS)
        and _contains(before, route, "bins", _within)
        and _amount_within(before, route)
        and (
            not before.raw.get("hours")
            or (before.raw.get("hours"), before.text("time_zone"))
            == (route.raw.get("hours"), route.text("time_zone"))
        )
    )


def _contains(
    before: Part, route: Part, key: str, fits: Callable[[str, Collection[str]], bool]
) -> bool:
    wide, narrow = _texts(before, key), _texts(route, key)
    return not wide or (bool(narrow) and all(fits(one, wide) for one in narrow))


def _texts(part: Part, key: str) -> set[str]:
    return {text for _, text in part.texts(key)}


def _same(one: str, among: Collection[str]) -> bool:
    return one in among


def _within(one: str, among: Iterable[str]) -> bool:
    low, high = _ends(one)
    return any(first <= low and high <= last for first, last in map(_ends, among))


def _ends(text: str) -> tuple[str, str]:
    low, _, high = text.partition("-")
    return low.ljust(_CARD_DIGITS_MAX, "0"), (high or low).ljust(_CARD_DIGITS_MAX, "9")


def _amount_within(before: Part, route: Part) -> bool:
    def ends(part: Part) -> tuple[float, float]:
        low, high = part.number("amount_minor_min"), part.number("amount_minor_max")
        return (-1 if low is None else low, _AMOUNT_MAX if high is None else high)

    (low, high), (route_low, route_high) = ends(before), ends(route)
    return low <= route_low and route_high <= high
