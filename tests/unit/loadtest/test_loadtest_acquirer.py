"""A simulated acquirer on its connections: many requests at once, and every way to misbehave."""

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from gateway.clock import SystemClock
from gateway.wire.message import Message
from loadtest.acquirer import Acquirer
from loadtest.addresses import HostPort
from loadtest.commit import GroupCommit
from loadtest.control import ControlError, ask, serve_control
from loadtest.host import Host
from loadtest.ledger import AcquirerLedger, Entry, read_entries
from loadtest.switches import BadSwitch, Switches
from loadtest.wire import MessageReader, shipped_wire

WIRE = shipped_wire()


def purchase(stan: int) -> Message:
    return Message(
        "0200",
        {
            2: "9999990000010003",
            3: "000000",
            4: "000000001250",
            7: "1121203000",
            11: f"{stan:06d}",
            41: "T0000001",
            42: "MERCHANT0000001",
            49: "978",
        },
    )


ECHO = Message("0800", {7: "1121203000", 11: "000001", 70: "301"})


class Bench:
    """An acquirer with its ledger, and lines to it."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.path = folder / "ledger.sqlite"
        ledger = AcquirerLedger(self.path)
        self.ledger = ledger
        self.nursery = nursery
        # Inline: the virtual clock would not wait for a thread.
        self.commit = GroupCommit(ledger.database, inline=True)
        host = Host(ledger, SystemClock())
        self.acquirer = Acquirer(
            host=host, commit=self.commit, wire=WIRE, random=Random(1), switches=Switches()
        )
        nursery.start_soon(self.commit.run)

    def line(self) -> tuple[trio.abc.Stream, MessageReader]:
        near, far = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.acquirer.serve_stream, far)
        return near, MessageReader(near, WIRE)

    @property
    def entries(self) -> list[Entry]:
        return list(read_entries(self.path))


@pytest.fixture
async def bench(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, nursery)
    yield bench
    nursery.cancel_scope.cancel()
    bench.ledger.close()


async def silent(reader: MessageReader, seconds: float = 60) -> bool:
    with trio.move_on_after(seconds):
        return await reader.next() is None
    return True


async def test_requests_on_one_line_are_answered_together_and_durably(
    bench: Bench, autojump_clock: MockClock
) -> None:
    stream, reader = bench.line()
    await stream.send_all(b"".join(WIRE.pack(purchase(stan)) for stan in range(1, 51)))
    stans = set()
    for count in range(50):
        answer = await reader.next()
        assert answer is not None
        assert answer.response_code == "00"
        stans.add(answer.stan)
        # Committed before answered: what was answered is in the ledger on disk.
        assert len(bench.entries) > count
    assert len(stans) == 50
    assert bench.commit.commits < 50


async def test_a_delayed_answer_was_committed_at_once(
    bench: Bench, autojump_clock: MockClock
) -> None:
    bench.acquirer.change({"delay_ms": 3000, "jitter_ms": 500})
    stream, reader = bench.line()
    start_s = trio.current_time()
    await stream.send_all(WIRE.pack(purchase(1)))
    with trio.move_on_after(1):
        await reader.next()
    assert len(bench.entries) == 1
    assert await reader.next() is not None
    assert 3.0 <= trio.current_time() - start_s <= 3.5


async def test_a_held_request_is_overtaken_by_its_reversal(
    bench: Bench, autojump_clock: MockClock
) -> None:
    bench.acquirer.change({"hold_ms": 2000})
    stream, reader = bench.line()
    reversal = purchase(2).changed({90: f"02000000011121203000{0:022d}"}, mti="0420")
    await stream.send_all(WIRE.pack(purchase(1)) + WIRE.pack(reversal))
    answers = [await reader.next(), await reader.next()]
    assert [(a.mti, a.response_code) for a in answers if a] == [("0430", "25"), ("0210", "12")]


@pytest.mark.parametrize(
    ("switches", "recorded"), [({"mute": True}, 1), ({"drop": 1}, 1), ({"lose": 1}, 0)]
)
async def test_silences_differ_in_what_the_ledger_holds(
    bench: Bench, autojump_clock: MockClock, switches: dict[str, object], recorded: int
) -> None:
    bench.acquirer.change(switches)
    stream, reader = bench.line()
    await stream.send_all(WIRE.pack(purchase(1)))
    assert await silent(reader)
    assert len(bench.entries) == recorded
    bench.acquirer.change(dict.fromkeys(switches, 0))
    await stream.send_all(WIRE.pack(purchase(2)))
    answer = await reader.next()
    assert answer is not None
    assert answer.stan == "000002"


async def test_a_mute_host_can_have_a_front_end_that_echoes(
    bench: Bench, autojump_clock: MockClock
) -> None:
    stream, reader = bench.line()
    bench.acquirer.change({"mute": True})
    await stream.send_all(WIRE.pack(ECHO))
    assert await silent(reader)
    bench.acquirer.change({"echo_while_mute": True})
    await stream.send_all(WIRE.pack(purchase(1)) + WIRE.pack(ECHO))
    answer = await reader.next()
    assert answer is not None
    assert answer.mti == "0810"
    assert await silent(reader)


async def test_disconnect_closes_every_line_at_once(
    bench: Bench, autojump_clock: MockClock
) -> None:
    lines = [bench.line() for _ in range(3)]
    await trio.testing.wait_all_tasks_blocked()
    bench.acquirer.change({"disconnect": "true"})
    for _, reader in lines:
        assert await reader.next() is None
    stream, reader = bench.line()
    await stream.send_all(WIRE.pack(ECHO))
    assert await reader.next() is not None


@pytest.mark.parametrize("garbage", [b"\xff\xff" + b"x" * 100, b"\x00\x08garbage!"])
async def test_what_cannot_be_read_ends_that_line_only(
    bench: Bench, autojump_clock: MockClock, garbage: bytes
) -> None:
    bad, bad_reader = bench.line()
    good, good_reader = bench.line()
    await bad.send_all(garbage)
    assert await bad_reader.next() is None
    await good.send_all(WIRE.pack(ECHO))
    assert await good_reader.next() is not None
    assert bench.acquirer.summary()["unreadable"] == 1


async def test_a_bad_switch_changes_nothing(bench: Bench, autojump_clock: MockClock) -> None:
    with pytest.raises(BadSwitch):
        bench.acquirer.change({"mute": True, "volume": 11})
    assert not bench.acquirer.switches.mute


async def test_it_refuses_connections_and_takes_them_again_on_the_same_port(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    bench = Bench(tmp_path, nursery)
    address: HostPort = await nursery.start(bench.acquirer.serve, HostPort("127.0.0.1", 0))
    open_before = await trio.open_tcp_stream(*address)
    bench.acquirer.change({"refuse": True})
    await trio.testing.wait_all_tasks_blocked(0.01)
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream(*address)
    await open_before.send_all(WIRE.pack(ECHO))  # what is open stays
    assert await MessageReader(open_before, WIRE).next() is not None
    bench.acquirer.change({"refuse": False})
    await trio.testing.wait_all_tasks_blocked(0.01)
    async with await trio.open_tcp_stream(*address) as again:
        await again.send_all(WIRE.pack(ECHO))
        assert await MessageReader(again, WIRE).next() is not None
    await open_before.aclose()
    nursery.cancel_scope.cancel()
    bench.ledger.close()


async def test_the_control_socket_changes_and_tells(tmp_path: Path, nursery: trio.Nursery) -> None:
    bench = Bench(tmp_path, nursery)
    socket = tmp_path / "control.sock"
    await nursery.start(serve_control, socket, bench.acquirer.control)
    assert socket.stat().st_mode & 0o777 == 0o600
    answer = await ask(socket, {"mute": "true", "decline": "51:amount>=500"})
    assert answer["switches"]["mute"] is True
    assert bench.acquirer.switches.mute
    assert (await ask(socket, {}))["counts"]["open"] == 0
    with pytest.raises(ControlError, match="volume"):
        await ask(socket, {"volume": 11})
    with pytest.raises(ControlError, match="nobody"):
        await ask(tmp_path / "nobody.sock", {})
    nursery.cancel_scope.cancel()
    bench.ledger.close()
