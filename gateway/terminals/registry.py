"""Registry: the devices by terminal id and certificate, and every change in a device's life."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import trio

from gateway.clock import Clock
from gateway.errors import NoSuchThing, OperatorError
from gateway.settings.schema_terminals import DeviceRange
from gateway.store.store import Device, DeviceState, PutDevice, Store, TouchDevice
from gateway.telemetry.events import Emit, Event
from gateway.terminals import device_fields, roster
from gateway.terminals.enrolment import NO_ROW, ImportPlan, Rule, Terms, check_certificate_free
from gateway.terminals.life import Move, after, refusal

CHECKED_ROWS_MAX = 100  # of a roster, before others get their turn
COMMIT_DEVICES_MAX = 500  # to one commit: large enough to be quick, small enough to show progress

Progress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What an import did, in devices."""

    added: int
    completed: int  # existed and had empty columns filled
    unchanged: int


def terms_of(
    *, ranges: Sequence[DeviceRange], default_profile: str, profiles: Collection[str] = ()
) -> Terms:
    """What a configuration says of devices; raises OperatorError where a range is none."""
    rules = tuple(Rule.compile(range_) for range_ in ranges)
    return Terms(rules, default_profile, frozenset(profiles))


class Registry:
    """All devices in memory, with the store as the truth: a change is on disk before it is seen.

    Look-ups are synchronous and touch dictionaries only. Changes wait for each other. `profiles`
    are the names that a device's profile may be; empty leaves them unchecked.
    """

    def __init__(
        self,
        store: Store,
        *,
        ranges: Sequence[DeviceRange],
        default_profile: str,
        clock: Clock,
        emit: Emit,
        profiles: Collection[str] = (),
    ) -> None:
        """An empty registry; raises OperatorError where a range is none. See `load`."""
        self._store = store
        self._terms = terms_of(ranges=ranges, default_profile=default_profile, profiles=profiles)
        self._clock = clock
        self._emit = emit
        self._known: dict[str, Device] = {}  # rows, and devices of rules once asked for
        self._rows: dict[str, Device] = {}
        self._by_certificate: dict[str, Device] = {}
        self._last_id = 0
        self._fresh: dict[str, int] = {}  # last seen, not yet in the store
        self._seen: dict[str, int] = {}
        self._changing = trio.Lock()
        # Called when a device may not do any more what it could: its connections are to be closed.
        self.changed: Callable[[], None] = lambda: None

    @classmethod
    async def load(
        cls,
        store: Store,
        *,
        ranges: Sequence[DeviceRange],
        default_profile: str,
        clock: Clock,
        emit: Emit,
        profiles: Collection[str] = (),
    ) -> Registry:
        """A registry with all the store's devices; raises StoreError and OperatorError."""
        registry = cls(
            store,
            ranges=ranges,
            default_profile=default_profile,
            clock=clock,
            emit=emit,
            profiles=profiles,
        )
        for device in await store.devices():
            registry._install(device)
        return registry

    def use(self, terms: Terms) -> None:
        """From now on take rules and defaults from another version of the configuration.

        Devices that stand in no row are those of its rules at their next look-up.
        """
        self._terms = terms
        self._known = dict(self._rows)

    # --- look-ups ---------------------------------------------------------------------------------

    def by_terminal(self, terminal_id: str) -> Device | None:
        """The device of a terminal id in DE41's form (eight characters); a row wins over a rule."""
        return self._known.get(terminal_id) or self._from_rule(terminal_id)

    def by_certificate(self, sha256: str) -> Device | None:
        """The device whose row holds the certificate with this SHA-256 (lower-case hex)."""
        return self._by_certificate.get(sha256)

    def get(self, terminal_id: str) -> Device:
        """The device of a terminal id as people write it; raises NoSuchThing, OperatorError."""
        device = self.by_terminal(device_fields.terminal_id(terminal_id))
        if device is None:
            raise NoSuchThing(
                f"no device {terminal_id.rstrip()}: `gateway terminals enrol` adds one"
            )
        return device

    def devices(self) -> list[Device]:
        """All rows, and the devices of rules heard of since the start, sorted by terminal id."""
        return self.select()

    def silent_for(self, seconds: float) -> list[Device]:
        """The listed devices not heard of for so long; one never heard of counts from enrolment."""
        return self.select(silent_for_s=seconds)

    def select(
        self,
        *,
        after: str = "",
        limit: int | None = None,
        state: DeviceState | None = None,
        silent_for_s: float | None = None,
    ) -> list[Device]:
        """The listed devices that fit, sorted by terminal id: at most `limit` behind `after`."""
        before_ms = None
        if silent_for_s is not None:
            before_ms = self._clock.wall_ms() - round(silent_for_s * 1000)
        fitting = (
            device
            for device in self._known.values()
            if device.terminal_id > after
            and (state is None or device.state is state)
            and (device.device_id != NO_ROW or self.last_seen_ms(device))
            and (
                before_ms is None or max(self.last_seen_ms(device), device.enrolled_ms) <= before_ms
            )
        )
        if limit is None:
            return sorted(fitting, key=_terminal_id)
        return heapq.nsmallest(limit, fitting, key=_terminal_id)

    @property
    def rules(self) -> Sequence[Rule]:
        """The ranges that stand for devices without rows."""
        return self._terms.rules

    def _from_rule(self, terminal_id: str) -> Device | None:
        rule = self._terms.rule_of(terminal_id)
        if rule is None:
            return None
        # Kept, so that the next look-up is one dictionary's and the device stays the same object;
        # at most one for each id of the range.
        device = self._known[terminal_id] = rule.device(terminal_id)
        return device

    # --- last seen --------------------------------------------------------------------------------

    def touch(self, device: Device) -> None:
        """Note that a device was heard of now; `flush_seen` writes it."""
        self._fresh[device.terminal_id] = self._clock.wall_ms()

    async def flush_seen(self) -> int:
        """Write when devices were last seen; returns how many rows were touched.

        Raises StoreError; what was not written then waits for the next call.
        """
        rows = 0
        for batch in _batches(list(self._fresh.items()), COMMIT_DEVICES_MAX):
            touches = [
                TouchDevice(self._rows[terminal_id].device_id, seen_ms)
                for terminal_id, seen_ms in batch
                if terminal_id in self._rows
            ]
            if touches:
                await self._store.commit(*touches)
                rows += len(touches)
            for terminal_id, seen_ms in batch:
                self._seen[terminal_id] = seen_ms
                if self._fresh.get(terminal_id) == seen_ms:
                    del self._fresh[terminal_id]
        return rows

    def last_seen_ms(self, device: Device) -> int:
        """When a device was last heard of, 0 if never; its own field may be older."""
        terminal_id = device.terminal_id
        return max(
            self._fresh.get(terminal_id, 0), self._seen.get(terminal_id, 0), device.last_seen_ms
        )

    # --- changes ----------------------------------------------------------------------------------

    async def enrol(
        self,
        *,
        terminal_id: str,
        merchant_id: str,
        profile: str = "",
        serial: str = "",
        model: str = "",
        place: str = "",
        networks: str = "",
        certificate_sha256: str = "",
    ) -> Device:
        """Add a device in state pending and return it; raises OperatorError, StoreError.

        An id of a rule gets a row of its own, which wins over the rule.
        """
        values = {
            "merchant_id": device_fields.merchant_id(merchant_id),
            "profile": device_fields.label("profile", profile),
            "serial": device_fields.label("serial", serial),
            "model": device_fields.label("model", model),
            "place": device_fields.label("place", place),
            "networks": device_fields.networks(networks),
            "certificate_sha256": device_fields.certificate_sha256(certificate_sha256),
        }
        row = roster.Row(0, device_fields.terminal_id(terminal_id), values)
        async with self._changing:
            if row.terminal_id in self._rows:
                raise OperatorError(
                    f"{row.terminal_id.rstrip()} is enrolled already: "
                    "`gateway terminals bind` gives it another certificate"
                )
            check_certificate_free(
                values["certificate_sha256"], row.terminal_id, self._by_certificate
            )
            device = self._terms.new_device(
                row, device_id=self._last_id + 1, enrolled_ms=self._clock.wall_ms()
            )
            (device,) = await self._keep([device])
        self._say_changed(device, "enrol", "")
        return device

    async def activate(self, terminal_id: str, reason: str) -> Device:
        """Let a pending device work; returns it, raises OperatorError, StoreError."""
        return await self._move(terminal_id, Move.ACTIVATE, reason)

    async def suspend(self, terminal_id: str, reason: str) -> Device:
        """Stop an active device; one of a rule gets a row of its own for it."""
        return await self._move(terminal_id, Move.SUSPEND, reason)

    async def resume(self, terminal_id: str, reason: str) -> Device:
        """Let a suspended device work again; returns it, raises OperatorError, StoreError."""
        return await self._move(terminal_id, Move.RESUME, reason)

    async def bind_certificate(self, terminal_id: str, sha256: str) -> Device:
        """Bind a certificate in place of the one before; returns the device.

        Every binding counts the activation up, one with the same certificate too: a device that
        was reinstalled starts its STANs anew and must not meet its old answers. Raises
        OperatorError (a certificate has one device at most) and StoreError.
        """
        fingerprint = device_fields.certificate_sha256(sha256)
        if not fingerprint:
            raise OperatorError("no certificate given: its SHA-256 is 64 hex digits")
        async with self._changing:
            device = self.get(terminal_id)
            check_certificate_free(fingerprint, device.terminal_id, self._by_certificate)
            bound = self._with_row(
                replace(device, certificate_sha256=fingerprint, activation=device.activation + 1)
            )
            (bound,) = await self._keep([bound])
        self._say_changed(bound, "bind", "")
        return bound

    async def _move(self, terminal_id: str, move: Move, reason: str) -> Device:
        reason = device_fields.label("reason", reason)
        async with self._changing:
            device = self.get(terminal_id)
            why_not = refusal(device.state, move)
            if why_not:
                raise OperatorError(f"{device.terminal_id.rstrip()} is {device.state}: {why_not}")
            moved = self._with_row(replace(device, state=after(device.state, move)))
            (moved,) = await self._keep([moved])
        self._say_changed(moved, move, reason)
        return moved

    def _with_row(self, device: Device) -> Device:
        if device.device_id != NO_ROW:
            return device
        return replace(device, device_id=self._last_id + 1, enrolled_ms=self._clock.wall_ms())

    async def _keep(self, devices: Sequence[Device]) -> Sequence[Device]:
        """Make devices durable, then show them to look-ups; returns them as they are shown."""
        rows = [replace(device, last_seen_ms=self.last_seen_ms(device)) for device in devices]
        # Cancelled in the wait, nobody would know whether the rows are on disk; memory and store
        # must say the same, so this short wait is finished first.
        with trio.CancelScope(shield=True):
            await self._store.commit(*(PutDevice(row) for row in rows))
            for row in rows:
                self._install(row)
        return rows

    def _install(self, device: Device) -> None:
        before = self._rows.get(device.terminal_id)
        if before is not None and before.certificate_sha256 != device.certificate_sha256:
            self._by_certificate.pop(before.certificate_sha256, None)
        self._rows[device.terminal_id] = self._known[device.terminal_id] = device
        if device.certificate_sha256:
            self._by_certificate[device.certificate_sha256] = device
        self._last_id = max(self._last_id, device.device_id)

    def _say_changed(self, device: Device, change: str, reason: str) -> None:
        if device.state is not DeviceState.ACTIVE:
            self.changed()
        self._emit(
            Event.DEVICE_CHANGED,
            terminal=device.terminal_id.rstrip(),
            change=change,
            state=str(device.state),
            activation=device.activation,
            reason=reason,
        )

    # --- many at once -----------------------------------------------------------------------------

    def export_csv(self) -> str:
        """All rows as CSV, in the form `import_csv` reads."""
        rows = sorted(self._rows.values(), key=_terminal_id)
        return roster.write({c: str(getattr(row, c)) for c in roster.COLUMNS} for row in rows)

    async def import_csv(
        self,
        text: str,
        *,
        activate: bool = False,
        merchant_id: str = "",
        progress: Progress | None = None,
    ) -> Imported:
        """Add the devices of a CSV text, all or none of them, and fill what others lack.

        `merchant_id` is for rows without one; `activate` makes active what is or would be pending.
        Rows are checked whole before the first is written: where one is wrong, RosterRefused names
        every wrong one. They are written in commits of some hundreds, each followed by
        `progress(done, total)`. Where the store fails in between (StoreError), those commits stay,
        and the same import again adds the rest.
        """
        async with self._changing:
            plan = await self._plan(text, activate=activate, merchant_id=merchant_id)
            devices = plan.added + plan.completed
            done = 0
            for batch in _batches(devices, COMMIT_DEVICES_MAX):
                await self._keep(batch)
                done += len(batch)
                if progress is not None:
                    progress(done, len(devices))
        outcome = Imported(
            added=len(plan.added), completed=len(plan.completed), unchanged=plan.unchanged
        )
        self._emit(
            Event.DEVICES_IMPORTED,
            added=outcome.added,
            completed=outcome.completed,
            unchanged=outcome.unchanged,
        )
        return outcome

    async def _plan(self, text: str, *, activate: bool, merchant_id: str) -> ImportPlan:
        plan = ImportPlan(
            self._terms,
            present=self._rows,
            holders=self._by_certificate,
            last_id=self._last_id,
            enrolled_ms=self._clock.wall_ms(),
            merchant_id=device_fields.merchant_id(merchant_id) if merchant_id else "",
            activate=activate,
        )
        for taken, row in enumerate(roster.parse(text, plan.problems)):
            plan.take(row)
            # Thousands of rows take a while, and terminals are served in between.
            if taken % CHECKED_ROWS_MAX == 0:
                await trio.lowlevel.checkpoint()
        plan.check()
        return plan


def _terminal_id(device: Device) -> str:
    return device.terminal_id


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
