from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.errors import StoreError
from gateway.store import queries, search
from gateway.store.sqlite import SqliteStore
from gateway.store.store import (
    Criteria,
    DeviceState,
    EndReversal,
    Forget,
    MarkDelivered,
    MarkManyDelivered,
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
    Store,
    TouchDevice,
    Transaction,
)
from gateway.wire.message import Kind
from tests.support.stores import a_device, a_transaction, opened, settled


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with opened(tmp_path / "var" / "gateway.db") as store:
        yield store


async def intended(store: Store, *numbers: int) -> None:
    for number in numbers:
        assert await store.intend(a_transaction(number)) is None


async def the(store: Store, number: int) -> Transaction:
    found = await store.transaction(number)
    assert found is not None
    return found


async def test_an_intent_comes_back_as_it_went_in(store: SqliteStore) -> None:
    protocol: Store = store
    intent = a_transaction(1)
    assert await protocol.intend(intent) is None
    found = await the(store, 1)
    assert found == intent
    assert type(found.kind) is type(intent.kind)
    assert found.state is State.INTENDED
    assert await store.transaction(2) is None


async def test_a_repeat_gets_what_is_stored_and_writes_nothing(store: SqliteStore) -> None:
    await intended(store, 1)
    await store.commit(settled(1))
    repeat = a_transaction(2, repeat_key=a_transaction(1).repeat_key, amount_minor=5)
    assert await store.intend(repeat) == await the(store, 1)
    assert await store.transaction(2) is None
    assert await store.unsettled(10) == []


async def test_an_id_in_use_is_refused(store: SqliteStore) -> None:
    await intended(store, 1)
    with pytest.raises(StoreError, match="refused"):
        await store.intend(a_transaction(1, repeat_key="another"))
    assert await the(store, 1) == a_transaction(1)
    assert store.health().healthy


@pytest.mark.parametrize("wipe", [False, True])
async def test_settle(store: SqliteStore, wipe: bool) -> None:
    await intended(store, 1)
    await store.commit(settled(1, wipe=wipe))
    assert await the(store, 1) == replace(
        a_transaction(1),
        state=State.ANSWERED,
        response_code="00",
        approval_code="123456",
        answer=b"answer 1",
        answered_ms=5_001,
        image=b"" if wipe else b"sealed 1",
    )
    assert await store.unsettled(10) == []


async def test_settle_again_replaces_the_outcome(store: SqliteStore) -> None:
    await intended(store, 1)
    await store.commit(settled(1))
    await store.commit(MarkDelivered(1, 9))
    await store.commit(Settle(1, State.CLOSED, "", "", b"", 0, wipe_image=True))
    found = await the(store, 1)
    assert (found.state, found.response_code, found.answer) == (State.CLOSED, "", b"")
    assert (found.delivered_ms, found.image) == (9, b"")


async def test_mark_delivered(store: SqliteStore) -> None:
    await intended(store, 1, 2, 3)
    await store.commit(settled(1), OweReversal(2, "one", "68", 7, response_code="91"))
    for number in (1, 2, 3):
        await store.commit(MarkDelivered(number, 99))
    assert ((await the(store, 1)).state, (await the(store, 1)).delivered_ms) == (
        State.DELIVERED,
        99,
    )
    # What was said to the terminal was a decline: the doubt stays what it is.
    assert ((await the(store, 2)).state, (await the(store, 2)).delivered_ms) == (
        State.REVERSAL_OWED,
        99,
    )
    assert await the(store, 3) == a_transaction(3)


async def test_reroute(store: SqliteStore) -> None:
    await intended(store, 1)
    await store.commit(Reroute(1, "two", 77))
    assert await the(store, 1) == replace(a_transaction(1), upstream="two", upstream_stan=77)
    assert len(await store.unsettled(10)) == 1


async def test_a_reversals_life(store: SqliteStore) -> None:
    await intended(store, 1)
    await store.commit(OweReversal(1, "one", "68", 7, response_code="91", answer=b"no"))
    owed = OwedReversal(
        transaction_id=1, upstream="one", upstream_stan=0, reason="68", created_ms=7
    )
    found = await the(store, 1)
    assert await store.owed_reversals() == [owed]
    assert (found.state, found.response_code, found.answer) == (State.REVERSAL_OWED, "91", b"no")
    # Not set: it would say that the upstream's own answer is known.
    assert (found.answered_ms, found.image) == (0, b"sealed 1")

    await store.commit(NoteAttempt(1, 55, 1, 1_000))
    noted = replace(owed, upstream_stan=55, attempts=1, next_attempt_ms=1_000)
    assert await store.owed_reversals() == [noted]
    # Owed already: it goes on as it is.
    await store.commit(OweReversal(1, "one", "98", 8))
    assert await store.owed_reversals() == [noted]

    await store.commit(EndReversal(1, State.GIVEN_UP))
    assert await store.owed_reversals() == []
    assert await store.given_up_reversals(5) == [replace(noted, given_up=True)]
    assert (await the(store, 1)).image == b"sealed 1"
    # Opened again by a late approval: from the start.
    await store.commit(OweReversal(1, "one", "98", 8))
    assert await store.given_up_reversals(5) == []
    assert await store.owed_reversals() == [replace(noted, attempts=0, next_attempt_ms=0)]

    await store.commit(EndReversal(1, State.REVERSED))
    found = await the(store, 1)
    assert await store.owed_reversals() == []
    assert (found.state, found.image, found.response_code) == (State.REVERSED, b"", "91")


async def test_owing_without_a_word_to_the_terminal_keeps_what_was_said(store: SqliteStore) -> None:
    await intended(store, 1)
    await store.commit(settled(1))
    await store.commit(OweReversal(1, "one", "06", 7))
    found = await the(store, 1)
    assert (found.state, found.response_code, found.answer) == (
        State.REVERSAL_OWED,
        "00",
        b"answer 1",
    )
    assert (found.approval_code, found.answered_ms) == ("123456", 5_001)


@pytest.mark.parametrize(
    "operation",
    [
        settled(9),
        settled(9, wipe=True),
        Reroute(9, "two", 1),
        OweReversal(9, "one", "68", 7),
        NoteAttempt(1, 1, 1, 1),
        EndReversal(1, State.GIVEN_UP),
        EndReversal(1, State.REVERSED),
    ],
)
async def test_what_has_nothing_to_change_is_refused(
    store: SqliteStore, operation: Operation
) -> None:
    await intended(store, 1)
    before = await the(store, 1)
    with pytest.raises(StoreError, match="no such"):
        await store.commit(PutDevice(a_device(1)), operation)
    assert await store.devices() == []
    assert await the(store, 1) == before
    assert store.health().healthy


async def test_stan_blocks(store: SqliteStore) -> None:
    await store.commit(ReserveStans("one", 1_000, 5))
    await store.commit(ReserveStans("one", 0, 6), ReserveStans("two", 0, 7))
    await store.commit(ReserveStans("one", 1_000, 8))
    assert list(await store.stan_blocks("one")) == [
        StanBlock("one", 0, 6),
        StanBlock("one", 1_000, 8),
    ]
    assert list(await store.stan_blocks("three")) == []


async def test_devices(store: SqliteStore) -> None:
    await store.commit(PutDevice(a_device(2)), PutDevice(a_device(1)))
    assert await store.devices() == [a_device(1), a_device(2)]
    suspended = a_device(2, state=DeviceState.SUSPENDED, merchant_id="*", place="")
    await store.commit(PutDevice(suspended))
    await store.commit(TouchDevice(1, 55), TouchDevice(77, 55))
    assert await store.devices() == [a_device(1, last_seen_ms=55), suspended]


async def test_look_ups_by_key(store: SqliteStore) -> None:
    keys = {1: "D1/T1/000001/a", 2: "D1/T1/000001/b", 3: "D1/T1/000002/a", 4: "D1/T1/000001/ÿ"}
    for number, key in keys.items():
        await store.intend(a_transaction(number, repeat_key=key))
    await store.commit(settled(2))
    found = await store.find_repeat("D1/T1/000001/b")
    assert found == await the(store, 2)
    assert await store.find_repeat("D1/T1/000001/") is None

    async def numbers(prefix: str, limit: int = 10) -> list[int]:
        return [t.transaction_id for t in await store.find_by_key_prefix(prefix, limit)]

    assert await numbers("D1/T1/000001/") == [4, 2, 1]
    assert await numbers("D1/T1/000001/", 2) == [4, 2]
    assert await numbers("D1/T1/%") == []
    assert await numbers("") == [4, 3, 2, 1]


async def test_what_a_restart_owes(store: SqliteStore) -> None:
    assert await store.last_transaction_id() == 0
    await intended(store, *range(1, 9))
    await store.commit(settled(1), settled(2), OweReversal(3, "one", "68", 7))
    await store.commit(EndReversal(3, State.GIVEN_UP), OweReversal(4, "one", "68", 6))
    await store.commit(settled(5, state=State.TIMED_OUT), MarkDelivered(2, 1))
    assert [t.transaction_id for t in await store.unsettled(2)] == [6, 7]
    assert [t.transaction_id for t in await store.unsettled(10)] == [6, 7, 8]
    assert await store.count_by_state() == {
        State.INTENDED: 3,
        State.GIVEN_UP: 1,
        State.REVERSAL_OWED: 1,
        State.TIMED_OUT: 1,
    }
    assert await store.last_transaction_id() == 8


async def test_reversals_come_the_oldest_first(store: SqliteStore) -> None:
    await intended(store, 1, 2, 3)
    await store.commit(*(OweReversal(n, "one", "68", 10 - n) for n in (1, 2, 3)))
    assert [r.transaction_id for r in await store.owed_reversals()] == [3, 2, 1]
    await store.commit(*(EndReversal(n, State.GIVEN_UP) for n in (1, 2, 3)))
    assert [r.transaction_id for r in await store.given_up_reversals(2)] == [3, 2]


async def test_operations_of_a_call_happen_together_and_in_order(store: SqliteStore) -> None:
    await intended(store, 1)
    await store.commit(
        Reroute(1, "two", 5),
        OweReversal(1, "two", "68", 1),
        NoteAttempt(1, 6, 1, 2),
        EndReversal(1, State.REVERSED),
        settled(1, state=State.CLOSED),
    )
    found = await the(store, 1)
    assert (found.state, found.upstream, found.image) == (State.CLOSED, "two", b"")
    await store.commit()


@pytest.mark.parametrize("count", [1, 2, 5, 255, 512, 513, 1_500])
async def test_any_number_of_operations(store: SqliteStore, count: int) -> None:
    await store.commit(*(PutDevice(a_device(n)) for n in range(1, count + 1)))
    assert len(await store.devices()) == count


async def test_many_operations_fail_together_too(store: SqliteStore) -> None:
    many = [PutDevice(a_device(n)) for n in range(1, 1_000)]
    with pytest.raises(StoreError, match="no such transaction"):
        await store.commit(*many, settled(9))
    assert await store.devices() == []


async def test_a_value_that_cannot_be_kept_is_its_callers_trouble(store: SqliteStore) -> None:
    with pytest.raises(StoreError, match="cannot be stored"):
        await store.intend(a_transaction(1, terminal_id="\ud800"))
    with pytest.raises(StoreError, match="refused"):
        await store.intend(a_transaction(1, upstream="\ud800"))
    with pytest.raises(StoreError, match="refused"):
        await store.commit(TouchDevice(2**70, 1))
    with pytest.raises(StoreError, match="refused"):
        await store.intend(a_transaction(1, image="text"))
    assert store.health().healthy
    await intended(store, 1)


async def test_posted_operations_go_with_the_next_commit(store: SqliteStore) -> None:
    await intended(store, 1)
    await store.commit(settled(1))
    store.post(MarkDelivered(1, 5))
    store.post(NoteAttempt(1, 1, 1, 1))  # refused, and nobody waits for it
    await intended(store, 2)
    assert (await the(store, 1)).state is State.DELIVERED
    assert "no such reversal" in store.health().last_error
    assert store.health().healthy


async def test_health_and_what_is_measured(tmp_path: Path) -> None:
    measured: list[tuple[float, int]] = []

    def on_commit(seconds: float, operations: int) -> None:
        trio.lowlevel.current_task()  # in the loop's thread
        measured.append((seconds, operations))

    async with opened(tmp_path / "s", on_commit=on_commit, queue_max=77) as store:
        await intended(store, 1)
        await store.commit(settled(1), MarkDelivered(1, 1))
        health = store.health()
        assert (health.kind, health.healthy, health.queue_depth) == ("sqlite", True, 0)
        assert (health.queue_max, health.commits, health.operations) == (77, 2, 3)
        assert [operations for _, operations in measured] == [1, 2]
        assert health.commit_s == [seconds for seconds, _ in measured]
        assert all(seconds > 0 for seconds in health.commit_s)
    assert not store.health().healthy


async def test_a_closed_store_takes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as store:
        await intended(store, 1)
    with pytest.raises(StoreError, match="closed"):
        await store.intend(a_transaction(2))
    with pytest.raises(StoreError, match="closed"):
        await store.commit(settled(1))
    with pytest.raises(StoreError, match="closed"):
        await store.transaction(1)
    with pytest.raises(StoreError, match="closed"):
        store.post(MarkDelivered(1, 1))
    await store.aclose()


QUERIES = {
    queries.SELECT_TRANSACTIONS + "WHERE t.transaction_id = ?": (1,),
    queries.SELECT_TRANSACTIONS + "WHERE t.repeat_key = ?": ("k",),
    queries.BY_KEY_RANGE: ("k", "l", 5),
    queries.UNSETTLED: (5,),
}


@pytest.mark.parametrize("query", QUERIES)
async def test_no_look_up_reads_all_transactions(store: SqliteStore, query: str) -> None:
    plan = await store._read("EXPLAIN QUERY PLAN " + query, *QUERIES[query])
    steps = [str(row[3]) for row in plan]
    assert not [step for step in steps if step.startswith(("SCAN t", "SCAN o "))], steps


async def test_states_are_counted_by_an_index(store: SqliteStore) -> None:
    plan = await store._read("EXPLAIN QUERY PLAN " + queries.COUNT_BY_STATE)
    steps = " ".join(str(row[3]) for row in plan)
    assert "USING COVERING INDEX outcomes_still_open" in steps


async def test_the_ledger_is_for_people(store: SqliteStore) -> None:
    await intended(store, 1, 2)
    await store.commit(settled(2))
    shown = await store._read(
        "SELECT terminal_id, stan, kind, amount_minor, state, response_code FROM ledger"
    )
    assert shown == [
        ("T0000001", "000001", "purchase", 1_001, "intended", None),
        ("T0000002", "000002", "purchase", 1_002, "answered", "00"),
    ]


# --- what operators and housekeeping look for ---------------------------------------------------


async def paid(store: Store, number: int, **changes: Any) -> None:
    """An approved and delivered transaction of the batch that batch totals are asked for."""
    await store.intend(
        a_transaction(
            number, **{"terminal_id": "T1", "batch": 3, "created_ms": number * 1_000, **changes}
        )
    )
    await store.commit(settled(number), MarkDelivered(number, 1))


async def totals(store: Store) -> tuple[int, int, int, int]:
    found = await store.batch_totals("T1", 3)
    return found.debits, found.debits_minor, found.credits, found.credits_minor


async def test_batch_totals_are_what_the_terminal_holds_as_approved(store: SqliteStore) -> None:
    assert await totals(store) == (0, 0, 0, 0)
    await paid(store, 1, amount_minor=100)
    await paid(store, 2, amount_minor=20, kind=Kind.COMPLETION)
    await paid(store, 3, amount_minor=5, kind=Kind.REFUND)
    assert await totals(store) == (2, 120, 1, 5)
    # Not of it: other terminals and batches, what moves no money, what was declined or is open.
    await paid(store, 4, terminal_id="T2")
    await paid(store, 5, batch=4)
    await paid(store, 6, kind=Kind.PREAUTHORISATION)
    await paid(store, 7, kind=Kind.BALANCE)
    await store.intend(a_transaction(8, terminal_id="T1", batch=3))
    await store.intend(a_transaction(9, terminal_id="T1", batch=3))
    await store.commit(Settle(9, State.ANSWERED, "05", "", b"", 1, wipe_image=True))
    assert await totals(store) == (2, 120, 1, 5)


async def test_batch_totals_leave_out_what_was_taken_back(store: SqliteStore) -> None:
    for number in (1, 2, 3, 4):
        await paid(store, number, amount_minor=100)
    await paid(store, 5, amount_minor=100, kind=Kind.VOID, original_id=1)
    assert await totals(store) == (3, 300, 0, 0)
    await store.commit(OweReversal(5, "one", "98", 1))  # the void itself is taken back
    assert await totals(store) == (4, 400, 0, 0)
    await store.commit(OweReversal(2, "one", "98", 1))
    assert await totals(store) == (3, 300, 0, 0)
    # Of a part: what is left counts, also once the reversal is done.
    await store.commit(OweReversal(3, "one", "98", 1, amount_minor=40))
    assert await totals(store) == (3, 240, 0, 0)
    await store.commit(EndReversal(3, State.REVERSED))
    assert await totals(store) == (3, 240, 0, 0)


async def test_an_advice_counts_as_what_the_terminal_was_told(store: SqliteStore) -> None:
    await store.intend(
        a_transaction(1, terminal_id="T1", batch=3, kind=Kind.OFFLINE, amount_minor=70)
    )
    await store.commit(OweReversal(1, "one", "68", 1, "00", b"yes", State.ADVICE_OWED, advice=True))
    assert await totals(store) == (1, 70, 0, 0)
    assert (await store.owed_reversals())[0].advice
    await store.commit(EndReversal(1, State.GIVEN_UP))
    assert await totals(store) == (1, 70, 0, 0)
    await store.commit(EndReversal(1, State.ADVISED))
    assert await totals(store) == (1, 70, 0, 0)
    assert await store.owed_reversal(1) is None


async def test_many_are_marked_at_once(store: SqliteStore) -> None:
    await intended(store, 1, 2, 3)
    await store.commit(settled(1), settled(2))
    await store.commit(MarkManyDelivered(((1, 7), (2, 8), (3, 9), (77, 9))))
    assert [(await the(store, n)).delivered_ms for n in (1, 2, 3)] == [7, 8, 0]
    assert (await the(store, 2)).state is State.DELIVERED


async def test_a_long_time_is_looked_through_in_steps(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_STEP", 7)
    monkeypatch.setattr(search, "_SLACK", 2)
    for number in range(1, 101):
        made_ms = number * 1_000
        await store.intend(a_transaction(number, created_ms=made_ms, amount_minor=number % 10))
        await store.commit(replace(settled(number), answered_ms=made_ms + 50))
    await store.commit(Forget(tuple(range(20, 50))))

    async def numbers(limit: int, **wanted: Any) -> list[int]:
        return [one.transaction_id for one in await store.select(Criteria(**wanted), limit)]

    assert await numbers(100, amount_minor=3) == [93, 83, 73, 63, 53, 13, 3]
    assert await numbers(3, amount_minor=3) == [93, 83, 73]
    assert await numbers(9, amount_minor=3, before_id=73) == [63, 53, 13, 3]
    assert await numbers(9, amount_minor=3, from_ms=13_000, until_ms=83_000) == [73, 63, 53, 13]
    found = await store.undelivered(since_ms=20_000, until_ms=60_000, limit=50)
    assert [one.transaction_id for one in found] == [*range(50, 60)]
    assert len(await store.undelivered(since_ms=0, until_ms=10**9, limit=5)) == 5


async def test_a_follow_up_that_is_a_repeat_follows_nothing(store: SqliteStore) -> None:
    await intended(store, 1)
    await store.intend(a_transaction(2, original_id=1))
    repeat = a_transaction(3, original_id=1, repeat_key=a_transaction(2).repeat_key)
    assert (await store.intend(repeat)) == await the(store, 2)
    assert [one.transaction_id for one in await store.follow_ups(1)] == [2]


async def test_the_highest_id_is_never_forgotten(store: SqliteStore) -> None:
    await intended(store, 1, 2)
    await store.commit(settled(1), settled(2), Forget((1, 2)))
    assert await store.transaction(1) is None
    assert await store.last_transaction_id() == 2


async def test_what_is_open_is_never_forgotten(store: SqliteStore) -> None:
    await intended(store, *range(1, 7))
    await store.commit(
        OweReversal(2, "one", "68", 7),
        settled(3, state=State.GIVEN_UP),
        settled(4, state=State.TIMED_OUT),
        settled(5),
        Forget((1, 2, 3, 4, 5)),
    )
    left = await store.oldest(after_id=0, until_ms=2**60, limit=10)
    assert [one.transaction_id for one in left] == [1, 2, 3, 4, 6]


LOOKS = {
    queries.SELECT_TRANSACTIONS + "WHERE o.rrn = ? AND o.rrn <> '' ORDER BY 1 LIMIT 1": ("r",),
    queries.BY_RRN: ("r", 5),
    queries.FOLLOW_UPS: (5,),
    queries.BATCH_TOTALS: (1, 2, "T1", 3),
    queries.UNDELIVERED: (1, 2, 3, 4, 5),
    queries.OLDEST: (1, 2, 3),
    queries.SELECT_TRANSACTIONS + "WHERE o.state = 'given_up' ORDER BY 1 DESC LIMIT 5": (),
    queries.SELECT_TRANSACTIONS + "WHERE t.terminal_day = ? ORDER BY 1 DESC LIMIT 5": (5,),
    "DELETE FROM transactions WHERE transaction_id IN (SELECT value FROM json_each(?))": ("[1]",),
}


@pytest.mark.parametrize("query", LOOKS)
async def test_no_operators_look_up_reads_all_transactions(store: SqliteStore, query: str) -> None:
    plan = await store._read("EXPLAIN QUERY PLAN " + query, *LOOKS[query])
    steps = [str(row[3]) for row in plan]
    assert not [step for step in steps if step.startswith(("SCAN t", "SCAN o", "SCAN f"))], steps
