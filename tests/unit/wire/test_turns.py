"""Turns: one step of a handshake to a round of the scheduler, in the order of asking."""

import socket
from collections import Counter

import pytest
import trio
import trio.testing

from gateway.wire.stream import TcpStream
from gateway.wire.turns import InTurn, Turns


class Rounds(trio.abc.Instrument):
    """Counts the scheduler's rounds."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_a_step_to_a_round_and_first_come_first_served() -> None:
    turns = Turns()
    rounds = Rounds()
    done: list[tuple[int, int]] = []

    async def step(number: int) -> None:
        await turns.one()
        done.append((number, rounds.count))

    trio.lowlevel.add_instrument(rounds)
    async with trio.open_nursery() as nursery:
        await turns.take()  # until all have asked
        asked = []
        for number in range(20):
            nursery.start_soon(step, number)
            await trio.testing.wait_all_tasks_blocked()
            asked.append(number)
        turns.give_back()
    assert [number for number, _ in done] == asked
    at = [round_ for _, round_ in done]
    assert len(set(at)) == len(at)


async def test_who_waits_for_its_peer_holds_no_turn() -> None:
    turns = Turns()
    slow_end, slow = trio.testing.memory_stream_pair()
    quick_end, quick = trio.testing.memory_stream_pair()
    waiting, reading = InTurn(slow, turns), InTurn(quick, turns)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting.receive_some, 10)
        await trio.testing.wait_all_tasks_blocked()
        await quick_end.send_all(b"hello")
        assert await reading.receive_some(10) == b"hello"
        reading.end()
        await slow_end.send_all(b"at last")
    waiting.end()
    with trio.fail_after(1):
        await turns.one()


async def test_the_turn_lasts_until_more_is_wanted() -> None:
    turns = Turns()
    far, near = trio.testing.memory_stream_pair()
    stream = InTurn(near, turns)
    await far.send_all(b"ab")
    assert await stream.receive_some(1) == b"a"
    with trio.move_on_after(0) as scope:
        await turns.one()
    assert scope.cancelled_caught
    assert await stream.receive_some(1) == b"b"  # its own turn does not keep it out
    await stream.send_all(b"c")
    assert await far.receive_some(1) == b"c"
    await stream.wait_send_all_might_not_block()
    await stream.aclose()
    await turns.one()


async def test_a_turn_that_was_waited_for_in_vain_is_not_lost() -> None:
    turns = Turns()
    far, near = trio.testing.memory_stream_pair()
    stream = InTurn(near, turns)
    await turns.take()
    await far.send_all(b"a")
    with trio.move_on_after(0.01) as scope:
        await stream.receive_some(1)
    assert scope.cancelled_caught
    turns.give_back()
    stream.end()
    with trio.fail_after(1):
        await turns.one()


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_connections_that_are_lost_together_end_a_few_to_a_round(reset: bool) -> None:
    turns = Turns()
    rounds = Rounds()
    pairs = [socket.socketpair() for _ in range(20)]
    ended: list[int] = []

    async def read(stream: TcpStream) -> None:
        if reset:
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        else:
            assert await stream.receive_some() == b""
        ended.append(rounds.count)

    trio.lowlevel.add_instrument(rounds)
    async with trio.open_nursery() as nursery:
        for near, far in pairs:
            if reset:
                near.send(b"unread, so that its end is a reset")
            nursery.start_soon(read, TcpStream(near, turns=turns))
            far.setblocking(False)
        await trio.testing.wait_all_tasks_blocked()
        for _, far in pairs:
            far.close()
    for near, _ in pairs:
        near.close()
    assert max(Counter(ended).values()) <= 4
