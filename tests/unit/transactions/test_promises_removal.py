"""An upstream that is removed from the configuration, and added again."""

from __future__ import annotations

import trio
import trio.testing

from gateway.store.store import State
from gateway.upstreams.upstream import Means
from tests.support.acquirer import CODEC, with_code
from tests.support.rig import purchase, reversal_of, rig


async def test_one_that_comes_back_spares_the_stans_of_what_was_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        pool = made.pool
        pool.removed, pool.owed = made.reversals.leave, made.reversals.open_for
        pool.added = made.reversals.serve
        pool._make = lambda means: made._upstream(means.settings.name)
        both = [Means(settings=pool[name].settings, codec=CODEC) for name in "ab"]
        assert await made.code(purchase(1)) == "00"
        made.acquirers["a"].script = with_code("12")
        await made.ask(reversal_of(purchase(1)))
        await trio.sleep(10)
        (given_up,) = made.store.transactions.values()
        assert given_up.state is State.GIVEN_UP
        assert given_up.upstream_stan in pool["a"].stans._held
        pool.apply(both[1:], groups=[])
        await trio.sleep(10)
        assert pool.get("a") is None
        pool.apply(both, groups=[])
        await trio.sleep(10)
        assert given_up.upstream_stan in pool["a"].stans._held
        assert pool["a"].ready
