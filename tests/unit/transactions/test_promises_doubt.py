"""Promises 1, 2, 3 and 5: durable, then sent, once; every doubt is owed; late answers."""

from __future__ import annotations

import trio
import trio.testing

from gateway.store.store import State
from gateway.upstreams.pool import Upstream
from tests.support.acquirer import approve, silent, with_code
from tests.support.fake_store import FakeStore
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


# --- 5: a late answer is never delivered --------------------------------------------------------


async def test_a_late_approval_that_comes_while_its_reversal_is_being_written_keeps_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(FakeStore(commit_s=0.5)) as made:
        acquirer = made.acquirers["a"]
        acquirer.script = lambda request: None if request.mti == "0200" else approve(request)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.ask, purchase())
            await trio.sleep(5.7)
            assert made.only() is State.INTENDED  # its time is over, and that is not written yet
            await acquirer.send(approve(acquirer.received[0]))
        await trio.sleep(10)
        assert made.only() is State.REVERSED


async def test_a_late_approval_after_12_opens_the_reversal_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        acquirer = made.acquirers["a"]
        acquirer.script = lambda request: (
            None if request.mti == "0200" else with_code("12")(request)
        )
        reply = await made.ask(purchase())
        await trio.sleep(1)
        assert made.only() is State.GIVEN_UP
        acquirer.script = approve
        await acquirer.send(approve(acquirer.of("0200")[0]))
        await trio.sleep(5)
        assert reply.message.response_code == "91"
        assert made.only() is State.REVERSED
        assert made.reversals.given_up == 0


async def test_a_late_approval_opens_the_reversal_again_though_the_store_fails_just_then(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        acquirer = made.acquirers["a"]
        acquirer.script = lambda request: (
            None if request.mti == "0200" else with_code("12")(request)
        )
        await made.ask(purchase())
        await trio.sleep(1)
        acquirer.script = approve
        made.store.failing = True
        await acquirer.send(approve(acquirer.of("0200")[0]))
        await trio.sleep(5)
        made.store.failing = False
        await trio.sleep(5)
        assert made.only() is State.REVERSED


async def test_25_said_before_the_late_approval_does_not_end_the_reversal_after_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The 25 and the approval come over two links, the later one first."""
    async with rig(settings={"links": 2}) as made:
        acquirer = made.acquirers["a"]
        acquirer.script = silent
        await made.ask(purchase())
        [sent] = acquirer.received
        await trio.sleep(1)
        [reversal] = acquirer.of("0420")
        await acquirer.send(approve(sent))
        await trio.testing.wait_all_tasks_blocked()
        # On the link that the reversal went over; the other one knows nothing of it.
        await acquirer.send_everywhere(with_code("25")(reversal))
        await trio.testing.wait_all_tasks_blocked()
        assert made.only() is State.REVERSAL_OWED
        acquirer.script = approve
        await trio.sleep(20)
        assert made.only() is State.REVERSED
        assert len(acquirer.of("0421")) >= 1


async def test_25_ends_no_reversal_while_a_late_approval_could_still_be_told_of(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        acquirer = made.acquirers["a"]
        acquirer.script = lambda request: (
            None if request.mti == "0200" else with_code("25")(request)
        )
        await made.ask(purchase())
        # Given up after 5 s, and awaited for 30 s more.
        await trio.sleep_until(34.9)
        assert made.only() is State.REVERSAL_OWED
        acquirer.script = approve
        await acquirer.send(approve(acquirer.of("0200")[0]))
        await trio.sleep(20)
        assert made.only() is State.REVERSED
        assert acquirer.received[-1].mti == "0421"
