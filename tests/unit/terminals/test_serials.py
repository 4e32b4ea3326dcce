"""The serial number that a message carries, and what comes of another one than the inventory's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings.schema_devices import HardwareSerial
from gateway.telemetry.events import Event
from gateway.terminals.serials import Serials, serial_of
from gateway.wire.message import Message
from tests.support.stores import Emitted, a_device

DEVICE = replace(a_device(1), serial="SN-1")


@pytest.mark.parametrize(
    ("settings", "text", "serial"),
    [
        ({}, "SN-1", "SN-1"),
        ({"start": 3, "length": 4}, "01SN-1  rest", "SN-1"),
        ({"start": 30}, "SN-1", ""),
        ({"tag": "02"}, "010011020004SN-103001X", ""),
        ({"tag": "02"}, "01001102004SN-103001X", "SN-1"),
        ({"tag": "A2", "length_digits": 2}, "A108abcdefghA204SN-1", "SN-1"),
        ({"tag": "02", "start": 3}, "XX02004SN-1", "SN-1"),
        ({"tag": "02"}, "01x", ""),
        ({"tag": "02"}, "01xx1SN-1", ""),
        ({"tag": "02"}, "02999SN-1", "SN-1"),
    ],
)
def test_where_it_is(settings: dict[str, object], text: str, serial: str) -> None:
    read = HardwareSerial.model_validate({"field": 62, **settings})
    assert serial_of(Message("0200", {62: text}), read) == serial


@given(st.text(max_size=60), st.sampled_from([None, "0", "02", "A2B"]), st.integers(1, 70))
def test_anything_may_stand_there(text: str, tag: str | None, start: int) -> None:
    settings = HardwareSerial(field=48, tag=tag, start=start)
    assert len(serial_of(Message("0200", {48: text}), settings)) <= len(text)


def test_another_one_is_told_of_once_and_refused_where_that_is_set() -> None:
    told = Emitted()
    alarm = Serials(HardwareSerial(field=48), listener="shops", emit=told)
    message = Message("0200", {48: "SN-2"})
    assert [alarm.refusal(message, DEVICE) for _ in range(3)] == ["", "", ""]
    assert told == [
        (
            Event.SERIAL_MISMATCH,
            {
                "listener": "shops",
                "terminal": DEVICE.terminal_id.rstrip(),
                "serial": "SN-2",
                "inventory": "SN-1",
            },
        )
    ]
    # Right in between, it is told of again.
    assert not alarm.refusal(Message("0200", {48: "SN-1"}), DEVICE)
    assert not alarm.refusal(message, DEVICE)
    assert told.names() == [Event.SERIAL_MISMATCH] * 2
    strict = Serials(
        HardwareSerial(field=48, on_mismatch="refuse"), listener="shops", emit=Emitted()
    )
    assert strict.refusal(message, DEVICE) == "serial SN-2 in DE48, and the inventory has SN-1"
    assert not strict.refusal(Message("0200", {}), DEVICE)
    assert not strict.refusal(message, replace(DEVICE, serial=""))


def test_where_it_is_required_its_absence_is_no_match() -> None:
    strict = Serials(
        HardwareSerial(field=48, on_mismatch="refuse", required=True),
        listener="shops",
        emit=Emitted(),
    )
    words = strict.refusal(Message("0200", {}), DEVICE)
    assert words == "no serial in DE48, and the inventory has SN-1"
