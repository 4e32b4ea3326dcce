"""Named times: when a message says that it, or its original, was first sent, on its own clock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from gateway.transactions.matching import transmitted_by_original
from gateway.wire.message import LOCAL_DATE, LOCAL_TIME, TRANSMISSION_TIME, Message

DAY_MS = 86_400_000
_UNIONPAY_ORIGINAL = 61  # original batch 6, original STAN 6, original date 4


def own_times(message: Message) -> Iterator[str]:
    """When a message was first sent: DE12 with DE13; DE7 where there is neither."""
    local = message.get(LOCAL_TIME)
    if len(local) == 12:  # ISO 8583:1993: YYMMDDhhmmss
        yield local[2:]
    elif len(local) == 6 and len(message.get(LOCAL_DATE)) == 4:
        yield message.get(LOCAL_DATE) + local
    elif len(message.get(TRANSMISSION_TIME)) == 10:
        yield message.get(TRANSMISSION_TIME)


def times_named(message: Message) -> Iterator[str]:
    """What a message says of its original's time: DE7 in DE90, or the date in DE61."""
    transmitted = transmitted_by_original(message)
    if transmitted:
        yield transmitted
    unionpay = message.get(_UNIONPAY_ORIGINAL)
    if len(unionpay) >= 16 and unionpay[:16].isdigit() and unionpay[12:16].strip("0"):
        yield unionpay[12:16]


def times_of_original(message: Message) -> Iterator[str]:
    """Of a reversal DE12 and DE13 may be its original's as well."""
    yield from times_named(message)
    yield from own_times(message)


def span(text: str, zone: Any, now_ms: int) -> tuple[int, int] | None:
    """The first and last millisecond of a time MMDDhhmmss or a day MMDD; None where it is none.

    It has no year: it is the one that puts it nearest to now.
    """
    if not (text.isascii() and text.isdigit()) or len(text) not in (4, 10):
        return None
    year = datetime.fromtimestamp(now_ms / 1000, UTC).year
    clock = text[4:] or "000000"
    found: list[int] = []
    for one in (year - 1, year, year + 1):
        try:
            moment = datetime(
                one,
                int(text[:2]),
                int(text[2:4]),
                int(clock[:2]),
                int(clock[2:4]),
                int(clock[4:]),
                tzinfo=zone,
            )
        except ValueError:
            continue  # no such day in that year, or at all
        found.append(round(moment.timestamp() * 1000))
    if not found:
        return None
    nearest = min(found, key=lambda moment_ms: abs(moment_ms - now_ms))
    return nearest, nearest + (999 if len(text) == 10 else DAY_MS - 1)
