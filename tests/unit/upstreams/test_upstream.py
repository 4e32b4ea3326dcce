"""An upstream over scripted acquirers: proving, silence, ejection, slow start, operators, calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.errors import InDoubt, NotSent, StoreError
from gateway.settings.schema_base import Backoff
from gateway.settings.schema_upstreams import Group, Health, Member, Network
from gateway.settings.schema_upstreams import Upstream as UpstreamSettings
from gateway.telemetry.events import Event
from gateway.upstreams.budget import MoveBudget
from gateway.upstreams.pool import Pool
from gateway.upstreams.protocol import LinkState
from gateway.upstreams.upstream import Control, Means, Standing, Upstream
from gateway.wire.message import Kind, Message, kind_of
from gateway.wire.stream import TcpStream, connect
from tests.support.acquirer import CODEC, FakeAcquirer, approve, silent, with_code
from tests.support.rig import purchase

HEALTH = Health(suspect_unknown_s=0.5, suspect_max_s=2.0, echo_s=0.3, echo_idle_s=30.0)


def settings(**changes: Any) -> UpstreamSettings:
    values: dict[str, Any] = {
        "name": "bank",
        "addresses": ["127.0.0.1:1"],
        "dialect": "iso87_ascii",
        "plain": True,
        "answer_s": 5.0,
        "backoff": Backoff(first_s=0.1, max_s=1.0),
        "health": HEALTH,
    }
    return UpstreamSettings(**values | changes)


class Made:
    """An upstream, the acquirer behind it, and what it said."""

    def __init__(
        self,
        upstream: Upstream,
        acquirer: FakeAcquirer,
        events: list[tuple[Event, dict[str, object]]],
    ) -> None:
        self.upstream = upstream
        self.acquirer = acquirer
        self.events = events
        self.nursery: trio.Nursery
        self._stan = 0

    def names(self) -> list[Event]:
        return [event for event, _ in self.events]

    def network(self, kind: Kind) -> list[Message]:
        return [one for one in self.acquirer.received if kind_of(one) is kind]

    async def ask(self) -> str:
        """The response code of a purchase, or what came instead of one."""
        self._stan += 1
        try:
            answer = await self.upstream.ask(
                purchase(self._stan), transaction_id=self._stan, kind=Kind.PURCHASE
            )
        except NotSent:
            return "not sent"
        except InDoubt:
            return "in doubt"
        return answer.response_code

    def standing(self) -> Standing:
        return self.upstream.standing()


def made_of(acquirer: FakeAcquirer, **changes: Any) -> Made:
    events: list[tuple[Event, dict[str, object]]] = []

    async def reserve(upstream: str, first: int, now_ms: int) -> None:
        await trio.lowlevel.checkpoint()

    upstream = Upstream(
        Means(settings=settings(**changes), codec=CODEC),
        clock=VirtualClock(0),
        emit=lambda event, **fields: events.append((event, fields)),
        random=lambda: 0.5,
        reserve_stans=reserve,
        on_answered=lambda name, seconds: None,
        connect_with=acquirer.connect_with if "listen" not in changes else None,
    )
    return Made(upstream, acquirer, events)


@asynccontextmanager
async def running(script: Any = approve, **changes: Any) -> AsyncIterator[Made]:
    made = made_of(FakeAcquirer(script), **changes)
    async with trio.open_nursery() as nursery:
        made.nursery = nursery
        nursery.start_soon(made.acquirer.run)
        await nursery.start(made.upstream.run)
        await trio.testing.wait_all_tasks_blocked()
        yield made
        nursery.cancel_scope.cancel()


def mute_for_money(request: Message) -> Message | None:
    """A front end that lives while its host does not."""
    return approve(request) if request.mti[1] == "8" else None


# --- a link's first steps -----------------------------------------------------------------------


async def test_a_link_is_used_once_it_has_answered_an_echo() -> None:
    async with running(silent) as made:
        assert made.network(Kind.ECHO)
        assert not made.upstream.ready
        assert made.standing() is Standing.AWAY
        assert await made.ask() == "not sent"
        await made.acquirer.send(approve(made.network(Kind.ECHO)[0]))
        await trio.testing.wait_all_tasks_blocked()
        assert made.upstream.ready
        assert made.standing() is Standing.TAKES
        made.acquirer.script = approve
        assert await made.ask() == "00"


async def test_an_echo_without_an_answer_ends_the_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(silent, network=Network(sign_on_s=2.0)) as made:
        await trio.sleep(3.0)
        assert Event.LINK_DOWN in made.names()
        assert len(made.network(Kind.ECHO)) == 2  # connected again


async def test_it_signs_on_and_is_refused_until_the_acquirer_is_content(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(with_code("91"), network=Network(sign_on=True)) as made:
        link = made.upstream.links[0]
        assert link.life.state is LinkState.SIGNED_OFF
        made.acquirer.script = approve
        await trio.sleep(1.0)
        assert link.life.state is LinkState.READY
        assert len(made.network(Kind.SIGN_ON)) >= 2
        assert made.network(Kind.SIGN_ON)[0].get(70) == "001"
        made.upstream.set_control(Control.DRAINED)
        await trio.testing.wait_all_tasks_blocked()
        assert made.network(Kind.SIGN_OFF)
        assert link.life.state is LinkState.IDLE


@pytest.mark.parametrize(
    ("code", "state"), [("002", LinkState.SIGNED_OFF), ("301", LinkState.READY)]
)
async def test_what_the_acquirer_starts_is_answered(code: str, state: LinkState) -> None:
    async with running() as made:
        await made.acquirer.send(Message("0800", {7: "1121120000", 11: "000777", 70: code}))
        await trio.testing.wait_all_tasks_blocked()
        assert made.upstream.links[0].life.state is state
        answers = made.acquirer.of("0810")
        assert [(one.stan, one.response_code) for one in answers] == [("000777", "00")]


async def test_a_key_change_without_keys_is_not_supported() -> None:
    async with running() as made:
        await made.acquirer.send(Message("0800", {7: "1121120000", 11: "000777", 70: "161"}))
        await trio.testing.wait_all_tasks_blocked()
        assert [one.response_code for one in made.acquirer.of("0810")] == ["40"]


async def test_an_acquirer_that_signed_off_is_used_again_when_it_signs_on() -> None:
    async with running() as made:
        await made.acquirer.send(Message("0800", {7: "1121120000", 11: "000001", 70: "002"}))
        await trio.testing.wait_all_tasks_blocked()
        assert made.standing() is Standing.AWAY
        await made.acquirer.send(Message("0800", {7: "1121120000", 11: "000002", 70: "001"}))
        await trio.testing.wait_all_tasks_blocked()
        assert made.standing() is Standing.TAKES


# --- silence ------------------------------------------------------------------------------------


async def test_a_mute_link_is_suspected_asked_and_closed_long_before_the_time_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running() as made:
        for _ in range(100):
            assert await made.ask() == "00"
            await trio.sleep(0.01)
        made.acquirer.script = silent
        asked_s = trio.current_time()
        assert await made.ask() == "in doubt"
        # suspect_min_s and echo_s, instead of answer_s
        assert trio.current_time() - asked_s == pytest.approx(0.06 + 0.3, abs=0.02)
        assert Event.LINK_SUSPECT in made.names()
        assert made.standing() is Standing.AWAY


async def test_while_it_is_suspect_it_is_only_better_than_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(mute_for_money) as made:
        made.nursery.start_soon(made.ask)
        await trio.sleep(0.6)
        assert made.standing() is Standing.SPARE


async def test_a_front_end_that_echoes_is_down_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(mute_for_money) as made:
        asked_s = trio.current_time()
        assert await made.ask() == "in doubt"
        assert trio.current_time() - asked_s < 3.0
        assert len(made.network(Kind.ECHO)) > 1
        await trio.sleep(0.5)
        assert made.standing() is Standing.AWAY


async def test_after_silence_one_request_proves_it_and_then_it_starts_slowly(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(mute_for_money) as made:
        assert await made.ask() == "in doubt"
        made.acquirer.script = approve
        await trio.sleep(1.2)
        assert Event.UPSTREAM_PROBED in made.names()
        assert made.standing() is Standing.TAKES
        assert await made.ask() == "00"
        standings = [made.standing() for _ in range(100)]
        assert 5 <= standings.count(Standing.TAKES) <= 20
        assert set(standings) == {Standing.TAKES, Standing.SPARE}
        await trio.sleep(HEALTH.slow_start_s)
        assert {made.standing() for _ in range(100)} == {Standing.TAKES}


async def test_a_probe_that_fails_ejects_it_twice_as_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(mute_for_money) as made:
        assert await made.ask() == "in doubt"
        await trio.sleep(1.2)
        assert await made.ask() == "in doubt"
        assert made.upstream.health.ejections == 2
        assert await made.ask() == "not sent"
        assert made.upstream.status().why


async def test_only_one_request_at_a_time_is_the_probe(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(mute_for_money) as made:
        assert await made.ask() == "in doubt"
        await trio.sleep(1.2)
        codes: list[str] = []

        async def ask() -> None:
            codes.append(await made.ask())

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert sorted(codes) == ["in doubt", *["not sent"] * 4]


async def test_time_outs_in_a_row_eject_it(autojump_clock: trio.testing.MockClock) -> None:
    patient = Health(suspect_unknown_s=60.0, suspect_max_s=60.0, timeouts_max=3)
    async with running(mute_for_money, health=patient) as made:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(made.ask)
        assert made.standing() is Standing.AWAY
        assert made.upstream.status().time_outs == 3


# --- what it answers ----------------------------------------------------------------------------


async def test_an_acquirer_that_only_says_96_is_left_alone_if_there_is_another() -> None:
    async with running(
        lambda request: approve(request) if request.mti[1] == "8" else with_code("96")(request)
    ) as made:
        made.upstream.others_up = lambda: True
        codes = [await made.ask() for _ in range(30)]
        assert codes.count("96") == HEALTH.answers_min
        assert codes[-1] == "not sent"


async def test_the_last_one_standing_is_not_left_alone_for_what_it_answers() -> None:
    async with running(
        lambda request: approve(request) if request.mti[1] == "8" else with_code("96")(request)
    ) as made:
        assert [await made.ask() for _ in range(60)] == ["96"] * 60


# --- bounds, operators, calls -------------------------------------------------------------------


async def test_over_its_bound_the_next_one_is_asked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(mute_for_money, pending_max=2, answer_s=0.4) as made:
        for _ in range(2):
            made.nursery.start_soon(made.ask)
        await trio.testing.wait_all_tasks_blocked()
        assert made.standing() is Standing.FULL
        assert Pool.any_full([made.upstream])
        assert list(Pool.candidates([made.upstream])) == []


async def test_another_link_of_the_same_upstream_is_tried_while_nothing_left() -> None:
    async with running(links=2) as made:
        first, second = made.upstream.links
        # Ready when it was chosen, and gone when it is to send.
        first._channel._ended = True  # type: ignore[union-attr]
        assert [await made.ask() for _ in range(4)] == ["00"] * 4
        assert second.ready


async def test_draining_lets_what_is_under_way_finish() -> None:
    waiting: list[Message] = []

    def later(request: Message) -> Message | None:
        if request.mti[1] == "8":
            return approve(request)
        waiting.append(request)
        return None

    async with running(later) as made:
        codes: list[str] = []

        async def ask() -> None:
            codes.append(await made.ask())

        made.nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        made.upstream.set_control(Control.DRAINED)
        assert made.standing() is Standing.AWAY
        await trio.testing.wait_all_tasks_blocked()
        assert made.upstream.links[0].life.state is LinkState.DRAINING
        await made.acquirer.send(approve(waiting[0]))
        await trio.testing.wait_all_tasks_blocked()
        assert codes == ["00"]
        assert made.upstream.links[0].life.state is LinkState.IDLE
        made.upstream.set_control(Control.ENABLED)
        await trio.testing.wait_all_tasks_blocked()
        assert made.standing() is Standing.TAKES
        assert made.upstream.status().control == "enabled"


async def test_disabling_closes_at_once_and_enabling_connects() -> None:
    async with running() as made:
        made.upstream.set_control(Control.DISABLED)
        await trio.testing.wait_all_tasks_blocked()
        assert made.upstream.status().links_up == 0
        assert made.upstream.status().state == "disabled"
        made.upstream.set_control(Control.ENABLED)
        await trio.testing.wait_all_tasks_blocked()
        assert made.upstream.status().links_up == 1


@pytest.mark.parametrize("control", [Control.DRAINED, Control.DISABLED])
async def test_what_an_operator_set_holds_at_the_start(control: Control) -> None:
    made = made_of(FakeAcquirer())
    made.upstream.control = control
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.acquirer.run)
        await nursery.start(made.upstream.run)
        await trio.testing.wait_all_tasks_blocked()
        assert made.acquirer.received == []
        made.upstream.set_control(Control.ENABLED)
        await trio.testing.wait_all_tasks_blocked()
        assert made.upstream.status().links_up == 1
        nursery.cancel_scope.cancel()


async def test_reconnecting_makes_every_connection_anew() -> None:
    async with running() as made:
        made.upstream.reconnect()
        await trio.testing.wait_all_tasks_blocked()
        assert made.upstream.links[0].life.attempts == 2
        assert made.standing() is Standing.TAKES


async def _ended(stream: TcpStream) -> None:
    """Return once the other side has ended it."""
    with suppress(trio.BrokenResourceError):
        assert await stream.receive_some() == b""
    await stream.aclose()


async def test_the_acquirer_calls_us() -> None:
    made = made_of(FakeAcquirer(), addresses=[], listen="127.0.0.1:0", callers=["127.0.0.0/8"])
    assert made.upstream.calls is not None
    async with trio.open_nursery() as nursery:
        await nursery.start(made.upstream.run)
        caller = TcpStream(await connect(made.upstream.calls.address))
        nursery.start_soon(made.acquirer._serve, caller)
        while not made.upstream.ready:
            await trio.lowlevel.checkpoint()
        assert await made.ask() == "00"
        # One call is one link: no more are taken than there are.
        second = TcpStream(await connect(made.upstream.calls.address))
        with trio.fail_after(30):
            await _ended(second)
        await caller.aclose()
        nursery.cancel_scope.cancel()


async def test_a_call_from_elsewhere_is_ended() -> None:
    made = made_of(FakeAcquirer(), addresses=[], listen="127.0.0.1:0", callers=["10.0.0.0/8"])
    assert made.upstream.calls is not None
    async with trio.open_nursery() as nursery:
        await nursery.start(made.upstream.run)
        caller = TcpStream(await connect(made.upstream.calls.address))
        with trio.fail_after(30):
            await _ended(caller)
        assert not made.upstream.ready
        assert "outside" in str(made.events[-1])
        nursery.cancel_scope.cancel()


# --- the pool -----------------------------------------------------------------------------------


def test_who_stands_in_for_whom() -> None:
    upstreams = [made_of(FakeAcquirer(), name=name).upstream for name in ("a", "b", "c")]
    group = Group(name="g", members=[Member(upstream="a"), Member(upstream="b")])
    alone = Group(name="h", members=[Member(upstream="c")])
    pool = Pool(upstreams, groups=[group, alone])
    assert [pool[name].others_up() for name in "abc"] == [False, False, False]
    for name in ("a", "c"):
        pool[name].health.links(0.0, usable=1, suspect=0)
    assert [pool[name].others_up() for name in "abc"] == [False, True, False]


def test_moves_are_bounded() -> None:
    budget = MoveBudget(per_s=10.0, share=0.2, now_s=0.0)
    assert sum(budget.take(0.0) for _ in range(1_000)) == 100
    assert sum(budget.take(1.0) for _ in range(1_000)) == 10
    for _ in range(100):
        budget.served()
    assert sum(budget.take(1.0) for _ in range(1_000)) == pytest.approx(20, abs=1)
    never = MoveBudget(per_s=0.0, share=0.0, now_s=0.0)
    assert sum(never.take(9.0) for _ in range(9)) == 1


# --- another configuration ------------------------------------------------------------------------


class Site:
    """A pool over acquirers by address, which a configuration may change."""

    def __init__(self) -> None:
        self.acquirers = {address: FakeAcquirer() for address in ("a:1", "a:2", "b:1")}
        self.added: list[str] = []
        self.owed: dict[str, int] = {}
        self.store_fails = False
        self.outcomes: list[str] = []
        self.pool = Pool(
            [self.make(self.means("a", "a:1"))], make=self.make, restore_stans=self.restore
        )
        self.pool.added = lambda upstream: self.added.append(upstream.name)
        self.pool.owed = lambda name: self.owed.get(name, 0)

    def means(self, name: str, *addresses: str, **changes: Any) -> Means:
        made = settings(name=name, addresses=list(addresses), **changes)
        return Means(settings=made, codec=CODEC)

    def make(self, means: Means) -> Upstream:
        async def reserve(upstream: str, first: int, now_ms: int) -> None:
            await trio.lowlevel.checkpoint()

        return Upstream(
            means,
            clock=VirtualClock(0),
            emit=lambda event, **fields: None,
            random=lambda: 0.5,
            reserve_stans=reserve,
            on_answered=lambda name, seconds: None,
            connect_with=lambda address: self.acquirers[address].connect_with(address),
        )

    async def restore(self, upstream: Upstream) -> None:
        await trio.lowlevel.checkpoint()
        if self.store_fails:
            raise StoreError("the disk is full")
        upstream.stans.restore([], now_ms=0)

    async def outcome(self, name: str) -> None:
        try:
            self.outcomes.append(await self.code(name))
        except (NotSent, InDoubt) as error:
            self.outcomes.append(type(error).__name__)

    async def code(self, name: str, stan: int = 1) -> str:
        answer = await self.pool[name].ask(purchase(stan), transaction_id=stan, kind=Kind.PURCHASE)
        return answer.response_code

    def purchases(self, address: str) -> int:
        return len(self.acquirers[address].of("0200"))


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    made = Site()
    async with trio.open_nursery() as nursery:
        for acquirer in made.acquirers.values():
            nursery.start_soon(acquirer.run)
        await nursery.start(made.pool.run)
        await trio.testing.wait_all_tasks_blocked()
        yield made
        nursery.cancel_scope.cancel()


async def test_another_address_comes_up_before_the_first_is_left() -> None:
    async with site() as made:
        waiting: list[Message] = []

        def later(request: Message) -> Message | None:
            if request.mti[1] == "8":
                return approve(request)
            waiting.append(request)
            return None

        made.acquirers["a:1"].script = later
        codes: list[str] = []

        async def ask() -> None:
            codes.append(await made.code("a"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            made.acquirers["a:2"].script = silent  # its echo comes later
            made.pool.apply([made.means("a", "a:2")], groups=[])
            await trio.testing.wait_all_tasks_blocked()
            assert made.pool["a"].ready  # over the old link
            made.acquirers["a:2"].script = approve
            await made.acquirers["a:2"].send(approve(made.acquirers["a:2"].received[0]))
            await trio.testing.wait_all_tasks_blocked()
            assert await made.code("a", stan=2) == "00"
            assert made.purchases("a:2") == 1
            # What was under way on the old one is answered all the same.
            await made.acquirers["a:1"].send(approve(waiting[0]))
        assert codes == ["00"]
        await trio.testing.wait_all_tasks_blocked()
        assert [link.name for link in made.pool["a"].links] == ["a/a:2/1"]


async def test_a_change_that_is_none_of_its_links_keeps_them() -> None:
    async with site() as made:
        made.pool.apply([made.means("a", "a:1", approving_codes=["00", "A2"])], groups=[])
        await trio.testing.wait_all_tasks_blocked()
        assert made.pool["a"].settings.approving_codes == ["00", "A2"]
        assert made.pool["a"].links[0].life.attempts == 1
        assert len(made.acquirers["a:1"].of("0800")) == 1


async def test_a_stan_waits_as_long_for_its_late_answer_as_the_configuration_says_by_now() -> None:
    async with site() as made:
        made.pool.apply([made.means("a", "a:1", late_max_s=86_400.0)], groups=[])
        stans = made.pool["a"].stans
        now_ms = 0
        for _ in range(1_100):  # every block once, and there is no more
            while (first := stans.wanted(now_ms)) is not None:
                stans.reserved(first)
            while stans.take(now_ms) is not None and stans.wanted(now_ms) is None:
                pass
        assert stans.wanted(3_600_000) is None
        assert stans.wanted(86_400_001) is not None


async def test_one_that_is_added_is_used() -> None:
    async with site() as made:
        made.pool.apply([made.means("a", "a:1"), made.means("b", "b:1")], groups=[])
        await trio.testing.wait_all_tasks_blocked()
        assert made.added == ["b"]
        assert await made.code("b") == "00"


async def test_one_that_is_removed_stays_until_nothing_is_owed_to_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with site() as made:
        made.owed["a"] = 1
        made.pool.apply([made.means("b", "b:1")], groups=[])
        await trio.sleep(5.0)
        gone = made.pool["a"]
        assert gone.standing() is Standing.AWAY
        assert gone.ready  # for what is owed
        made.owed["a"] = 0
        await trio.sleep(5.0)
        assert made.pool.get("a") is None
        assert not gone.ready


async def test_one_that_is_removed_by_mistake_is_back_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with site() as made:
        made.owed["a"] = 1
        made.pool.apply([made.means("b", "b:1")], groups=[])
        made.pool.apply([made.means("a", "a:1"), made.means("b", "b:1")], groups=[])
        made.owed["a"] = 0
        await trio.sleep(5.0)
        assert await made.code("a") == "00"


async def test_one_that_is_removed_before_its_stans_could_be_read_ends_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with site() as made:
        made.store_fails = True
        made.pool.apply([made.means("a", "a:1"), made.means("b", "b:1")], groups=[])
        await trio.sleep(1.0)
        gone = made.pool["b"]
        made.pool.apply([made.means("a", "a:1")], groups=[])
        await trio.sleep(5.0)
        assert made.pool.get("b") is None
        made.store_fails = False
        await trio.sleep(5.0)
        assert not gone.ready  # nor does it come up for nobody
        assert await made.code("a") == "00"


@pytest.mark.parametrize("last", [Control.ENABLED, Control.DRAINED, Control.DISABLED])
async def test_what_an_operator_says_during_an_exchange_holds_for_the_one_that_waits(
    last: Control, autojump_clock: trio.testing.MockClock
) -> None:
    async with site() as made:
        upstream = made.pool["a"]
        first = Control.DISABLED if last is Control.ENABLED else Control.ENABLED
        made.acquirers["a:2"].refuse = True  # so that the first exchange takes its time
        made.pool.apply([made.means("a", "a:2")], groups=[])
        await trio.sleep(0.1)
        upstream.set_control(first)
        made.pool.apply([made.means("a", "b:1")], groups=[])
        await trio.sleep(0.1)
        upstream.set_control(last)
        await trio.sleep(120.0)
        assert [link.name for link in upstream.links] == ["a/b:1/1"]
        assert upstream.ready == (last is Control.ENABLED)


async def test_one_that_is_removed_twice_stays_until_nothing_is_owed_to_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with site() as made:
        signing = made.means("a", "a:1", network=Network(sign_on=True, sign_on_s=5.0))
        made.pool.apply([signing], groups=[])
        await trio.sleep(5.0)
        upstream = made.pool["a"]
        # Its sign-off is not answered: it is removed the first time for as long as it waits.
        made.acquirers["a:1"].script = lambda m: None if kind_of(m) is Kind.SIGN_OFF else approve(m)
        made.pool.apply([made.means("b", "b:1")], groups=[])
        await trio.sleep(1.0)
        made.pool.apply([signing], groups=[])
        made.owed["a"] = 1
        await trio.sleep(1.0)
        made.pool.apply([made.means("b", "b:1")], groups=[])
        await made.acquirers["a:1"].hang_up()
        await trio.sleep(60.0)
        assert made.pool.get("a") is upstream


async def test_what_waits_on_a_link_that_is_left_keeps_a_removed_upstream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with site() as made:
        made.acquirers["a:1"].script = lambda m: approve(m) if m.mti[1] == "8" else None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.outcome, "a")
            await trio.testing.wait_all_tasks_blocked()
            made.pool.apply([made.means("a", "a:2")], groups=[])
            await trio.sleep(0.1)
            assert made.pool["a"].pending == 1
            made.pool.apply([made.means("b", "b:1")], groups=[])
            await trio.sleep(1.2)
            assert made.pool.get("a") is not None
            [asked] = made.acquirers["a:1"].of("0200")
            await made.acquirers["a:1"].send(approve(asked))
        assert made.outcomes == ["00"]
        await trio.sleep(5.0)
        assert made.pool.get("a") is None


async def test_a_network_message_that_cannot_be_written_is_told_and_ends_nothing() -> None:
    unwritable = Network(fields=["70=1234567"])
    async with running(network=unwritable) as made:
        told = [fields for event, fields in made.events if event is Event.LINK_FAILED]
        assert "cannot be written: field 70" in str(told)
        assert not made.upstream.ready


# --- terminals that the acquirer knows one by one -------------------------------------------------


async def test_each_terminal_signs_on_by_itself_before_its_first_request() -> None:
    network = Network(sign_on=True)
    async with running(network=network, knows_terminals="one_by_one") as made:
        assert made.network(Kind.SIGN_ON) == []  # the link has nothing to sign on
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(made.ask)
        (signed_on,) = made.network(Kind.SIGN_ON)
        assert (signed_on.terminal_id, signed_on.merchant_id) == ("T0000001", "MERCHANT0000001")
        assert len(made.acquirer.of("0200")) == 3


async def test_a_terminal_that_must_sign_on_again_does() -> None:
    network = Network(sign_on=True)
    async with running(network=network, knows_terminals="one_by_one") as made:
        assert await made.ask() == "00"
        made.acquirer.script = with_code("77")
        assert await made.ask() == "77"
        made.acquirer.script = approve
        assert await made.ask() == "00"
        assert len(made.network(Kind.SIGN_ON)) == 2


async def test_nothing_is_sent_for_a_terminal_that_is_not_let_in() -> None:
    network = Network(sign_on=True)
    async with running(
        lambda request: with_code("58" if kind_of(request) is Kind.SIGN_ON else "00")(request),
        network=network,
        knows_terminals="one_by_one",
    ) as made:
        assert await made.ask() == "not sent"
        assert made.acquirer.of("0200") == []


async def test_many_terminals_that_sign_on_at_once_all_do(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = Network(sign_on=True, sign_on_s=5.0)
    async with running(network=network, knows_terminals="one_by_one") as made:
        made.acquirer.delay_s = 0.01
        codes: list[str] = []

        async def ask(number: int) -> None:
            request = purchase(number, {41: f"T{number:07d}"})
            try:
                answer = await made.upstream.ask(request, transaction_id=number, kind=Kind.PURCHASE)
                codes.append(answer.response_code)
            except NotSent:
                codes.append("not sent")

        async with trio.open_nursery() as nursery:
            for number in range(1, 101):
                nursery.start_soon(ask, number)
        assert codes == ["00"] * 100


async def test_a_sign_on_waits_its_time_and_no_longer_for_its_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = Network(sign_on=True, sign_on_s=5.0)
    async with running(
        lambda one: None if kind_of(one) is Kind.SIGN_ON else approve(one),
        network=network,
        knows_terminals="one_by_one",
    ) as made:
        began_s = trio.current_time()

        async def ask(number: int) -> None:
            request = purchase(number, {41: f"T{number:07d}"})
            with pytest.raises(NotSent):
                await made.upstream.ask(request, transaction_id=number, kind=Kind.PURCHASE)

        async with trio.open_nursery() as nursery:
            for number in range(1, 101):
                nursery.start_soon(ask, number)
        assert trio.current_time() - began_s <= 10.0
