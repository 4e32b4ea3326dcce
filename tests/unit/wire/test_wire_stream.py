"""A TCP stream keeps trio's contract where it was closed while somebody else was about to read."""

import socket

import pytest
import trio
import trio.testing

from gateway.wire.stream import TcpStream


def pair() -> tuple[TcpStream, TcpStream]:
    one, other = socket.socketpair()
    return TcpStream(one), TcpStream(other)


@pytest.mark.parametrize("end", [TcpStream.close, TcpStream.abort])
async def test_reading_after_the_close_says_so_each_time(end: object) -> None:
    assert callable(end)
    stream, peer = pair()
    end(stream)
    for _ in range(3):
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
    peer.close()


async def test_sending_after_the_close_says_so_each_time() -> None:
    stream, peer = pair()
    stream.close()
    for _ in range(3):
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"late")
    peer.close()


async def test_a_close_wakes_who_reads() -> None:
    stream, peer = pair()
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        stream.close()
    peer.close()
