"""Rules that are swapped under load: every decision, and all of it, is made under one version."""

from __future__ import annotations

import trio
import trio.testing
from trio.testing import MockClock

from gateway.policy.decide import Policy
from gateway.policy.limits import Limits
from gateway.policy.permissions import Permissions
from gateway.settings.schema_policy import Profile
from gateway.settings.schema_upstreams import Group, Member, Route
from gateway.transactions.version import Version
from gateway.upstreams.routing import Router
from gateway.wire.message import Kind
from tests.support.fake_store import FakeStore
from tests.support.rig import purchase, rig

SWAPS = 1_000
LIMITS = Limits()


def version(name: str, upstream: str) -> Version:
    """One whose route says its name: what it decides goes to this upstream, and nowhere else."""
    return Version(
        Policy(
            permissions=Permissions([Profile(name="retail", kinds=[Kind.PURCHASE])]),
            limits=LIMITS,
            version=name,
        ),
        Router(
            [Route(name=name, group="g")],
            [Group(name="g", members=[Member(upstream=upstream)])],
        ),
    )


def refusing(name: str) -> Version:
    """One that lets nobody buy."""
    return Version(
        Policy(
            permissions=Permissions([Profile(name="retail", kinds=[Kind.BALANCE])]),
            limits=LIMITS,
            version=name,
        ),
        Router([Route(name=name, group="g")], [Group(name="g", members=[Member(upstream="a")])]),
    )


async def test_every_decision_is_made_under_one_whole_version(autojump_clock: MockClock) -> None:
    store = FakeStore(commit_s=0.001)
    versions = {"to-a": version("to-a", "a"), "to-b": version("to-b", "b"), "no": refusing("no")}
    names = list(versions)
    answers: dict[str, int] = {}
    stans = iter(range(1, 1_000_000))
    done = trio.Event()
    async with rig(store, under_way_max=1_000) as made:

        async def sell() -> None:
            while not done.is_set():
                reply = await made.ask(purchase(next(stans)))
                code = reply.message.response_code
                answers[code] = answers.get(code, 0) + 1
                await trio.sleep(0.0005)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(sell)
            for number in range(SWAPS):
                made.flow.swap(versions[names[number % len(names)]])
                await trio.sleep(0.0007)
            done.set()
        decided = list(store.transactions.values())
    assert answers.keys() == {"00", "58"}
    assert answers["00"] == len(decided) > 500
    # The version in the record is the one that chose the upstream.
    assert {(one.config_version, one.upstream) for one in decided} == {("to-a", "a"), ("to-b", "b")}


async def test_a_request_keeps_the_version_that_it_began_with(autojump_clock: MockClock) -> None:
    store = FakeStore(commit_s=0.0)
    old, new = version("old", "a"), version("new", "b")
    async with rig(store) as made:
        made.flow.swap(old)
        # A marked repeat is looked for in the store before it is routed: time for a swap.
        repeat = purchase(1, mti="0201")
        found = store.find_repeat

        async def slow(key: str) -> object:
            made.flow.swap(new)
            await trio.sleep(0.1)
            return await found(key)

        store.find_repeat = slow  # type: ignore[assignment,method-assign]
        await made.ask(repeat)
        [one] = store.transactions.values()
        assert (one.config_version, one.upstream) == ("old", "a")
        assert made.flow.version is new
