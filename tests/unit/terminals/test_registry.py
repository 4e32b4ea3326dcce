"""A device's life in the registry, and what the store holds after each step of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.errors import NoSuchThing, OperatorError, StoreError
from gateway.settings.schema_terminals import DeviceRange
from gateway.store.store import Device, DeviceState
from gateway.telemetry.events import Event
from gateway.terminals.life import Move, after, refusal
from gateway.terminals.registry import Registry
from tests.support.fake_store import FakeStore

SHA_A, SHA_B = "a" * 64, "b" * 64
START_MS = 1_700_000_000_000
RANGES = [
    DeviceRange(terminals="R0000001-R0000003", profile="standard"),
    DeviceRange(terminals="S0000001-S0000002", merchant="SHOP", profile="small"),
]


class Events(list[tuple[Event, dict[str, object]]]):
    def __call__(self, event: Event, /, **fields: object) -> None:
        self.append((event, fields))


async def loaded(store: FakeStore, events: Events | None = None, **changes: Any) -> Registry:
    terms: dict[str, Any] = {
        "ranges": RANGES,
        "default_profile": "standard",
        "profiles": ["standard", "small"],
    }
    return await Registry.load(
        store,
        clock=VirtualClock(START_MS),
        emit=Events() if events is None else events,
        **{**terms, **changes},
    )


async def test_enrolled_devices_wait_for_activation_and_survive() -> None:
    store, events = FakeStore(), Events()
    registry = await loaded(store, events)
    enrolled = await registry.enrol(terminal_id="T1", merchant_id="M1 ", place="Köln, Dom")
    assert enrolled == Device(
        device_id=1,
        terminal_id="T1      ",
        merchant_id="M1",
        activation=1,
        state=DeviceState.PENDING,
        profile="standard",
        place="Köln, Dom",
        enrolled_ms=START_MS,
    )
    active = await registry.activate("T1", "inspected")
    assert active.state is DeviceState.ACTIVE
    assert registry.by_terminal("T1      ") is active
    again = await loaded(store)
    assert again.by_terminal("T1      ") == active
    assert [fields["change"] for _, fields in events] == ["enrol", "activate"]
    assert events[1] == (
        Event.DEVICE_CHANGED,
        {
            "terminal": "T1",
            "change": "activate",
            "state": "active",
            "activation": 1,
            "reason": "inspected",
        },
    )


@pytest.mark.parametrize("state", list(DeviceState))
@pytest.mark.parametrize("move", [Move.ACTIVATE, Move.SUSPEND, Move.RESUME])
async def test_every_pair_of_state_and_move(state: DeviceState, move: Move) -> None:
    store = FakeStore()
    registry = await loaded(store)
    device = await registry.enrol(terminal_id="T1", merchant_id="M1")
    store.devices_by_id[1] = replace(device, state=state)
    registry = await loaded(store)
    act = {
        Move.ACTIVATE: registry.activate,
        Move.SUSPEND: registry.suspend,
        Move.RESUME: registry.resume,
    }[move]
    if not refusal(state, move):
        assert (await act("T1", "why")).state is after(state, move)
        assert store.devices_by_id[1].state is after(state, move)
    else:
        with pytest.raises(OperatorError, match=f"T1 is {state}: it cannot {move}"):
            await act("T1", "why")
        assert store.devices_by_id[1].state is state


async def test_what_cannot_be_enrolled() -> None:
    registry = await loaded(FakeStore())
    await registry.enrol(terminal_id="T1", merchant_id="M1", certificate_sha256=SHA_A)
    for values, words in [
        ({"terminal_id": "T1"}, "T1 is enrolled already"),
        ({"terminal_id": "T00000001"}, "no terminal id"),
        ({"terminal_id": ""}, "no terminal id"),
        ({"terminal_id": " T1"}, "no terminal id"),
        ({"terminal_id": "T\n1"}, "no terminal id"),
        ({"terminal_id": "Tü"}, "no terminal id"),
        ({"merchant_id": ""}, "no merchant id"),
        ({"merchant_id": "M" * 16}, "no merchant id"),
        ({"merchant_id": "*"}, "registry rules only"),
        ({"profile": "huge"}, "no profile 'huge'.* small, standard"),
        ({"certificate_sha256": SHA_A}, "this certificate is T1's"),
        ({"certificate_sha256": "abc"}, "no SHA-256"),
        ({"networks": "10.0.0.1/8"}, "host bits"),
        ({"place": "a\nb"}, "printable"),
        ({"serial": "x" * 101}, "at most 100"),
    ]:
        with pytest.raises(OperatorError, match=words):
            await registry.enrol(**{"terminal_id": "T2", "merchant_id": "M1", **values})
    assert [device.terminal_id for device in registry.devices()] == ["T1      "]


async def test_binding_moves_the_certificate_and_counts_up() -> None:
    store = FakeStore()
    registry = await loaded(store)
    await registry.enrol(terminal_id="T1", merchant_id="M1", certificate_sha256=SHA_A)
    await registry.enrol(terminal_id="T2", merchant_id="M1")
    colons = ":".join(["BB"] * 32)
    bound = await registry.bind_certificate("T1", colons)
    assert (bound.certificate_sha256, bound.activation) == (SHA_B, 2)
    assert registry.by_certificate(SHA_A) is None
    assert registry.by_certificate(SHA_B) is bound
    with pytest.raises(OperatorError, match="T1's"):
        await registry.bind_certificate("T2", SHA_B)
    with pytest.raises(OperatorError, match="no certificate"):
        await registry.bind_certificate("T2", "")
    assert (await registry.bind_certificate("T1", SHA_B)).activation == 3
    assert (await registry.bind_certificate("T2", SHA_A)).activation == 2
    assert {d.certificate_sha256 for d in store.devices_by_id.values()} == {SHA_A, SHA_B}


async def test_unknown_devices_are_named_in_the_error() -> None:
    registry = await loaded(FakeStore())
    for act in (registry.activate, registry.suspend, registry.resume):
        with pytest.raises(NoSuchThing, match="no device T9"):
            await act("T9", "")
    with pytest.raises(NoSuchThing, match="no device T9"):
        await registry.bind_certificate("T9", SHA_A)


class TestRules:
    async def test_a_rule_stands_for_active_devices_without_rows(self) -> None:
        store = FakeStore()
        registry = await loaded(store)
        device = registry.by_terminal("R0000002")
        assert device is not None
        assert device is registry.by_terminal("R0000002")
        assert (device.merchant_id, device.profile, device.state) == (
            "*",
            "standard",
            DeviceState.ACTIVE,
        )
        shop = registry.by_terminal("S0000001")
        assert shop is not None
        assert (shop.merchant_id, shop.profile) == ("SHOP", "small")
        assert registry.by_terminal("R0000004") is None
        assert registry.by_terminal("R1") is None
        assert store.commits == []
        assert registry.devices() == []

    async def test_a_suspended_one_gets_a_row_that_wins(self) -> None:
        store = FakeStore()
        registry = await loaded(store)
        before = registry.by_terminal("R0000002")
        suspended = await registry.suspend("R0000002", "lost")
        assert registry.by_terminal("R0000002") is suspended
        assert before is not suspended
        registry = await loaded(store)
        again = registry.by_terminal("R0000002")
        assert again == suspended
        assert (await registry.resume("R0000002", "found")).state is DeviceState.ACTIVE

    async def test_one_can_be_enrolled_or_bound(self) -> None:
        registry = await loaded(FakeStore())
        bound = await registry.bind_certificate("R0000001", SHA_A)
        assert (bound.device_id, bound.merchant_id, bound.activation) == (1, "*", 2)
        enrolled = await registry.enrol(terminal_id="R0000002", merchant_id="M1")
        assert (enrolled.device_id, enrolled.state) == (2, DeviceState.PENDING)
        assert registry.by_terminal("R0000002") is enrolled

    async def test_a_bad_range_is_refused_at_the_start(self) -> None:
        bad = [DeviceRange(terminals="R0000002-R0000001", profile="standard")]
        with pytest.raises(OperatorError, match=r"registry.ranges: .* ends before it begins"):
            await loaded(FakeStore(), ranges=bad)


class TestStoreTrouble:
    async def test_memory_says_what_the_store_says(self) -> None:
        store = FakeStore()
        registry = await loaded(store)
        device = await registry.enrol(terminal_id="T1", merchant_id="M1")
        store.failing = True
        with pytest.raises(StoreError):
            await registry.activate("T1", "")
        with pytest.raises(StoreError):
            await registry.enrol(terminal_id="T2", merchant_id="M1")
        assert registry.by_terminal("T1      ") is device
        assert registry.by_terminal("T2      ") is None

    async def test_a_cancelled_change_is_finished_first(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        store = FakeStore(commit_s=1)
        registry = await loaded(store)
        with trio.move_on_after(0.5):
            await registry.enrol(terminal_id="T1", merchant_id="M1")
        assert registry.by_terminal("T1      ") == store.devices_by_id[1]

    async def test_two_at_once_do_not_both_enrol(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        registry = await loaded(FakeStore(commit_s=1))
        refused = []

        async def enrol() -> None:
            try:
                await registry.enrol(terminal_id="T1", merchant_id="M1")
            except OperatorError as error:
                refused.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(enrol)
            nursery.start_soon(enrol)
        assert len(refused) == 1
        assert "enrolled already" in refused[0]


class TestLastSeen:
    async def test_it_is_in_memory_at_once_and_written_on_flush(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        store = FakeStore()
        registry = await loaded(store)
        for number in range(1_200):
            device = await registry.enrol(terminal_id=f"T{number}", merchant_id="M1")
        store.commits.clear()
        await trio.sleep(10)
        ranged = registry.by_terminal("R0000001")
        assert ranged is not None
        for device in registry.devices():
            registry.touch(device)
        registry.touch(ranged)
        seen_ms = START_MS + 10_000
        assert registry.last_seen_ms(device) == seen_ms
        assert await registry.flush_seen() == 1_200
        assert [len(operations) for operations in store.commits] == [500, 500, 200]
        assert {d.last_seen_ms for d in (await loaded(store)).devices()} == {seen_ms}
        assert await registry.flush_seen() == 0
        assert registry.last_seen_ms(ranged) == seen_ms
        assert ranged in registry.devices()

    async def test_a_failed_flush_is_made_up_for(self) -> None:
        store = FakeStore()
        registry = await loaded(store)
        registry.touch(await registry.enrol(terminal_id="T1", merchant_id="M1"))
        store.failing = True
        with pytest.raises(StoreError):
            await registry.flush_seen()
        store.failing = False
        assert await registry.flush_seen() == 1

    async def test_silent_devices(self, autojump_clock: trio.testing.MockClock) -> None:
        registry = await loaded(FakeStore())
        never = await registry.enrol(terminal_id="T1", merchant_id="M1")
        await trio.sleep(3_600)
        heard = await registry.enrol(terminal_id="T2", merchant_id="M1")
        registry.touch(heard)
        await trio.sleep(3_600)
        registry.touch(heard)
        await trio.sleep(10)
        assert registry.silent_for(3_600) == [never]
        assert registry.silent_for(7_211) == []
        assert registry.silent_for(1) == [never, heard]
        suspended = await registry.suspend((await registry.activate("T2", "")).terminal_id, "")
        assert registry.last_seen_ms(suspended) == START_MS + 7_200_000
        assert suspended.last_seen_ms == START_MS + 7_200_000
