"""Whatever is enrolled: a certificate identifies as one device at most, and never as another's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.store.store import Device, DeviceState
from gateway.terminals.identity import (
    Caller,
    Identified,
    ProvenCertificate,
    identify,
)
from gateway.wire.id_patterns import TerminalRange, TerminalSet

IDS = [f"T000000{n}" for n in range(4)]
SHAS = [letter * 64 for letter in "abcd"]
RANGE = TerminalRange.parse("T0000002-T0000003")


@st.composite
def registries(draw: st.DrawFn) -> dict[str, Device]:
    """Rows for some ids, each certificate with one of them at most."""
    certificates = draw(st.permutations([*SHAS[:3], "", "", ""]))
    return {
        terminal_id: Device(
            device_id=number,
            terminal_id=terminal_id,
            merchant_id="*",
            activation=1,
            state=draw(st.sampled_from(DeviceState)),
            profile="p",
            certificate_sha256=certificates[number],
            networks=draw(st.sampled_from(["", "10.0.0.0/8", "10.0.0.1"])),
        )
        for number, terminal_id in enumerate(draw(st.sets(st.sampled_from(IDS))))
    }


class Devices:
    def __init__(self, rows: dict[str, Device]) -> None:
        self.rows = rows

    def by_terminal(self, terminal_id: str) -> Device | None:
        row = self.rows.get(terminal_id)
        if row is None and terminal_id in RANGE:
            row = self.rows[terminal_id] = Device(
                device_id=0,
                terminal_id=terminal_id,
                merchant_id="*",
                activation=1,
                state=DeviceState.ACTIVE,
                profile="p",
            )
        return row

    def by_certificate(self, sha256: str) -> Device | None:
        return next((d for d in self.rows.values() if d.certificate_sha256 == sha256), None)


@given(
    rows=registries(),
    name=st.sampled_from([*IDS, "", "other"]),
    sha256=st.sampled_from(SHAS),
    asked=st.lists(st.sampled_from([*IDS, "", "T000000"]), min_size=1),
    address=st.sampled_from(["10.0.0.1", "10.0.0.2", "192.168.0.1"]),
    bind=st.booleans(),
)
def test_a_certificate_identifies_as_its_own_device_only(
    rows: dict[str, Device], name: str, sha256: str, asked: list[str], address: str, bind: bool
) -> None:
    lookup = Devices(rows)
    holder = lookup.by_certificate(sha256)
    caller = Caller(
        listener="l",
        address=address,
        security="mutual-tls",
        certificate=ProvenCertificate(common_name=name, sha256=sha256, serial=1),
    )
    for terminal_id in asked:
        result = identify(caller, terminal_id, "M", lookup)
        if not isinstance(result, Identified):
            continue
        device = result.device
        assert device.terminal_id == terminal_id
        assert device.state is DeviceState.ACTIVE
        if holder is not None:
            assert device == holder
        else:
            assert device.terminal_id == name
            assert device.certificate_sha256 == ""
        if bind:
            caller = caller.bound_to(device)


@given(rows=registries(), asked=st.lists(st.sampled_from(IDS), min_size=1))
def test_a_plain_connection_is_one_device_for_good(
    rows: dict[str, Device], asked: list[str]
) -> None:
    lookup = Devices(rows)
    caller = Caller(listener="l", address="10.0.0.1", security="plain")
    seen = set()
    for terminal_id in asked:
        result = identify(caller, terminal_id, None, lookup)
        if isinstance(result, Identified):
            caller = caller.bound_to(result.device)
            seen.add(result.device.terminal_id)
            assert not result.device.certificate_sha256 or result.device.networks
    assert len(seen) <= 1


@given(st.text(max_size=20))
def test_patterns_compile_or_are_refused_as_such(text: str) -> None:
    try:
        terminals = TerminalSet.parse([text])
    except ValueError:
        return
    assert "T0000001" in terminals or "T0000001" not in terminals


@given(first=st.integers(0, 10**7 - 1), length=st.integers(0, 10**6), probe=st.integers(0, 10**7))
def test_a_range_has_the_ids_it_seems_to_have(first: int, length: int, probe: int) -> None:
    last = min(first + length, 10**7 - 1)
    found = TerminalRange.parse(f"T{first:07}-T{last:07}")
    assert len(found) == last - first + 1
    assert (f"T{probe:07}" in found) == (first <= probe <= last)
