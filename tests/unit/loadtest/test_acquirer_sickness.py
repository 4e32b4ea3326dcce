"""Every way in which a simulated acquirer can be sick, demanding, or first to speak."""

import statistics
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from gateway.clock import SystemClock
from gateway.keys.authority import Authority
from gateway.keys.credentials import write_credentials
from gateway.settings.schema_base import Framing
from gateway.wire.message import Message, response_mti
from gateway.wire.tls import client_context
from loadtest.acquirer import Acquirer, Tls, calling_tls, serving_tls
from loadtest.addresses import HostPort
from loadtest.commit import GroupCommit
from loadtest.host import Host
from loadtest.ledger import AcquirerLedger, read_entries
from loadtest.switches import BadSwitch, Switches
from loadtest.wire import MessageReader, Wire, shipped_wire

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


def network(code: str, stan: int = 1) -> Message:
    return Message("0800", {7: "1121203000", 11: f"{stan:06d}", 70: code})


class Bench:
    """An acquirer with its ledger, and lines to it."""

    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.path = folder / "ledger.sqlite"
        self.ledger = AcquirerLedger(self.path)
        self.nursery = nursery
        self.commit = GroupCommit(self.ledger.database, inline=True)
        nursery.start_soon(self.commit.run)
        self.acquirer = self.another()

    def another(self, *, wire: Wire = WIRE, tls: Tls | None = None) -> Acquirer:
        return Acquirer(
            host=Host(self.ledger, SystemClock()),
            commit=self.commit,
            wire=wire,
            random=Random(1),
            switches=Switches(),
            tls=tls,
        )

    def line(self) -> tuple[trio.abc.Stream, MessageReader]:
        near, far = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.acquirer.serve_stream, far)
        return near, MessageReader(near, WIRE)


@pytest.fixture
async def bench(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, nursery)
    yield bench
    nursery.cancel_scope.cancel()
    bench.ledger.close()


async def code_of(stream: trio.abc.Stream, reader: MessageReader, request: Message) -> str:
    await stream.send_all(WIRE.pack(request))
    answer = await reader.next()
    assert answer is not None
    assert answer.mti == response_mti(request.mti)
    return answer.response_code


async def silent(reader: MessageReader) -> bool:
    with trio.move_on_after(60):
        await reader.next()
        return False
    return True


# --- sick ----------------------------------------------------------------------------------------


async def test_connections_are_reset_open_ones_and_new_ones(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    bench = Bench(tmp_path, nursery)
    address: HostPort = await nursery.start(bench.acquirer.serve, HostPort("127.0.0.1", 0))
    before = await trio.open_tcp_stream(*address)
    assert await code_of(before, MessageReader(before, WIRE), network("301")) == "00"
    bench.acquirer.change({"reset": True})
    with pytest.raises(trio.BrokenResourceError) as broken:
        await before.receive_some()
    assert isinstance(broken.value.__cause__, ConnectionResetError)
    for _ in range(3):
        try:
            async with await trio.open_tcp_stream(*address) as tried:
                with pytest.raises(trio.BrokenResourceError):
                    await tried.receive_some()
        except OSError:
            pass  # reset before the connection was handed over
    bench.acquirer.change({"reset": False})
    async with await trio.open_tcp_stream(*address) as again:
        assert await code_of(again, MessageReader(again, WIRE), purchase(1)) == "00"
    # Each attempt is counted: a storm of them shows.
    assert bench.acquirer.summary()["connections"] == 5
    assert bench.acquirer.summary()["reset"] == 4
    await before.aclose()
    nursery.cancel_scope.cancel()
    bench.ledger.close()


def test_a_long_tail_lies_within_its_bounds_and_leans_to_the_left() -> None:
    switches = Switches().changed({"tail_from_ms": 300, "tail_to_ms": 2000})
    random = Random(1)
    delays_s = [switches.delay_s(random) for _ in range(5_000)]
    assert min(delays_s) == 0.3
    assert max(delays_s) == 2.0
    assert 0.74 < statistics.median(delays_s) < 0.81
    assert statistics.mean(delays_s) > statistics.median(delays_s)
    with pytest.raises(BadSwitch, match="tail_from_ms"):
        switches.changed({"tail_from_ms": 3000})


async def test_the_tail_comes_on_top_of_the_delay(bench: Bench, autojump_clock: MockClock) -> None:
    bench.acquirer.change({"delay_ms": 1000, "tail_from_ms": 300, "tail_to_ms": 300})
    stream, reader = bench.line()
    start_s = trio.current_time()
    assert await code_of(stream, reader, purchase(1)) == "00"
    assert trio.current_time() - start_s == pytest.approx(1.3)


async def test_a_front_end_can_be_mute_while_its_host_answers(
    bench: Bench, autojump_clock: MockClock
) -> None:
    bench.acquirer.change({"network_mute": True})
    stream, reader = bench.line()
    assert await code_of(stream, reader, purchase(1)) == "00"
    await stream.send_all(WIRE.pack(network("301")))
    assert await silent(reader)


# --- demanding -----------------------------------------------------------------------------------


async def test_nothing_financial_is_decided_before_a_sign_on(
    bench: Bench, autojump_clock: MockClock
) -> None:
    bench.acquirer.change({"demand_sign_on": "58"})
    stream, reader = bench.line()
    assert await code_of(stream, reader, purchase(1)) == "58"
    assert await code_of(stream, reader, network("301")) == "00"
    assert await code_of(stream, reader, purchase(2)) == "58"
    assert list(read_entries(bench.path)) == []
    assert await code_of(stream, reader, network("001")) == "00"
    assert await code_of(stream, reader, purchase(3)) == "00"
    # It holds for one connection only, and until the sign-off.
    other, other_reader = bench.line()
    assert await code_of(other, other_reader, purchase(4)) == "58"
    assert await code_of(stream, reader, network("002")) == "00"
    assert await code_of(stream, reader, purchase(5)) == "58"
    assert bench.acquirer.summary()["before_sign_on"] == 4


async def test_it_can_hang_up_on_who_is_not_signed_on(
    bench: Bench, autojump_clock: MockClock
) -> None:
    bench.acquirer.change({"demand_sign_on": "close"})
    stream, reader = bench.line()
    await stream.send_all(WIRE.pack(purchase(1)))
    assert await reader.next() is None


async def test_a_refused_sign_on_is_none(bench: Bench, autojump_clock: MockClock) -> None:
    bench.acquirer.change({"demand_sign_on": "58", "network_code": "91"})
    stream, reader = bench.line()
    assert await code_of(stream, reader, network("001")) == "91"
    assert await code_of(stream, reader, purchase(1)) == "58"


# --- first to speak ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "code"),
    [("echo", "301"), ("sign_off", "002"), ("sign_on", "001"), ("key_change", "161")],
)
async def test_it_starts_network_messages_on_every_line(
    bench: Bench, autojump_clock: MockClock, start: str, code: str
) -> None:
    lines = [bench.line() for _ in range(2)]
    await trio.testing.wait_all_tasks_blocked()
    bench.acquirer.control({"start": start})
    stans = set()
    for stream, reader in lines:
        asked = await reader.next()
        assert asked is not None
        assert (asked.mti, asked.get(70)) == ("0800", code)
        stans.add(asked.stan)
        await stream.send_all(WIRE.pack(asked.changed({39: "00"}, mti="0810")))
    await trio.testing.wait_all_tasks_blocked()
    counts = bench.acquirer.summary()
    assert (counts["started"], counts["started_answered"]) == (2, 2)
    assert len(stans) == 2
    assert "unexpected" not in counts


async def test_its_own_sign_off_and_sign_on_count(bench: Bench, autojump_clock: MockClock) -> None:
    bench.acquirer.change({"demand_sign_on": "58"})
    stream, reader = bench.line()
    await trio.testing.wait_all_tasks_blocked()
    for start, then in (("sign_on", "00"), ("sign_off", "58")):
        bench.acquirer.change({"start": start})
        asked = await reader.next()
        assert asked is not None
        await stream.send_all(WIRE.pack(asked.changed({39: "00"}, mti="0810")))
        assert await code_of(stream, reader, purchase(1)) == then


def test_what_it_cannot_start_is_refused_and_changes_nothing() -> None:
    acquirer = object.__new__(Acquirer)
    acquirer.switches = Switches()
    with pytest.raises(BadSwitch, match="start"):
        acquirer.change({"start": "a riot", "mute": True})
    assert not acquirer.switches.mute


async def test_it_calls_and_calls_again(bench: Bench, autojump_clock: MockClock) -> None:
    called: list[trio.abc.Stream] = []
    refused = 2

    async def connect() -> trio.abc.Stream:
        nonlocal refused
        if refused:
            refused -= 1
            raise OSError("connection refused")
        near, far = trio.testing.memory_stream_pair()
        called.append(near)
        return far

    bench.nursery.start_soon(bench.acquirer.call, connect)
    for number in (1, 2):
        while len(called) < number:  # noqa: ASYNC110 (virtual time: polling costs nothing)
            await trio.sleep(0.1)
        stream = called[-1]
        assert await code_of(stream, MessageReader(stream, WIRE), purchase(number)) == "00"
        await stream.aclose()
    assert bench.acquirer.summary()["calls_failed"] == 2
    bench.acquirer.change({"refuse": True})
    count = len(called)
    await trio.sleep(60)
    assert len(called) - count <= 1  # the pause it was in may end with one more


# --- spoken otherwise ----------------------------------------------------------------------------


async def test_an_answer_goes_back_the_way_its_request_came(
    bench: Bench, autojump_clock: MockClock
) -> None:
    framing = Framing(length="bcd2", tpdu=True, header_bytes=6)
    wire = shipped_wire("iso87_ascii_binbitmap", framing, tpdu="6000010002", header="600100310000")
    bench.acquirer = bench.another(wire=wire)
    near, far = trio.testing.memory_stream_pair()
    bench.nursery.start_soon(bench.acquirer.serve_stream, far)
    reader = MessageReader(near, wire)
    await near.send_all(wire.pack(purchase(1)))
    framed = await reader.next_framed()
    assert framed is not None
    answer, frame = framed
    assert answer.response_code == "00"
    assert frame.tpdu.hex() == "6000020001"
    assert frame.header.hex() == "600100310000"


@pytest.mark.parametrize(
    ("dialect", "header"),
    [("klingon", "600100310000"), ("iso87_ascii", "60"), ("iso87_ascii", "x")],
)
def test_a_wire_that_there_is_not_is_refused(dialect: str, header: str) -> None:
    with pytest.raises(ValueError, match=r"dialect|header|hex"):
        shipped_wire(dialect, Framing(header_bytes=6), header=header)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ca")
    now = datetime.now(UTC)
    made = Authority.create(folder, name="Test CA", days=400, now=now)
    own = made.issue_server("gateway", hosts=["localhost"], days=90, now=now)
    client = made.issue_client("T0000001", days=90, now=now)
    write_credentials(folder, [("server", own), ("client", client)])
    return folder


async def secured(
    bench: Bench, tls: Tls, *, ca: Path, certificate: Path | None, key: Path | None
) -> trio.SSLStream[trio.testing.MemorySendStream]:
    bench.acquirer = bench.another(tls=tls)
    near, far = trio.testing.memory_stream_pair()
    bench.nursery.start_soon(bench.acquirer.serve_stream, far)
    context = client_context(ca, certificate=certificate, key=key)
    return trio.SSLStream(near, context, server_hostname="localhost", https_compatible=True)


async def test_it_speaks_tls_and_can_demand_a_certificate(
    bench: Bench, authority: Path, autojump_clock: MockClock
) -> None:
    ca, certificate, key = (authority / name for name in ("ca.crt", "server.crt", "server.key"))
    anybody = serving_tls(certificate, key, client_ca=None)
    stream = await secured(bench, anybody, ca=ca, certificate=None, key=None)
    assert await code_of(stream, MessageReader(stream, WIRE), purchase(1)) == "00"
    known = serving_tls(certificate, key, client_ca=ca)
    stream = await secured(
        bench, known, ca=ca, certificate=authority / "client.crt", key=authority / "client.key"
    )
    assert await code_of(stream, MessageReader(stream, WIRE), purchase(2)) == "00"
    stream = await secured(bench, known, ca=ca, certificate=None, key=None)
    with suppress(trio.BrokenResourceError):  # under TLS 1.3 the client may learn of it later
        await stream.do_handshake()
    await trio.testing.wait_all_tasks_blocked()
    assert bench.acquirer.summary()["handshakes_failed"] == 1


async def test_calling_it_is_the_client(
    bench: Bench, authority: Path, autojump_clock: MockClock
) -> None:
    ca, certificate, key = (authority / name for name in ("ca.crt", "server.crt", "server.key"))
    tls = calling_tls(
        ca,
        server_name="localhost",
        certificate=authority / "client.crt",
        key=authority / "client.key",
    )
    bench.acquirer = bench.another(tls=tls)
    near, far = trio.testing.memory_stream_pair()
    bench.nursery.start_soon(bench.acquirer.serve_stream, far)
    gateway = serving_tls(certificate, key, client_ca=ca).context
    stream = trio.SSLStream(near, gateway, server_side=True, https_compatible=True)
    assert await code_of(stream, MessageReader(stream, WIRE), purchase(1)) == "00"
