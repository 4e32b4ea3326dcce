"""Enrolment: what a new device is made of, and what importing a roster would change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.clock import iso_time
from gateway.errors import OperatorError
from gateway.settings.schema_terminals import DeviceRange
from gateway.store.store import Device, DeviceState
from gateway.terminals import device_fields
from gateway.terminals.identity import ANY_MERCHANT
from gateway.terminals.roster import Problem, RosterRefused, Row
from gateway.wire.id_patterns import TerminalRange

NO_ROW = 0  # device_id of a device that a registry rule stands for


@dataclass(frozen=True, slots=True)
class Rule:
    """A range of the settings, compiled: its ids are active devices without a row."""

    terminals: TerminalRange
    text: str
    merchant_id: str
    profile: str

    @classmethod
    def compile(cls, range_: DeviceRange) -> Rule:
        """The rule of a range in the settings; raises OperatorError where it is none."""
        try:
            terminals = TerminalRange.parse(range_.terminals)
        except ValueError as error:
            raise OperatorError(f"registry.ranges: {error}") from None
        merchant_id = device_fields.merchant_id(range_.merchant, any_allowed=True)
        return cls(terminals, range_.terminals, merchant_id, range_.profile)

    def device(self, terminal_id: str) -> Device:
        """The device that the rule stands for."""
        return Device(
            device_id=NO_ROW,
            terminal_id=terminal_id,
            merchant_id=self.merchant_id,
            activation=1,
            state=DeviceState.ACTIVE,
            profile=self.profile,
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """What the configuration says about new devices; no profiles: any name will do."""

    rules: Sequence[Rule]
    default_profile: str
    profiles: Collection[str]

    def rule_of(self, terminal_id: str) -> Rule | None:
        return next((rule for rule in self.rules if terminal_id in rule.terminals), None)

    def new_device(self, row: Row, *, device_id: int, enrolled_ms: int) -> Device:
        """The device that a row describes; what it leaves open comes from rule and default.

        Raises OperatorError where no merchant is known, or "*" is no rule's, or for a profile that
        is not configured.
        """
        values = row.values
        rule = self.rule_of(row.terminal_id)
        merchant = values.get("merchant_id") or (rule.merchant_id if rule else "")
        if not merchant:
            raise OperatorError("the merchant is missing: give merchant_id, or --merchant for all")
        if merchant == ANY_MERCHANT and (rule is None or rule.merchant_id != ANY_MERCHANT):
            raise OperatorError('merchant "*" (any) is for ids of registry rules that say so')
        profile = values.get("profile") or (rule.profile if rule else self.default_profile)
        if self.profiles and profile not in self.profiles:
            known = ", ".join(sorted(self.profiles))
            raise OperatorError(f"no profile {profile!r} in the configuration; there are: {known}")
        return Device(
            device_id=device_id,
            terminal_id=row.terminal_id,
            merchant_id=merchant,
            activation=1,
            state=DeviceState(values.get("state", DeviceState.PENDING)),
            profile=profile,
            certificate_sha256=values.get("certificate_sha256", ""),
            serial=values.get("serial", ""),
            model=values.get("model", ""),
            place=values.get("place", ""),
            networks=values.get("networks", ""),
            enrolled_ms=enrolled_ms,
            group=values.get("group", ""),
            inspected=values.get("inspected", ""),
            inspected_by=values.get("inspected_by", ""),
        )


def check_not_enrolled(row: Device | None) -> None:
    """Raise OperatorError where a terminal id has a row already, whatever its state."""
    if row is None:
        return
    name = row.terminal_id.rstrip()
    if row.state is DeviceState.DEREGISTERED:
        raise OperatorError(
            f"{name} was deregistered on {iso_time(row.state_since_ms)[:10]}, and a terminal id is"
            " not used again: enrol the device under another"
        )
    raise OperatorError(
        f"{name} is enrolled already: `gateway terminals bind` gives it another certificate"
    )


def check_certificate_free(sha256: str, terminal_id: str, holders: Mapping[str, Device]) -> None:
    """Raise OperatorError where a certificate is another device's already."""
    holder = holders.get(sha256) if sha256 else None
    if holder is not None and holder.terminal_id != terminal_id:
        raise OperatorError(
            f"this certificate is {holder.terminal_id.rstrip()}'s: a certificate has one device"
        )


def completed(device: Device, values: Mapping[str, str]) -> Device:
    """A device with its empty columns filled from `values`; the same object if none is.

    An import only adds: what a device has is not overwritten. Raises OperatorError where a value
    differs, since a file older than the registry would undo what operators did. Filling in the
    certificate is a binding and counts the activation up. A pending device may become active.
    """
    if device.state in (DeviceState.LOST, DeviceState.REPLACED, DeviceState.DEREGISTERED):
        raise OperatorError(f"{device.terminal_id.rstrip()} is {device.state}: it stays as it is")
    changes: dict[str, str] = {}
    inspected = max(values.get("inspected", ""), device.inspected)
    for column, value in values.items():
        present = str(getattr(device, column))
        if column in ("inspected", "inspected_by"):
            # The one thing that is newer each year.
            present = "" if inspected > device.inspected else present or value
            value = present or value
        if column == "state" and (present, value) == (DeviceState.PENDING, DeviceState.ACTIVE):
            present = ""
        if not value or value == present:
            continue
        if present:
            raise OperatorError(
                f"{device.terminal_id.rstrip()} exists with {column} {present!r}, not {value!r}: "
                "an import adds, it does not overwrite"
            )
        changes[column] = value
    if not changes:
        return device
    return replace(
        device,
        state=DeviceState(changes.get("state", device.state)),
        certificate_sha256=changes.get("certificate_sha256", device.certificate_sha256),
        activation=device.activation + ("certificate_sha256" in changes),
        serial=changes.get("serial", device.serial),
        model=changes.get("model", device.model),
        place=changes.get("place", device.place),
        networks=changes.get("networks", device.networks),
        group=changes.get("group", device.group),
        inspected=changes.get("inspected", device.inspected),
        inspected_by=changes.get("inspected_by", device.inspected_by),
    )


class ImportPlan:
    """What a roster would change, row by row; nothing is changed by it.

    `present` are the registry's rows by terminal. `merchant_id` is for new devices whose row has
    none; `activate` makes active what is or would be pending, and is ready to be.
    """

    def __init__(
        self,
        terms: Terms,
        *,
        present: Mapping[str, Device],
        last_id: int,
        enrolled_ms: int,
        merchant_id: str,
        activate: bool,
        check_certificate: Callable[[str, str], None],
        missing: Callable[[Device], str],
    ) -> None:
        """`check_certificate` raises OperatorError where one is not for a terminal id; `missing`
        says why a device is not ready to be activated, "" where it is."""
        self.added: list[Device] = []
        self.completed: list[Device] = []
        self.unchanged = 0
        self.problems: list[Problem] = []
        self._terms = terms
        self._present = present
        self._last_id = last_id
        self._enrolled_ms = enrolled_ms
        self._merchant_id = merchant_id
        self._activate = activate
        self._check_certificate = check_certificate
        self._missing = missing
        self._lines: dict[str, int] = {}

    def take(self, row: Row) -> None:
        """Add what a row changes, or its problem."""
        try:
            self._take(row)
        except OperatorError as error:
            self.problems.append((row.line, str(error)))

    def check(self) -> None:
        """Raise RosterRefused where a row had a problem."""
        if self.problems:
            raise RosterRefused(self.problems)

    def _take(self, row: Row) -> None:
        values = dict(row.values)
        certificate = values.get("certificate_sha256", "")
        self._once(f"terminal {row.terminal_id.rstrip()}", row.line)
        if certificate:
            self._once(f"certificate {certificate}", row.line)
        self._check_certificate(certificate, row.terminal_id)
        device = self._present.get(row.terminal_id)
        if self._activate and values.get("state", DeviceState.PENDING) == DeviceState.PENDING:
            # A device that works already, or that an operator suspended, stays as it is.
            values.pop("state", None)
            if device is None or device.state is DeviceState.PENDING:
                values["state"] = DeviceState.ACTIVE.value
        if device is None:
            if self._merchant_id:
                values.setdefault("merchant_id", self._merchant_id)
            added = self._terms.new_device(
                replace(row, values=values),
                device_id=self._last_id + len(self.added) + 1,
                enrolled_ms=self._enrolled_ms,
            )
            self._check_ready(added)
            self.added.append(added)
            return
        new = completed(device, values)
        if new is device:
            self.unchanged += 1
            return
        if device.state is DeviceState.PENDING:
            self._check_ready(new)
        self.completed.append(new)

    def _check_ready(self, device: Device) -> None:
        missing = self._missing(device) if device.state is DeviceState.ACTIVE else ""
        if missing:
            raise OperatorError(f"{device.terminal_id.rstrip()} is not ready: {missing}")

    def _once(self, what: str, line: int) -> None:
        first = self._lines.setdefault(what, line)
        if first != line:
            raise OperatorError(f"{what} stands in line {first} already")
