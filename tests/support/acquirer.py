"""A scripted acquirer behind memory streams, for tests of the flow and of reversals."""

from __future__ import annotations

from collections.abc import Callable

import trio
import trio.testing

from gateway.upstreams.link import Connect
from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.framing import FrameReader, FramingSpec, encode_frame
from gateway.wire.message import Message, response_mti

CODEC = Codec(shipped_dialects()["iso87_ascii"])
SPEC = FramingSpec()

Script = Callable[[Message], Message | None]
MemoryStream = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]


def approve(request: Message) -> Message:
    """What an acquirer answers when it says yes."""
    return request.changed({38: "123456", 39: "00"}, mti=response_mti(request.mti)).without(
        [35, 52]
    )


def with_code(code: str) -> Callable[[Message], Message]:
    """A script that answers with this code."""
    return lambda request: request.changed({39: code}, mti=response_mti(request.mti))


def silent(_: Message) -> None:
    """A script that never answers."""


class FakeAcquirer:
    """Takes connections from a link and answers by its script; `received` is all it was sent."""

    def __init__(self, script: Script = approve) -> None:
        self.script = script
        self.received: list[Message] = []
        self.refuse = False
        self.delay_s = 0.0  # before each answer, one after another
        self.outlives = False  # run by the test itself, so that it outlives the node
        self._streams: list[MemoryStream] = []
        self._connected, self._connections = trio.open_memory_channel[MemoryStream](100)

    def connect_with(self, address: str) -> Connect:
        """What an `Upstream` is given in place of sockets."""

        async def connect() -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            if self.refuse:
                raise ConnectionRefusedError("refused")
            ours, theirs = trio.testing.memory_stream_pair()
            self._connected.send_nowait(theirs)
            return ours

        return connect

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            async for stream in self._connections:
                self._streams.append(stream)
                nursery.start_soon(self._serve, stream)

    async def hang_up(self) -> None:
        """Close every connection."""
        self.hang_up_now()
        await trio.lowlevel.checkpoint()

    def hang_up_now(self) -> None:
        """Close every connection; what was not read of it is lost."""
        streams, self._streams = self._streams, []
        for stream in streams:
            stream.send_stream.close()
            stream.receive_stream.close()

    async def send(self, *messages: Message) -> None:
        """Send something nobody may have asked for, on the newest connection."""
        await self._streams[-1].send_all(_frames(*messages))

    async def send_everywhere(self, message: Message) -> None:
        """Send something on every connection: only the link that asked for it heeds it."""
        for stream in self._streams:
            await stream.send_all(_frames(message))

    def of(self, mti: str) -> list[Message]:
        """What was received with this MTI."""
        return [message for message in self.received if message.mti == mti]

    async def _serve(self, stream: trio.abc.Stream) -> None:
        reader = FrameReader(SPEC)
        try:
            while data := await stream.receive_some(65_536):
                for frame in reader.feed(bytes(data)):
                    request = CODEC.decode(frame.body)
                    self.received.append(request)
                    answer = self.script(request)
                    if answer is not None:
                        if self.delay_s:
                            await trio.sleep(self.delay_s)
                        await stream.send_all(_frames(answer))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


def _frames(*messages: Message) -> bytes:
    return b"".join(encode_frame(SPEC, CODEC.encode(message)) for message in messages)
