"""Any interleaving of operations leaves what the store of plain dictionaries has.

It holds both to the contract: what stands in for the store in other tests behaves as it does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from gateway.errors import StoreError
from gateway.store.sqlite import SqliteStore
from gateway.store.store import (
    Batch,
    Compared,
    Criteria,
    EndReversal,
    Forget,
    FreeKey,
    Leftover,
    MarkDelivered,
    MarkManyDelivered,
    NoteAttempt,
    OweReversal,
    PutBatch,
    PutDevice,
    PutNote,
    PutTombstone,
    PutUpload,
    Reroute,
    ReserveStans,
    Settle,
    State,
    Tombstone,
    TouchDevice,
    Transaction,
    Trim,
)
from gateway.wire.message import Kind
from tests.support.fake_store import FakeStore
from tests.support.stores import a_device, a_transaction, disk_of, opened

numbers = st.integers(1, 6)
small = st.integers(0, 2**40)
codes = st.sampled_from(["", "00", "91"])
rrns = st.sampled_from(["", "R1", "R2"])
sealed = st.binary(max_size=40)
outcomes = st.sampled_from([s for s in State if s not in (State.INTENDED, State.SENT)])
ends = st.sampled_from([State.REVERSED, State.ADVISED, State.CLOSED, State.GIVEN_UP])
owed = st.sampled_from([State.REVERSAL_OWED, State.ADVICE_OWED])
reasons = st.sampled_from(["68", "98"])
names = st.sampled_from(["one", "two"])
terminals = st.sampled_from(["T0000001", "T0000002"])
stans = st.sampled_from(["000001", "000002"])
days = st.integers(0, 4).map((40_000_000).__mul__)
batches = st.integers(0, 2)
put_batches = st.builds(
    Batch,
    terminal_id=terminals,
    number=batches,
    opened_ms=days,
    closed_ms=st.sampled_from([0, 2_000_000_000]),
    debits=small,
    debits_minor=small,
    credits=small,
    credits_minor=small,
    balanced=st.booleans(),
    reported=st.text(max_size=5),
)
operations = st.one_of(
    st.builds(Settle, numbers, outcomes, codes, codes, sealed, small, st.booleans(), rrns),
    st.builds(MarkDelivered, numbers, small),
    st.builds(MarkManyDelivered, st.lists(st.tuples(numbers, small)).map(tuple)),
    st.builds(Reroute, numbers, names, small),
    st.builds(
        OweReversal,
        numbers,
        names,
        reasons,
        small,
        codes,
        sealed,
        owed,
        st.booleans(),
        st.sampled_from([-1, 0, 5]),
    ),
    st.builds(NoteAttempt, numbers, small, small, small),
    st.builds(EndReversal, numbers, ends),
    st.builds(PutTombstone, st.builds(Tombstone, names, small)),
    st.builds(PutBatch, put_batches),
    st.builds(FreeKey, numbers),
    st.builds(PutUpload, terminals, batches, stans, small, sealed, st.sampled_from(Compared)),
    st.builds(Forget, st.lists(numbers, max_size=4).map(tuple)),
    st.builds(Trim, st.sampled_from(Leftover), small, st.just(10)),
    st.builds(ReserveStans, names, st.sampled_from([0, 1_000]), small),
    st.builds(PutDevice, st.builds(a_device, numbers, place=st.text(max_size=5))),
    st.builds(TouchDevice, numbers, small),
    st.builds(PutNote, names, st.sampled_from(["", "drained", "disabled"])),
)
intents = st.fixed_dictionaries(
    {
        "repeat_key": st.integers(1, 8).map("key {}".format),
        "image": sealed,
        "terminal_id": terminals,
        "kind": st.sampled_from([Kind.PURCHASE, Kind.VOID, Kind.REFUND, Kind.OFFLINE, Kind.ECHO]),
        "original_id": st.integers(0, 4),
        "batch": batches,
        "stan": stans,
        "rrn": rrns,
        "amount_minor": st.integers(0, 2),
        "upstream": names,
    }
)
calls = st.one_of(intents, st.lists(operations, min_size=1, max_size=4).map(tuple))
# Calls that wait together become one batch.
histories = st.lists(st.lists(calls, min_size=1, max_size=12), min_size=1, max_size=6)


async def _run(history: list[list[Any]], path: Path, batch_max: int) -> None:
    model = FakeStore()
    ids = iter(range(1, 10_000))
    async with opened(path, batch_max=batch_max) as store:
        disk = disk_of(store)
        for together in history:
            checks: list[Callable[[], None]] = []
            async with trio.open_nursery() as nursery:
                with disk.held():
                    for call in together:
                        expected, use = await _expect(model, store, call, ids)
                        nursery.start_soon(_check, use, expected, model, checks)
                        await wait_all_tasks_blocked()
            assert len(checks) == len(together)
            for check in checks:
                check()
        await _compare(model, store)
    async with opened(path) as store:
        await _compare(model, store)


async def _expect(model: FakeStore, store: SqliteStore, call: Any, ids: Any) -> tuple[object, Any]:
    if isinstance(call, dict):
        number = next(ids)
        new = a_transaction(number, created_ms=number * 20_000_000, **call)
        # A copy: the store must not lean on the caller's record.
        known = await model.intend(replace(new))
        return None if known is None else known.transaction_id, lambda: store.intend(new)
    try:
        await model.commit(*call)
    except StoreError:
        return False, lambda: store.commit(*call)
    return True, lambda: store.commit(*call)


async def _check(
    use: Any, expected: object, model: FakeStore, checks: list[Callable[[], None]]
) -> None:
    result: object
    try:
        result = await use()
    except StoreError:
        result = False
    if isinstance(result, Transaction):
        result = result.transaction_id
    elif result is None and expected is True:
        result = True

    def check() -> None:
        # A repeat of what was forgotten by the same commit is refused: there is no answer to give.
        repeats = not isinstance(expected, bool) and isinstance(expected, int)
        if not (result is False and repeats and expected not in model.transactions):
            assert result == expected

    checks.append(check)


async def _compare(model: FakeStore, store: SqliteStore) -> None:
    """Every question has the same answer."""
    for number in range(1, (await store.last_transaction_id()) + 1):
        assert await store.transaction(number) == await model.transaction(number)
        assert await store.follow_ups(number) == await model.follow_ups(number)
        assert await store.owed_reversal(number) == await model.owed_reversal(number)
    for ask in QUESTIONS:
        assert await ask(store) == await ask(model)
    assert {key: list(await store.stan_blocks(key)) for key in ("one", "two")} == {
        key: sorted(await model.stan_blocks(key), key=lambda b: b.first) for key in ("one", "two")
    }
    assert await store.notes("o") == await model.notes("o")
    assert await store.devices() == sorted(await model.devices(), key=lambda d: d.device_id)


def _questions() -> Iterable[Callable[[Any], Any]]:
    def trimmable(what: Leftover) -> Callable[[Any], Any]:
        return lambda store: store.trimmable(what, 2**39)

    def of_batch(terminal_id: str, number: int) -> Iterable[Callable[[Any], Any]]:
        yield lambda store: store.uploads(terminal_id, number)
        yield lambda store: store.batch_totals(terminal_id, number)

    def of(criteria: Criteria, limit: int) -> Callable[[Any], Any]:
        return lambda store: store.select(criteria, limit)

    yield lambda store: store.last_transaction_id()
    yield lambda store: store.unsettled(100)
    yield lambda store: store.owed_reversals()
    yield lambda store: store.given_up_reversals(100)
    yield lambda store: store.count_by_state()
    yield lambda store: store.find_repeat("key 1")
    yield lambda store: store.find_by_key_prefix("key", 5)
    yield lambda store: store.find_by_rrn("R1", 5)
    yield lambda store: store.tombstones(2**20)
    yield lambda store: store.open_batches()
    yield lambda store: store.oldest(after_id=1, until_ms=160_000_000, limit=3)
    for what in Leftover:
        yield trimmable(what)
    yield lambda store: store.undelivered(since_ms=0, until_ms=2**39, limit=3)
    yield lambda store: store.batches("T0000001", 2)
    for terminal_id in ("T0000001", "T0000002"):
        for number in range(3):
            yield from of_batch(terminal_id, number)
    for criteria in CRITERIA:
        for limit in (2, 100):
            yield of(criteria, limit)


CRITERIA = (
    Criteria(),
    Criteria(before_id=3),
    Criteria(terminal_id="T0000001"),
    Criteria(terminal_id="T0000001", from_ms=40_000_000, until_ms=160_000_000, before_id=5),
    Criteria(rrn="R1"),
    Criteria(rrn="R2", terminal_id="T0000002", amount_minor=1),
    Criteria(stan="000001", until_ms=80_000_000),
    Criteria(from_ms=80_000_000),
    Criteria(amount_minor=0),
    Criteria(last_four="1234", upstream="two"),
    Criteria(last_four="9999"),
    *(Criteria(state=state) for state in State),
    Criteria(state=State.REVERSAL_OWED, terminal_id="T0000001"),
    Criteria(state=State.INTENDED, stan="000002"),
    Criteria(state=State.ANSWERED, terminal_id="T0000002", upstream="one"),
)
QUESTIONS = tuple(_questions())


@pytest.mark.parametrize("batch_max", [256, 3])
@settings(deadline=None, max_examples=25)
@given(history=histories)
def test_any_interleaving_leaves_the_rows_of_the_model(
    batch_max: int, history: list[list[Any]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trio.run(_run, history, Path(folder) / "s", batch_max)
