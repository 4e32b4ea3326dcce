"""An answer that does not fit the terminal's dialect: it hears the outcome all the same."""

from __future__ import annotations

import pytest

from gateway.clock import SystemClock
from gateway.policy.rates import Rates
from gateway.settings.schema_policy import Rates as RatesSettings
from gateway.settings.schema_terminals import Listener as ListenerSettings
from gateway.store.store import Device
from gateway.telemetry.events import Event
from gateway.terminals.dispatch import Dispatcher
from gateway.terminals.gate import Gate
from gateway.terminals.identity import Caller
from gateway.terminals.rejected_frames import RejectedFrames
from gateway.terminals.session import Sessions
from gateway.transactions.request import Reply, Request
from gateway.wire.framing import Frame
from gateway.wire.message import Message
from tests.support.acquirer import CODEC, approve
from tests.support.rig import DEVICE, purchase


class OneDevice:
    """A registry of one device."""

    def by_terminal(self, terminal_id: str) -> Device | None:
        return DEVICE

    def by_certificate(self, sha256: str) -> Device | None:
        return None

    def touch(self, device: Device) -> None:
        pass


class Answering:
    """A flow whose acquirer answers with these values."""

    def __init__(self, changes: dict[int, str]) -> None:
        self._changes = changes

    async def serve(self, request: Request) -> Reply:
        return Reply(approve(request.message).changed(self._changes), 1)


@pytest.mark.parametrize(
    "changes",
    [
        {12: "261121120000"},  # date and time, as ISO 8583:1993 has it
        {38: "12é456"},  # from an EBCDIC host
        {38: "1234567", 37: "0" * 20, 63: "x" * 2_000},
        {120: "x" * 5_000},
    ],
)
async def test_it_hears_the_code_and_whatever_else_can_be_written(
    changes: dict[int, str],
) -> None:
    events: list[Event] = []
    devices, clock = OneDevice(), SystemClock()
    dispatcher = Dispatcher(
        settings=ListenerSettings(
            name="plain", listen="127.0.0.1:1", security="plain", dialect="iso87_ascii"
        ),
        codec=CODEC,
        flow=Answering(changes),
        devices=devices,
        clock=clock,
        emit=lambda event, /, **fields: events.append(event),
        refused=lambda reason, /: None,
        rates=Rates(RatesSettings()),
        gate=Gate(devices=devices, clock=clock),
        rejected=RejectedFrames(kept_max=1, clock=clock),
    )
    caller = Caller(
        listener="plain", address="127.0.0.1", security="plain", certificate=None, concentrator=None
    )
    sessions = Sessions(caller, many=False, count_max=1)
    answered = await dispatcher.answer(Frame(CODEC.encode(purchase())), sessions, "127.0.0.1")
    assert answered is not None
    answer: Message = CODEC.decode(answered[0][2:])
    asked = purchase()
    assert (answer.mti, answer.response_code) == ("0210", "00")
    assert (answer.stan, answer.terminal_id) == (asked.stan, asked.terminal_id)
    assert answer.get(4) == asked.get(4)
    assert (38 in answer) == (38 not in changes)
    assert events[-1] is Event.MESSAGE_REJECTED
