"""Local time for rules: when a week's windows are open, and what a business day is."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta, tzinfo

from gateway.settings.schema_base import OpeningHours, Weekday

_DAY_MINUTES = 24 * 60
_WEEK_MINUTES = 7 * _DAY_MINUTES
_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS
_WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class WeeklyHours:
    """The minutes of a week that are open, on the clock on a shop's wall.

    Since that clock is what is asked, a change to summer time needs nothing: the hour that is left
    out never comes, and the one that comes twice is open, or not, both times.
    """

    __slots__ = ("_answer", "_minute", "_open", "_zone")

    def __init__(self, windows: Iterable[OpeningHours], zone: tzinfo) -> None:
        """A window that closes at or before it opens runs past midnight, as part of its day."""
        minutes = bytearray(_WEEK_MINUTES)
        for window in windows:
            opens, closes = (minute_of_day(text) for text in window.time.split("-"))
            length = closes - opens if closes > opens else closes - opens + _DAY_MINUTES
            for day in window.days:
                first = _WEEKDAYS.index(day) * _DAY_MINUTES + opens
                for minute in range(first, first + length):
                    minutes[minute % _WEEK_MINUTES] = 1
        self._open = bytes(minutes)
        self._zone = zone
        # Requests come many to a minute: the last minute's answer serves nearly all of them.
        self._minute = -1
        self._answer = False

    def is_open(self, wall_ms: int) -> bool:
        """Whether this moment (milliseconds since 1970 UTC) lies in a window."""
        minute = wall_ms // _MINUTE_MS
        if minute != self._minute:
            local = datetime.fromtimestamp(minute * 60, self._zone)
            of_week = local.weekday() * _DAY_MINUTES + local.hour * 60 + local.minute
            self._minute, self._answer = minute, bool(self._open[of_week])
        return self._answer


def minute_of_day(text: str) -> int:
    """The minutes since midnight of "HH:MM"; 24:00 is the day's end."""
    return int(text[:2]) * 60 + int(text[3:5])


def minute_window(wall_ms: int) -> tuple[int, int]:
    """The first millisecond of the clock's minute, and that of the next."""
    start = wall_ms - wall_ms % _MINUTE_MS
    return start, start + _MINUTE_MS


def hour_window(wall_ms: int) -> tuple[int, int]:
    """The first millisecond of the clock's hour (in UTC), and that of the next."""
    start = wall_ms - wall_ms % _HOUR_MS
    return start, start + _HOUR_MS


def business_day(wall_ms: int, zone: tzinfo, starts_minute: int) -> tuple[int, int]:
    """The first millisecond of the business day that this moment belongs to, and of the next.

    The day is that of the wall clock, 23 or 25 hours long when the clocks change. Instants are
    compared rather than clock readings: in the hour that comes twice a reading says nothing.
    """
    day = datetime.fromtimestamp(wall_ms / 1000, zone).date() + timedelta(days=1)
    while (start := _instant_ms(day, zone, starts_minute)) > wall_ms:
        day -= timedelta(days=1)
    return start, _instant_ms(day + timedelta(days=1), zone, starts_minute)


def last_instant_ms(day: date, zone: tzinfo) -> int:
    """The first millisecond after a day has ended in a zone."""
    return _instant_ms(day + timedelta(days=1), zone, 0)


def _instant_ms(day: date, zone: tzinfo, minute: int) -> int:
    local = datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=zone)
    return round(local.timestamp() * 1000)
