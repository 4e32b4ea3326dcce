"""The rules of translation: what a listener's dialect has and an upstream's lacks is ruled upon."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from gateway.settings.draft import Part
from gateway.settings.findings import Findings, shown_value
from gateway.settings.lines import KeyPath
from gateway.settings.route_rules import check_time_zone
from gateway.wire.dialect import Dialect
from gateway.wire.dialect_meaning import EDITION_1993
from gateway.wire.message import (
    ADVICE_KINDS,
    AMOUNT,
    EMV_DATA,
    MERCHANT_ID,
    PROCESSING_CODE,
    REVERSIBLE_KINDS,
    STAN,
    TERMINAL_ID,
    Kind,
)
from gateway.wire.translation import Translation

# Without one of these an upstream cannot tell what is asked for, or by whom.
_ESSENTIAL: Final = (PROCESSING_CODE, AMOUNT, STAN, TERMINAL_ID, MERCHANT_ID)
_NAMED_BY: Final = {"de90": 90, "de61": 61, "de56": 56}  # the likeliest first
_NO_SOURCES: Final = frozenset((2, 14, 34, 35, 36, 45, 52, EMV_DATA))
_FIELDS_SHOWN_MAX: Final = 8
_FINANCIAL: Final[frozenset[str]] = frozenset(
    (*REVERSIBLE_KINDS, *ADVICE_KINDS, Kind.REFUND, Kind.BALANCE)
)


def check_translation(top: Part, dialects: Mapping[str, Dialect], findings: Findings) -> None:
    """Report what an upstream cannot get for want of a place in its dialect, and the remedy."""
    used = _upstreams_of_routes(top)
    spoken: dict[str, Part] = {}
    for listener in top.parts("listeners"):
        spoken.setdefault(listener.text("dialect") or "", listener)
    for upstream in top.parts("upstreams"):
        own = dialects.get(upstream.text("dialect") or "")
        if own is None:
            continue
        rules = upstream.part("fields")
        _codes(rules, findings)
        check_time_zone(rules, findings)
        _copies(rules, own, findings)
        _reference(upstream, own, findings)
        if upstream.text("name") not in used:
            continue
        for name, listener in spoken.items():
            dialect = dialects.get(name)
            if dialect is not None and name != own.name:
                _pair(upstream, own, listener, dialect, kinds=_kinds(top), findings=findings)


def _pair(
    upstream: Part,
    own: Dialect,
    listener: Part,
    dialect: Dialect,
    *,
    kinds: Collection[str],
    findings: Findings,
) -> None:
    rules = upstream.part("fields")
    translation = Translation(dialect, own)
    lacking = sorted(translation.lacking - set(_ruled(rules)))
    essential = [number for number in lacking if number in _ESSENTIAL]
    who = f"terminals of listener {listener.text('name')} ({dialect.name})"
    if essential:
        findings.error(
            upstream.at("dialect"),
            f"{who} cannot be served: {own.name} has no {_listed(essential)}",
            "add the fields to the dialect, or name another one",
        )
    elif lacking:
        shown = f"gateway dialect diff --translation {dialect.name} {own.name}"
        findings.warning(
            upstream.at("dialect"),
            f"requests of {who} with {_listed(lacking)} go to no such upstream: {own.name} has no"
            " place for them",
            f"write drop = [{', '.join(map(str, lacking))}] in [upstreams.fields] where it can"
            f" do without them; `{shown}` shows all",
        )
    missing = sorted(kind for kind in kinds if not translation.asks_for(Kind(kind)))
    if missing:
        findings.warning(
            upstream.at("dialect"),
            f"{own.name} does not say how {', '.join(missing)} are asked for, which {who} may ask",
            "add them to [kinds] of the dialect, or route these kinds elsewhere",
        )


def _kinds(top: Part) -> set[str]:
    """The kinds that some profile permits."""
    permitted = {kind for profile in top.parts("profiles") for _, kind in profile.texts("kinds")}
    return permitted & _FINANCIAL


def _upstreams_of_routes(top: Part) -> set[str]:
    groups = {route.text("group") for route in top.parts("routes")}
    return {
        name
        for group in top.parts("groups")
        if group.text("name") in groups
        for member in group.parts("members")
        if (name := member.text("upstream")) is not None
    }


def _ruled(rules: Part) -> Iterator[int]:
    """The fields that a rule drops, sets or fills."""
    dropped = rules.raw.get("drop")
    yield from (one for one in (dropped if isinstance(dropped, list) else ()) if _whole(one))
    for key in ("set", "copy_from"):
        table = rules.raw.get(key)
        for number in table if isinstance(table, dict) else ():
            if isinstance(number, str) and number.isdigit():
                yield int(number)


def _reference(upstream: Part, own: Dialect, findings: Findings) -> None:
    """A reversal has to name its original."""
    named_by = upstream.text("reversal_original")
    number = _NAMED_BY.get(named_by or "")
    if number is None:
        return
    fitting = next((one for one, field in _NAMED_BY.items() if field in own.fields), None)
    if own.meaning.edition == EDITION_1993:
        fitting = "de56"
    if number not in own.fields and fitting is not None:
        findings.error(
            upstream.at("reversal_original"),
            f"dialect {own.name} has no DE{number}: no reversal could name its original",
            f'write reversal_original = "{fitting}"',
        )
    elif own.meaning.edition == EDITION_1993 and named_by != fitting:
        findings.warning(
            upstream.at("reversal_original"),
            f"dialect {own.name} names originals in DE56",
            'write reversal_original = "de56"',
        )


def _codes(rules: Part, findings: Findings) -> None:
    table = rules.raw.get("codes")
    for code, told in table.items() if isinstance(table, dict) else ():
        for text in (code, told):
            if not (isinstance(text, str) and len(text) == 2 and text.isascii() and text.isalnum()):
                findings.error(
                    (*rules.at("codes"), str(code)),
                    f"{shown_value(text)} is no response code",
                    'write two digits or letters in quotes, such as A0 = "63"',
                )


def _copies(rules: Part, own: Dialect, findings: Findings) -> None:
    table = rules.raw.get("copy_from")
    for target, source in table.items() if isinstance(table, dict) else ():
        path: KeyPath = (*rules.at("copy_from"), str(target))
        if _whole(source) and source in _NO_SOURCES:
            findings.error(
                path, f"DE{source} cannot be copied", "data of a card stays in its own field"
            )
        for number in (target, source):
            if str(number).isdigit() and int(str(number)) not in own.fields:
                findings.error(
                    path,
                    f"dialect {own.name} has no DE{number}",
                    "correct the number, or add the field to the dialect",
                )


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(f"DE{number}" for number in numbers[:_FIELDS_SHOWN_MAX])
    more = len(numbers) - _FIELDS_SHOWN_MAX
    return f"{shown} and {more} others" if more > 0 else shown


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
