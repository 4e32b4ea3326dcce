"""One link: multiplexing, what is sent and what is in doubt, deadlines, reconnecting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.errors import InDoubt, NotSent
from gateway.settings.schema_base import Backoff
from gateway.settings.schema_upstreams import Network, Upstream
from gateway.telemetry.events import Event
from gateway.upstreams.correlation import Pending
from gateway.upstreams.latencies import Latencies
from gateway.upstreams.link import Link
from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.framing import FrameReader, FramingSpec, encode_frame
from gateway.wire.message import Message, response_mti
from tests.support.rig import PATIENT

CODEC = Codec(shipped_dialects()["iso87_ascii"])
SPEC = FramingSpec()
SETTINGS = Upstream(
    name="acquirer",
    addresses=["127.0.0.1:1"],
    dialect="iso87_ascii",
    plain=True,
    answer_s=5.0,
    send_s=2.0,
    connect_s=1.0,
    pending_per_link_max=3,
    network=Network(echo=False, prove=False),
    health=PATIENT,
    backoff=Backoff(first_s=1.0, max_s=4.0),
)


def purchase(stan: int, terminal: str = "T0000001") -> Message:
    return Message(
        "0200", {3: "000000", 4: "000000000100", 11: f"{stan:06d}", 41: terminal, 49: "978"}
    )


def answer_to(request: Message, code: str = "00") -> Message:
    return request.changed({39: code}, mti=response_mti(request.mti))


class Host:
    """The acquirer's end of one connection."""

    def __init__(
        self, stream: trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream]
    ) -> None:
        self.stream = stream
        self._reader = FrameReader(SPEC)
        self._messages: list[Message] = []

    async def receive(self) -> Message:
        while not self._messages:
            data = await self.stream.receive_some()
            if not data:
                raise trio.EndOfChannel
            self._messages += [CODEC.decode(frame.body) for frame in self._reader.feed(bytes(data))]
        return self._messages.pop(0)

    async def send(self, *messages: Message) -> None:
        await self.stream.send_all(
            b"".join(encode_frame(SPEC, CODEC.encode(message)) for message in messages)
        )


@dataclass
class Rig:
    """A link, the hosts it connected to, and what it reported."""

    link: Link
    hosts: trio.MemoryReceiveChannel[Host]
    events: list[tuple[Event, dict[str, object]]]
    given_up: list[Pending] = field(default_factory=list)
    strays: list[Message] = field(default_factory=list)
    refuse: bool = False
    states: list[str] = field(default_factory=list)
    lost: list[tuple[int, bool, str]] = field(default_factory=list)
    attempts_s: list[float] = field(default_factory=list)

    def names(self) -> list[Event]:
        return [event for event, _ in self.events]


class _Owner:
    def __init__(self) -> None:
        self.rig: Rig

    def link_changed(self, link: Link) -> None:
        self.rig.states.append(str(link.life.state))

    def link_lost(self, link: Link, *, in_doubt: int, silent: bool, why: str) -> None:
        self.rig.lost.append((in_doubt, silent, why))

    def gave_up(self, pending: Pending, *, timed_out: bool) -> None:
        self.rig.given_up.append(pending)

    def unmatched(self, answer: Message, link: str) -> None:
        self.rig.strays.append(answer)

    def answered(self, seconds: float, now_s: float) -> None:
        assert seconds >= 0


Connect = Callable[[], Awaitable[trio.abc.Stream]]


@asynccontextmanager
async def rig(*, up: bool = True) -> AsyncIterator[Rig]:
    connected, hosts = trio.open_memory_channel[Host](10)
    owner = _Owner()
    events: list[tuple[Event, dict[str, object]]] = []

    async def connect() -> trio.abc.Stream:
        built.attempts_s.append(trio.current_time())
        if built.refuse:
            raise ConnectionRefusedError("refused")
        ours, theirs = trio.testing.memory_stream_pair()
        connected.send_nowait(Host(theirs))
        return ours

    link = Link(
        "acquirer/1",
        settings=SETTINGS,
        codec=CODEC,
        connect=connect,
        owner=owner,
        latencies=Latencies(),
        clock=VirtualClock(0),
        emit=lambda event, **fields: events.append((event, fields)),
        random=lambda: 1.0,
    )
    built = owner.rig = Rig(link, hosts, events)
    built.refuse = not up
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await trio.testing.wait_all_tasks_blocked()
        yield built
        nursery.cancel_scope.cancel()


async def test_answers_come_in_any_order_to_those_who_asked() -> None:
    async with rig() as made, trio.open_nursery() as nursery:
        host = made.hosts.receive_nowait()
        got: dict[int, Message] = {}

        async def ask(stan: int) -> None:
            got[stan] = await made.link.ask(
                purchase(stan),
                transaction_id=stan,
                now_s=trio.current_time(),
                answer_s=SETTINGS.answer_s,
            )

        for stan in (1, 2, 3):
            nursery.start_soon(ask, stan)
        asked = [await host.receive() for _ in range(3)]
        await host.send(*[answer_to(request) for request in reversed(asked)])
        await trio.testing.wait_all_tasks_blocked()
        assert {stan: message.stan for stan, message in got.items()} == {
            1: "000001",
            2: "000002",
            3: "000003",
        }
        assert made.link.pending == 0


async def test_over_the_bound_nothing_is_sent() -> None:
    async with rig() as made, trio.open_nursery() as nursery:
        for stan in (1, 2, 3):
            nursery.start_soon(_expect_doubt, made.link, purchase(stan))
        await trio.testing.wait_all_tasks_blocked()
        assert not made.link.ready
        with pytest.raises(NotSent):
            await made.link.ask(
                purchase(4), transaction_id=4, now_s=trio.current_time(), answer_s=SETTINGS.answer_s
            )
        await made.hosts.receive_nowait().stream.aclose()


async def _expect_doubt(link: Link, request: Message) -> None:
    with pytest.raises(InDoubt):
        await link.ask(
            request, transaction_id=1, now_s=trio.current_time(), answer_s=SETTINGS.answer_s
        )


async def test_a_link_lost_with_a_request_under_way_leaves_it_in_doubt() -> None:
    async with rig() as made, trio.open_nursery() as nursery:
        host = made.hosts.receive_nowait()
        nursery.start_soon(_expect_doubt, made.link, purchase(1))
        await host.receive()
        await host.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert [pending.transaction_id for pending in made.given_up] == [1]
        assert Event.LINK_DOWN in made.names()


async def test_while_down_nothing_is_sent() -> None:
    async with rig(up=False) as made:
        with pytest.raises(NotSent):
            await made.link.ask(
                purchase(1), transaction_id=1, now_s=trio.current_time(), answer_s=SETTINGS.answer_s
            )
        assert made.given_up == []


async def test_a_request_the_dialect_cannot_write_is_not_sent() -> None:
    async with rig() as made:
        with pytest.raises(NotSent):
            await made.link.ask(
                purchase(1).changed({4: "toolong" * 9}),
                transaction_id=1,
                now_s=trio.current_time(),
                answer_s=SETTINGS.answer_s,
            )
        assert made.link.pending == 0


async def test_no_answer_in_time_is_doubt_and_the_answer_after_it_a_stray(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made, trio.open_nursery() as nursery:
        host = made.hosts.receive_nowait()
        began_s = trio.current_time()
        nursery.start_soon(_expect_doubt, made.link, purchase(1))
        request = await host.receive()
        await trio.sleep(SETTINGS.answer_s + 0.1)
        assert trio.current_time() - began_s == pytest.approx(SETTINGS.answer_s + 0.1)
        assert len(made.given_up) == 1
        await host.send(answer_to(request))
        await trio.testing.wait_all_tasks_blocked()
        assert [stray.stan for stray in made.strays] == ["000001"]
        assert made.link.ready


async def test_an_answer_with_another_amount_is_an_event_and_no_answer() -> None:
    async with rig() as made, trio.open_nursery() as nursery:
        host = made.hosts.receive_nowait()
        nursery.start_soon(_expect_doubt, made.link, purchase(1))
        request = await host.receive()
        await host.send(answer_to(request).changed({4: "000000000999"}))
        await trio.testing.wait_all_tasks_blocked()
        assert Event.ANSWER_MISMATCHED in made.names()
        await host.stream.aclose()


async def test_an_unreadable_answer_costs_nobody_else_theirs() -> None:
    async with rig() as made, trio.open_nursery() as nursery:
        host = made.hosts.receive_nowait()
        answers: list[Message] = []

        async def ask() -> None:
            answers.append(
                await made.link.ask(
                    purchase(1),
                    transaction_id=1,
                    now_s=trio.current_time(),
                    answer_s=SETTINGS.answer_s,
                )
            )

        nursery.start_soon(ask)
        request = await host.receive()
        await host.stream.send_all(encode_frame(SPEC, b"0210garbage"))
        await host.send(answer_to(request))
        await trio.testing.wait_all_tasks_blocked()
        assert len(answers) == 1
        assert Event.MESSAGE_REJECTED in made.names()


async def test_an_upstreams_echo_is_answered() -> None:
    async with rig() as made:
        host = made.hosts.receive_nowait()
        await host.send(Message("0800", {7: "1121120000", 11: "000777", 70: "301"}))
        echoed = await host.receive()
        assert (echoed.mti, echoed.stan, echoed.response_code) == ("0810", "000777", "00")


async def test_it_connects_again_with_growing_pauses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(up=False) as made:
        await trio.sleep(12)
        gaps = [
            round(after - before, 3)
            for before, after in zip(made.attempts_s, made.attempts_s[1:], strict=False)
        ]
        assert gaps == [1.0, 2.0, 4.0, 4.0]
        made.refuse = False
        await trio.sleep(5)
        assert made.link.ready


async def test_many_requests_leave_with_one_send() -> None:
    async with rig() as made, trio.open_nursery() as nursery:
        host = made.hosts.receive_nowait()
        for stan in (1, 2, 3):
            nursery.start_soon(_expect_doubt, made.link, purchase(stan))
        data = await host.stream.receive_some(65_536)
        assert len(FrameReader(SPEC).feed(bytes(data))) == 3
        await host.stream.aclose()
