"""After a restore: what may be of the lost time gets 96 and a line, and nothing else does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import product

import pytest
import trio
from trio.testing import MockClock

from gateway.clock import VirtualClock
from gateway.errors import NoSuchThing, OperatorError
from gateway.settings.schema_backup import Restore
from gateway.store.store import State
from gateway.telemetry.events import Event
from gateway.transactions.gaps import POINTS_INTO_GAP, REPEATS_GAP, Gap, Gaps, Where
from gateway.wire.message import Kind
from tests.support.canaries import PAN as CANARY
from tests.support.fake_store import FakeStore
from tests.support.rig import (
    DEVICE,
    START_MS,
    Rig,
    advice,
    purchase,
    refund_of,
    repeated,
    reversal_of,
    rig,
    settlement,
    void_of,
)

MINUTE_MS = 60_000
TAKEN_MS = START_MS + 10 * MINUTE_MS  # 12:10
RESTORED_MS = START_MS + 130 * MINUTE_MS  # 14:10
NOW_MS = START_MS + 200 * MINUTE_MS  # 15:20
LAST_BEFORE, FIRST_AFTER = 100, 200


def at(clock: str) -> dict[int, str]:
    """DE7, DE12 and DE13 of that moment of the day, as hhmmss in UTC."""
    return {7: f"1121{clock}", 12: clock, 13: "1121"}


BEFORE, IN_GAP, AFTER = at("113000"), at("130000"), at("150000")


@asynccontextmanager
async def restored(*, first_after: int = FIRST_AFTER, days_later: int = 0) -> AsyncIterator[Rig]:
    """A node on a store that was restored at 14:10 from a backup of 12:10; it is 15:20 now.

    Before the backup the terminal's last STAN was 100; since the restore it sent STAN 200.
    """
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as first:
        assert await first.code(purchase(LAST_BEFORE, at("120000"))) == "00"
    await trio.sleep((NOW_MS - START_MS) / 1000)
    gaps = Gaps(store=store, settings=Restore(), clock=clock, emit=lambda *_, **__: None)
    await gaps.open_gap(Gap(taken_ms=TAKEN_MS, restored_ms=RESTORED_MS))
    await trio.sleep(days_later * 86_400)
    async with rig(store, clock=clock) as node:
        if first_after:
            assert await node.code(purchase(first_after, at("151900"))) == "00"
        yield node


# --- the tables -----------------------------------------------------------------------------------


def test_the_tables_have_an_entry_for_every_pair() -> None:
    assert POINTS_INTO_GAP.keys() == REPEATS_GAP.keys() == set(product(Where, Where))


@pytest.mark.parametrize(
    ("changes", "stan", "code"),
    [
        # What says that it is of the gap: its time, or its STAN.
        (IN_GAP, 150, "96"),
        (IN_GAP, 50, "96"),
        (IN_GAP, 250, "96"),
        (AFTER, 150, "96"),
        (BEFORE, 150, "96"),
        # Nothing says so: it is of another time.
        (BEFORE, 50, "25"),
        (AFTER, 250, "25"),
        (AFTER, 50, "25"),
        # Within what clocks in terminals may be off.
        (at("115600"), 50, "96"),
        (at("142400"), 250, "96"),
        (at("115400"), 50, "25"),
        (at("142600"), 250, "25"),
        # A time that has not come yet is of another time zone's clock.
        (at("230000"), 150, "96"),
        (at("230000"), 50, "25"),
    ],
)
async def test_reversals_whose_original_is_not_found(
    changes: dict[int, str], stan: int, code: str, autojump_clock: MockClock
) -> None:
    async with restored() as node:
        request = reversal_of(purchase(stan, changes), {12: "151500", 13: "1121"})
        assert await node.code(request) == code
        lines = node.gaps.lines()
        assert len(lines) == (code == "96")
        # A tombstone would say that the original was never seen, which is not known.
        assert bool(node.store.tombs) == (code == "25")
        if lines:
            assert (lines[0].what, lines[0].stan, lines[0].is_open) == (
                "reversal",
                f"{stan:06d}",
                True,
            )


@pytest.mark.parametrize(
    ("changes", "stan", "code"),
    [
        (IN_GAP, 150, "96"),
        (IN_GAP, 250, "96"),
        (AFTER, 150, "00"),  # a new sale whose first message was lost on its way
        (AFTER, 250, "00"),
        (BEFORE, 50, "00"),
    ],
)
async def test_repeats_that_are_not_known(
    changes: dict[int, str], stan: int, code: str, autojump_clock: MockClock
) -> None:
    async with restored() as node:
        assert await node.code(repeated(purchase(stan, changes))) == code
        assert [line.what for line in node.gaps.lines()] == ["repeat"] * (code == "96")
        if code == "96":
            # Nothing of it left the gateway, and another try gets the same answer.
            assert node.store.transactions.keys() == {1, 2}
            assert await node.code(repeated(purchase(stan, changes))) == "96"
            assert [line.count for line in node.gaps.lines()] == [2]


async def test_a_repeat_without_a_time_is_judged_by_its_stan(autojump_clock: MockClock) -> None:
    async with restored() as node:
        inside = repeated(purchase(150)).without([7, 12, 13])
        outside = repeated(purchase(250)).without([7, 12, 13])
        assert [await node.code(inside), await node.code(outside)] == ["96", "00"]


@pytest.mark.parametrize("follow_up", [void_of, refund_of])
async def test_follow_ups_whose_original_is_not_found(
    follow_up: object, autojump_clock: MockClock
) -> None:
    assert callable(follow_up)
    async with restored() as node:
        for changes, stan, code in (
            (IN_GAP, 150, "96"),
            (IN_GAP, 50, "96"),
            (BEFORE, 50, "25"),
            (AFTER, 250, "25"),
        ):
            asked = follow_up(purchase(stan, changes), 300 + stan)
            assert await node.code(asked) == code, (changes, stan)
        assert {line.what for line in node.gaps.lines()} == {"follow_up"}


async def test_a_void_that_names_its_original_by_rrn_alone_is_not_told_25(
    autojump_clock: MockClock,
) -> None:
    async with restored() as node:
        asked = void_of(purchase(150), 300).without([90]).changed({37: "632599999999"})
        assert await node.code(asked) == "96"


@pytest.mark.parametrize("stan", [101, 150, 100_000])
async def test_with_nothing_since_the_restore_what_is_ahead_may_be_of_the_gap(
    stan: int, autojump_clock: MockClock
) -> None:
    async with restored(first_after=0) as node:
        assert await node.code(reversal_of(purchase(stan, AFTER), {12: "151500"})) == "96"
        behind = reversal_of(purchase(99, AFTER), {12: "151500"})
        assert await node.code(behind) == "25"


async def test_of_a_terminal_never_seen_before_the_time_decides(autojump_clock: MockClock) -> None:
    device = replace(DEVICE, device_id=2, terminal_id="T0000002")
    async with restored() as node:
        for changes, code in ((IN_GAP, "96"), (AFTER, "25"), (BEFORE, "25")):
            asked = reversal_of(purchase(7, changes | {41: "T0000002"}), {12: "151500"})
            assert await node.code(asked, device=device) == code


async def test_unionpay_names_the_day_of_the_original(autojump_clock: MockClock) -> None:
    """DE61 has batch, STAN and date; DE60.2 the batch."""
    async with restored() as node:
        for day, code in (("1121", "96"), ("1119", "25")):
            original = purchase(50, {60: "22000007", **AFTER})
            asked = reversal_of(original, {61: f"000007000050{day}", 12: "151500"}).without([90])
            assert await node.code(asked) == code


# --- what else comes ------------------------------------------------------------------------------


async def test_what_the_backup_knows_is_served_as_ever(autojump_clock: MockClock) -> None:
    async with restored() as node:
        known = purchase(LAST_BEFORE, at("120000"))
        again = await node.ask(repeated(known))
        assert again.message.response_code == "00"
        assert await node.code(reversal_of(known)) == "00"
        assert node.store.transactions[1].state is State.REVERSAL_OWED
        assert not node.gaps.lines()


async def test_what_is_new_is_served_as_ever(autojump_clock: MockClock) -> None:
    async with restored() as node:
        assert await node.code(purchase(201, at("152000"))) == "00"
        # Of a sale that is not marked as a repeat nothing says that it was sent before.
        assert await node.code(purchase(202, IN_GAP)) == "00"
        assert await node.code(repeated(purchase(203, IN_GAP | {3: "310000"}))) == "00"
        assert await node.code(settlement(204)) in ("00", "95")
        assert not node.gaps.lines()


async def test_a_marked_advice_is_not_booked_twice(autojump_clock: MockClock) -> None:
    async with restored() as node:
        assert await node.code(repeated(advice(150, IN_GAP))) == "96"
        assert await node.code(advice(151, IN_GAP)) == "00"  # reported for the first time


async def test_a_tombstone_of_before_the_backup_still_answers_25(autojump_clock: MockClock) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    asked = reversal_of(purchase(150, IN_GAP), {12: "151500"})
    async with rig(store, clock=clock) as first:
        assert await first.code(asked) == "25"
    gaps = Gaps(store=store, settings=Restore(), clock=clock, emit=lambda *_, **__: None)
    await gaps.open_gap(Gap(taken_ms=TAKEN_MS, restored_ms=RESTORED_MS))
    await trio.sleep((NOW_MS - START_MS) / 1000)
    async with rig(store, clock=clock) as node:
        assert await node.code(asked) == "25"
        assert not node.gaps.lines()


async def test_the_original_of_a_listed_reversal_is_never_forwarded(
    autojump_clock: MockClock,
) -> None:
    async with restored() as node:
        original = purchase(150, IN_GAP)
        assert await node.code(reversal_of(original)) == "96"
        before = node.acquirers["a"].received.copy()
        assert await node.code(original) == "96"
        assert node.acquirers["a"].received == before
        assert await node.code(original.changed({4: "000000002000"})) == "00"  # another sale


async def test_a_reinstalled_device_starts_anew(autojump_clock: MockClock) -> None:
    """The STANs of an activation before this one say nothing of it."""
    async with restored() as node:
        again = replace(DEVICE, activation=2)
        assert (
            await node.code(reversal_of(purchase(150, AFTER), {12: "151500"}), device=again) == "25"
        )


async def test_a_gap_is_over_after_its_days(autojump_clock: MockClock) -> None:
    async with restored(days_later=32) as node:
        asked = reversal_of(purchase(150, {7: "1223130000", 12: "130000", 13: "1223"}))
        assert await node.code(asked) == "25"


async def test_two_gaps_hold_beside_each_other(autojump_clock: MockClock) -> None:
    async with restored() as node:
        earlier = Gap(taken_ms=TAKEN_MS - 5 * 3_600_000, restored_ms=TAKEN_MS - 4 * 3_600_000)
        await node.gaps.open_gap(earlier)
        assert await node.code(reversal_of(purchase(7, at("073000")), {12: "151500"})) == "96"


# --- the list -------------------------------------------------------------------------------------


async def test_a_settled_reversal_is_answered_00_and_everything_outlives_a_restart(
    autojump_clock: MockClock,
) -> None:
    async with restored() as node:
        asked = reversal_of(purchase(150, IN_GAP | {2: CANARY}))
        assert [await node.code(asked), await node.code(asked)] == ["96", "96"]
        [line] = node.gaps.lines()
        assert (line.number, line.count, line.amount_minor) == (1, 2, 1000)
        raised = [fields for event, fields in node.events if event is Event.RESTORE_GAP]
        assert len(raised) == 1
        assert CANARY not in str(node.store.noted) + str(raised)
        await node.gaps.resolve(1, resolution="the acquirer had no such sale", by="ada")
        assert await node.code(asked) == "00"
        store, clock = node.store, node.clock
    async with rig(store, clock=clock) as next_life:
        assert await next_life.code(asked) == "00"
        assert next_life.gaps.open == 0
        with pytest.raises(OperatorError, match="settled already"):
            await next_life.gaps.resolve(1, resolution="again", by="ada")
        with pytest.raises(NoSuchThing):
            await next_life.gaps.resolve(2, resolution="none", by="ada")


async def test_the_list_is_bounded_and_96_is_said_all_the_same(autojump_clock: MockClock) -> None:
    async with restored() as node:
        small = Restore(lines_max=10)
        gaps = Gaps(store=node.store, settings=small, clock=node.clock, emit=node.emit)
        await gaps.restore()
        node.originals.gaps = gaps
        for stan in range(110, 125):
            assert await node.code(reversal_of(purchase(stan, IN_GAP))) == "96"
        assert len(gaps.lines()) == 10
        unlisted = [f for e, f in node.events if e is Event.RESTORE_GAP and f["line"] == 0]
        assert len(unlisted) == 5


async def test_one_terminal_does_not_fill_the_list_of_all(autojump_clock: MockClock) -> None:
    async with restored() as node:
        small = Restore(lines_max=20, lines_of_terminal_max=10)
        gaps = Gaps(store=node.store, settings=small, clock=node.clock, emit=node.emit)
        node.originals.gaps = gaps
        await gaps.restore()
        for stan in range(110, 125):
            assert await node.code(reversal_of(purchase(stan, IN_GAP))) == "96"
        assert (len(gaps.lines()), gaps.open) == (10, 10)
        # What is settled makes room.
        await gaps.resolve(3, resolution="done", by="ada")
        assert gaps.open == 9
        assert await node.code(reversal_of(purchase(130, IN_GAP))) == "96"
        assert (len(gaps.lines()), gaps.open) == (11, 10)


async def test_lines_settled_long_ago_make_room_in_a_full_list(autojump_clock: MockClock) -> None:
    async with restored() as node:
        full = Restore(lines_max=10, gap_days=1)
        gaps = Gaps(store=node.store, settings=full, clock=node.clock, emit=node.emit)
        node.originals.gaps = gaps
        await gaps.restore()
        for stan in range(110, 120):
            assert await node.code(reversal_of(purchase(stan, IN_GAP))) == "96"
        for number in range(1, 6):
            await gaps.resolve(number, resolution="done", by="ada")
        assert await node.code(reversal_of(purchase(130, IN_GAP))) == "96"
        assert len(gaps.lines()) == 10  # their terminals may still send them
    await trio.sleep(2 * 86_400)
    async with rig(node.store, clock=node.clock) as later:
        gaps = Gaps(store=node.store, settings=full, clock=node.clock, emit=node.emit)
        later.originals.gaps = gaps
        await gaps.restore()
        now_ms = node.clock.wall_ms()
        await gaps.open_gap(Gap(taken_ms=now_ms - MINUTE_MS, restored_ms=now_ms))
        assert await later.code(reversal_of(purchase(250, BEFORE))) == "96"
        assert [line.number for line in gaps.lines()] == list(range(2, 12))
        again = Gaps(store=node.store, settings=full, clock=node.clock, emit=node.emit)
        await again.restore()
        assert again.lines() == gaps.lines()


async def test_the_first_stan_after_a_gap_is_found_behind_many(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows the first of those that came since is not of the gap, however many they are."""
    monkeypatch.setattr("gateway.transactions.gaps._LOOKED_AT_MAX", 4)
    async with restored() as node:
        for stan in range(202, 222, 2):
            assert await node.code(purchase(stan, at("151900"))) == "00"
        assert await node.code(reversal_of(purchase(150, BEFORE))) == "96"
        for _ in range(2):
            assert await node.code(reversal_of(purchase(205, at("110000")))) == "25"


async def test_a_store_that_fails_gets_96_and_no_line(autojump_clock: MockClock) -> None:
    async with restored() as node:
        node.store.failing = True
        assert await node.code(reversal_of(purchase(150, IN_GAP))) == "96"
        node.store.failing = False
        assert not node.gaps.lines()
        assert not node.store.tombs


async def test_what_was_under_way_at_the_backup_has_a_line(autojump_clock: MockClock) -> None:
    async with restored() as node:
        transaction = node.store.transactions[1]
        await node.gaps.note_under_way(transaction, NOW_MS)
        [line] = node.gaps.lines()
        assert (line.what, line.transaction_id, line.kind) == ("under_way", 1, Kind.PURCHASE)


@pytest.mark.parametrize("text", ["", "99999999999", "0230", "1121", "13311", "11219", "112125"])
async def test_times_that_are_none_say_nothing(text: str, autojump_clock: MockClock) -> None:
    async with restored() as node:
        asked = reversal_of(purchase(250, AFTER), {7: text, 12: text, 13: text})
        assert await node.code(asked) == "25"
