"""Tombstones: memory holds some, the store all, and none is forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import StoreError
from gateway.store.store import Tombstone
from gateway.transactions.graves import Graves, _Filter, grave
from tests.support.fake_store import FakeStore
from tests.support.stores import a_transaction

KEPT_DAYS = 31
DAY_MS = 86_400_000


class Counting(FakeStore):
    looks = 0

    async def is_buried(self, key_prefix: str) -> bool:
        self.looks += 1
        return await super().is_buried(key_prefix)


def some(store: FakeStore, *, count_max: int = 10) -> Graves:
    return Graves(store=store, count_max=count_max, keep_days=KEPT_DAYS)


def names(count: int, *, first: int = 1) -> list[str]:
    return [grave(f"D20261121/T0000001/{n:06d}/", 1) for n in range(first, first + count)]


def request_of(name: str):  # type: ignore[no-untyped-def]
    prefix, _, activation = name.rpartition("#")
    _, terminal_id, stan, _ = prefix.split("/")
    return replace(
        a_transaction(1),
        repeat_key=prefix + "120000/purchase/M/1",
        terminal_id=terminal_id,
        stan=stan,
        activation=int(activation),
    )


@pytest.mark.parametrize("restart", [False, True])
async def test_what_memory_has_no_room_for_is_found_in_the_store(restart: bool) -> None:
    store = Counting()
    graves = some(store)
    for name in names(50):
        await graves.bury([name], 1_000)
    if restart:
        graves = some(store)
        await graves.restore(2_000)
    store.looks = 0
    for name in names(50):
        assert await graves.holds(request_of(name))
    assert store.looks == 40


async def test_a_request_that_nobody_reversed_seldom_costs_a_read() -> None:
    store = Counting()
    graves = some(store, count_max=1_000)
    for name in names(2_000):
        await graves.bury([name], 1_000)
    store.looks = 0
    for name in names(2_000, first=10_000):
        assert not await graves.holds(request_of(name))
    assert store.looks < 40


async def test_it_is_buried_once_also_when_memory_forgot_it() -> None:
    store = FakeStore()
    graves = some(store, count_max=1)
    for name in names(3) + names(3):
        await graves.bury([name], 1_000)
    assert len(store.commits) == 3


async def test_only_those_that_can_still_matter_are_restored() -> None:
    store = FakeStore()
    old, young = names(2)
    now_ms = 100 * DAY_MS
    store.tombs = {
        old: Tombstone(old, now_ms - (KEPT_DAYS + 1) * DAY_MS),
        young: Tombstone(young, now_ms - DAY_MS),
    }
    graves = some(store)
    await graves.restore(now_ms)
    assert [await graves.holds(request_of(name)) for name in (old, young)] == [False, True]


async def test_what_is_sought_is_refused_meanwhile_and_only_then() -> None:
    graves = some(FakeStore())
    [name] = names(1)
    prefix = name.partition("#")[0]
    with graves.sought([prefix], 1), graves.sought([prefix], 1):
        assert await graves.holds(request_of(name))
    assert not await graves.holds(request_of(name))
    assert not graves._sought


async def test_a_tombstone_that_could_not_be_written_is_none() -> None:
    store = FakeStore(failing=True)
    graves = some(store)
    with pytest.raises(StoreError):
        await graves.bury(names(1), 1_000)
    store.failing = False
    assert not await graves.holds(request_of(names(1)[0]))


def test_the_filter_forgets_nothing_and_stays_as_large_as_it_is() -> None:
    held = _Filter(bits=256)
    assert "0" not in held
    for number in range(500):
        held.add(str(number))
    assert all(str(number) in held for number in range(500))
    assert held._bytes is not None
    assert len(held._bytes) == 33
