"""While a certificate is renewed both prove the device; then the old one proves nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from gateway.clock import VirtualClock
from gateway.errors import NoSuchThing, OperatorError
from gateway.settings.schema_terminals import DeviceRange
from gateway.telemetry.events import Event
from gateway.terminals.identity import Caller, Identified, ProvenCertificate, Refused, identify
from gateway.terminals.registry import Registry
from tests.support.fake_store import FakeStore

OLD, NEW, THIRD = "a" * 64, "b" * 64, "c" * 64
T1 = "T0000001"


def unheard(event: Event, /, **fields: object) -> None:
    """Nobody listens."""


async def loaded(store: FakeStore, clock: VirtualClock) -> Registry:
    return await Registry.load(
        store,
        ranges=[DeviceRange(terminals="R0000001-R0000009", profile="p")],
        default_profile="p",
        clock=clock,
        emit=unheard,
    )


@asynccontextmanager
async def renewed(*, overlap_s: int = 3_600) -> AsyncIterator[tuple[Registry, FakeStore]]:
    store, clock = FakeStore(), VirtualClock(1_700_000_000_000)
    registry = await loaded(store, clock)
    await registry.enrol(terminal_id=T1, merchant_id="M1", certificate_sha256=OLD)
    await registry.activate(T1, "")
    await registry.renew_certificate(T1, NEW, overlap_s=overlap_s, who="ada")
    yield registry, store


def proves(registry: Registry, sha256: str) -> bool:
    caller = Caller(
        listener="l",
        address="10.0.0.1",
        security="mutual-tls",
        certificate=ProvenCertificate(common_name=T1, sha256=sha256, serial=1),
    )
    found = identify(caller, T1, "M1", registry)
    assert isinstance(found, Identified | Refused)
    return isinstance(found, Identified)


async def test_both_prove_it_until_the_overlap_is_over(autojump_clock: MockClock) -> None:
    async with renewed() as (registry, store):
        device = registry.get(T1)
        assert device.activation == 1  # it goes on with its STANs
        assert proves(registry, OLD)
        assert proves(registry, NEW)
        await trio.sleep(3_599)
        assert proves(registry, OLD)
        await trio.sleep(1)
        # Even before anybody has written it down.
        assert not proves(registry, OLD)
        assert proves(registry, NEW)
        [due] = registry.overlapping_until(registry._clock.wall_ms())
        assert await registry.end_overlap(due)
        assert not await registry.end_overlap(due)
        assert not proves(registry, OLD)
        assert proves(registry, NEW)
        assert [one.what for one in store.events_by_id.values()][-2:] == ["renew", "renewed"]


async def test_a_restart_changes_nothing_of_it(autojump_clock: MockClock) -> None:
    async with renewed() as (registry, store):
        again = await loaded(store, registry._clock)  # type: ignore[arg-type]
        assert again.get(T1) == registry.get(T1)
        assert proves(again, OLD)
        assert proves(again, NEW)


async def test_an_open_connection_of_the_old_certificate_is_asked_again(
    autojump_clock: MockClock,
) -> None:
    async with renewed() as (registry, _):
        caller = Caller(
            listener="l",
            address="10.0.0.1",
            security="mutual-tls",
            certificate=ProvenCertificate(common_name=T1, sha256=OLD, serial=1),
        ).bound_to(registry.get(T1))
        assert isinstance(identify(caller, T1, "M1", registry), Identified)
        await trio.sleep(3_600)
        [due] = registry.overlapping_until(registry._clock.wall_ms())
        await registry.end_overlap(due)
        assert isinstance(identify(caller, T1, "M1", registry), Refused)


async def test_binding_another_ends_both(autojump_clock: MockClock) -> None:
    async with renewed() as (registry, _):
        await registry.bind_certificate(T1, THIRD)
        assert [proves(registry, one) for one in (OLD, NEW, THIRD)] == [False, False, True]
        assert registry.get(T1).activation == 2


async def test_what_cannot_be_renewed(autojump_clock: MockClock) -> None:
    async with renewed() as (registry, _):
        with pytest.raises(OperatorError, match="two certificates until"):
            await registry.renew_certificate(T1, THIRD, overlap_s=60)
        with pytest.raises(NoSuchThing):
            await registry.renew_certificate("T0000009", THIRD, overlap_s=60)
        with pytest.raises(OperatorError, match="no certificate bound"):
            await registry.renew_certificate("R0000001", THIRD, overlap_s=60)
        await registry.enrol(terminal_id="T0000002", merchant_id="M1", certificate_sha256=THIRD)
        for taken in (OLD, NEW):
            with pytest.raises(OperatorError, match="a certificate has one device"):
                await registry.renew_certificate("T0000002", taken, overlap_s=60)
        await trio.sleep(4_000)
        with pytest.raises(OperatorError, match="has this certificate already"):
            await registry.renew_certificate(T1, NEW, overlap_s=60)
        with pytest.raises(OperatorError, match="64 hex"):
            await registry.renew_certificate(T1, "", overlap_s=60)
