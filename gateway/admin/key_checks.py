"""Holds every key against what it should be: it unwraps, and is none that everybody knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import trio

from gateway.admin.key_room import KeyRoom
from gateway.errors import KeyUnavailable
from gateway.keys.check_value import check_value
from gateway.keys.key_encryption import KeyWrapping
from gateway.keys.records import StoredKey
from gateway.keys.weak_keys import is_known, weakness

PROBLEMS_MAX = 100
_STEP = 32  # keys between two looks at other tasks: 10 µs each, with a token up to 1 ms

Progress = Callable[[int, int], None]


class Problem(TypedDict):
    key: str
    problem: str


class Checked(TypedDict):
    """What a check of all keys found."""

    keys: int  # with a value
    destroyed: int
    under: dict[str, int]  # keys to each key-encryption key
    kek: str  # in force
    rewrapping: bool
    problems: list[Problem]  # the first hundred
    problems_count: int


async def check_keys(room: KeyRoom, *, progress: Progress | None = None) -> Checked:
    """What is wrong with the keys that are kept."""
    wrapping = room.holdings.wrapping
    under: dict[str, int] = {}
    problems: list[Problem] = []
    keys = room.all()
    destroyed = count = 0
    for number, key in enumerate(keys, start=1):
        if not key.wrapped:
            destroyed += 1
            continue
        under[key.kek] = under.get(key.kek, 0) + 1
        problem = problem_of(key, wrapping)
        if problem:
            count += 1
            if len(problems) < PROBLEMS_MAX:
                problems.append({"key": key.name, "problem": problem})
        if number % _STEP == 0:
            if progress is not None:
                progress(number, len(keys))
            await trio.lowlevel.checkpoint()
    return {
        "keys": len(keys) - destroyed,
        "destroyed": destroyed,
        "under": under,
        "kek": wrapping.in_force.name,
        "rewrapping": room.holdings.own.rewrapping,
        "problems": problems,
        "problems_count": count,
    }


def problem_of(key: StoredKey, wrapping: KeyWrapping) -> str:
    """What is wrong with a key, in words; "" where nothing is."""
    try:
        clear = wrapping.unwrap(key)
    except KeyUnavailable as error:
        return str(error)
    if key.check_value and check_value(key.algorithm, clear).hex().upper() != key.check_value:
        return "its check value is another key's"
    if is_known(clear):
        return "a published test key: a production node does not start with it"
    return weakness(key.algorithm, clear)
