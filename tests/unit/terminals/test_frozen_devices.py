"""What a device that was frozen may still undo, where a connection proves nothing but a name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.clock import SystemClock
from gateway.policy.rates import Rates
from gateway.settings.schema_policy import Rates as RatesSettings
from gateway.settings.schema_terminals import Listener as ListenerSettings
from gateway.store.store import Device, DeviceState
from gateway.terminals.dispatch import Dispatcher
from gateway.terminals.gate import Gate
from gateway.terminals.identity import Caller
from gateway.terminals.rejected_frames import RejectedFrames
from gateway.terminals.session import Sessions
from gateway.transactions import replies
from gateway.transactions.request import Reply, Request
from gateway.wire.framing import Frame
from tests.support.acquirer import CODEC
from tests.support.rig import DEVICE, purchase, reversal_of


class OneDevice:
    """A registry of one device."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def by_terminal(self, terminal_id: str) -> Device | None:
        return self._device

    def by_certificate(self, sha256: str) -> Device | None:
        return None

    def touch(self, device: Device) -> None:
        pass


class Taking:
    """A flow that takes whatever comes to it."""

    async def serve(self, request: Request) -> Reply:
        return Reply(replies.refusal(request.message, "00"))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"state": DeviceState.SUSPENDED}, "00"),
        ({"state": DeviceState.REPLACED}, "00"),
        ({"state": DeviceState.LOST, "known_by_name": False}, "58"),
        # Lost, and then replaced by a device with an id of its own: it is no less lost.
        ({"state": DeviceState.REPLACED, "known_by_name": False}, "58"),
    ],
)
async def test_only_what_was_never_lost_takes_back_what_it_sent(
    changes: dict[str, object], code: str
) -> None:
    devices, clock = OneDevice(replace(DEVICE, **changes)), SystemClock()  # type: ignore[arg-type]
    dispatcher = Dispatcher(
        settings=ListenerSettings(
            name="plain", listen="127.0.0.1:1", security="plain", dialect="iso87_ascii"
        ),
        codec=CODEC,
        flow=Taking(),
        devices=devices,
        clock=clock,
        emit=lambda event, /, **fields: None,
        refused=lambda reason, /: None,
        rates=Rates(RatesSettings()),
        gate=Gate(devices=devices, clock=clock),
        rejected=RejectedFrames(kept_max=1, clock=clock),
    )
    caller = Caller(listener="plain", address="127.0.0.1", security="plain")
    sessions = Sessions(caller, many=False, count_max=1)
    for message, wanted in ((purchase(), "58"), (reversal_of(purchase()), code)):
        answered = await dispatcher.answer(Frame(CODEC.encode(message)), sessions, "127.0.0.1")
        assert answered is not None
        assert answered[1].message.response_code == wanted
