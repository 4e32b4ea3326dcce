"""Registry: the devices by terminal id and certificate, and every change in a device's life."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import trio

from gateway.clock import Clock, iso_time
from gateway.errors import OperatorError
from gateway.settings.schema_terminals import DeviceRange
from gateway.store.store import (
    Device,
    DeviceEvent,
    DeviceState,
    NoteDevice,
    Operation,
    PutDevice,
    RevokeCertificate,
    Store,
)
from gateway.telemetry.events import Emit, Event
from gateway.terminals import device_fields, roster
from gateway.terminals.device_table import DeviceTable, changes_of
from gateway.terminals.enrolment import (
    NO_ROW,
    ImportPlan,
    Rule,
    Terms,
    check_certificate_free,
    check_not_enrolled,
)
from gateway.terminals.last_seen import COMMIT_DEVICES_MAX, batches
from gateway.terminals.life import Move, after, refusal

CHECKED_ROWS_MAX = 100  # of a roster, before others get their turn

Progress = Callable[[int, int], None]


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


class Registry(DeviceTable):
    """All devices in memory, with the store as the truth: a change is on disk before it is seen.

    Look-ups are those of DeviceTable. Changes wait for each other. `profiles` are the names that a
    device's profile may be; empty leaves them unchecked.
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
        terms = terms_of(ranges=ranges, default_profile=default_profile, profiles=profiles)
        super().__init__(store, terms=terms, clock=clock)
        self._emit = emit
        self.changing = trio.Lock()  # held by who reads devices in order to change them
        # Why a device is not ready to be activated, in words; "" where it is.
        self.missing: Callable[[Device], str] = lambda _: ""
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
        for revoked in await store.revoked_certificates():
            registry._revoked[revoked.sha256] = revoked
        return registry

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
        group: str = "",
        who: str = "",
    ) -> Device:
        """Add a device in state pending and return it; raises OperatorError, StoreError.

        An id of a rule gets a row of its own, which wins over the rule. One that was deregistered
        is never enrolled again.
        """
        values = {
            "merchant_id": device_fields.merchant_id(merchant_id),
            "profile": device_fields.label("profile", profile),
            "serial": device_fields.label("serial", serial),
            "model": device_fields.label("model", model),
            "place": device_fields.label("place", place),
            "networks": device_fields.networks(networks),
            "certificate_sha256": device_fields.certificate_sha256(certificate_sha256),
            "group": device_fields.label("group", group),
        }
        row = roster.Row(0, device_fields.terminal_id(terminal_id), values)
        async with self.changing:
            check_not_enrolled(self._rows.get(row.terminal_id))
            self.check_certificate(values["certificate_sha256"], row.terminal_id)
            device = self._terms.new_device(
                row, device_id=self._last_id + 1, enrolled_ms=self._clock.wall_ms()
            )
            (device,) = await self.keep([device], self.event(device, Move.ENROL, who=who))
        self.tell(device, Move.ENROL)
        return device

    async def activate(self, terminal_id: str, reason: str, *, who: str = "") -> Device:
        """Let a pending device work; returns it, raises OperatorError, StoreError."""
        return await self._move(terminal_id, Move.ACTIVATE, reason, who=who)

    async def suspend(
        self, terminal_id: str, reason: str, *, who: str = "", until_ms: int = 0
    ) -> Device:
        """Stop an active device, until then if a time is given; one of a rule gets its own row."""
        if until_ms and until_ms <= self._clock.wall_ms():
            raise OperatorError(f"{iso_time(until_ms)} is over: name a time to come, or none")
        return await self._move(terminal_id, Move.SUSPEND, reason, who=who, until_ms=until_ms)

    async def resume(self, terminal_id: str, reason: str, *, who: str = "") -> Device:
        """Let a suspended device work again; returns it, raises OperatorError, StoreError."""
        return await self._move(terminal_id, Move.RESUME, reason, who=who)

    async def resume_due(self, device: Device) -> bool:
        """Let a device work again whose suspension is over by now; whether it was so still."""
        async with self.changing:
            now = self._rows.get(device.terminal_id)
            if now is not device or device.state is not DeviceState.SUSPENDED:
                return False
            moved = self.moved(device, Move.RESUME, "its suspension is over")
            await self.keep([moved], self.event(moved, Move.RESUME, who="", before=device))
        self.tell(moved, Move.RESUME)
        return True

    def suspended_until(self, wall_ms: int) -> list[Device]:
        """The devices whose suspension ends then or before."""
        return [one for one in self._rows.values() if 0 < one.until_ms <= wall_ms]

    async def bind_certificate(self, terminal_id: str, sha256: str, *, who: str = "") -> Device:
        """Bind a certificate in place of the one before; returns the device.

        Every binding counts the activation up, one with the same certificate too: a device that
        was reinstalled starts its STANs anew and must not meet its old answers. Raises
        OperatorError (a certificate has one device at most) and StoreError.
        """
        fingerprint = device_fields.certificate_sha256(sha256)
        if not fingerprint:
            raise OperatorError("no certificate given: its SHA-256 is 64 hex digits")
        async with self.changing:
            device = self.get(terminal_id)
            if device.state in (DeviceState.LOST, DeviceState.REPLACED, DeviceState.DEREGISTERED):
                name = device.terminal_id.rstrip()
                raise OperatorError(f"{name} is {device.state}: no certificate is bound to it")
            self.check_certificate(fingerprint, device.terminal_id)
            bound = self.with_row(
                replace(
                    device,
                    certificate_sha256=fingerprint,
                    activation=device.activation + 1,
                    old_certificate_sha256="",
                    old_until_ms=0,
                )
            )
            (bound,) = await self.keep([bound], self.event(bound, "bind", who=who, before=device))
        self.tell(bound, "bind")
        return bound

    async def renew_certificate(
        self, terminal_id: str, sha256: str, *, overlap_s: int, who: str = ""
    ) -> Device:
        """Bind a certificate beside the one before, which proves the device too for so long.

        It is the same device that goes on with its STANs: its activation stays. Returns it; raises
        OperatorError (it has no certificate yet, or two already) and StoreError.
        """
        fingerprint = device_fields.certificate_sha256(sha256)
        if not fingerprint:
            raise OperatorError("no certificate given: its SHA-256 is 64 hex digits")
        until_ms = self._clock.wall_ms() + overlap_s * 1000
        async with self.changing:
            device = self.get(terminal_id)
            name = device.terminal_id.rstrip()
            if not device.certificate_sha256:
                raise OperatorError(f"{name} has no certificate bound: `gateway terminals bind`")
            if device.certificate_sha256 == fingerprint:
                raise OperatorError(f"{name} has this certificate already")
            if device.old_until_ms > self._clock.wall_ms():
                raise OperatorError(
                    f"{name} has two certificates until {iso_time(device.old_until_ms)}: renew it"
                    " after that, or `gateway terminals bind` another in place of both"
                )
            self.check_certificate(fingerprint, device.terminal_id)
            renewed = replace(
                device,
                certificate_sha256=fingerprint,
                old_certificate_sha256=device.certificate_sha256,
                old_until_ms=until_ms,
            )
            detail = f"the one before works until {iso_time(until_ms)}"
            told = self.event(renewed, "renew", who=who, detail=detail, before=device)
            (renewed,) = await self.keep([renewed], told)
        self.tell(renewed, "renew")
        return renewed

    def overlapping_until(self, wall_ms: int) -> list[Device]:
        """The devices whose certificate before this one proves nothing any more by then."""
        return [one for one in self._rows.values() if 0 < one.old_until_ms <= wall_ms]

    async def end_overlap(self, device: Device) -> bool:
        """Forget the certificate before this one, its time being over; whether it was so still."""
        async with self.changing:
            now = self._rows.get(device.terminal_id)
            if now is not device:
                return False
            ended = replace(device, old_certificate_sha256="", old_until_ms=0)
            told = self.event(
                ended, "renewed", who="", detail=f"{device.old_certificate_sha256} is over"
            )
            (ended,) = await self.keep([ended], told)
        self.tell(ended, "renewed")
        return True

    async def inspect(self, terminal_id: str, date: str, by: str, *, who: str = "") -> Device:
        """Note that a device was inspected; returns it, raises OperatorError, StoreError.

        `date` is YYYY-MM-DD, not to come; an inspection before the last one noted changes nothing.
        """
        date, by = device_fields.date(date), device_fields.label("inspected_by", by)
        if date > iso_time(self._clock.wall_ms())[:10]:
            raise OperatorError(f"{date} is to come: name the day of the inspection")
        async with self.changing:
            device = self.get(terminal_id)
            if date < device.inspected:
                return device
            seen = self.with_row(replace(device, inspected=date, inspected_by=by))
            detail = f"on {date} by {by}" if by else f"on {date}"
            (seen,) = await self.keep([seen], self.event(seen, "inspect", who=who, detail=detail))
        self.tell(seen, "inspect")
        return seen

    async def _move(
        self, terminal_id: str, move: Move, reason: str, *, who: str, until_ms: int = 0
    ) -> Device:
        reason = device_fields.label("reason", reason)
        async with self.changing:
            device = self.get(terminal_id)
            moved = replace(self.moved(device, move, reason), until_ms=until_ms)
            if move is Move.ACTIVATE:
                missing = self.missing(device)
                if missing:
                    raise OperatorError(f"{device.terminal_id.rstrip()} is not ready: {missing}")
            detail = f"until {iso_time(until_ms)}" if until_ms else ""
            told = self.event(moved, move, who=who, reason=reason, detail=detail, before=device)
            (moved,) = await self.keep([moved], told)
        self.tell(moved, move, reason)
        return moved

    # --- what changes are made of; the lock `changing` is held over all of it ------------------

    def moved(self, device: Device, move: Move, reason: str) -> Device:
        """The device after a move, with a row of its own; raises OperatorError."""
        why_not = refusal(device.state, move)
        if why_not:
            raise OperatorError(f"{device.terminal_id.rstrip()} is {device.state}: {why_not}")
        return self.with_row(
            replace(
                device,
                state=after(device.state, move),
                state_reason=reason,
                state_since_ms=self._clock.wall_ms(),
                until_ms=0,
            )
        )

    def with_row(self, device: Device) -> Device:
        """The device as one that stands in a row; the next free one where a rule stands for it."""
        if device.device_id != NO_ROW:
            return device
        return replace(device, device_id=self._last_id + 1, enrolled_ms=self._clock.wall_ms())

    def check_certificate(self, sha256: str, terminal_id: str) -> None:
        """Raises OperatorError where a certificate is another device's, or was taken from one."""
        revoked = self._revoked.get(sha256)
        if revoked is not None:
            raise OperatorError(
                f"this certificate was {revoked.terminal_id.rstrip()}'s until"
                f" {iso_time(revoked.at_ms)}, and proves nothing since: make another key and"
                " certificate"
            )
        check_certificate_free(sha256, terminal_id, self._by_certificate)

    def event(
        self,
        device: Device,
        what: str,
        *,
        who: str,
        reason: str = "",
        detail: str = "",
        before: Device | None = None,
    ) -> NoteDevice:
        """The line of a device's history that goes with a change; `before`: what it was."""
        changes = "" if before is None else changes_of(before, device)
        return NoteDevice(
            DeviceEvent(
                terminal_id=device.terminal_id,
                at_ms=self._clock.wall_ms(),
                who=who,
                what=str(what),
                reason=reason,
                detail="; ".join(part for part in (detail, changes) if part),
            )
        )

    async def keep(self, devices: Sequence[Device], *also: Operation) -> Sequence[Device]:
        """Make devices and whatever goes with them durable, together, then show them to look-ups.

        Returns them as they are shown. Raises StoreError; then nothing is changed.
        """
        rows = [replace(device, last_seen_ms=self.last_seen_ms(device)) for device in devices]
        # Cancelled in the wait, nobody would know whether the rows are on disk; memory and store
        # must say the same, so this short wait is finished first.
        with trio.CancelScope(shield=True):
            await self._store.commit(*(PutDevice(row) for row in rows), *also)
            for row in rows:
                self._install(row)
            for operation in also:
                if isinstance(operation, RevokeCertificate):
                    revoked = operation.certificate
                    self._revoked[revoked.sha256] = revoked
        return rows

    def tell(self, device: Device, change: str, reason: str = "") -> None:
        """Say that a device was changed, and have connections looked at."""
        self.changed()
        self._emit(
            Event.DEVICE_CHANGED,
            terminal=device.terminal_id.rstrip(),
            change=str(change),
            state=str(device.state),
            activation=device.activation,
            reason=reason,
        )

    # --- many at once -----------------------------------------------------------------------------

    def export_csv(self) -> str:
        """All rows as CSV, in the form `import_csv` reads."""
        rows = sorted(self._rows.values(), key=lambda row: row.terminal_id)
        return roster.write({c: str(getattr(row, c)) for c in roster.COLUMNS} for row in rows)

    async def import_csv(
        self,
        text: str,
        *,
        activate: bool = False,
        merchant_id: str = "",
        progress: Progress | None = None,
        who: str = "",
    ) -> Imported:
        """Add the devices of a CSV text, all or none of them, and fill what others lack.

        `merchant_id` is for rows without one; `activate` makes active what is or would be pending.
        Rows are checked whole before the first is written: where one is wrong, RosterRefused names
        every wrong one. They are written in commits of some hundreds, each followed by
        `progress(done, total)`. Where the store fails in between (StoreError), those commits stay,
        and the same import again adds the rest.
        """
        async with self.changing:
            plan = await self._plan(text, activate=activate, merchant_id=merchant_id)
            devices = plan.added + plan.completed
            done = 0
            for batch in batches(devices, COMMIT_DEVICES_MAX):
                told = [self.event(device, "import", who=who) for device in batch]
                await self.keep(batch, *told)
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
            last_id=self._last_id,
            enrolled_ms=self._clock.wall_ms(),
            merchant_id=device_fields.merchant_id(merchant_id) if merchant_id else "",
            activate=activate,
            check_certificate=self.check_certificate,
            missing=self.missing,
        )
        for taken, row in enumerate(roster.parse(text, plan.problems)):
            plan.take(row)
            # Thousands of rows take a while, and terminals are served in between.
            if taken % CHECKED_ROWS_MAX == 0:
                await trio.lowlevel.checkpoint()
        plan.check()
        return plan
