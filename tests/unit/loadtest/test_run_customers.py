"""An open loop: who came first is served first, by the device that was idle longest."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from loadtest.run.customers import Queue


async def serve(queue: Queue[str], name: str, served: list[tuple[str, float]]) -> None:
    while not queue.over:
        due_s = await queue.next(name)
        if due_s is not None:
            served.append((name, due_s))
            await trio.sleep(1.0)


async def test_customers_who_find_nobody_idle_wait_their_turn(
    autojump_clock: MockClock,
) -> None:
    queue: Queue[str] = Queue()
    served: list[tuple[str, float]] = []
    async with trio.open_nursery() as nursery:
        for name in ("a", "b"):
            nursery.start_soon(serve, queue, name, served)
        await wait_all_tasks_blocked()
        first, second = queue.idle
        for due_s in (1.0, 2.0, 3.0, 4.0):
            queue.come(due_s)
        assert (queue.queued, queue.waiting) == (2, 2)
        queue.close()
    # Both begin in the same moment, in either order.
    assert set(served[:2]) == {(first, 1.0), (second, 2.0)}
    assert {due_s for _, due_s in served[2:]} == {3.0, 4.0}


async def test_a_device_can_be_called_away_once() -> None:
    queue: Queue[str] = Queue()
    heard: list[float | None] = []

    async def wait() -> None:
        heard.append(await queue.next("a"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert queue.call_away("a")
        assert not queue.call_away("a")
    assert heard == [None]


async def test_a_device_that_is_cancelled_gets_no_customer() -> None:
    queue: Queue[str] = Queue()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.next, "a")
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert queue.idle == []
    queue.come(1.0)
    assert queue.waiting == 1


async def test_once_all_is_over_nobody_waits() -> None:
    queue: Queue[str] = Queue()
    queue.close()
    assert await queue.next("a") is None
    assert queue.over
