"""The serial number that a message carries, and what comes of another one than the inventory's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import SystemClock
from gateway.policy.rates import Rates
from gateway.policy.response_codes import CodeSet
from gateway.settings.schema_devices import HardwareSerial
from gateway.settings.schema_policy import Rates as RatesSettings
from gateway.settings.schema_terminals import Listener as ListenerSettings
from gateway.store.store import Device
from gateway.telemetry.events import Event
from gateway.terminals.dispatch import Dispatcher
from gateway.terminals.gate import Gate
from gateway.terminals.identity import Caller
from gateway.terminals.rejected_frames import RejectedFrames
from gateway.terminals.serials import Serials, serial_of
from gateway.terminals.session import Sessions
from gateway.transactions.request import Reply, Request
from gateway.wire.framing import Frame
from gateway.wire.message import Message
from tests.support.acquirer import CODEC, approve
from tests.support.rig import DEVICE as RIG_DEVICE
from tests.support.rig import purchase, reversal_of
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


class Answering:
    """A flow that approves whatever comes."""

    async def serve(self, request: Request) -> Reply:
        return Reply(approve(request.message), 1)


class OneDevice:
    """A registry of one device, whose serial number is SN-1."""

    def by_terminal(self, terminal_id: str) -> Device | None:
        return replace(RIG_DEVICE, serial="SN-1")

    def by_certificate(self, sha256: str) -> Device | None:
        return None

    def revoked(self, sha256: str) -> None:
        return None

    def touch(self, device: Device) -> None:
        pass


@pytest.mark.parametrize(
    ("code_set", "message", "code"),
    [
        ("iso", purchase(1, {62: "SN-2"}), "58"),
        ("unionpay", purchase(1, {62: "SN-2"}), "97"),
        ("iso", purchase(1, {62: "SN-1"}), "00"),
        ("iso", purchase(1), "00"),
        ("iso", reversal_of(purchase(1), {62: "SN-2"}), "00"),  # it undoes what was done
    ],
)
async def test_another_device_is_told_that_it_is_not_this_one(
    code_set: CodeSet, message: Message, code: str
) -> None:
    devices, clock = OneDevice(), SystemClock()
    dispatcher = Dispatcher(
        settings=ListenerSettings(
            name="plain",
            listen="127.0.0.1:1",
            security="plain",
            dialect="iso87_ascii",
            code_set=code_set,
            hardware_serial=HardwareSerial(field=62, on_mismatch="refuse"),
        ),
        codec=CODEC,
        flow=Answering(),
        devices=devices,
        clock=clock,
        emit=Emitted(),
        refused=lambda reason, /: None,
        rates=Rates(RatesSettings()),
        gate=Gate(devices=devices, clock=clock),
        rejected=RejectedFrames(kept_max=1, clock=clock),
    )
    caller = Caller(listener="plain", address="127.0.0.1", security="plain")
    sessions = Sessions(caller, many=False, count_max=1)
    answered = await dispatcher.answer(Frame(CODEC.encode(message)), sessions, "127.0.0.1")
    assert answered is not None
    assert CODEC.decode(answered[0][2:]).response_code == code
