"""DeviceTable: the devices in memory, by terminal id and certificate, and when each was seen."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence

from gateway.clock import Clock, iso_time
from gateway.errors import NoSuchThing
from gateway.store.store import Device, DeviceState, RevokedCertificate, Store
from gateway.terminals import device_fields
from gateway.terminals.enrolment import NO_ROW, Rule, Terms
from gateway.terminals.last_seen import LastSeen


class DeviceTable:
    """The half of `Registry` that is asked: synchronous, and of dictionaries only."""

    def __init__(self, store: Store, *, terms: Terms, clock: Clock) -> None:
        """An empty table; `Registry.load` fills it."""
        self._store = store
        self._terms = terms
        self._clock = clock
        self._known: dict[str, Device] = {}  # rows, and devices of rules once asked for
        self._rows: dict[str, Device] = {}
        self._by_certificate: dict[str, Device] = {}
        self._revoked: dict[str, RevokedCertificate] = {}
        self._last_id = 0
        self._seen = LastSeen(store, rows=self._rows, clock=clock)

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

    def in_service(self, device: Device) -> bool:
        """Whether a device that was found before is still the one that serves under its id."""
        now = self.by_terminal(device.terminal_id)
        return now is device or (
            now is not None
            and now.state is DeviceState.ACTIVE
            and now.activation == device.activation
        )

    def by_certificate(self, sha256: str) -> Device | None:
        """The device whose row holds the certificate with this SHA-256 (lower-case hex).

        The one before it counts as well until its overlap is over.
        """
        found = self._by_certificate.get(sha256)
        if found is not None and sha256 == found.old_certificate_sha256:
            return found if self._clock.wall_ms() < found.old_until_ms else None
        return found

    def revoked(self, sha256: str) -> RevokedCertificate | None:
        """What is known of a certificate that was taken from a device that was lost or ended."""
        return self._revoked.get(sha256)

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

    def rows(self) -> Collection[Device]:
        """Every device that stands in a row, in no order."""
        return self._rows.values()

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
        merchant_id: str = "",
        group: str = "",
        inspected_before: str = "",
    ) -> list[Device]:
        """The listed devices that fit, sorted by terminal id: at most `limit` behind `after`.

        `inspected_before` is a date, YYYY-MM-DD: those never inspected count from enrolment, and
        those deregistered are inspected no more.
        """
        before_ms = None
        if silent_for_s is not None:
            before_ms = self._clock.wall_ms() - round(silent_for_s * 1000)

        def fits(device: Device) -> bool:
            return (
                device.terminal_id > after
                and (state is None or device.state is state)
                and merchant_id in ("", device.merchant_id)
                and group in ("", device.group)
                and (device.device_id != NO_ROW or bool(self.last_seen_ms(device)))
                and (
                    before_ms is None
                    or max(self.last_seen_ms(device), device.enrolled_ms) <= before_ms
                )
                and (not inspected_before or _inspection_due(device, inspected_before))
            )

        fitting = filter(fits, self._known.values())
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
        self._seen.touch(device)

    async def flush_seen(self) -> int:
        """Write when devices were last seen; see `LastSeen.flush`."""
        return await self._seen.flush()

    def last_seen_ms(self, device: Device) -> int:
        """When a device was last heard of, 0 if never; its own field may be older."""
        return self._seen.of(device)

    def _install(self, device: Device) -> None:
        before = self._rows.get(device.terminal_id)
        if before is not None:
            for gone in set(_certificates_of(before)) - set(_certificates_of(device)):
                holder = self._by_certificate.get(gone)
                if holder is not None and holder.terminal_id == device.terminal_id:
                    del self._by_certificate[gone]
        self._rows[device.terminal_id] = self._known[device.terminal_id] = device
        for sha256 in _certificates_of(device):
            self._by_certificate[sha256] = device
        self._last_id = max(self._last_id, device.device_id)


def _certificates_of(device: Device) -> list[str]:
    return [one for one in (device.certificate_sha256, device.old_certificate_sha256) if one]


def _terminal_id(device: Device) -> str:
    return device.terminal_id


def _inspection_due(device: Device, before: str) -> bool:
    if device.state is DeviceState.DEREGISTERED or device.device_id == NO_ROW:
        return False
    return (device.inspected or iso_time(device.enrolled_ms)[:10]) < before


def changes_of(before: Device, device: Device) -> str:
    """What of a device is another than it was, for its history."""
    names = ("state", "activation", "certificate_sha256", "serial", "profile", "keys_of")
    return ", ".join(
        f"{name.removesuffix('_sha256')} {_shown(was)} -> {_shown(now)}"
        for name in names
        if (was := getattr(before, name)) != (now := getattr(device, name))
    )


def _shown(value: object) -> str:
    text = str(value).rstrip()
    return text[:16] or "none"
