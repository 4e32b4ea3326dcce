"""What is kept of devices: the device itself, its history, incidents and replacements."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DeviceState(StrEnum):
    """Where a device stands in its life; the legal moves are the table in terminals/life.py."""

    PENDING = "pending"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    LOST = "lost"
    REPLACED = "replaced"  # its work, or the device itself, goes on under another terminal id
    DEREGISTERED = "deregistered"  # its terminal id is not used again


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device bound to a terminal id; a row of `devices`."""

    device_id: int
    terminal_id: str
    merchant_id: str  # "*": any merchant (devices of a registry rule)
    activation: int
    state: DeviceState
    profile: str
    certificate_sha256: str = ""  # hex of the DER's SHA-256; "": known by its subject alone
    serial: str = ""
    model: str = ""
    place: str = ""
    networks: str = ""  # CIDR ranges it may call from, separated by blanks; "": any
    enrolled_ms: int = 0
    last_seen_ms: int = 0
    group: str = ""  # the devices of one shop or chain, as their merchant calls it
    inspected: str = ""  # date of the last inspection, YYYY-MM-DD
    inspected_by: str = ""
    state_reason: str = ""
    state_since_ms: int = 0
    until_ms: int = 0  # a suspension ends by itself then; 0: it does not
    keys_of: str = ""  # the terminal id whose keys it came with; "": its own
    # Terminal ids and activations whose transactions it goes on with, the latest last.
    inherits: tuple[tuple[str, int], ...] = ()
    known_by_name: bool = True  # a certificate that is bound to nobody proves it by its name
    # The certificate before this one, which proves the device as well until then.
    old_certificate_sha256: str = ""
    old_until_ms: int = 0

    @property
    def keyed_as(self) -> str:
        """The terminal id that owns its keys."""
        return self.keys_of or self.terminal_id


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEvent:
    """Something that was done to a device; a row of `device_history`."""

    terminal_id: str
    at_ms: int
    who: str
    what: str  # the move, or "bind", "inspect", "keys …"
    reason: str = ""
    detail: str = ""  # from what to what; never a key or a card
    event_id: int = 0  # counted by the store


class IncidentKind(StrEnum):
    """What happened to the device."""

    LOST = "lost"
    STOLEN = "stolen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A device was lost or stolen; a row of `incidents`."""

    incident_id: int
    terminal_id: str
    kind: IncidentKind
    opened_ms: int
    who: str
    reason: str
    closed_ms: int = 0
    report: str = ""  # JSON, masked: what was known of the device when it was opened


class Standing(StrEnum):
    """What became of a replacement."""

    IN_FORCE = "in_force"  # may be undone: the new device has not transacted
    FINAL = "final"
    UNDONE = "undone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """Device `new_id` goes on for `old_id`; a row of `replacements`."""

    replacement_id: int
    old_id: str
    new_id: str
    at_ms: int
    who: str
    reason: str
    kept_ids: bool  # False: the new device speaks under the old one's terminal id
    activation: int  # of the new device while it does
    standing: Standing
    old: Device  # both as they were before
    new: Device
    batch: int = 0  # the old one's open batch that went over; 0: it had none

    @property
    def serving_id(self) -> str:
        """The terminal id that the new device speaks under."""
        return self.new_id if self.kept_ids else self.old_id


@dataclass(frozen=True, slots=True)
class RevokedCertificate:
    """A certificate that proves nothing any more, whatever its authority says."""

    sha256: str
    terminal_id: str  # whose it was
    at_ms: int


# --- operations --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PutDevice:
    """A device is enrolled, or takes another state, merchant, certificate, place …"""

    device: Device


@dataclass(frozen=True, slots=True)
class TouchDevice:
    """When a device was last heard of."""

    device_id: int
    last_seen_ms: int


@dataclass(frozen=True, slots=True)
class NoteDevice:
    """Something was done to a device: goes into its history, with the change itself."""

    event: DeviceEvent


@dataclass(frozen=True, slots=True)
class PutIncident:
    """An incident is opened, added to or closed."""

    incident: Incident


@dataclass(frozen=True, slots=True)
class PutReplacement:
    """A replacement is made, becomes final or is undone."""

    replacement: Replacement


@dataclass(frozen=True, slots=True)
class RevokeCertificate:
    """A certificate proves nothing from now on."""

    certificate: RevokedCertificate
