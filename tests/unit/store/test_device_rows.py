"""Devices, their history, incidents and replacements: what is committed is what is read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import StoreError
from gateway.store.devices import IncidentKind, Standing
from gateway.store.store import (
    Batch,
    BatchTotals,
    Device,
    DeviceEvent,
    DeviceState,
    EndReversal,
    Incident,
    Leftover,
    NoteDevice,
    PutBatch,
    PutDevice,
    PutIncident,
    PutReplacement,
    Replacement,
    RevokeCertificate,
    RevokedCertificate,
    State,
    Store,
    Trim,
)
from tests.support.fake_store import FakeStore
from tests.support.stores import a_transaction, opened, settled

DEVICE = Device(
    device_id=7,
    terminal_id="T0000001",
    merchant_id="M1",
    activation=3,
    state=DeviceState.SUSPENDED,
    profile="retail",
    certificate_sha256="a" * 64,
    serial="S-1",
    model="P400",
    place="Köln",
    networks="10.0.0.0/8",
    enrolled_ms=1,
    last_seen_ms=2,
    group="Dom",
    inspected="2026-11-20",
    inspected_by="Ada",
    state_reason="stock-taking",
    state_since_ms=3,
    until_ms=4,
    keys_of="T0000002",
    inherits=(("T0000001", 1), ("T 000009", 2)),
    known_by_name=False,
)


@pytest.fixture(params=["sqlite", "fake"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "fake":
        yield FakeStore()
        return
    async with opened(tmp_path / "gateway.db") as store:
        yield store


async def test_a_device_comes_back_with_its_life(store: Store) -> None:
    lost = replace(DEVICE, device_id=8, terminal_id="T2      ", state=DeviceState.LOST)
    await store.commit(PutDevice(DEVICE), PutDevice(lost))
    assert await store.devices() == [DEVICE, lost]
    assert (DEVICE.keyed_as, replace(DEVICE, keys_of="").keyed_as) == ("T0000002", "T0000001")


async def test_history_is_read_backwards_in_pages(store: Store) -> None:
    told = [
        DeviceEvent(terminal_id="T1      ", at_ms=ms, who="ada", what="suspend", reason=f"{ms}")
        for ms in range(5)
    ]
    await store.commit(*map(NoteDevice, told))
    await store.commit(NoteDevice(replace(told[0], terminal_id="T2      ", detail="a -> b")))
    newest = await store.device_history("T1      ", 2)
    assert [one.at_ms for one in newest] == [4, 3]
    rest = await store.device_history("T1      ", 9, before_id=newest[-1].event_id)
    assert [replace(one, event_id=0) for one in rest] == told[2::-1]
    (other,) = await store.device_history("T2      ", 9)
    assert other.detail == "a -> b"


async def test_old_history_comes_to_its_end_in_steps_and_stays_while_an_incident_is_open(
    store: Store,
) -> None:
    ages = [(terminal, ms) for ms in range(6) for terminal in ("T1      ", "T2      ")]
    told = [DeviceEvent(terminal_id=name, at_ms=ms, who="ada", what="bind") for name, ms in ages]
    incident = Incident(
        incident_id=1,
        terminal_id="T2      ",
        kind=IncidentKind.LOST,
        opened_ms=1,
        who="ada",
        reason="",
    )
    await store.commit(*map(NoteDevice, told), PutIncident(incident))
    what = Leftover.DEVICE_HISTORY
    assert await store.trimmable(what, 4) == 4
    await store.commit(Trim(what, 4, 3))
    assert [one.at_ms for one in await store.device_history("T1      ", 9)] == [5, 4, 3]
    await store.commit(Trim(what, 4, 3))
    assert [one.at_ms for one in await store.device_history("T1      ", 9)] == [5, 4]
    assert len(await store.device_history("T2      ", 9)) == 6
    await store.commit(PutIncident(replace(incident, closed_ms=9)))
    assert await store.trimmable(what, 4) == 4


async def test_incidents_replacements_and_revocations(store: Store) -> None:
    incident = Incident(
        incident_id=1,
        terminal_id="T0000001",
        kind=IncidentKind.STOLEN,
        opened_ms=1,
        who="ada",
        reason="from the counter",
    )
    made = Replacement(
        replacement_id=3,
        old_id="T0000001",
        new_id="T0000002",
        at_ms=2,
        who="bea",
        reason="broken",
        kept_ids=False,
        activation=4,
        standing=Standing.IN_FORCE,
        old=DEVICE,
        new=replace(DEVICE, device_id=8, terminal_id="T0000002", inherits=()),
        batch=5,
    )
    revoked = RevokedCertificate("b" * 64, "T0000001", 9)
    await store.commit(PutIncident(incident), PutReplacement(made), RevokeCertificate(revoked))
    closed = replace(incident, closed_ms=5, report="{}")
    final = replace(made, standing=Standing.FINAL)
    await store.commit(PutIncident(closed), PutReplacement(final), RevokeCertificate(revoked))
    assert await store.incidents() == [closed]
    assert await store.replacements() == [final]
    assert await store.revoked_certificates() == [revoked]
    assert (made.serving_id, replace(made, kept_ids=True).serving_id) == ("T0000001", "T0000002")


async def test_a_change_and_its_history_are_one(store: Store) -> None:
    event = DeviceEvent(terminal_id="T0000001", at_ms=1, who="ada", what="lost")
    with pytest.raises(StoreError):
        await store.commit(PutDevice(DEVICE), NoteDevice(event), EndReversal(99, State.REVERSED))
    assert not await store.devices()
    assert not await store.device_history("T0000001", 9)


async def test_a_batch_counts_what_it_carries(store: Store) -> None:
    sold = {"T 0001": 3, "T2": 1, "T3": 2}
    number = 0
    for terminal, count in sold.items():
        for _ in range(count):
            number += 1
            sale = a_transaction(
                number,
                terminal_id=f"{terminal:8}",
                batch=4 if terminal == "T 0001" else 1,
                amount_minor=100,
                repeat_key=f"{number}",
            )
            assert await store.intend(sale) is None
            await store.commit(settled(number))
    opened_ms = 1_700_000_000_000
    moved = Batch(terminal_id="T 0001  ", number=4, opened_ms=opened_ms, closed_ms=opened_ms + 1)
    batch = Batch(
        terminal_id="T2      ", number=1, opened_ms=opened_ms, carries=f"{moved.name}\tT3/1"
    )
    await store.commit(PutBatch(moved), PutBatch(batch))
    assert await store.open_batches() == [batch]
    assert await store.batch_totals("T2      ", 1) == BatchTotals(6, 600, 0, 0)
    assert await store.batch_totals("T 0001  ", 4) == BatchTotals(3, 300, 0, 0)
