"""Any interleaving of operations leaves the rows that a model in plain dictionaries has."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
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
    Device,
    EndReversal,
    MarkDelivered,
    NoteAttempt,
    Operation,
    OwedReversal,
    OweReversal,
    PutDevice,
    Reroute,
    ReserveStans,
    Settle,
    StanBlock,
    State,
    TouchDevice,
    Transaction,
)
from tests.support.stores import a_device, a_transaction, disk_of, opened

COUNTED = (
    State.INTENDED,
    State.TIMED_OUT,
    State.REVERSAL_OWED,
    State.ADVICE_OWED,
    State.GIVEN_UP,
)


class Impossible(Exception):
    """The operation has nothing to change: it and its whole call are refused."""


class Model:
    """The store's contract, in as few lines as possible."""

    def __init__(self) -> None:
        self.transactions: dict[int, Transaction] = {}
        self.reversals: dict[int, OwedReversal] = {}
        self.devices: dict[int, Device] = {}
        self.blocks: dict[tuple[str, int], StanBlock] = {}

    def intend(self, new: Transaction) -> Transaction | None:
        for known in self.transactions.values():
            if known.repeat_key == new.repeat_key:
                return known
        self.transactions[new.transaction_id] = new
        return None

    def commit(self, operations: tuple[Operation, ...]) -> bool:
        """Whether they could all be done; else nothing was."""
        before = [dict(table) for table in self._tables()]
        try:
            for operation in operations:
                getattr(self, f"_{type(operation).__name__}")(operation)
        except Impossible:
            for table, was in zip(self._tables(), before, strict=True):
                table.clear()
                table.update(was)
            return False
        return True

    def _tables(self) -> tuple[dict[Any, Any], ...]:
        return self.transactions, self.reversals, self.devices, self.blocks

    def _change(self, number: int, **changes: Any) -> None:
        if number not in self.transactions:
            raise Impossible
        self.transactions[number] = replace(self.transactions[number], **changes)

    def _Reroute(self, op: Reroute) -> None:  # noqa: N802 (named like the operation)
        self._change(op.transaction_id, upstream=op.upstream, upstream_stan=op.upstream_stan)

    def _Settle(self, op: Settle) -> None:  # noqa: N802
        self._change(
            op.transaction_id,
            state=op.state,
            response_code=op.response_code,
            approval_code=op.approval_code,
            answer=op.answer,
            answered_ms=op.answered_ms,
            **({"image": b""} if op.wipe_image else {}),
        )

    def _MarkDelivered(self, op: MarkDelivered) -> None:  # noqa: N802
        known = self.transactions.get(op.transaction_id)
        if known is not None and known.state is not State.INTENDED:
            state = State.DELIVERED if known.state is State.ANSWERED else known.state
            self._change(op.transaction_id, delivered_ms=op.delivered_ms, state=state)

    def _OweReversal(self, op: OweReversal) -> None:  # noqa: N802
        told = {"response_code": op.response_code, "answer": op.answer} if op.response_code else {}
        self._change(op.transaction_id, state=op.state, **told)
        known = self.reversals.get(op.transaction_id)
        if known is None:
            known = OwedReversal(
                transaction_id=op.transaction_id,
                upstream=op.upstream,
                upstream_stan=0,
                reason=op.reason,
                created_ms=op.created_ms,
            )
        elif known.given_up:
            known = replace(known, given_up=False, attempts=0, next_attempt_ms=0)
        self.reversals[op.transaction_id] = known

    def _NoteAttempt(self, op: NoteAttempt) -> None:  # noqa: N802
        if op.transaction_id not in self.reversals:
            raise Impossible
        self.reversals[op.transaction_id] = replace(
            self.reversals[op.transaction_id],
            upstream_stan=op.upstream_stan,
            attempts=op.attempts,
            next_attempt_ms=op.next_attempt_ms,
        )

    def _EndReversal(self, op: EndReversal) -> None:  # noqa: N802
        known = self.reversals.get(op.transaction_id)
        if op.state is State.GIVEN_UP:
            if known is None:
                raise Impossible
            self._change(op.transaction_id, state=op.state)
            self.reversals[op.transaction_id] = replace(known, given_up=True)
            return
        # Ended twice is ended; of one that was never owed there is nothing to end.
        found = self.transactions.get(op.transaction_id)
        if found is None or found.state is State.INTENDED:
            raise Impossible
        self.reversals.pop(op.transaction_id, None)
        self._change(op.transaction_id, state=op.state, image=b"")

    def _ReserveStans(self, op: ReserveStans) -> None:  # noqa: N802
        self.blocks[op.upstream, op.first] = StanBlock(op.upstream, op.first, op.reserved_ms)

    def _PutDevice(self, op: PutDevice) -> None:  # noqa: N802
        self.devices[op.device.device_id] = op.device

    def _TouchDevice(self, op: TouchDevice) -> None:  # noqa: N802
        if op.device_id in self.devices:
            known = self.devices[op.device_id]
            self.devices[op.device_id] = replace(known, last_seen_ms=op.last_seen_ms)


numbers = st.integers(1, 6)
small = st.integers(0, 2**40)
codes = st.sampled_from(["", "00", "91"])
sealed = st.binary(max_size=40)
outcomes = st.sampled_from([state for state in State if state is not State.INTENDED])
reasons = st.sampled_from(["68", "98"])
names = st.sampled_from(["one", "two"])
operations = st.one_of(
    st.builds(Settle, numbers, outcomes, codes, codes, sealed, small, st.booleans()),
    st.builds(MarkDelivered, numbers, small),
    st.builds(Reroute, numbers, names, small),
    st.builds(OweReversal, numbers, names, reasons, small, codes, sealed),
    st.builds(NoteAttempt, numbers, small, small, small),
    st.builds(EndReversal, numbers, st.sampled_from([State.REVERSED, State.GIVEN_UP])),
    st.builds(ReserveStans, names, st.sampled_from([0, 1_000]), small),
    st.builds(PutDevice, st.builds(a_device, numbers, place=st.text(max_size=5))),
    st.builds(TouchDevice, numbers, small),
)
intents = st.builds(lambda key, image: (key, image), st.integers(1, 8), sealed)
calls = st.one_of(intents, st.lists(operations, min_size=1, max_size=4).map(tuple))
# Calls that wait together become one batch.
histories = st.lists(st.lists(calls, min_size=1, max_size=12), min_size=1, max_size=6)


async def _run(history: list[list[Any]], path: Path, batch_max: int) -> None:
    model = Model()
    ids = iter(range(1, 10_000))
    async with opened(path, batch_max=batch_max) as store:
        disk = disk_of(store)
        for together in history:
            checks: list[Callable[[], None]] = []
            async with trio.open_nursery() as nursery:
                with disk.held():
                    for call in together:
                        expected, use = _expect(model, store, call, ids)
                        nursery.start_soon(_check, use, expected, checks)
                        await wait_all_tasks_blocked()
            assert len(checks) == len(together)
            for check in checks:
                check()
            await _compare(model, store)
    async with opened(path) as store:
        await _compare(model, store)


def _expect(model: Model, store: SqliteStore, call: Any, ids: Any) -> tuple[object, Any]:
    if isinstance(call[0], int):
        key, image = call
        new = a_transaction(next(ids), repeat_key=f"key {key}", image=image)
        known = model.intend(new)
        return None if known is None else known.transaction_id, lambda: store.intend(new)
    return model.commit(call), lambda: store.commit(*call)


async def _check(use: Any, expected: object, checks: list[Callable[[], None]]) -> None:
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
        assert result == expected

    checks.append(check)


async def _compare(model: Model, store: SqliteStore) -> None:
    for number in range(1, (await store.last_transaction_id()) + 1):
        assert await store.transaction(number) == model.transactions.get(number)
    open_ones = [t for t in model.transactions.values() if t.state is State.INTENDED]
    assert await store.unsettled(100) == open_ones

    def in_order(given_up: bool) -> list[OwedReversal]:
        found = [r for r in model.reversals.values() if r.given_up is given_up]
        return sorted(found, key=lambda r: (r.created_ms, r.transaction_id))

    assert await store.owed_reversals() == in_order(given_up=False)
    assert await store.given_up_reversals(100) == in_order(given_up=True)
    assert await store.devices() == [model.devices[n] for n in sorted(model.devices)]
    for name in ("one", "two"):
        known = [b for b in model.blocks.values() if b.upstream == name]
        assert list(await store.stan_blocks(name)) == sorted(known, key=lambda b: b.first)
    states = [t.state for t in model.transactions.values()]
    counted = {state: states.count(state) for state in COUNTED if state in states}
    assert await store.count_by_state() == counted


@pytest.mark.parametrize("batch_max", [256, 3])
@settings(deadline=None, max_examples=40)
@given(history=histories)
def test_any_interleaving_leaves_the_rows_of_the_model(
    batch_max: int, history: list[list[Any]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trio.run(_run, history, Path(folder) / "s", batch_max)
