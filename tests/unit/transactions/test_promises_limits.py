"""What a transaction takes of limits, and what it gives back, whatever becomes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from gateway.policy.decide import Policy
from gateway.policy.limits import Limits
from gateway.policy.permissions import Permissions
from gateway.policy.response_codes import Reason
from gateway.settings.schema_policy import Limit, Profile
from gateway.settings.schema_upstreams import Group, Member, Route
from gateway.store.store import State
from gateway.transactions.spending import count_again
from gateway.transactions.version import Version
from gateway.upstreams.routing import Router
from gateway.wire.message import Kind
from tests.support.acquirer import silent, with_code
from tests.support.fake_store import FakeStore
from tests.support.rig import (
    ALL,
    PAN,
    Rig,
    purchase,
    repeated,
    reversal_of,
    rig,
    void_of,
)

# Two purchases of 10.00 and no third.
LIMIT = Limit(per="card", window="day", currency="978", amount_max_minor=2_000)
PERMISSIONS = Permissions([Profile(name="retail", kinds=ALL, limits=[LIMIT])])
[RULE] = PERMISSIONS.limits()


class Limited:
    """A rig whose cards have a limit."""

    def __init__(self, made: Rig) -> None:
        self.rig = made
        self.limits = Limits()
        self.policy = Policy(permissions=PERMISSIONS, limits=self.limits, version="v1")
        group = Group(name="g", members=[Member(upstream=name) for name in made.acquirers])
        made.flow.swap(Version(self.policy, Router([Route(name="all", group="g")], [group])))
        made.reversals.on_reversed = self._reversed

    def _reversed(self, transaction_id: int, left_minor: int) -> None:
        self.limits.give_back(transaction_id, left_minor=left_minor)

    def used(self) -> tuple[int, int]:
        """The count and the amount of the card."""
        token = self.rig.security.card_token(PAN)
        return self.limits.used(RULE, token, now_ms=self.rig.clock.wall_ms())

    async def counted_again(self) -> tuple[int, int]:
        """The same, by a node that starts now."""
        again = Limited(self.rig)
        await again.count()
        return again.used()

    async def count(self) -> None:
        """Count what the store has, as a node that starts."""
        await count_again(
            self.rig.store,
            self.policy,
            profile_of=lambda _terminal_id: "retail",
            approving=lambda _upstream: ["00"],
            now_ms=self.rig.clock.wall_ms(),
        )


@asynccontextmanager
async def limited() -> AsyncIterator[Limited]:
    async with rig(FakeStore()) as made:
        yield Limited(made)


USED = (1, 1_000)
NOTHING = (0, 0)


async def test_what_is_approved_is_taken_until_the_limit() -> None:
    async with limited() as made:
        assert [await made.rig.code(purchase(stan)) for stan in (1, 2, 3)] == ["00", "00", "61"]
        assert made.rig.measures.codes[-1] == Reason.AMOUNT_LIMIT
        assert len(made.rig.acquirers["a"].received) == 2
        assert made.used() == await made.counted_again() == (2, 2_000)


async def test_the_rule_is_named() -> None:
    async with limited() as made:
        await made.rig.code(purchase(1, {4: "000000002001"}))
        _, refused = made.rig.events[-1]
        assert refused["rule"] == "profiles.retail.limits[0]"


async def test_a_decline_gives_back() -> None:
    async with limited() as made:
        made.rig.acquirers["a"].script = with_code("51")
        assert await made.rig.code(purchase(1)) == "51"
        assert made.used() == await made.counted_again() == NOTHING


async def test_what_was_not_sent_gives_back() -> None:
    async with limited() as made:
        await made.rig.lose("a", "b")
        assert await made.rig.code(purchase(1)) == "91"
        assert made.used() == await made.counted_again() == NOTHING


@pytest.mark.parametrize("marked", [False, True])
async def test_a_repeat_takes_nothing(marked: bool) -> None:
    async with limited() as made:
        again = repeated(purchase(1)) if marked else purchase(1)
        assert await made.rig.code(purchase(1)) == "00"
        assert await made.rig.code(again) == "00"
        assert made.used() == await made.counted_again() == USED


async def test_a_repeat_of_what_used_up_the_limit_hears_its_answer() -> None:
    async with limited() as made:
        for stan in (1, 2):
            assert await made.rig.code(purchase(stan)) == "00"
        assert await made.rig.code(purchase(2)) == "00"


async def test_a_void_gives_back_what_it_undoes_once(autojump_clock: MockClock) -> None:
    async with limited() as made:
        first = purchase(1)
        assert await made.rig.code(first) == "00"
        assert await made.rig.code(void_of(first)) == "00"
        assert made.used() == await made.counted_again() == NOTHING
        assert await made.rig.code(reversal_of(first)) == "00"
        await trio.sleep(5)
        assert made.used() == NOTHING


async def test_a_void_that_was_declined_gives_nothing_back() -> None:
    async with limited() as made:
        assert await made.rig.code(purchase(1)) == "00"
        made.rig.acquirers["a"].script = with_code("12")
        assert await made.rig.code(void_of(purchase(1))) == "12"
        assert made.used() == await made.counted_again() == USED


async def test_a_reversal_gives_back_once_the_acquirer_has_done_it(
    autojump_clock: MockClock,
) -> None:
    async with limited() as made:
        assert await made.rig.code(purchase(1)) == "00"
        assert await made.rig.code(reversal_of(purchase(1))) == "00"
        await trio.sleep(5)
        assert made.rig.only() is State.REVERSED
        assert made.used() == await made.counted_again() == NOTHING


async def test_what_a_partial_reversal_leaves_still_counts(autojump_clock: MockClock) -> None:
    async with limited() as made:
        assert await made.rig.code(purchase(1)) == "00"
        partial_reversal = reversal_of(purchase(1), {95: "000000000300".ljust(42, "0")})
        assert await made.rig.code(partial_reversal) == "00"
        await trio.sleep(5)
        assert made.used() == await made.counted_again() == (1, 300)


async def test_what_is_in_doubt_counts_as_long_as_it_is_not_reversed(
    autojump_clock: MockClock,
) -> None:
    async with limited() as made:
        made.rig.acquirers["a"].script = silent
        assert await made.rig.code(purchase(1)) == "91"
        assert made.rig.only() is State.REVERSAL_OWED
        # The holder's money may be held: as long as that is so it counts.
        assert made.used() == await made.counted_again() == USED


async def test_many_are_counted_again_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.transactions.spending._AT_ONCE", 1)
    async with limited() as made:
        for stan in (1, 2):
            assert await made.rig.code(purchase(stan)) == "00"
        assert await made.counted_again() == (2, 2_000)


async def test_a_void_that_is_reversed_has_what_it_undid_count_again(
    autojump_clock: MockClock,
) -> None:
    async with limited() as made:
        sale, void = purchase(1), void_of(purchase(1))
        assert await made.rig.code(sale) == "00"
        assert await made.rig.code(void) == "00"
        assert made.used() == NOTHING
        assert await made.rig.code(reversal_of(void)) == "00"
        await trio.sleep(5)
        assert made.rig.of_kind(Kind.VOID).state is State.REVERSED
        assert made.used() == USED
        # And it is given back once more where that is undone once more.
        assert await made.rig.code(void_of(sale, 51)) == "00"
        assert made.used() == await made.counted_again() == NOTHING


async def test_so_it_does_after_a_restart(autojump_clock: MockClock) -> None:
    async with limited() as made:
        sale, void = purchase(1), void_of(purchase(1))
        assert await made.rig.code(sale) == "00"
        assert await made.rig.code(void) == "00"
        assert await made.counted_again() == NOTHING
        again = Limited(made.rig)
        await again.count()
        assert await made.rig.code(reversal_of(void)) == "00"
        await trio.sleep(5)
        assert again.used() == USED
