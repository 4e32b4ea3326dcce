"""Plain connections, which prove nothing but a name: what is frozen, and who counts as whom."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.clock import SystemClock
from gateway.policy.rates import Rates
from gateway.settings.schema_policy import Rate
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


def dispatching(device: Device, rates: RatesSettings | None = None) -> Dispatcher:
    """The dispatcher of a plain listener."""
    devices, clock = OneDevice(device), SystemClock()
    return Dispatcher(
        settings=ListenerSettings(
            name="plain", listen="127.0.0.1:1", security="plain", dialect="iso87_ascii"
        ),
        codec=CODEC,
        flow=Taking(),
        devices=devices,
        clock=clock,
        emit=lambda event, /, **fields: None,
        refused=lambda reason, /: None,
        rates=Rates(rates or RatesSettings()),
        gate=Gate(devices=devices, clock=clock),
        rejected=RejectedFrames(kept_max=1, clock=clock),
    )


def calling(address: str) -> Sessions:
    caller = Caller(listener="plain", address=address, security="plain")
    return Sessions(caller, many=False, count_max=1)


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
    dispatcher = dispatching(replace(DEVICE, **changes))  # type: ignore[arg-type]
    sessions = calling("127.0.0.1")
    for message, wanted in ((purchase(), "58"), (reversal_of(purchase()), code)):
        answered = await dispatcher.answer(Frame(CODEC.encode(message)), sessions, "127.0.0.1")
        assert answered is not None
        assert answered[1].message.response_code == wanted


async def test_a_stranger_elsewhere_uses_up_no_shops_rate() -> None:
    dispatcher = dispatching(DEVICE, RatesSettings(device=Rate(per_s=0.01, burst=2)))
    told = []
    for address in ("192.0.2.7",) * 3 + ("10.0.0.1",):
        frame = Frame(CODEC.encode(purchase()))
        answered = await dispatcher.answer(frame, calling(address), address)
        assert answered is not None
        told.append(answered[1].message.response_code)
    assert told == ["00", "00", "96", "00"]
