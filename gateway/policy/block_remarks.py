"""What stands beside the values of a blocklist: until when, why, and with which code."""

from __future__ import annotations

import re
from datetime import date, tzinfo

from gateway.policy.block_problems import CARD_NUMBER, Wrong, text_of
from gateway.policy.blocklists import Detail, ListName
from gateway.policy.calendars import last_instant_ms
from gateway.policy.card_numbers import holds_card_number

# Codes that say no, and may be said of a card: to be extended with the acquirer's agreement.
CODES = frozenset(("04", "05", "07", "14", "33", "34", "36", "37", "38", "41", "43", "54", "62"))
_CODED = (ListName.CARDS, ListName.BINS)
_REASON_CHARS_MAX = 120
_REMEMBERED_MAX = 10_000  # different remarks
_ATTRIBUTE = re.compile(r'([a-z]+)=(?:"([^"]*)"|([^\s"#]*))(?:[ \t]+|$)')
_DATE = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}|21[0-9]{2}-[0-9]{2}-[0-9]{2}")


class Remarks:
    """The different details of one file; most entries share one, so that each has its number."""

    def __init__(self, name: ListName, zone: tzinfo) -> None:
        self._name = name
        self._zone = zone
        self._details: dict[Detail, int] = {Detail(): 0}
        self._known: dict[bytes, int] = {}

    @property
    def details(self) -> list[Detail]:
        """All of them, by their numbers."""
        return list(self._details)

    def number(self, rest: bytes) -> int:
        """The number of the detail that the rest of a line says; raises Wrong."""
        known = self._known.get(rest)
        if known is None:
            known = self._details.setdefault(self._detail(_text(rest)), len(self._details))
            if len(self._known) < _REMEMBERED_MAX:
                self._known[rest] = known
        return known

    def _detail(self, text: str) -> Detail:
        given: dict[str, str] = {}
        at = 0
        while at < len(text) and text[at] != "#":
            matched = _ATTRIBUTE.match(text, at)
            if matched is None:
                remedy = 'after the value write until=2026-12-31, reason="…", code=43 or # a remark'
                raise Wrong("has something after its value that is not understood", remedy)
            key, quoted, bare = matched.groups()
            if key in given:
                raise Wrong("says the same thing twice", "say it once")
            if key not in ("until", "reason", "code"):
                raise Wrong("has an unknown key", "use until, reason or code")
            given[key] = bare if quoted is None else quoted
            at = matched.end()
        return Detail(
            self._ends_ms(given["until"]) if "until" in given else 0,
            _reason(given.get("reason", "")),
            self._code(given["code"]) if "code" in given else "",
        )

    def _ends_ms(self, text: str) -> int:
        try:
            day = date.fromisoformat(text) if _DATE.fullmatch(text) else None
        except ValueError:
            day = None
        if day is None:
            raise Wrong("until is no day", "write a day of this century: until=2026-12-31")
        return last_instant_ms(day, self._zone)

    def _code(self, text: str) -> str:
        if self._name not in _CODED:
            raise Wrong(f"an entry of {self._name} has no code", "remove code=")
        if text not in CODES:
            raise Wrong(
                "code is none that may be said of a card", f"one of {', '.join(sorted(CODES))}"
            )
        return text


def _text(rest: bytes) -> str:
    """What stands beside a value, or a line that is a remark; raises Wrong."""
    text = text_of(rest)
    if not text.replace("\t", " ").isprintable():
        raise Wrong("holds a control character", "remove it")
    if holds_card_number(text):
        raise Wrong(*CARD_NUMBER)
    return text


def _reason(text: str) -> str:
    if len(text) > _REASON_CHARS_MAX:
        raise Wrong("has too long a reason", f"use {_REASON_CHARS_MAX} characters at most")
    return text
