from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from gateway.admin.key_watch import KeyWatch, endings
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState
from gateway.telemetry.alarms import SUBJECT_FIELDS
from gateway.telemetry.events import ALARMS, Event
from tests.support.key_rooms import NOW_MS, Room, a_room

DAY_MS = 86_400_000
STEPS = [30, 7, 1]
MASTER = KeyPurpose.TERMINAL_MASTER


def a_key(owner: str = "terminal:T1", version: int = 1, **changes: object) -> StoredKey:
    key = StoredKey(
        owner=owner,
        purpose=MASTER,
        version=version,
        algorithm=KeyAlgorithm.TDES_2,
        state=StoredKeyState.ACTIVE,
        start_ms=1,
        end_ms=NOW_MS + 5 * DAY_MS,
        wrapped=b"wrapped",
    )
    return replace(key, **changes)  # type: ignore[arg-type]


def found(*keys: StoredKey) -> list[tuple[str, int, int]]:
    return [
        (one.keys, one.within_days, one.count)
        for one in endings(keys, now_ms=NOW_MS, warn_days=STEPS)
    ]


def test_keys_that_end_are_told_by_kind_and_step() -> None:
    zone = a_key("upstream:a", purpose=KeyPurpose.ZONE_PIN, end_ms=NOW_MS + 29 * DAY_MS)
    assert found(a_key(), a_key("terminal:T2", end_ms=NOW_MS + 20 * DAY_MS), zone) == [
        ("terminal/terminal-master", 7, 2),
        ("upstream/zone-pin", 30, 1),
    ]
    assert found(a_key(end_ms=NOW_MS + 1)) == [("terminal/terminal-master", 1, 1)]


@pytest.mark.parametrize(
    "keys",
    [
        [a_key(end_ms=0)],
        [a_key(end_ms=NOW_MS + 31 * DAY_MS)],
        [a_key(end_ms=NOW_MS)],  # over
        [a_key(state=StoredKeyState.RETIRING)],
        [a_key(purpose=KeyPurpose.MAC)],
        [a_key(), a_key(version=2, end_ms=0)],
        [a_key(version=2, end_ms=NOW_MS + 90 * DAY_MS), a_key()],
    ],
)
def test_what_is_nothing_to_wake_people_for(keys: list[StoredKey]) -> None:
    assert found(*keys) == []


async def test_each_step_is_told_once(tmp_path: Path) -> None:
    room = await a_room(tmp_path)
    watch = KeyWatch(room.room, emit=room.room._emit)
    await room.room.commit([a_key()], who="ada")
    seen = []
    for day in (0, 1, 3, 4, 4.5):
        room.wall.ms = NOW_MS + round(day * DAY_MS)
        await watch.look()
        seen.append([fields["within_days"] for event, fields in room.events])
        room.events.clear()
    assert seen == [[7], [], [], [1], []]
    assert watch.ending == {"terminal/terminal-master": 1}
    assert Event.KEY_EXPIRING in ALARMS
    assert "keys" in SUBJECT_FIELDS


async def test_what_is_over_is_marked(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    room: Room = await a_room(tmp_path, step_rows=2)
    keys = [a_key(f"terminal:T{number}") for number in range(5)]
    pending = a_key(version=2, state=StoredKeyState.PENDING, end_ms=NOW_MS + 1)
    await room.room.commit([*keys, pending, a_key("terminal:T9", end_ms=0)], who="ada")
    room.wall.ms = NOW_MS + 6 * DAY_MS
    watch = KeyWatch(room.room, emit=room.room._emit)
    await watch.look()
    states = [key.state.value for key in await room.store.keys()]
    assert states == ["expired"] * 6 + ["active"]
    assert {key.state.value for key in room.holdings.table} == {"expired", "active"}
    ends = {key.end_ms for key in await room.store.keys()}
    assert ends == {0, NOW_MS + 1, NOW_MS + 5 * DAY_MS}  # when it ended stays
