"""An acquirer that asks and asks, and takes nothing: what it makes us hold has a bound."""

from __future__ import annotations

import trio
import trio.testing

from gateway.upstreams.channel import Channel, Wire, network_answer
from gateway.upstreams.correlation import Pending
from gateway.wire.framing import encode_frame
from gateway.wire.message import Message
from tests.support.acquirer import CODEC, SPEC
from tests.support.rig import upstream_settings

ECHO = Message("0800", {7: "1121120000", 11: "000001", 70: "301"})


class Deaf(trio.abc.Stream):
    """Sends echoes without end, as fast as they are read, and never takes a byte."""

    def __init__(self, count: int) -> None:
        self._chunk = encode_frame(SPEC, CODEC.encode(ECHO)) * 100
        self._left = count // 100

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._left == 0:
            await trio.sleep_forever()
        self._left -= 1
        return self._chunk

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.sleep_forever()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Owner:
    """Answers whatever is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def gave_up(self, pending: Pending, *, timed_out: bool) -> None:
        pass

    def unmatched(self, answer: Message) -> None:
        pass

    def answered(self, asked_s: float, now_s: float) -> None:
        pass

    def asked_by_acquirer(self, message: Message) -> Message | None:
        self.asked += 1
        return network_answer(message, "00")


async def test_answers_that_it_does_not_take_are_not_heaped_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    settings, owner = upstream_settings("a"), Owner()
    channel = Channel(
        "a/1",
        Deaf(5_000),
        settings=settings,
        wire=Wire(settings, CODEC),
        owner=owner,
        emit=lambda event, /, **fields: None,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run)
        with trio.move_on_after(settings.send_s / 2):
            await trio.sleep_forever()
        assert owner.asked == 5_000
        assert channel.unsent <= 100
        nursery.cancel_scope.cancel()
