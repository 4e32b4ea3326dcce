"""Devices' lives over a fake store: what tests of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.clock import VirtualClock
from gateway.settings.schema_devices import Incidents
from gateway.store.store import Device, Settle, State, Transaction
from gateway.terminals.device_life import DeviceLife
from gateway.terminals.registry import Registry
from gateway.terminals.sightings import Sightings
from gateway.terminals.surroundings import Surroundings
from gateway.transactions.open_batches import OpenBatches
from gateway.wire.message import Kind
from tests.support.fake_store import FakeStore
from tests.support.stores import Emitted, a_transaction

START_MS = 1_760_000_000_000
SHA_A, SHA_B = "a" * 64, "b" * 64


@dataclass
class Shop:
    """One node's devices; made anew over the same store it is that node after a restart."""

    store: FakeStore
    folder: Path
    clock: VirtualClock = field(default_factory=lambda: VirtualClock(START_MS))
    told: Emitted = field(default_factory=Emitted)
    busy: set[str] = field(default_factory=set)
    keys_gone: list[str] = field(default_factory=list)
    done: list[tuple[str, str]] = field(default_factory=list)
    registry: Registry = None  # type: ignore[assignment]
    batches: OpenBatches = None  # type: ignore[assignment]
    sightings: Sightings = None  # type: ignore[assignment]
    life: DeviceLife = None  # type: ignore[assignment]

    async def open(self) -> Shop:
        self.registry = await Registry.load(
            self.store, ranges=[], default_profile="retail", clock=self.clock, emit=self.told
        )
        self.batches = OpenBatches(store=self.store, clock=self.clock)
        await self.batches.restore()
        self.sightings = Sightings(
            self.store, clock=self.clock, emit=self.told, kept_max=10, subjects_max=10
        )
        await self.sightings.restore()
        around = Surroundings(
            registry=self.registry,
            store=self.store,
            batches=self.batches,
            clock=self.clock,
            approving=lambda _: ("00",),
            keys_destroyed=lambda owner, _: self.keys_gone.append(owner),
            busy=self.busy.__contains__,
        )

        async def write_down(action: str, subject: str, _: Mapping[str, object]) -> None:
            self.done.append((action, subject))

        self.life = DeviceLife(
            around,
            sightings=self.sightings,
            incidents=Incidents,
            incident_folder=lambda: self.folder / "incidents",
            archive_folder=lambda: self.folder / "archive",
            original_days=30,
            emit=self.told,
            write_down=write_down,
        )
        await self.life.restore()
        return self

    async def again(self) -> Shop:
        """The same store under a new node."""
        return await Shop(self.store, self.folder, clock=self.clock).open()

    async def device(self, terminal: str, *, active: bool = True, **values: Any) -> Device:
        device = await self.registry.enrol(terminal_id=terminal, **{"merchant_id": "M1", **values})
        return await self.registry.activate(terminal, "", who="ada") if active else device

    async def sale(
        self,
        terminal: str,
        amount_minor: int = 100,
        *,
        kind: Kind = Kind.PURCHASE,
        state: State = State.ANSWERED,
        **changes: Any,
    ) -> Transaction:
        """A transaction that was approved."""
        number = max(self.store.transactions, default=0) + 1
        terminal = f"{terminal:8}"
        made = a_transaction(
            number,
            repeat_key=f"D20260101/{terminal}/{number}/",
            terminal_id=terminal,
            merchant_id="M1",
            kind=kind,
            amount_minor=amount_minor,
            created_ms=self.clock.wall_ms(),
            activation=self.registry.get(terminal).activation,
            batch=self.batches.number(terminal),
            **changes,
        )
        assert await self.store.intend(made) is None
        if state is not State.INTENDED:
            await self.store.commit(Settle(number, state, "00", "A", b"", 1, wipe_image=False))
        return made

    def kept(self) -> tuple[object, ...]:
        """All that a step of a device's life may change."""
        store = self.store
        return (
            dict(store.devices_by_id),
            dict(store.batches_by_key),
            dict(store.replacements_by_id),
            dict(store.incidents_by_id),
            dict(store.events_by_id),
            dict(store.revoked),
            dict(store.kept_keys),
        )


async def a_shop(folder: Path) -> Shop:
    """Devices T1 and T2 of one merchant, T1 with sales in its first batch."""
    shop = await Shop(FakeStore(), folder).open()
    await shop.device("T1", certificate_sha256=SHA_A, serial="S1")
    await shop.device("T2", active=False, certificate_sha256=SHA_B, serial="S2")
    await shop.sale("T1", 100)
    await shop.sale("T1", 250)
    return shop
