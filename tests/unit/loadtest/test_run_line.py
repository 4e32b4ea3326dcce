"""A device's line over mutual TLS: it resumes its session, and tells a time-out from an end."""

import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from gateway.wire.message import Message, response_mti
from loadtest.addresses import HostPort
from loadtest.connection import NoAnswer, NoConnection
from loadtest.requests import sign_on
from loadtest.run.line import Line, TlsFolder
from loadtest.run.talk import Talk
from loadtest.wire import MessageReader, shipped_wire
from tests.support.ports import own_ports

WIRE = shipped_wire()
ASKED = sign_on(terminal_id="T0000001", merchant_id="MERCHANT0000001", stan="000001", wall_ms=0)
Handler = Callable[[trio.abc.Stream], Awaitable[None]]


async def answer(stream: trio.abc.Stream, *, changes: dict[int, str] | None = None) -> None:
    reader = MessageReader(stream, WIRE)
    while (request := await reader.next()) is not None:
        fields = {11: request.stan, 39: "00", **(changes or {})}
        await stream.send_all(WIRE.pack(Message(response_mti(request.mti), fields)))


async def hang_up(stream: trio.abc.Stream) -> None:
    await stream.receive_some(1)


async def ask(line: Line, *, timeout_s: float = 5.0) -> Message:
    return await line.ask(WIRE.pack(ASKED), mti="0800", stan="000001", timeout_s=timeout_s)


async def listening(nursery: trio.Nursery, handler: Handler) -> HostPort:
    serve = partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
    (listener,) = await nursery.start(serve)
    return HostPort("127.0.0.1", listener.socket.getsockname()[1])


def line_to(target: HostPort, *, tls: TlsFolder | None = None, resume: bool = True) -> Line:
    return Line(
        target=target,
        wire=WIRE,
        terminal_id="T0000001",
        tls=tls,
        resume=resume,
        connect_s=5.0,
    )


@pytest.mark.parametrize("resume", [True, False])
async def test_a_session_is_resumed_where_that_is_wanted(tmp_path: Path, resume: bool) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    device = authority.issue_cert("T0000001")
    device.private_key_pem.write_to_path(tmp_path / "T0000001.key")
    device.cert_chain_pems[0].write_to_path(tmp_path / "T0000001.crt")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED

    async def secured(stream: trio.abc.Stream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        await answer(tls)

    async with trio.open_nursery() as nursery:
        target = await listening(nursery, secured)
        line = line_to(target, tls=TlsFolder(tmp_path, tmp_path / "ca.crt"), resume=resume)
        for _ in range(3):
            await line.open()
            assert (await ask(line)).response_code == "00"
            await line.close()
        nursery.cancel_scope.cancel()
    assert line.opened == 3
    assert line.resumed == (2 if resume else 0)


async def test_an_answer_to_something_else_is_passed_over() -> None:
    async with trio.open_nursery() as nursery:
        target = await listening(nursery, partial(answer, changes={11: "000002"}))
        line = line_to(target)
        await line.open()
        with pytest.raises(NoAnswer, match="in time"):
            await ask(line, timeout_s=0.2)
        assert line.strays == 1
        assert line.is_open  # a late answer would still come here
        line.drop()
        nursery.cancel_scope.cancel()


async def test_whoever_hangs_up_is_no_longer_there() -> None:
    async with trio.open_nursery() as nursery:
        target = await listening(nursery, hang_up)
        line = line_to(target)
        with pytest.raises(NoAnswer, match="not connected"):
            await ask(line)
        await line.open()
        with pytest.raises(NoAnswer):
            await ask(line)
        assert not line.is_open
        nursery.cancel_scope.cancel()


async def test_where_nobody_listens_there_is_no_connection() -> None:
    line = line_to(HostPort("127.0.0.1", own_ports(1)[0]))
    with pytest.raises(NoConnection):
        await line.open()
    assert (line.opened, line.is_open) == (0, False)


async def test_workers_and_their_run_talk_in_whole_lines() -> None:
    one, other = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Talk(one).say, {"text": "a\nb", "number": 1})
        assert await Talk(other).hear() == {"text": "a\nb", "number": 1}
    await one.aclose()
    assert await Talk(other).hear() is None
