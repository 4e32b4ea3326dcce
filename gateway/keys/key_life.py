"""A key's life as a table: what becomes of it when something happens to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum
from typing import Final

from gateway.clock import iso_time
from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys.records import StoredKey, StoredKeyState


class KeyEvent(StrEnum):
    """What can happen to a key."""

    PROVEN = "proven"  # it was used well for the first time, or an operator vouches for it
    SUPERSEDED = "superseded"  # a newer version took its place
    RESTORED = "restored"  # the newer version was taken back
    TAKEN_BACK = "taken back"  # it was wrong: the version before it goes on
    ENDED = "ended"  # its time is over
    DESTROYED = "destroyed"


_PENDING, _ACTIVE = StoredKeyState.PENDING, StoredKeyState.ACTIVE
_RETIRING, _EXPIRED = StoredKeyState.RETIRING, StoredKeyState.EXPIRED
_DESTROYED = StoredKeyState.DESTROYED

# Every pair of a state and an event has an entry; None: it cannot happen to such a key.
TRANSITIONS: Final[dict[tuple[StoredKeyState, KeyEvent], StoredKeyState | None]] = {
    (_PENDING, KeyEvent.PROVEN): _ACTIVE,
    # It was handed out and never used, and another was handed out: nobody needs it any more.
    (_PENDING, KeyEvent.SUPERSEDED): _EXPIRED,
    (_PENDING, KeyEvent.RESTORED): None,
    (_PENDING, KeyEvent.TAKEN_BACK): _EXPIRED,
    (_PENDING, KeyEvent.ENDED): _EXPIRED,
    (_PENDING, KeyEvent.DESTROYED): _DESTROYED,
    (_ACTIVE, KeyEvent.PROVEN): _ACTIVE,
    (_ACTIVE, KeyEvent.SUPERSEDED): _RETIRING,
    (_ACTIVE, KeyEvent.RESTORED): _ACTIVE,
    (_ACTIVE, KeyEvent.TAKEN_BACK): _EXPIRED,
    (_ACTIVE, KeyEvent.ENDED): _EXPIRED,
    (_ACTIVE, KeyEvent.DESTROYED): _DESTROYED,
    # Its overlap runs on to the end that it was given, whatever follows meanwhile.
    (_RETIRING, KeyEvent.PROVEN): _RETIRING,
    (_RETIRING, KeyEvent.SUPERSEDED): _RETIRING,
    (_RETIRING, KeyEvent.RESTORED): _ACTIVE,
    (_RETIRING, KeyEvent.TAKEN_BACK): _EXPIRED,
    (_RETIRING, KeyEvent.ENDED): _EXPIRED,
    (_RETIRING, KeyEvent.DESTROYED): _DESTROYED,
    (_EXPIRED, KeyEvent.PROVEN): None,
    (_EXPIRED, KeyEvent.SUPERSEDED): _EXPIRED,
    (_EXPIRED, KeyEvent.RESTORED): None,
    (_EXPIRED, KeyEvent.TAKEN_BACK): _EXPIRED,
    (_EXPIRED, KeyEvent.ENDED): _EXPIRED,
    (_EXPIRED, KeyEvent.DESTROYED): _DESTROYED,
    (_DESTROYED, KeyEvent.PROVEN): None,
    (_DESTROYED, KeyEvent.SUPERSEDED): _DESTROYED,
    (_DESTROYED, KeyEvent.RESTORED): None,
    (_DESTROYED, KeyEvent.TAKEN_BACK): _DESTROYED,
    (_DESTROYED, KeyEvent.ENDED): _DESTROYED,
    (_DESTROYED, KeyEvent.DESTROYED): _DESTROYED,
}


def moved(key: StoredKey, event: KeyEvent, *, now_ms: int, overlap_ms: int = 0) -> StoredKey:
    """The key as it is after an event.

    One that retires ends after `overlap_ms`, or at its own end where that comes first; one that
    is destroyed has no value any more. Raises OperatorError where it cannot happen to such a key.
    """
    state = TRANSITIONS[key.state, event]
    if state is None:
        raise OperatorError(f"{key.name} is {key.state}: it cannot be {event}")
    if state is key.state:
        return key
    if state is StoredKeyState.RETIRING:
        return replace(key, state=state, end_ms=_earlier(key.end_ms, now_ms + overlap_ms))
    if state is StoredKeyState.EXPIRED:
        return replace(key, state=state, end_ms=_earlier(key.end_ms, now_ms))
    if state is StoredKeyState.DESTROYED:
        return replace(key, state=state, end_ms=_earlier(key.end_ms, now_ms), wrapped=b"")
    if event is KeyEvent.RESTORED:
        return replace(key, state=state, end_ms=0)
    return replace(key, state=state)


def works(key: StoredKey, now_ms: int) -> bool:
    """Whether a key may be used: active, or retiring within its overlap, and within its time."""
    return (
        (key.state is _ACTIVE or key.state is _RETIRING)
        and key.start_ms <= now_ms
        and (not key.end_ms or now_ms < key.end_ms)
    )


def succession(
    new: StoredKey, known: Iterable[StoredKey], *, now_ms: int, overlap_ms: int
) -> tuple[StoredKey, ...]:
    """What is to be kept, together, when a version takes the place of those before it.

    Returns the new one as ACTIVE, and those of `known` (of its owner and purpose) that change: what
    was active goes on for the overlap, counted from the new one's start, what was pending is over.
    Raises OperatorError where the new one can no longer become active.
    """
    start_ms = max(now_ms, new.start_ms)
    rows = [moved(new, KeyEvent.PROVEN, now_ms=now_ms)]
    for key in known:
        if key.version == new.version:
            continue
        if key.state is StoredKeyState.ACTIVE and start_ms > now_ms:
            # It is the one in use until the new one starts, and is told to end behind that.
            after = replace(key, end_ms=_earlier(key.end_ms, start_ms + overlap_ms))
        elif key.state is StoredKeyState.PENDING and key.version > new.version:
            continue
        else:
            after = moved(key, KeyEvent.SUPERSEDED, now_ms=now_ms, overlap_ms=overlap_ms)
        if after != key:
            rows.append(after)
    return tuple(rows)


def check_usable(key: StoredKey, now_ms: int) -> None:
    """Raises KeyUnavailable, saying what is wrong and what to do, where a key may not be used."""
    if not works(key, now_ms):
        raise KeyUnavailable(f"{why_not(key, now_ms)}; `gateway keys rotate` makes another")


def why_not(key: StoredKey, now_ms: int) -> str:
    """In words why a key may not be used."""
    if key.state in (StoredKeyState.DESTROYED, StoredKeyState.PENDING):
        return f"{key.name} is {key.state}"
    if key.start_ms > now_ms:
        return f"{key.name} starts at {iso_time(key.start_ms)}"
    if key.end_ms:
        return f"{key.name} ended at {iso_time(key.end_ms)}"
    return f"{key.name} is {key.state}"


def _earlier(end_ms: int, other_ms: int) -> int:
    return min(end_ms, other_ms) if end_ms else other_ms
