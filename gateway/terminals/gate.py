"""Who may not come in, or stay: by blocklists and by a device's state, as both are now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.clock import Clock, iso_time
from gateway.policy.blocklists import EMPTY, Blocklists
from gateway.policy.response_codes import Reason
from gateway.store.store import Device, DeviceState, RevokedCertificate
from gateway.terminals.identity import ANY_MERCHANT, Caller, Lookup, ProvenCertificate
from gateway.terminals.life import KEPT_OUT
from gateway.terminals.sightings import Attempt
from gateway.wire.id_patterns import padded


class Devices(Lookup, Protocol):
    """The registry, as far as the gate needs it."""

    def revoked(self, sha256: str) -> RevokedCertificate | None: ...


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why somebody is kept out, and by which entry of which file."""

    reason: Reason
    rule: str

    @property
    def words(self) -> str:
        return f"{self.reason.value}: {self.rule}" if self.rule else self.reason.value


class Gate:
    """Asked at accept, after the handshake, with each message, and of every open connection
    whenever lists or devices have changed.

    `noted` is told of everybody who is turned away. Answers are None for those who may go on.
    """

    def __init__(
        self,
        *,
        devices: Devices,
        clock: Clock,
        blocklists: Callable[[], Blocklists] = lambda: EMPTY,
        noted: Callable[[Attempt], None] = lambda _: None,
        locked_out: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`blocklists` gives the lists that are in force; `locked_out` says whether too many wrong
        MACs came from an address."""
        self._devices = devices
        self._clock = clock
        self._blocklists = blocklists
        self._noted = noted
        self._locked_out = locked_out

    # --- whoever comes ------------------------------------------------------------------------

    def address(self, address: str, *, listener: str) -> Blocked | None:
        """At accept."""
        blocked = self._address(address)
        if blocked is None and self._locked_out(address):
            blocked = Blocked(Reason.MAC_FAILED, "locked out")
        if blocked is not None:
            self._note(blocked, listener=listener, address=address)
        return blocked

    def certificate(
        self, certificate: ProvenCertificate, *, listener: str, address: str
    ) -> Blocked | None:
        """After the handshake."""
        blocked = self._certificate(certificate)
        if blocked is not None:
            self._note(
                blocked,
                terminal_id=self._claimed_by(certificate),
                listener=listener,
                address=address,
                certificate=certificate,
            )
        return blocked

    def sender(self, device: Device, merchant_id: str, caller: Caller) -> Blocked | None:
        """With a message of an identified device; `merchant_id` is the message's."""
        lists = self._blocklists()
        if lists.terminals is None and lists.merchants is None:
            return None  # As mostly: this is asked with every message.
        blocked = self._device(device, merchant_id)
        if blocked is not None:
            self._note_caller(blocked, device, caller)
        return blocked

    def not_active(self, device: Device, caller: Caller) -> None:
        """A message named a device that its row keeps out; it may be from somebody else."""
        if device.state in KEPT_OUT:
            self._note_caller(Blocked(Reason.NOT_ACTIVE, device.state), device, caller)

    # --- whoever is here ------------------------------------------------------------------------

    def stays(self, caller: Caller) -> Blocked | None:
        """Of an open connection; None: it stays.

        The line of a concentrator stays while it may come itself, whoever is carried on it.
        """
        blocked = self._address(caller.address)
        if blocked is None and caller.certificate is not None:
            blocked = self._certificate(caller.certificate)
        if blocked is not None or caller.bound is None:
            return blocked
        device = self._devices.by_terminal(caller.bound.terminal_id)
        if device is None:
            return Blocked(Reason.UNKNOWN_TERMINAL, "")
        if device.state is not DeviceState.ACTIVE:
            return Blocked(Reason.NOT_ACTIVE, device.state)
        if device.activation != caller.bound.activation:
            # Another device goes on under its id, or it was bound anew: it has to prove itself.
            return Blocked(Reason.NOT_THIS_DEVICE, f"activation {device.activation} by now")
        return self._device(device, device.merchant_id)

    def would_keep_out(self, device: Device, merchant_id: str, address: str) -> Blocked | None:
        """Whether a message of a device would be kept out; for people, and told to nobody."""
        return self._address(address) or self._device(device, merchant_id)

    # --- by what --------------------------------------------------------------------------------

    def _address(self, address: str) -> Blocked | None:
        hit = self._blocklists().network(address, self._clock.wall_ms())
        return None if hit is None else Blocked(Reason.NETWORK_BLOCKED, hit.rule)

    def _certificate(self, certificate: ProvenCertificate) -> Blocked | None:
        revoked = self._devices.revoked(certificate.sha256)
        if revoked is not None:
            rule = f"taken from {revoked.terminal_id.rstrip()} at {iso_time(revoked.at_ms)}"
            return Blocked(Reason.CERTIFICATE_BLOCKED, rule)
        hit = self._blocklists().certificate(
            sha256=certificate.sha256, serial=certificate.serial, now_ms=self._clock.wall_ms()
        )
        return None if hit is None else Blocked(Reason.CERTIFICATE_BLOCKED, hit.rule)

    def _device(self, device: Device, merchant_id: str) -> Blocked | None:
        lists = self._blocklists()
        now_ms = self._clock.wall_ms()
        hit = lists.terminal(device.terminal_id, now_ms)
        if hit is not None:
            return Blocked(Reason.TERMINAL_BLOCKED, hit.rule)
        hit = None if merchant_id == ANY_MERCHANT else lists.merchant(merchant_id, now_ms)
        return None if hit is None else Blocked(Reason.MERCHANT_BLOCKED, hit.rule)

    def _claimed_by(self, certificate: ProvenCertificate) -> str:
        """The terminal id that a certificate is or was of, or that it names; "" for none known."""
        revoked = self._devices.revoked(certificate.sha256)
        if revoked is not None:
            return revoked.terminal_id
        holder = self._devices.by_certificate(certificate.sha256)
        device = holder or self._devices.by_terminal(padded(certificate.common_name))
        return "" if device is None else device.terminal_id

    # --- told -----------------------------------------------------------------------------------

    def _note_caller(self, blocked: Blocked, device: Device, caller: Caller) -> None:
        self._note(
            blocked,
            terminal_id=device.terminal_id,
            listener=caller.listener,
            address=caller.address,
            certificate=caller.certificate,
        )

    def _note(
        self,
        blocked: Blocked,
        *,
        listener: str,
        address: str,
        terminal_id: str = "",
        certificate: ProvenCertificate | None = None,
    ) -> None:
        self._noted(
            Attempt(
                terminal_id=terminal_id.rstrip(),
                listener=listener,
                address=address,
                certificate_sha256="" if certificate is None else certificate.sha256,
                why=blocked.words,
            )
        )
