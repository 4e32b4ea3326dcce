"""Who a message is from, on each kind of connection, and every reason to refuse it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.policy.response_codes import Reason
from gateway.store.store import Device, DeviceState
from gateway.terminals.identity import (
    Caller,
    ConcentratorRule,
    Identified,
    IdentityProblem,
    ProvenCertificate,
    Refused,
    identify,
    in_networks,
    parse_networks,
)
from gateway.wire.id_patterns import TerminalRange, TerminalSet

SHA_A, SHA_B = "a" * 64, "b" * 64


class Devices:
    """A Lookup over a list of devices."""

    def __init__(self, *devices: Device) -> None:
        self.by_id = {device.terminal_id: device for device in devices}

    def by_terminal(self, terminal_id: str) -> Device | None:
        return self.by_id.get(terminal_id)

    def by_certificate(self, sha256: str) -> Device | None:
        return next((d for d in self.by_id.values() if d.certificate_sha256 == sha256), None)


def device(terminal_id: str, **values: Any) -> Device:
    defaults: dict[str, Any] = {
        "device_id": 1,
        "merchant_id": "M1",
        "activation": 1,
        "state": DeviceState.ACTIVE,
        "profile": "standard",
    }
    return Device(terminal_id=terminal_id, **{**defaults, **values})


def tls(common_name: str, sha256: str = SHA_A, **values: Any) -> Caller:
    certificate = ProvenCertificate(common_name=common_name, sha256=sha256, serial=1)
    defaults: dict[str, Any] = {"listener": "l", "address": "10.0.0.9", "security": "mutual-tls"}
    return Caller(certificate=certificate, **{**defaults, **values})


def plain(**values: Any) -> Caller:
    return Caller(**{"listener": "l", "address": "10.0.0.9", "security": "plain", **values})


A = device("T0000001", certificate_sha256=SHA_A)
B = device("T0000002", device_id=2, certificate_sha256=SHA_B)
NAMED = device("T0000003", device_id=3)
NETWORKED = device("T0000004", device_id=4, networks="10.0.0.0/24 192.168.1.1")
MOVING = device("T0000005", device_id=5, certificate_sha256="c" * 64, networks="10.0.0.0/24")
ANY = device("T0000006", device_id=0, merchant_id="*")
ALL = Devices(A, B, NAMED, NETWORKED, MOVING, ANY)


def problem_of(result: Identified | Refused) -> IdentityProblem | None:
    return result.problem if isinstance(result, Refused) else None


class TestMutualTls:
    def test_the_bound_certificate_proves_its_device(self) -> None:
        assert identify(tls("whatever"), "T0000001", "M1", ALL) == Identified(A)

    def test_a_certificate_of_a_does_not_speak_for_b(self) -> None:
        result = identify(tls("T0000002", SHA_A), "T0000002", "M1", ALL)
        assert result == Refused(IdentityProblem.NOT_THIS_DEVICE, B)

    def test_a_name_proves_a_device_without_a_bound_certificate(self) -> None:
        assert identify(tls("T0000003", "d" * 64), "T0000003", "M1", ALL) == Identified(NAMED)

    def test_a_name_proves_nothing_once_a_certificate_is_bound(self) -> None:
        result = identify(tls("T0000001", "d" * 64), "T0000001", "M1", ALL)
        assert problem_of(result) is IdentityProblem.NOT_THIS_DEVICE

    def test_another_name_is_refused(self) -> None:
        result = identify(tls("T0000009", "d" * 64), "T0000003", "M1", ALL)
        assert problem_of(result) is IdentityProblem.NOT_THIS_DEVICE

    def test_an_id_nobody_enrolled(self) -> None:
        result = identify(tls("T0000009", "d" * 64), "T0000009", "M1", ALL)
        assert result == Refused(IdentityProblem.UNKNOWN_TERMINAL)

    def test_no_certificate_at_all(self) -> None:
        caller = Caller(listener="l", address="10.0.0.9", security="mutual-tls")
        assert problem_of(identify(caller, "T0000003", "M1", ALL)) is (
            IdentityProblem.NOT_THIS_DEVICE
        )

    def test_a_short_common_name_is_padded_like_the_field(self) -> None:
        short = device("T1      ")
        assert identify(tls("T1", "d" * 64), "T1      ", "M1", Devices(short)) == Identified(short)

    def test_the_networks_of_the_row_hold_here_too(self) -> None:
        caller = tls("T0000004", "d" * 64, address="10.1.0.1")
        result = identify(caller, "T0000004", "M1", ALL)
        assert problem_of(result) is IdentityProblem.WRONG_NETWORK


class TestPlain:
    def test_an_enrolled_device_is_known_by_its_number(self) -> None:
        assert identify(plain(), "T0000003", "M1", ALL) == Identified(NAMED)

    @pytest.mark.parametrize(
        ("address", "problem"),
        [
            ("10.0.0.77", None),
            ("192.168.1.1", None),
            ("::ffff:10.0.0.77", None),
            ("10.0.1.77", IdentityProblem.WRONG_NETWORK),
            ("fe80::1%eth0", IdentityProblem.WRONG_NETWORK),
            ("", IdentityProblem.WRONG_NETWORK),
        ],
    )
    def test_its_networks_hold(self, address: str, problem: IdentityProblem | None) -> None:
        assert problem_of(identify(plain(address=address), "T0000004", "M1", ALL)) is problem

    def test_a_bound_certificate_keeps_a_device_off_plain_listeners(self) -> None:
        result = identify(plain(), "T0000001", "M1", ALL)
        assert result == Refused(IdentityProblem.NOT_THIS_DEVICE, A)

    def test_networks_in_the_row_let_it_back_on(self) -> None:
        assert identify(plain(), "T0000005", "M1", ALL) == Identified(MOVING)
        elsewhere = identify(plain(address="10.9.9.9"), "T0000005", "M1", ALL)
        assert problem_of(elsewhere) is IdentityProblem.WRONG_NETWORK

    @pytest.mark.parametrize("terminal_id", ["", "T0000009", "        ", "T00000010"])
    def test_unknown_ids(self, terminal_id: str) -> None:
        result = identify(plain(), terminal_id, "M1", ALL)
        assert problem_of(result) is IdentityProblem.UNKNOWN_TERMINAL

    def test_the_first_message_binds_the_connection(self) -> None:
        caller = plain()
        first = identify(caller, "T0000003", "M1", ALL)
        assert isinstance(first, Identified)
        caller = caller.bound_to(first.device)
        assert identify(caller, "T0000003", "M1", ALL) == Identified(NAMED)
        assert identify(caller, "T0000006", "M1", ALL) == Refused(
            IdentityProblem.NOT_THIS_DEVICE, ANY
        )
        assert caller.bound_to(first.device) is caller

    def test_a_bound_connection_notices_each_change_of_its_device(self) -> None:
        caller = plain().bound_to(NAMED)
        suspended = Devices(replace(NAMED, state=DeviceState.SUSPENDED))
        assert problem_of(identify(caller, "T0000003", "M1", suspended)) is (
            IdentityProblem.NOT_ACTIVE
        )
        moved = Devices(replace(NAMED, networks="192.168.0.0/16"))
        assert problem_of(identify(caller, "T0000003", "M1", moved)) is (
            IdentityProblem.WRONG_NETWORK
        )
        now_with_certificate = Devices(replace(NAMED, certificate_sha256=SHA_A))
        assert problem_of(identify(caller, "T0000003", "M1", now_with_certificate)) is (
            IdentityProblem.NOT_THIS_DEVICE
        )
        gone = identify(caller, "T0000003", "M1", Devices())
        assert problem_of(gone) is IdentityProblem.UNKNOWN_TERMINAL


class TestMerchantAndState:
    @pytest.mark.parametrize("merchant_id", ["M2", "", "M", "M1 x"])
    def test_another_merchant(self, merchant_id: str) -> None:
        result = identify(plain(), "T0000003", merchant_id, ALL)
        assert result == Refused(IdentityProblem.WRONG_MERCHANT, NAMED)

    @pytest.mark.parametrize("merchant_id", ["M1", "M1             ", None])
    def test_its_merchant_padded_or_not_asked_for(self, merchant_id: str | None) -> None:
        assert identify(plain(), "T0000003", merchant_id, ALL) == Identified(NAMED)

    def test_any_merchant(self) -> None:
        assert identify(plain(), "T0000006", "whoever", ALL) == Identified(ANY)

    def test_the_merchant_is_checked_on_bound_connections_too(self) -> None:
        result = identify(plain().bound_to(NAMED), "T0000003", "M2", ALL)
        assert problem_of(result) is IdentityProblem.WRONG_MERCHANT

    @pytest.mark.parametrize("state", [DeviceState.PENDING, DeviceState.SUSPENDED])
    def test_only_active_devices(self, state: DeviceState) -> None:
        devices = Devices(replace(NAMED, state=state))
        result = identify(plain(), "T0000003", "M1", devices)
        assert problem_of(result) is IdentityProblem.NOT_ACTIVE


class TestConcentrator:
    RULE = ConcentratorRule("c1", TerminalSet.parse(["T0000001", "X*", "T0000003-T0000004"]))

    @pytest.mark.parametrize("caller", [plain(concentrator=RULE), tls("c1", concentrator=RULE)])
    def test_it_carries_what_its_rule_names(self, caller: Caller) -> None:
        assert identify(caller, "T0000001", "M1", ALL) == Identified(A)
        assert caller.bound_to(A) is caller
        assert identify(caller, "T0000003", "M1", ALL) == Identified(NAMED)
        refused = identify(caller, "T0000002", "M1", ALL)
        assert refused == Refused(IdentityProblem.NOT_CARRIED, B)
        unknown = identify(caller, "X1", "M1", ALL)
        assert problem_of(unknown) is IdentityProblem.UNKNOWN_TERMINAL

    def test_networks_are_those_of_the_concentrator(self) -> None:
        caller = plain(concentrator=self.RULE, address="172.16.0.1")
        result = identify(caller, "T0000004", "M1", ALL)
        assert problem_of(result) is IdentityProblem.WRONG_NETWORK


class TestTerminalSets:
    def test_range(self) -> None:
        found = TerminalRange.parse("T0000001-T0020000")
        assert len(found) == 20_000
        assert "T0000001" in found
        assert "T0020000" in found
        for other in ("T0000000", "T0020001", "X0000001", "T000001", "T000000A", "T00000٣1", 1):
            assert other not in found

    def test_a_range_that_fixes_no_prefix(self) -> None:
        assert "12345678" in TerminalRange.parse("00000000-99999999")

    @pytest.mark.parametrize(
        "text",
        [
            "T0000002-T0000001",
            "T0000001-X0000002",
            "T000000A-T000000B",
            "T0000001_T0000002",
            "T1-T2",
            "T0000001-T0000002x",
            "",
        ],
    )
    def test_no_range(self, text: str) -> None:
        with pytest.raises(ValueError, match="is no range"):
            TerminalRange.parse(text)

    def test_set(self) -> None:
        found = TerminalSet.parse(["T1", "AB*", "T0000005-T0000006"])
        for terminal_id in ("T1      ", "AB000001", "AB      ", "T0000005", "T0000006"):
            assert terminal_id in found
        others: tuple[object, ...] = ("T1", "T2      ", "BA000001", "T0000007", 3)
        assert not [other for other in others if other in found]
        assert "anything" in TerminalSet.parse(["*"])
        assert "T0000001" not in TerminalSet.parse([])

    @pytest.mark.parametrize("pattern", ["", "   ", "T0000001-T2", "T\n", "Tü", "T00000001*"])
    def test_bad_patterns(self, pattern: str) -> None:
        with pytest.raises(ValueError, match=r"names no terminal|is no range"):
            TerminalSet.parse([pattern])


def test_networks() -> None:
    assert in_networks("2001:db8::1", parse_networks("2001:db8::/32"))
    assert not in_networks("10.0.0.1", parse_networks("2001:db8::/32"))
    with pytest.raises(ValueError, match="host bits"):
        parse_networks("10.0.0.1/24")


def test_each_problem_is_a_reason_that_the_policy_answers() -> None:
    assert {str(problem) for problem in IdentityProblem} <= {str(reason) for reason in Reason}
