from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.admin.access import Peer
from gateway.admin.api import BadArguments
from gateway.admin.guard import ApprovalWanted
from gateway.admin.key_rewrap import rewrap
from gateway.errors import OperatorError, StoreError
from gateway.keys.kek_sources import PassphraseSource
from gateway.keys.key_encryption import kek_check_value
from gateway.keys.own_keys import OwnKeys
from gateway.keys.records import KeyAlgorithm, StoredKey
from gateway.settings.schema_keys import Kek
from gateway.settings.schema_operators import Approvals, Operator
from gateway.telemetry.events import Event
from tests.support.admin_thread import a_status
from tests.support.desk import an_api
from tests.support.fake_store import FakeStore
from tests.support.key_rooms import Room, a_room, source
from tests.support.stores import opened

KEYS = 11


def next_source(folder: Path) -> PassphraseSource:
    return PassphraseSource(folder / "next", log2_n=4)


async def filled(folder: Path, store: Any = None, **settings: Any) -> Room:
    room = await a_room(folder, store=store, step_rows=settings.pop("step_rows", 3), **settings)
    for number in range(KEYS):
        await room.run(
            "generate",
            owner=f"terminal:T{number}",
            purpose="terminal-master",
            algorithm="TDES-2",
        )
    return room


def clear_of(room: Room, keys: list[StoredKey]) -> dict[str, bytes]:
    return {key.name: room.holdings.wrapping.unwrap(key) for key in keys if key.wrapped}


def contents(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in folder.rglob("*") if file.is_file()]


async def test_every_key_is_under_the_next_key_encryption_key(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    room = await filled(tmp_path)
    await room.run("destroy", owner="terminal:T3")
    before = clear_of(room, [*room.holdings.own.keys, *room.holdings.table])
    former = room.holdings.wrapping.in_force.name
    seen: list[tuple[int, int]] = []
    done = await room.operations.run("rewrap", {}, lambda *at: seen.append(at))
    assert done["former"] == former
    assert done["kek"].startswith("passphrase-")
    assert done["kek"] != former
    assert (done["keys"], done["resumed"]) == (KEYS - 1, False)
    assert seen == [(3, 10), (6, 10), (9, 10), (10, 10)]
    # What runs, and what starts with the next key alone, can use every key.
    again = await a_room(
        tmp_path, store=room.store, sources=[PassphraseSource(tmp_path / "next", log2_n=14)]
    )
    for one in (room, again):
        assert clear_of(one, [*one.holdings.own.keys, *one.holdings.table]) == before
        assert one.holdings.wrapping.names == [done["kek"]]
        report = await one.run("check")
        assert report["under"] == {done["kek"]: KEYS - 1 + 3}
        assert report["problems"] == []
    assert room.events[-1][0] is Event.KEK_CHANGED
    with pytest.raises(OperatorError, match="is another key: correct"):
        await a_room(tmp_path, store=room.store)


async def test_there_has_to_be_a_next_one(tmp_path: Path) -> None:
    room = await filled(tmp_path)
    with pytest.raises(OperatorError, match=r"there is no \[keys\.kek_next\]"):
        await rewrap(room.room, None)


async def test_components_that_are_typed_cannot_wait_for_another_operator(tmp_path: Path) -> None:
    room = await filled(tmp_path)
    room.settings = room.settings.model_copy(update={"kek_next": Kek(source="components")})
    room.room._settings = lambda: room.settings
    part = os.urandom(32)
    entered = [{"component": part.hex(), "check_value": kek_check_value(part)}] * 2
    operators = [
        Operator(name="ann", users=["60001"], roles=["keys"]),
        Operator(name="ben", users=["60002"], roles=["keys"]),
    ]
    folder = tmp_path / "audit"
    async with an_api(
        {"keys": room.operations},
        folder,
        emit=lambda event, /, **fields: None,
        status=a_status,
        operators=operators,
        approvals=Approvals(actions=["keys.rewrap"]),
    ) as api:
        ann = api.callers(Peer(uid=60_001, pid=1))
        with pytest.raises(BadArguments, match="name them as component_files") as refused:
            await api.desk.run(ann, "keys", "rewrap", {"components": entered})
        assert part.hex() not in str(refused.value)
        assert api.desk.waiting == 0
        with pytest.raises(ApprovalWanted):
            await api.desk.run(ann, "keys", "rewrap", {})
        assert api.desk.waiting == 1
    assert not any(part.hex().encode() in content for content in contents(folder))


async def test_components_of_the_next_one_are_handed_in(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    room = await filled(tmp_path)
    room.settings = room.settings.model_copy(update={"kek_next": Kek(source="components")})
    room.room._settings = lambda: room.settings
    with pytest.raises(OperatorError, match="have to be entered at a terminal"):
        await room.run("rewrap")
    parts = [os.urandom(32), os.urandom(32)]
    entered = [{"component": part.hex(), "check_value": kek_check_value(part)} for part in parts]
    done = await room.run("rewrap", components=entered)
    assert done["kek"].startswith("components-")
    for content in contents(tmp_path):
        for part in parts:
            assert part not in content
            assert part.hex().encode() not in content.lower()


async def test_keys_that_change_meanwhile_are_not_lost(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    store = FakeStore(commit_s=0.1)
    room = await filled(tmp_path, store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(room.run, "rewrap")
        await trio.sleep(0.15)
        # As a sign-on does it: without the room.
        made = room.holdings.messages.generate(
            owner="terminal:T1",
            purpose=next(iter(room.holdings.table)).purpose,
            version=2,
            algorithm=KeyAlgorithm.TDES_2,
            start_ms=1,
        )
        await room.room.commit([made], who="ada")
    keys = [key for key in await store.keys() if key.wrapped]
    assert len(keys) == KEYS + 1
    assert {key.kek for key in keys} == {room.holdings.wrapping.in_force.name}
    assert len(clear_of(room, keys)) == KEYS + 1


@pytest.mark.parametrize("cut", range(6))
async def test_a_store_that_fails_on_the_way_leaves_it_to_be_gone_on_with(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, cut: int
) -> None:
    store = FakeStore()
    room = await filled(tmp_path, store)
    before = clear_of(room, list(room.holdings.table))
    store.fail_after = cut
    if cut < 4:
        with pytest.raises(StoreError):
            await room.run("rewrap")
        assert clear_of(room, await store_keys(store)) == before
        store.fail_after = None
        done = await room.run("rewrap")
        assert done["resumed"]
        assert done["keys"] == KEYS - cut * 3
    else:
        await room.run("rewrap")
    assert clear_of(room, await store_keys(store)) == before
    assert not room.holdings.own.rewrapping


async def store_keys(store: FakeStore) -> list[StoredKey]:
    return [key for _, key in sorted(store.kept_keys.items())]


# --- killed at each step --------------------------------------------------------------------------

_CHILD = """
import os, sys, trio
from pathlib import Path
from gateway.keys import secret_files
from gateway.admin.key_rewrap import rewrap
from tests.support.key_rooms import a_room
from tests.support.stores import opened
from tests.unit.admin.test_key_rewrap import next_source

folder, cut = Path(sys.argv[1]), int(sys.argv[2])
steps = 0

def step():
    global steps
    if steps == cut:
        os.kill(os.getpid(), 9)
    steps += 1

async def main():
    async with opened(folder / "gateway.db") as store:
        room = await a_room(folder, store=store, step_rows=3)
        commit, replace = store.commit, Path.replace
        async def counted(*operations):
            step()
            await commit(*operations)
            step()
        def replaced(self, target):
            step()
            replace(self, target)
            step()
            return target
        store.commit, Path.replace = counted, replaced
        await rewrap(room.room, next_source(folder))
    print(steps)

trio.run(main)
"""
_STEPS = 12  # the keyring file twice, and four commits; before and after each


async def _prepared(folder: Path) -> dict[str, bytes]:
    async with opened(folder / "gateway.db") as store:
        room = await filled(folder, store)
        return clear_of(room, [*room.holdings.own.keys, *room.holdings.table])


async def _found(folder: Path) -> tuple[dict[str, bytes], bool]:
    """What a start finds that has both sources."""
    own = OwnKeys.open(folder / "keyring.json", [source(folder), next_source(folder)])
    async with opened(folder / "gateway.db") as store:
        keys = [key for key in (*own.keys, *await store.keys()) if key.wrapped]
    return {key.name: own.wrapping.unwrap(key) for key in keys}, own.rewrapping


def _child(folder: Path, cut: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder), str(cut)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[3],
    )


@pytest.mark.parametrize("cut", range(_STEPS + 1))
async def test_killed_at_any_step_every_key_is_readable(tmp_path: Path, cut: int) -> None:
    before = await _prepared(tmp_path)
    killed = _child(tmp_path, cut)
    if cut == _STEPS:  # it came through: there are no more steps than are tried here
        assert killed.stdout.strip() == str(_STEPS), killed.stderr
    else:
        assert killed.returncode == -9, killed.stderr
    found, unfinished = await _found(tmp_path)
    assert found == before
    assert unfinished == (1 <= cut <= _STEPS - 2), "the file names both keys until the last step"
