"""Hostile peers at a real gateway: each ends by its deadline, with one line, and nobody notices."""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from gateway.wire.framing import encode_frame
from gateway.wire.message import Message
from tests.support import hostile
from tests.support.customer import Street
from tests.support.hostile import call, lines_of, new_address, secured, send, until_closed
from tests.support.node import CODEC, SPEC, TPDU_SPEC, Peer, RunningNode, purchase, running_node

DEADLINE_S = 1.0  # of the handshake, the first byte, a frame, a send
IDLE_S = 3.0
DRAIN_S = 2.0
# A deadline is looked at now and then, and the machine is shared.
LATE_S = 5.0
PER_ADDRESS, IN_ALL = 8, 100
ECHO = Message("0800", {7: "1121120000", 11: "000001", 41: "T0000009", 70: "301"})


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    limits = f"connections_per_address_max = {PER_ADDRESS}, connections_max = {IN_ALL}"
    with running_node(
        tmp_path_factory.mktemp("hostile"),
        drain_s=DRAIN_S,
        idle_s=IDLE_S,
        plain_limits=f"limits = {{ {limits} }}",
        # One that says nothing is waited for: a stop is to find its requests under way.
        upstream_more="health = { suspect_unknown_s = 60.0, suspect_max_s = 60.0 }",
    ) as running:
        yield running
        assert running.stop() == 0
        assert (running.folder / "stderr").read_bytes() == b""


@pytest.fixture(scope="module")
def street(node: RunningNode) -> Street:
    return Street(node)


@pytest.fixture(autouse=True)
def no_fault(node: RunningNode) -> Iterator[None]:
    """Whatever peers do, nothing in the gateway fails at it."""
    yield
    assert b"Traceback" not in node.log.read_bytes() + (node.folder / "stderr").read_bytes()
    assert not [event for event in node.events() if event["event"] == "handler_failed"]


def settle(node: RunningNode) -> None:
    """Returns once all is in the log that happened before."""
    marker = new_address()
    with socket.create_connection(("127.0.0.1", node.plain), 10, (marker, 0)) as sock:
        sock.sendall(b"\xff\xff")
        node.wait_for_event("frame_rejected", address=marker)


def told_once(node: RunningNode, addresses: list[str], event: str, **fields: object) -> None:
    """Each of the addresses has one line of trouble in the log, and it is this."""
    settle(node)
    lines = hostile.lines_by_address(node)
    for address in addresses:
        assert [line["event"] for line in lines.get(address, [])] == [event], address
        assert fields.items() <= lines[address][0].items()


# --- bytes that are no message ------------------------------------------------------------------


def test_a_thousand_random_byte_strings(node: RunningNode, street: Street) -> None:
    source = random.Random(8583)
    strings = [hostile.garbage(source, number) for number in range(1000)]
    outcomes: dict[str, Message | None] = {}
    malls = set()
    context = node.context("T0000002")

    async def attack(number: int, limiter: trio.CapacityLimiter) -> None:
        address = new_address()
        async with limiter:
            stream: trio.abc.Stream
            if number % 10 == 0:
                stream = await secured(node, address, context)
            else:
                port = (node.tls, node.mall, node.plain)[min(number % 10 - 1, 2)]
                stream = await call(port, address)
                if port == node.mall:
                    malls.add(address)
            await send(stream, strings[number])
            outcomes[address] = await hostile.answer_or_close(stream)
            await trio.aclose_forcefully(stream)

    async def attack_all() -> None:
        limiter = trio.CapacityLimiter(60)
        async with trio.open_nursery() as nursery:
            for number in range(len(strings)):
                nursery.start_soon(attack, number, limiter)

    with street.undisturbed("1,000 random byte strings"):
        trio.run(attack_all)
    settle(node)
    lines = hostile.lines_by_address(node)
    told: dict[str, int] = {}
    for address, answer in outcomes.items():
        events = [line["event"] for line in lines.get(address, [])]
        code = answer.response_code if answer is not None else "closed"
        told[code] = told.get(code, 0) + 1
        if answer is None and address in malls and len(events) == 2:
            # A sound frame with nonsense in it costs a concentrator's other terminals nothing.
            assert events == ["frame_rejected", "deadline_passed"]
            assert lines[address][1]["deadline"] == "idle_s"
        elif answer is None:
            assert len(events) == 1, (address, lines.get(address))
        elif code == "30":
            assert events == ["message_rejected"]
        else:
            # What is left of a purchase was still one, or at least a request.
            assert events in ([], ["identity_refused"])
    print(f"1,000 random byte strings: {told}")
    assert sum(told.values()) == 1000
    assert told["closed"] > 500
    assert told["30"] > 20


def test_a_length_of_ffff(node: RunningNode, street: Street) -> None:
    address = new_address()

    async def attack() -> float:
        stream = await call(node.plain, address)
        await send(stream, b"\xff\xff" + b"0200")
        return await until_closed(stream)

    with street.undisturbed("a length of FFFF"):
        took_s = trio.run(attack)
    assert took_s < DEADLINE_S + LATE_S
    told_once(node, [address], "frame_rejected", listener="plain")


def test_what_can_be_read_so_far_that_it_can_be_answered_gets_30(node: RunningNode) -> None:
    peer = node.connect()
    request = purchase(41, terminal="T0000041")
    body = CODEC.encode(request)
    spoilt = [body + b"more", body[:-30], body.replace(b"MERCHANT", b"\xff\x00\r\n\x1b[2J")]
    for number, one in enumerate(spoilt):
        assert one != body
        peer.sock.sendall(hostile.framed(one))
        answer = peer.receive()
        assert (answer.mti, answer.stan, answer.response_code) == ("0210", "000041", "30")
        node.wait_for_event("message_rejected", stan="000041", count=number + 1)
    # The terminal goes on as if nothing had been.
    assert peer.ask(request).response_code == "00"
    peer.close()


def test_what_is_no_request_is_not_answered(node: RunningNode) -> None:
    address = new_address()

    async def attack() -> float:
        stream = await call(node.plain, address)
        answer = purchase(42, terminal="T0000042").changed({39: "00"}, mti="0210")
        await send(stream, encode_frame(SPEC, CODEC.encode(answer)))
        return await until_closed(stream)

    took_s = trio.run(attack)
    assert took_s < IDLE_S + LATE_S
    settle(node)
    first, second = lines_of(node, address)
    assert (first["event"], first["reason"]) == ("message_rejected", "not a request")
    assert (second["event"], second["deadline"]) == ("deadline_passed", "idle_s")


def test_what_is_no_tls_is_told_whether_the_peer_stays_or_leaves(node: RunningNode) -> None:
    early, late = [new_address() for _ in range(20)], new_address()

    async def no_handshake(address: str) -> None:
        stream = await call(node.tls, address)
        await send(stream, b"GET / HTTP/1.1\r\n\r\n")
        # Gone before an alert can be sent.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    async def attack() -> None:
        for address in early:
            await no_handshake(address)
        stream = await secured(node, late, node.context("T0000002"))
        await send(stream.transport_stream, b"\x17\x03\x03\x00\x20" + bytes(32))
        await until_closed(stream.transport_stream)

    trio.run(attack)
    told_once(node, early, "handshake_failed", listener="shops")
    told_once(node, [late], "frame_rejected", listener="shops")


# --- peers that keep the gateway waiting --------------------------------------------------------


def test_half_a_frame_one_byte_at_a_time_and_silence(node: RunningNode, street: Street) -> None:
    whole = encode_frame(SPEC, CODEC.encode(purchase(51, terminal="T0000051")))
    context = node.context("T0000002")
    addresses: dict[str, list[str]] = {"frame_s": [], "first_byte_s": [], "handshake_s": []}
    took_s: list[float] = []

    def noted(deadline: str) -> str:
        address = new_address()
        addresses[deadline].append(address)
        return address

    # From before each call: what the machine takes for it may not look like a gateway in a hurry.
    async def half(stream: trio.abc.Stream, began_s: float) -> None:
        await send(stream, whole[: len(whole) // 2])
        await until_closed(stream)
        took_s.append(trio.current_time() - began_s)

    async def trickle(stream: trio.abc.Stream, began_s: float) -> None:
        for byte in whole:
            await send(stream, bytes([byte]))
            with trio.move_on_after(0.2):
                await until_closed(stream)
                break
        took_s.append(trio.current_time() - began_s)

    async def silence(stream: trio.abc.Stream, began_s: float) -> None:
        await until_closed(stream)
        took_s.append(trio.current_time() - began_s)

    async def attack() -> None:
        async with trio.open_nursery() as nursery:
            for behave in (half, trickle):
                for port in (node.plain, node.mall):
                    began_s = trio.current_time()
                    plain = await call(port, noted("frame_s"))
                    nursery.start_soon(behave, plain, began_s)
                began_s = trio.current_time()
                tls = await secured(node, noted("frame_s"), context)
                nursery.start_soon(behave, tls, began_s)
            for port, deadline in (
                (node.plain, "first_byte_s"),
                (node.mall, "first_byte_s"),
                (node.tls, "handshake_s"),
            ):
                began_s = trio.current_time()
                nursery.start_soon(silence, await call(port, noted(deadline)), began_s)
            began_s = trio.current_time()
            tls = await secured(node, noted("first_byte_s"), context)
            nursery.start_soon(silence, tls, began_s)

    with street.undisturbed("half frames, trickles and silence"):
        trio.run(attack)
    print(f"closed after {min(took_s):.2f} to {max(took_s):.2f} s, deadline {DEADLINE_S:g} s")
    assert len(took_s) == 10
    assert min(took_s) > 0.7 * DEADLINE_S
    assert max(took_s) < DEADLINE_S + LATE_S
    for deadline, some in addresses.items():
        told_once(node, some, "deadline_passed", deadline=deadline)


def test_a_flood_of_handshakes_that_never_finish(node: RunningNode, street: Street) -> None:
    hello = hostile.client_hello()
    starts = [b"", hello[: len(hello) // 2], hello]
    addresses: list[str] = []
    took_s: list[float] = []

    async def attack(start: bytes) -> None:
        address = new_address()
        addresses.append(address)
        stream = await call(node.tls, address)
        await send(stream, start)
        began_s = trio.current_time()
        with contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some(65_536):
                pass  # The server's own flight, where all of the first was sent.
        took_s.append(trio.current_time() - began_s)
        await trio.aclose_forcefully(stream)

    async def attack_all() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(300):
                    nursery.start_soon(attack, starts[number % len(starts)])
                # Another terminal gets in all the same.
                stream = await secured(node, new_address(), node.context("T0000002"))
                request = purchase(61, terminal="T0000002")
                await stream.send_all(encode_frame(SPEC, CODEC.encode(request)))
                answer = await hostile.answer_or_close(stream)
                assert answer is not None
                assert answer.response_code == "00"
                await trio.aclose_forcefully(stream)

    with street.undisturbed("300 handshakes that never finish"):
        trio.run(attack_all)
    print(f"300 handshakes closed after {min(took_s):.2f} to {max(took_s):.2f} s")
    assert max(took_s) < DEADLINE_S + LATE_S
    told_once(node, addresses, "deadline_passed", deadline="handshake_s")


@pytest.mark.parametrize("security", ["plain", "tls", "mall"])
def test_a_peer_that_never_reads_its_answers(
    node: RunningNode, street: Street, security: str
) -> None:
    address = new_address()
    spec, tpdu = (TPDU_SPEC, bytes(5)) if security == "mall" else (SPEC, b"")
    terminal = "T0000002" if security == "tls" else "T0000009"
    echo = encode_frame(spec, CODEC.encode(ECHO.changed({41: terminal})), tpdu) * 500

    async def attack() -> None:
        port = {"plain": node.plain, "tls": node.tls, "mall": node.mall}[security]
        transport = await call(port, address, receive_bytes=4096)
        stream: trio.abc.Stream = transport
        if security == "tls":
            secured = trio.SSLStream(transport, node.context(terminal), server_hostname="localhost")
            await secured.do_handshake()
            stream = secured
        with trio.fail_after(20), contextlib.suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(echo)
        await trio.aclose_forcefully(stream)

    with street.undisturbed(f"a peer that never reads ({security})"):
        trio.run(attack)
    told_once(node, [address], "deadline_passed", deadline="send_s")


def test_a_terminal_that_has_nothing_more_to_say(node: RunningNode) -> None:
    addresses: list[str] = []
    took_s: list[float] = []

    async def visit(port: int) -> None:
        address = new_address()
        addresses.append(address)
        stream: trio.abc.Stream
        if port == node.tls:
            stream = await secured(node, address, node.context("T0000002"))
            echo = encode_frame(SPEC, CODEC.encode(ECHO.changed({41: "T0000002"})))
        else:
            stream = await call(port, address)
            echo = encode_frame(SPEC, CODEC.encode(ECHO))
        began_s = trio.current_time()
        await stream.send_all(echo)
        assert await hostile.answer_or_close(stream) is not None
        await until_closed(stream)
        took_s.append(trio.current_time() - began_s)

    async def visit_all() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(visit, node.plain)
            nursery.start_soon(visit, node.tls)

    trio.run(visit_all)
    assert min(took_s) > 0.7 * IDLE_S
    assert max(took_s) < IDLE_S + LATE_S
    told_once(node, addresses, "deadline_passed", deadline="idle_s")


# --- too many of them ---------------------------------------------------------------------------


def test_connections_are_capped_per_address_and_in_all(node: RunningNode, street: Street) -> None:
    greedy, refused, extra = new_address(), new_address(), 4
    reasons: list[str] = []

    async def occupy(address: str, streams: list[trio.SocketStream]) -> None:
        stream = await call(node.plain, address)
        await stream.send_all(encode_frame(SPEC, CODEC.encode(ECHO)))
        assert await hostile.answer_or_close(stream) is not None
        streams.append(stream)

    async def attack() -> None:
        streams: list[trio.SocketStream] = []
        async with trio.open_nursery() as nursery:
            for _ in range(PER_ADDRESS):
                nursery.start_soon(occupy, greedy, streams)
        for _ in range(extra):
            await until_closed(await call(node.plain, greedy))
        async with trio.open_nursery() as nursery:
            for _ in range(IN_ALL - PER_ADDRESS):
                nursery.start_soon(occupy, new_address(), streams)
        await until_closed(await call(node.plain, refused))
        for stream in streams:
            await trio.aclose_forcefully(stream)

    with street.undisturbed(f"{IN_ALL} connections to another listener"):
        trio.run(attack)
    node.wait_for_event("connection_refused", address=refused)
    reasons += [line["reason"] for line in lines_of(node, greedy)]
    assert reasons == ["limits.connections_per_address_max reached"] * extra
    assert [line["reason"] for line in lines_of(node, refused)] == [
        "limits.connections_max reached"
    ]


def test_at_the_file_limit_accepting_pauses_and_goes_on(node: RunningNode, street: Street) -> None:
    assert node.gateway is not None
    pid = node.gateway.pid
    flood = [new_address() for _ in range(60)]
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)

    async def attack(address: str) -> None:
        await until_closed(await call(node.plain, address))

    async def attack_all() -> None:
        async with trio.open_nursery() as nursery:
            for address in flood:
                nursery.start_soon(attack, address)

    with street.undisturbed("a flood at the file limit"):
        open_now = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now + 20, hard))
        try:
            trio.run(attack_all)
            node.wait_for_event("accept_paused", listener="plain")
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert node.connect().ask(purchase(71, terminal="T0000071")).response_code == "00"
        again = node.connect_tls("T0000002")
        assert again.ask(purchase(72, terminal="T0000002")).response_code == "00"
        again.close()
    told_once(node, flood, "deadline_passed", deadline="first_byte_s")


# --- peers that leave ---------------------------------------------------------------------------


def test_a_terminal_that_hangs_up_cancels_nothing(node: RunningNode) -> None:
    node.switch("delay_ms=800")
    for stan, hang_up in ((81, Peer.close), (82, _reset)):
        plain = node.connect()
        plain.send(purchase(stan, terminal="T0000081"))
        hang_up(plain)
        _finished_unheard(node, stan)
    tls = node.connect_tls("T0000002")
    tls.send(purchase(83, terminal="T0000002"))
    tls.close()
    _finished_unheard(node, 83)
    mall = node.connect(node.mall)
    for number in range(5):
        mall.send(purchase(84 + number, terminal=f"T{number + 1:07d}"), bytes(5))
    mall.close()
    for number in range(5):
        _finished_unheard(node, 84 + number)
    node.switch("delay_ms=0")


def _finished_unheard(node: RunningNode, stan: int) -> None:
    for event in ("transaction", "undelivered"):
        assert node.wait_for_event(event, stan=f"{stan:06d}")["code"] == "00"


def _reset(peer: Peer) -> None:
    """Hang up as a machine does that was switched off and on again."""
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


# --- a stop with requests under way -------------------------------------------------------------


def test_a_stop_lets_what_is_under_way_be_answered(node: RunningNode) -> None:
    node.switch("delay_ms=500")
    before = node.received()
    plain, tls, mall = node.connect(), node.connect_tls("T0000002"), node.connect(node.mall)
    plain.send(purchase(91, terminal="T0000091"))
    tls.send(purchase(92, terminal="T0000002"))
    for number in range(5):
        mall.send(purchase(93 + number, terminal=f"T{number + 1:07d}"), bytes(5))
    node.wait_until_received(before + 7)
    assert node.gateway is not None
    node.gateway.send_signal(signal.SIGTERM)
    node.wait_for_event("node_stopping")
    # New requests are no longer taken, however many a concentrator has yet.
    mall.send(purchase(99, terminal="T0000009"), bytes(5))
    answers = [plain.receive(), tls.receive(), *(mall.receive() for _ in range(5))]
    assert [answer.response_code for answer in answers] == ["00"] * 7
    assert sorted(answer.stan for answer in answers) == [f"{91 + n:06d}" for n in range(7)]
    for peer in (plain, tls, mall):
        assert peer.ended(within_s=5)
    assert node.gateway.wait(10) == 0
    node.wait_for_event("node_stopped")
    assert not [e for e in node.events_of_this_run() if e["event"] == "node_drain_incomplete"]
    node.switch("delay_ms=0")
    node.start()


def test_a_stop_waits_no_longer_than_its_bound_and_the_next_start_recovers(
    node: RunningNode,
) -> None:
    node.switch("mute=true")
    before = node.received()
    node.connect().send(purchase(101, terminal="T0000101"))
    mall = node.connect(node.mall)
    mall.send(purchase(102, terminal="T0000002"), bytes(5))
    node.wait_until_received(before + 2)
    began_s = time.monotonic()
    assert node.stop() == 0
    took_s = time.monotonic() - began_s
    print(f"stopped after {took_s:.2f} s with nothing answered, drain_s = {DRAIN_S:g}")
    assert DRAIN_S <= took_s < DRAIN_S + LATE_S
    node.wait_for_event("node_drain_incomplete", under_way=2)
    node.switch("mute=false")
    node.start()
    node.wait_for_event("recovery_done", reversals=2)
    node.wait_for_event("reversal_done", count=2)
    assert node.connect().ask(purchase(103, terminal="T0000103")).response_code == "00"
