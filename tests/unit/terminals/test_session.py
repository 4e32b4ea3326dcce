"""The session table has one entry for each pair, and sessions of a concentrator stay apart."""

from __future__ import annotations

from itertools import product

from gateway.store.store import Device, DeviceState
from gateway.terminals.identity import Caller
from gateway.terminals.session import (
    TRANSITIONS,
    SessionEvent,
    Sessions,
    SessionState,
)
from gateway.wire.message import Kind

CALLER = Caller(listener="shops", address="127.0.0.1", security="plain")
DEVICE = Device(
    device_id=1,
    terminal_id="T0000001",
    merchant_id="M",
    activation=1,
    state=DeviceState.ACTIVE,
    profile="retail",
)


def test_every_pair_of_state_and_event_has_one_entry() -> None:
    assert set(TRANSITIONS) == set(product(SessionState, SessionEvent))


def test_nothing_is_signed_on_before_it_is_identified() -> None:
    session = Sessions(CALLER, many=False, count_max=1).of("T0000001", b"")
    session.served(Kind.SIGN_ON)
    assert session.state is SessionState.FRESH
    session.identified(DEVICE)
    session.served(Kind.SIGN_ON)
    assert session.state is SessionState.SIGNED_ON
    session.served(Kind.SIGN_OFF)
    assert session.state is SessionState.KNOWN


def test_a_lone_terminals_connection_has_one_session() -> None:
    sessions = Sessions(CALLER, many=False, count_max=1)
    assert sessions.of("T0000001", b"") is sessions.of("T0000002", b"")
    assert len(sessions) == 1


def test_a_concentrators_sessions_are_told_apart_by_terminal_and_tpdu_source() -> None:
    sessions = Sessions(CALLER, many=True, count_max=10)
    tpdu, other = bytes.fromhex("6000010002"), bytes.fromhex("6000010003")
    first = sessions.of("T0000001", tpdu)
    assert sessions.of("T0000001", tpdu) is first
    assert sessions.of("T0000002", tpdu) is not first
    assert sessions.of("T0000001", other) is not first
    assert len(sessions) == 3


def test_over_the_bound_the_session_silent_longest_is_forgotten() -> None:
    sessions = Sessions(CALLER, many=True, count_max=2)
    first = sessions.of("T0000001", b"")
    sessions.of("T0000002", b"")
    assert sessions.of("T0000001", b"") is first
    sessions.of("T0000003", b"")
    assert len(sessions) == 2
    assert sessions.of("T0000001", b"") is first
