"""A repeat is found whatever is committed beside it: one that is not would be a sale made twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from gateway.store.store import (
    EndReversal,
    Forget,
    FreeKey,
    Operation,
    OweReversal,
    PutNote,
    State,
    Transaction,
)
from tests.support.stores import a_transaction, disk_of, opened

PARTIAL = OweReversal(1, "one", "68", 5, amount_minor=500)
FULL = OweReversal(1, "one", "68", 6)
BESIDE: dict[str, tuple[Operation, ...]] = {
    "nothing": (),
    "a full reversal after a partial one": (FULL,),
    "a key that is freed": (FreeKey(1),),
    "a fact that is set and one that is not": (PutNote("a", "b"), PutNote("c", "")),
    "old ones that are forgotten": (Forget((2, 3)),),
}


@pytest.mark.parametrize("beside", BESIDE)
async def test_a_repeat_is_found(beside: str, tmp_path: Path) -> None:
    async with opened(tmp_path / "store.db") as store:
        for number in (1, 2, 3, 4):
            await store.intend(a_transaction(number, repeat_key=f"key {number}"))
        await store.commit(PARTIAL)
        await store.commit(EndReversal(1, State.REVERSED))
        disk = disk_of(store)
        found: list[Transaction | None] = []

        async def intend() -> None:
            found.append(await store.intend(a_transaction(9, repeat_key="key 1")))

        async with trio.open_nursery() as nursery:
            with disk.held():
                nursery.start_soon(intend)
                await wait_all_tasks_blocked()
                if BESIDE[beside]:
                    nursery.start_soon(store.commit, *BESIDE[beside])
                    await wait_all_tasks_blocked()
        (seen,) = found
        assert seen is not None
        assert seen.transaction_id == 1
        assert await store.transaction(9) is None


@pytest.mark.parametrize("again", [False, True])
async def test_a_repeat_is_of_what_had_its_key_then(again: bool, tmp_path: Path) -> None:
    """The key is freed and taken after it, and perhaps freed and taken once more."""
    async with opened(tmp_path / "store.db") as store:
        await store.intend(a_transaction(1, repeat_key="key"))
        disk = disk_of(store)
        found: dict[int, Transaction | None] = {}

        async def intend(number: int) -> None:
            found[number] = await store.intend(a_transaction(number, repeat_key="key"))

        async with trio.open_nursery() as nursery:

            async def queued(*operations: Operation, number: int = 0) -> None:
                if number:
                    nursery.start_soon(intend, number)
                else:
                    nursery.start_soon(store.commit, *operations)
                await wait_all_tasks_blocked()

            with disk.held():
                await queued(number=9)  # repeats the first
                await queued(FreeKey(1))
                await queued(number=5)  # is new
                await queued(number=7)  # repeats the fifth
                if again:
                    await queued(FreeKey(5))
                    await queued(number=6)
        repeated = {number: seen and seen.transaction_id for number, seen in found.items()}
        assert repeated == {9: 1, 5: None, 7: 5} | ({6: None} if again else {})
