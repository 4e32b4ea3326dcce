"""Identity: what a connection proved and what a message says -> its device, or a refusal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal, NamedTuple, Protocol

from gateway.store.store import Device, DeviceState
from gateway.wire.id_patterns import TERMINAL_ID_CHARS, TerminalSet, padded

ANY_MERCHANT = "*"

Network = IPv4Network | IPv6Network


class IdentityProblem(StrEnum):
    """Why a message is not taken for any device's."""

    UNKNOWN_TERMINAL = "unknown_terminal"
    NOT_THIS_DEVICE = "not_this_device"  # a terminal id other than the one the connection proved
    WRONG_MERCHANT = "wrong_merchant"
    NOT_ACTIVE = "not_active"  # pending or suspended
    WRONG_NETWORK = "wrong_network"  # calls from outside the networks of its row
    NOT_CARRIED = "not_carried"  # the concentrator's rule does not name this terminal


# --- what a connection proved -------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenCertificate:
    """A client certificate that passed the handshake; chain and revocation were checked there."""

    common_name: str
    sha256: str  # of the DER, lower-case hex
    serial: int


@dataclass(frozen=True, slots=True)
class ConcentratorRule:
    """Which terminals a concentrator may speak for."""

    name: str
    terminals: TerminalSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One connection: where it came in, what it proved, and what it was last identified as."""

    listener: str
    address: str  # the peer's IP address, without the port
    security: Literal["mutual-tls", "plain"]
    certificate: ProvenCertificate | None = None
    concentrator: ConcentratorRule | None = None
    bound: Device | None = (
        None  # the device of the first identified message; never on concentrators
    )

    def bound_to(self, device: Device) -> Caller:
        """The caller after a message of `device` was taken; the same object where nothing changes.

        A session keeps it from its first identified message on. On a plain connection that is the
        only proof there is; on a TLS one it saves the work of proving it again.
        """
        if self.concentrator is not None or self.bound is device:
            return self
        return replace(self, bound=device)


class Lookup(Protocol):
    """The registry, as far as identity needs it."""

    def by_terminal(self, terminal_id: str) -> Device | None: ...

    def by_certificate(self, sha256: str) -> Device | None: ...


class Identified(NamedTuple):
    """The message is this device's."""

    device: Device


@dataclass(frozen=True, slots=True)
class Refused:
    """The message is nobody's who may speak here; `device` is whose it claims to be, if known."""

    problem: IdentityProblem
    device: Device | None = None


# --- the decision -------------------------------------------------------------------------------


def identify(
    caller: Caller,
    message_terminal_id: str,
    message_merchant_id: str | None,
    lookup: Lookup,
) -> Identified | Refused:
    """The device that a message is from, or why it is from none.

    `message_terminal_id` is DE41 ("" where it is absent, which is an unknown terminal);
    `message_merchant_id` is DE42, or None where this message needs none (network management), which
    leaves the merchant unchecked. Raises nothing.

    Mutual TLS: the device whose row holds this very certificate, else the device that the subject's
    common name names, provided that no certificate is bound to it: our own CA vouches for the name.
    (Not of a device that was lost or replaced once: whoever has it has that certificate still.)
    A certificate that another one has replaced therefore proves nothing, and neither does a
    name once a certificate is bound. The device proved must be the one that DE41 names.

    Plain: DE41 must be an enrolled device, and the first message that is identified binds the
    connection to it. A device with a bound certificate is refused here unless its row names
    networks: anybody who reaches the listener could otherwise use it by writing its number, and the
    certificate would protect nothing. Networks in the row are the operator's word that this address
    is proof enough, for instance during a move from plain to TLS.

    Concentrator: only terminals that its rule names; the concentrator's own certificate or address
    vouches for them, so the terminals' certificates are not asked for.

    A row's networks hold on every kind of listener: the address the connection comes from, which
    for a carried terminal is the concentrator's.
    """
    terminal_id = message_terminal_id
    if len(terminal_id) != TERMINAL_ID_CHARS:
        terminal_id = padded(terminal_id)
    bound = caller.bound
    if bound is not None:
        if bound.terminal_id != terminal_id:
            return Refused(IdentityProblem.NOT_THIS_DEVICE, lookup.by_terminal(terminal_id))
        # Devices are values: while the registry still gives the very object that was checked when
        # the connection was bound, its state, certificate and networks are what they were.
        if lookup.by_terminal(terminal_id) is bound:
            return _merchant_checked(bound, message_merchant_id)
    claimed = lookup.by_terminal(terminal_id)
    problem = _proof_problem(caller, terminal_id, claimed, lookup)
    if problem is not None:
        return Refused(problem, claimed)
    if claimed is None:
        return Refused(IdentityProblem.UNKNOWN_TERMINAL)
    if claimed.networks and not in_networks(caller.address, parse_networks(claimed.networks)):
        return Refused(IdentityProblem.WRONG_NETWORK, claimed)
    if claimed.state is not DeviceState.ACTIVE:
        return Refused(IdentityProblem.NOT_ACTIVE, claimed)
    return _merchant_checked(claimed, message_merchant_id)


def _proof_problem(
    caller: Caller, terminal_id: str, claimed: Device | None, lookup: Lookup
) -> IdentityProblem | None:
    """What is wrong with the claim to be `claimed`, by what the connection proved."""
    if caller.concentrator is not None:
        carried = terminal_id in caller.concentrator.terminals
        return None if carried else IdentityProblem.NOT_CARRIED
    if caller.security == "plain":
        if claimed is not None and claimed.certificate_sha256 and not claimed.networks:
            return IdentityProblem.NOT_THIS_DEVICE
        return None
    if caller.certificate is None:
        return IdentityProblem.NOT_THIS_DEVICE
    proved = _proved_by(caller.certificate, lookup)
    if proved is None:
        return (
            IdentityProblem.UNKNOWN_TERMINAL if claimed is None else IdentityProblem.NOT_THIS_DEVICE
        )
    return None if proved.terminal_id == terminal_id else IdentityProblem.NOT_THIS_DEVICE


def _proved_by(certificate: ProvenCertificate, lookup: Lookup) -> Device | None:
    holder = lookup.by_certificate(certificate.sha256)
    if holder is not None:
        return holder
    named = lookup.by_terminal(padded(certificate.common_name))
    if named is None or named.certificate_sha256 or not named.known_by_name:
        return None
    return named


def _merchant_checked(device: Device, merchant_id: str | None) -> Identified | Refused:
    if (
        merchant_id is None
        or device.merchant_id == ANY_MERCHANT
        or merchant_id.rstrip() == device.merchant_id
    ):
        return Identified(device)
    return Refused(IdentityProblem.WRONG_MERCHANT, device)


# --- networks -----------------------------------------------------------------------------------


def parse_networks(text: str) -> tuple[Network, ...]:
    """The CIDR ranges that stand in `text`, separated by blanks; raises ValueError for others."""
    return tuple(ip_network(part) for part in text.split())


def in_networks(address: str, networks: Iterable[Network]) -> bool:
    """Whether an IP address is in one of the networks; an IPv4 one inside IPv6 counts as IPv4."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)
