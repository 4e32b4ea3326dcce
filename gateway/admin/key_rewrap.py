"""Changes the key-encryption key while the gateway runs: every key under the next, in steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from gateway.admin.key_room import KeyRoom
from gateway.errors import OperatorError
from gateway.keys.kek_sources import KekSource
from gateway.keys.records import StoredKey
from gateway.store.store import RewrapKey

_SETTLE_S = 1.0  # in which a key that was just being made under the former one is committed
_WRAPPED_AT_ONCE = 16  # each takes some 10 µs, with a token up to a millisecond

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrapped:
    """What became of it."""

    kek: str  # in force now
    former: str
    keys: int  # of the store, wrapped anew by this run
    resumed: bool  # it had been begun before


async def rewrap(
    room: KeyRoom, source: KekSource | None, *, progress: Progress | None = None
) -> Rewrapped:
    """Put the key of `source` in force, and have every key wrapped under it.

    1. The keyring file is replaced: the own keys are under the next key, and it names both. From
       here on new keys are wrapped under the next one, and a start needs both.
    2. Keys of the store are wrapped anew, some in a commit; one that changes meanwhile is left.
    3. Once none is under the former key, the keyring file forgets it.

    Where it is cut off between, every key is under one of the two that the file names, and it is
    gone on with by being asked for again. Raises OperatorError where there is nothing to change to,
    KeyUnavailable where a key does not unwrap, and StoreError.
    """
    own = room.holdings.own
    wrapping = own.wrapping
    resumed = own.rewrapping
    async with room.changing:
        if resumed:
            former = next(name for name in own.kek_names if name != wrapping.in_force.name)
        else:
            if source is None:
                raise OperatorError(
                    "there is no [keys.kek_next]: write where the next key-encryption key comes"
                    " from, and have it taken up (`gateway reload`)"
                )
            former = wrapping.in_force.name
            begun = source
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(lambda: own.begin_rewrap(begun))
        done = 0
        while True:
            done += await _sweep(room, done, progress)
            await trio.sleep(_SETTLE_S)
            if not _left(room) and not await _left_in_store(room):
                break
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(own.finish_rewrap)
    return Rewrapped(kek=wrapping.in_force.name, former=former, keys=done, resumed=resumed)


async def _sweep(room: KeyRoom, done: int, progress: Progress | None) -> int:
    """Wrap anew what is under another key than the one in force; returns how many were."""
    wrapping = room.holdings.wrapping
    settings = room.settings
    left = _left(room)
    for first in range(0, len(left), settings.step_rows):
        step = left[first : first + settings.step_rows]
        anew = []
        for key in step:
            anew.append(wrapping.rewrap(key))
            if len(anew) % _WRAPPED_AT_ONCE == 0:
                # A key that changes meanwhile is left alone by the commit: the next sweep has it.
                await trio.lowlevel.checkpoint()
        with trio.CancelScope(shield=True):
            await room.store.commit(
                *(
                    RewrapKey(before, after.kek, after.wrapped)
                    for before, after in zip(step, anew, strict=True)
                )
            )
            for before, after in zip(step, anew, strict=True):
                room.table.rewrapped(before, kek=after.kek, wrapped=after.wrapped)
        if progress is not None:
            progress(done + first + len(step), done + len(left))
        await trio.sleep(settings.pause_ms / 1_000)
    return len(left)


def _left(room: KeyRoom) -> list[StoredKey]:
    return [key for key in room.table if _is_left(room, key)]


async def _left_in_store(room: KeyRoom) -> bool:
    keys = await room.store.keys()
    return await trio.to_thread.run_sync(lambda: any(_is_left(room, key) for key in keys))


def _is_left(room: KeyRoom, key: StoredKey) -> bool:
    return bool(key.wrapped) and key.kek != room.holdings.wrapping.in_force.name
