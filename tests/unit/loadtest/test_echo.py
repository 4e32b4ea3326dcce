"""The bare echo: it answers as an acquirer does, and ends with what is no message."""

from functools import partial

import pytest
import trio
import trio.testing

from gateway.wire.message import Message
from loadtest.addresses import HostPort
from loadtest.bench.crowd import purchase
from loadtest.echo import answer_to, converse, main, serve
from loadtest.wire import MessageReader, shipped_wire


def test_an_answer_gives_back_what_an_acquirer_does() -> None:
    request = purchase(7, stan=12)
    answer = answer_to(request)
    assert answer.mti == "0210"
    assert answer.response_code == "00"
    for number in (3, 4, 7, 11, 12, 13, 37, 41, 42, 49):
        assert answer.fields[number] == request.fields[number]
    assert 2 not in answer.fields


async def test_several_in_one_chunk_are_answered_in_order(nursery: trio.Nursery) -> None:
    wire = shipped_wire()
    far, near = trio.testing.memory_stream_pair()
    nursery.start_soon(converse, near, wire)
    await far.send_all(b"".join(wire.pack(purchase(1, stan=stan)) for stan in (1, 2, 3)))
    reader = MessageReader(far, wire)
    stans = []
    for _ in range(3):
        answer = await reader.next()
        assert isinstance(answer, Message)
        stans.append(answer.stan)
    assert stans == ["000001", "000002", "000003"]


@pytest.mark.parametrize("garbage", [b"\x00\x03abc", b"\xff\xff"])
async def test_who_sends_no_message_is_left(nursery: trio.Nursery, garbage: bytes) -> None:
    far, near = trio.testing.memory_stream_pair()
    nursery.start_soon(converse, near, shipped_wire())
    await far.send_all(garbage)
    assert await far.receive_some(1) == b""


async def test_it_serves_tcp(nursery: trio.Nursery) -> None:
    wire = shipped_wire()
    listeners = await nursery.start(partial(serve, HostPort("127.0.0.1", 0)))
    port = listeners[0].socket.getsockname()[1]
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(wire.pack(purchase(3, stan=1)))
        answer = await MessageReader(stream, wire).next()
    assert answer is not None
    assert answer.fields[41] == "T0000003"


def test_half_of_its_tls_files_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--listen", "127.0.0.1:0", "--key", "server.key"])
    assert "go together" in capsys.readouterr().err
