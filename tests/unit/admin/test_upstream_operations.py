"""Operators and upstreams: what they see, what they set, and that it holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from gateway.admin.access import Caller, Peer, caller_of
from gateway.admin.api import AdminApi, BadArguments
from gateway.admin.guard import ApprovalWanted, NotAllowed
from gateway.clock import VirtualClock
from gateway.errors import InDoubt, NoSuchThing, NotSent, OperatorError, StoreError
from gateway.settings.schema_operators import Approvals, Operator
from gateway.status import register_upstream_gauges
from gateway.telemetry.audit_reader import records
from gateway.telemetry.events import ALARMS, CLEARS, Event
from gateway.telemetry.metrics import Metrics
from gateway.upstreams.figures import STATES
from gateway.upstreams.pool import Pool
from gateway.upstreams.upstream import Control, Means, Upstream
from gateway.wire.message import Kind, Message
from tests.support.acquirer import CODEC, FakeAcquirer, approve, with_code
from tests.support.admin_thread import a_status
from tests.support.audit_logs import Events
from tests.support.desk import an_api
from tests.support.fake_store import FakeStore
from tests.support.rig import START_MS, purchase, upstream_settings
from tests.support.steered import Steered, an_upstream

OPERATORS = [
    Operator(name="anna", users=["60001"], roles=["operator"]),
    Operator(name="ben", users=["60002"], roles=["operator"]),
    Operator(name="vera", users=["60003"], roles=["viewer"]),
]


def caller(uid: int) -> Caller:
    return caller_of(Peer(uid=uid, pid=7), OPERATORS, own_uid=60_000)


ANNA, BEN, VERA = map(caller, (60_001, 60_002, 60_003))


class Room:
    """A node's upstreams, its store and its operators."""

    def __init__(self, store: FakeStore, acquirers: dict[str, FakeAcquirer]) -> None:
        self.store = store
        self.acquirers = acquirers
        self.events = Events()
        self.clock = VirtualClock(START_MS)
        upstreams = [
            an_upstream(name, acquirer, clock=self.clock, emit=self.events)
            for name, acquirer in acquirers.items()
        ]
        self.pool = Pool(upstreams, make=self._made)
        self.steered = Steered(
            self.pool, store=store, clock=self.clock, emit=self.events, owed={"north": 3}.get
        )
        self.nursery: trio.Nursery
        self._stan = 0

    def _made(self, means: Means) -> Upstream:
        name = means.settings.name
        acquirer = self.acquirers.setdefault(name, FakeAcquirer())
        return an_upstream(name, acquirer, clock=self.clock, emit=self.events)

    async def run(self, operation: str, who: str = "anna", **arguments: Any) -> dict[str, Any]:
        return await self.steered.operations.run(operation, arguments, who=who)

    async def ask(self, name: str) -> str:
        """The code of a purchase's answer, or what came instead of one."""
        self._stan += 1
        try:
            answer = await self.pool[name].ask(
                purchase(self._stan), transaction_id=self._stan, kind=Kind.PURCHASE
            )
        except NotSent:
            return "not sent"
        except InDoubt:
            return "in doubt"
        return answer.response_code

    def told(self, event: Event) -> list[dict[str, object]]:
        return [fields for name, fields in self.events if name is event]


@asynccontextmanager
async def a_room(
    store: FakeStore | None = None, *, restore: bool = True, **acquirers: FakeAcquirer
) -> AsyncIterator[Room]:
    """Two upstreams that run, north and south, unless others are given."""
    room = Room(
        store or FakeStore(), acquirers or {"north": FakeAcquirer(), "south": FakeAcquirer()}
    )
    async with trio.open_nursery() as nursery:
        room.nursery = nursery
        for acquirer in room.acquirers.values():
            nursery.start_soon(acquirer.run)
        if restore:
            await room.steered.controls.restore()
        await nursery.start(room.pool.run)
        await trio.testing.wait_all_tasks_blocked()
        yield room
        nursery.cancel_scope.cancel()


# --- looking ------------------------------------------------------------------------------------


async def test_a_list_says_how_each_does(autojump_clock: trio.testing.MockClock) -> None:
    async with a_room() as room:
        assert await room.ask("north") == "00"
        room.acquirers["north"].script = with_code("51")
        assert [await room.ask("north") for _ in range(3)] == ["51"] * 3
        found = await room.run("list")
        north, south = found["upstreams"]
        assert found["not_configured"] == []
        assert (north["name"], north["state"], north["control"]) == ("north", "up", "enabled")
        assert (north["links_up"], north["links"], north["pending"]) == (1, 1, 0)
        assert (north["answers"], north["approved"], north["time_outs"]) == (4, 0.25, 0)
        assert set(north["latency_s"]) == {"p50", "p90", "p99"}
        assert north["since"] == "2026-11-21T12:00:00.000Z"
        assert north["reversals_owed"] == 3
        assert north["others_up"] is True
        assert (south["approved"], south["latency_s"]) == (None, {})
        details = await room.run("show", name="north")
        assert details["answers_by_class"] == {
            "approved": 1,
            "declined": 3,
            "unavailable": 0,
            "fault": 0,
        }
        (link,) = details["each_link"]
        assert (link["state"], link["health"], link["attempts"]) == ("ready", "up", 1)
        with pytest.raises(NoSuchThing, match="no upstream 'nroth'; there are: north, south"):
            await room.run("show", name="nroth")


async def test_what_never_came_up_says_why_and_is_an_alarm(
    autojump_clock: trio.testing.MockClock,
) -> None:
    refusing = FakeAcquirer()
    refusing.refuse = True
    async with a_room(north=refusing) as room:
        assert room.told(Event.UPSTREAM_DOWN) == []
        # Long enough for a connection and its first steps.
        await trio.sleep(60)
        (down,) = room.told(Event.UPSTREAM_DOWN)
        assert down == {"upstream": "north", "reason": "no link yet; refused"}
        found = await room.run("show", name="north")
        assert (found["state"], found["why"]) == ("down", "no link yet; refused")
        assert found["each_link"][0]["why"] == "refused"
        # An operator looks after it: if that is no help, it is told again.
        await room.run("reconnect", name="north")
        await trio.sleep(60)
        assert len(room.told(Event.UPSTREAM_DOWN)) == 2
        refusing.refuse = False
        await trio.sleep(60)
        assert (await room.run("show", name="north"))["why"] == "it has a link that may be used"
        assert room.told(Event.UPSTREAM_UP)


def test_an_operators_word_ends_the_alarm() -> None:
    assert Event.UPSTREAM_DOWN in ALARMS
    assert CLEARS[Event.UPSTREAM_CONTROLLED] == CLEARS[Event.UPSTREAM_UP] == (Event.UPSTREAM_DOWN,)


# --- setting ------------------------------------------------------------------------------------


async def test_draining_finishes_what_is_under_way_and_resuming_takes_it_back() -> None:
    waiting: list[Message] = []

    def later(request: Message) -> Message | None:
        if request.mti[1] == "8":
            return approve(request)
        waiting.append(request)
        return None

    async with a_room(north=FakeAcquirer(later), south=FakeAcquirer()) as room:
        codes: list[str] = []

        async def ask() -> None:
            codes.append(await room.ask("north"))

        room.nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        done = await room.run("drain", name="north", reason="their maintenance")
        assert (done["changed"], done["pending_before"]) == (True, 1)
        assert done["upstream"]["state"] == "draining"
        assert done["upstream"]["why"] == "by anna: their maintenance"
        assert not list(room.pool.candidates([room.pool["north"]]))
        await room.acquirers["north"].send(approve(waiting[0]))
        await trio.testing.wait_all_tasks_blocked()
        assert codes == ["00"]
        assert (await room.run("show", name="north"))["state"] == "drained"
        again = await room.run("drain", name="north", who="ben", reason="me too")
        assert not again["changed"]
        assert again["upstream"]["why"] == "by anna: their maintenance"
        done = await room.run("resume", name="north")
        await trio.testing.wait_all_tasks_blocked()
        assert (await room.run("show", name="north"))["state"] == "up"
        assert [(one["control"], one["who"]) for one in room.told(Event.UPSTREAM_CONTROLLED)] == [
            ("drained", "anna"),
            ("enabled", "anna"),
        ]
        assert room.told(Event.UPSTREAM_DOWN) == []


@pytest.mark.parametrize("operation", ["disable", "reconnect"])
async def test_disabling_and_reconnecting_put_what_is_pending_in_doubt(operation: str) -> None:
    mute = FakeAcquirer(lambda request: approve(request) if request.mti[1] == "8" else None)
    async with a_room(north=mute, south=FakeAcquirer()) as room:
        codes: list[str] = []

        async def ask() -> None:
            codes.append(await room.ask("north"))

        room.nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        done = await room.run(operation, name="north")
        await trio.testing.wait_all_tasks_blocked()
        assert done["pending_before"] == 1
        assert codes == ["in doubt"]
        found = await room.run("show", name="north")
        assert found["control"] == ("disabled" if operation == "disable" else "enabled")
        assert found["links_up"] == (operation == "reconnect")


async def test_one_word_does_not_undo_another() -> None:
    async with a_room() as room:
        await room.run("disable", name="north", reason="fraud")
        for operation in ("drain", "resume", "reconnect"):
            with pytest.raises(OperatorError, match="north is disabled by anna: fraud: "):
                await room.run(operation, name="north")
        await room.run("enable", name="north")
        assert room.pool["north"].control is Control.ENABLED
        await room.run("drain", name="north")
        with pytest.raises(OperatorError, match="use `gateway upstreams resume north`"):
            await room.run("enable", name="north")
        await room.run("disable", name="north")
        assert room.pool["north"].control is Control.DISABLED
        with pytest.raises(BadArguments, match="reason"):
            await room.run("enable", name="north", reason="x" * 501)


# --- keeping ------------------------------------------------------------------------------------


async def test_a_word_is_on_disk_before_it_holds() -> None:
    async with a_room() as room:
        before: list[tuple[Control, int]] = []
        commit = room.store.commit

        async def watched(*operations: Any) -> None:
            before.append((room.pool["north"].control, len(room.events)))
            await commit(*operations)

        room.store.commit = watched  # type: ignore[method-assign]
        said = len(room.events)
        await room.run("drain", name="north")
        assert before == [(Control.ENABLED, said)]
        room.store.failing = True
        with pytest.raises(StoreError):
            await room.run("resume", name="north")
        assert room.pool["north"].control is Control.DRAINED
        assert len(room.told(Event.UPSTREAM_CONTROLLED)) == 1


async def test_who_hangs_up_meanwhile_takes_nothing_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with a_room(FakeStore(commit_s=1.0)) as room:
        with trio.move_on_after(0.5):
            await room.run("drain", name="north")
        assert room.store.noted
        assert room.pool["north"].control is Control.DRAINED


@pytest.mark.parametrize(("operation", "control"), [("drain", "drained"), ("disable", "disabled")])
async def test_it_survives_a_restart(operation: str, control: str) -> None:
    store = FakeStore()
    async with a_room(store) as room:
        await room.run(operation, name="north", reason="moving house")
        kept = await room.run("show", name="north")
    async with a_room(store) as room:
        found = await room.run("show", name="north")
        assert (found["state"], found["control"]) == (control, control)
        assert (found["since"], found["why"]) == (kept["since"], "by anna: moving house")
        assert room.acquirers["north"].received == []
        assert room.pool["north"].links.attempts == 0
        (told,) = room.told(Event.UPSTREAM_CONTROLLED)
        assert (told["upstream"], told["holds"]) == ("north", "since the last run")
        await room.run("resume" if operation == "drain" else "enable", name="north")
        await trio.testing.wait_all_tasks_blocked()
        assert await room.ask("north") == "00"
    assert store.noted == {}


async def test_what_is_kept_of_an_unknown_upstream_is_reported_and_holds_if_it_comes_back() -> None:
    store = FakeStore()
    async with a_room(store, north=FakeAcquirer(), gone=FakeAcquirer()) as room:
        await room.run("drain", name="gone", reason="contract ended")
    async with a_room(store) as room:
        found = await room.run("list")
        (left,) = found["not_configured"]
        assert (left["name"], left["control"], left["why"]) == (
            "gone",
            "drained",
            "by anna: contract ended",
        )
        (told,) = room.told(Event.UPSTREAM_CONTROLLED)
        assert told["holds"] == "not: it is not configured"
        means = [
            Means(settings=upstream_settings(name), codec=CODEC)
            for name in ("north", "south", "gone")
        ]
        room.pool.apply(means, groups=[])
        await trio.testing.wait_all_tasks_blocked()
        assert room.pool["gone"].control is Control.DRAINED
        assert (await room.run("list"))["not_configured"] == []


async def test_what_was_drained_stays_so_where_it_is_removed_and_comes_back() -> None:
    async with a_room() as room:
        await room.run("drain", name="north")
        both = [
            Means(settings=room.pool[name].settings, codec=CODEC) for name in ("north", "south")
        ]
        room.pool.apply(both[1:], groups=[])
        assert (await room.run("show", name="north"))["state"] == "retiring"
        room.pool.apply(both, groups=[])
        assert room.pool["north"].control is Control.DRAINED


@pytest.mark.parametrize("text", ["", "{", "[]", '{"control": "frozen"}', '{"control": "drained"}'])
async def test_what_cannot_be_read_is_taken_for_drained(text: str) -> None:
    async with a_room(FakeStore(noted={"upstream:north": text})) as room:
        found = await room.run("show", name="north")
        assert found["state"] == "drained"
        assert "cannot be read" in found["why"]
        await room.run("resume", name="north")
        assert room.store.noted == {}


# --- who, and what is written down --------------------------------------------------------------


@asynccontextmanager
async def a_desk(room: Room, folder: Path, **changes: Any) -> AsyncIterator[AdminApi]:
    async with an_api(
        {"upstreams": room.steered.operations},
        folder,
        emit=room.events,
        status=a_status,
        operators=OPERATORS,
        **changes,
    ) as api:
        yield api


async def test_operators_steer_viewers_look_and_all_of_it_is_written_down(tmp_path: Path) -> None:
    async with a_room() as room, a_desk(room, tmp_path) as api:
        run = api.desk.run
        assert (await run(VERA, "upstreams", "list", {}))["upstreams"]
        for operation in ("drain", "resume", "disable", "enable", "reconnect"):
            with pytest.raises(NotAllowed, match="needs the role operator"):
                await run(VERA, "upstreams", operation, {"name": "north"})
        await run(ANNA, "upstreams", "drain", {"name": "north", "reason": "their maintenance"})
        with pytest.raises(OperatorError, match="drained by anna"):
            await run(BEN, "upstreams", "reconnect", {"name": "north"})
        written = [one for one in records(tmp_path) if one["who"] != "vera"]
        assert [(one["who"], one["action"], one["outcome"][:6]) for one in written] == [
            ("anna", "upstreams.drain", "begun"),
            ("anna", "upstreams.drain", "done"),
            ("ben", "upstreams.reconnect", "begun"),
            ("ben", "upstreams.reconnect", "failed"),
        ]
        begun, done = written[:2]
        assert begun["subject"] == done["subject"] == "north"
        assert begun["new"]["reason"] == "their maintenance"
        assert done["old"] == {"control": "enabled", "state": "up", "pending": 0}
        assert done["new"]["control"] == "drained"


async def test_with_a_second_operator_it_is_still_whose_wish_it_was(tmp_path: Path) -> None:
    wanted = Approvals(actions=["upstreams.disable"], expires_h=1.0, pending_max=2)
    async with a_room() as room, a_desk(room, tmp_path, approvals=wanted) as api:
        with pytest.raises(ApprovalWanted):
            await api.desk.run(ANNA, "upstreams", "disable", {"name": "north"})
        assert room.pool["north"].control is Control.ENABLED
        (waiting,) = (await api.desk.run(BEN, "approvals", "list", {}))["pending"]
        await api.desk.run(BEN, "approvals", "approve", {"number": waiting["number"]})
        assert (await room.run("show", name="north"))["why"] == "by anna"


# --- metrics ------------------------------------------------------------------------------------


async def test_metrics_say_the_state_and_what_came_of_requests() -> None:
    async with a_room() as room:
        for code in ("00", "51", "91", "96", "05"):
            room.acquirers["north"].script = with_code(code)
            await room.ask("north")
        await room.run("disable", name="south")
        await trio.testing.wait_all_tasks_blocked()
        metrics = Metrics()
        reversals = SimpleNamespace(open_for=lambda name: 3 if name == "north" else 0)
        node = SimpleNamespace(metrics=metrics, pool=room.pool, reversals=reversals)
        register_upstream_gauges(cast("Any", node))
        lines = metrics.exposition().decode().splitlines()
        for line in (
            'gateway_links_up{upstream="north"} 1.0',
            'gateway_links_up{upstream="south"} 0.0',
            'gateway_upstream_pending{upstream="north"} 0.0',
            'gateway_upstream_reversals_owed{upstream="north"} 3.0',
            'gateway_upstream_state{state="up",upstream="north"} 1.0',
            'gateway_upstream_state{state="down",upstream="north"} 0.0',
            'gateway_upstream_state{state="disabled",upstream="south"} 1.0',
            'gateway_upstream_answers_total{class="approved",upstream="north"} 1.0',
            'gateway_upstream_answers_total{class="declined",upstream="north"} 2.0',
            'gateway_upstream_answers_total{class="unavailable",upstream="north"} 1.0',
            'gateway_upstream_answers_total{class="fault",upstream="north"} 1.0',
            'gateway_upstream_time_outs_total{upstream="north"} 0.0',
            'gateway_upstream_suspicions_total{upstream="north"} 0.0',
            'gateway_upstream_ejections_total{upstream="north"} 0.0',
            'gateway_upstream_connection_attempts_total{upstream="north"} 1.0',
        ):
            assert line in lines, line
        states = [line for line in lines if line.startswith("gateway_upstream_state{")]
        assert len(states) == 2 * len(STATES)
        assert sum(line.endswith(" 1.0") for line in states) == 2
