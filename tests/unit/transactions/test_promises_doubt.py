"""Promises 1, 2, 3 and 5: durable, then sent, once; every doubt is owed; late answers."""

from __future__ import annotations

import trio
import trio.testing

from gateway.store.store import State
from gateway.upstreams.pool import Upstream
from tests.support.acquirer import approve, silent
from tests.support.rig import purchase, rig


def full_when_asked(upstream: Upstream) -> None:
    """The upstream is ready when the route is taken, and has no link when it is to be sent."""
    take_stan = upstream.take_stan

    def take_and_lose() -> int | None:
        for link in upstream.links:
            link.state = "down"
        return take_stan()

    upstream.take_stan = take_and_lose  # type: ignore[method-assign]


async def test_the_reversal_names_the_stan_of_the_upstream_that_got_the_original(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(settings={"rrn": "issue"}) as made:
        for _ in range(5):  # so that the STANs of both differ
            made.pool["b"].take_stan()
        full_when_asked(made.pool["a"])
        made.acquirers["b"].script = silent
        await made.ask(purchase())
        [sent] = made.acquirers["b"].received
        made.acquirers["b"].script = approve
        await trio.sleep(10)
        [reversal, *_] = made.acquirers["b"].of("0420") + made.acquirers["b"].of("0421")
        assert reversal.get(90)[:20] == f"0200{sent.stan}{sent.get(7)}"
        assert reversal.rrn == sent.rrn
        assert made.only() is State.REVERSED
