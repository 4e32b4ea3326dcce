"""Who is kept out by what was done to their device, and what is noted of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.clock import VirtualClock
from gateway.policy.response_codes import Reason
from gateway.store.store import Device, DeviceState, RevokedCertificate
from gateway.terminals.gate import Gate
from gateway.terminals.identity import Caller, ProvenCertificate, Refused, identify
from gateway.terminals.sightings import Attempt
from tests.support.stores import a_device

SHA = "a" * 64
CERTIFICATE = ProvenCertificate(common_name="T0000001", sha256=SHA, serial=7)


class Devices:
    """A registry of one device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.taken: dict[str, RevokedCertificate] = {}

    def by_terminal(self, terminal_id: str) -> Device | None:
        return self.device if terminal_id == self.device.terminal_id else None

    def by_certificate(self, sha256: str) -> Device | None:
        return self.device if sha256 == self.device.certificate_sha256 else None

    def revoked(self, sha256: str) -> RevokedCertificate | None:
        return self.taken.get(sha256)


def made(device: Device) -> tuple[Devices, Gate, list[Attempt]]:
    devices, noted = Devices(device), []
    gate = Gate(devices=devices, clock=VirtualClock(1), noted=noted.append)
    return devices, gate, noted


DEVICE = a_device(
    1, terminal_id="T0000001", state=DeviceState.ACTIVE, certificate_sha256=SHA, networks=""
)
CALLER = Caller(
    listener="shops", address="192.0.2.7", security="mutual-tls", certificate=CERTIFICATE
)


@pytest.mark.parametrize("state", list(DeviceState))
async def test_only_an_active_device_stays(state: DeviceState) -> None:
    devices, gate, _ = made(DEVICE)
    bound = replace(CALLER, bound=DEVICE)
    assert gate.stays(bound) is None
    devices.device = replace(DEVICE, state=state)
    blocked = gate.stays(bound)
    assert (blocked is None) == (state is DeviceState.ACTIVE)


async def test_another_device_under_the_id_ends_the_connections_of_the_one_before() -> None:
    devices, gate, _ = made(DEVICE)
    devices.device = replace(DEVICE, activation=DEVICE.activation + 1, certificate_sha256="b" * 64)
    blocked = gate.stays(replace(CALLER, bound=DEVICE))
    assert blocked is not None
    assert blocked.reason is Reason.NOT_THIS_DEVICE


async def test_a_certificate_that_was_taken_away_is_turned_away_and_noted() -> None:
    devices, gate, noted = made(DEVICE)
    assert gate.certificate(CERTIFICATE, listener="shops", address="192.0.2.7") is None
    devices.taken[SHA] = RevokedCertificate(SHA, "T0000001", 1)
    blocked = gate.certificate(CERTIFICATE, listener="shops", address="192.0.2.7")
    assert blocked is not None
    assert blocked.reason is Reason.CERTIFICATE_BLOCKED
    assert "taken from T0000001" in blocked.rule
    (attempt,) = noted
    assert (attempt.terminal_id, attempt.address) == ("T0000001", "192.0.2.7")
    assert gate.stays(replace(CALLER, bound=DEVICE)) is not None


@pytest.mark.parametrize("state", list(DeviceState))
async def test_who_is_frozen_is_noted(state: DeviceState) -> None:
    _, gate, noted = made(DEVICE)
    gate.not_active(replace(DEVICE, state=state), CALLER)
    assert bool(noted) == (state not in (DeviceState.ACTIVE, DeviceState.PENDING))


def test_a_name_proves_nothing_of_a_device_that_was_lost_once() -> None:
    named = replace(DEVICE, certificate_sha256="")
    found = identify(CALLER, "T0000001", None, Devices(named))
    assert not isinstance(found, Refused)
    lost_once = replace(named, known_by_name=False)
    assert isinstance(identify(CALLER, "T0000001", None, Devices(lost_once)), Refused)
