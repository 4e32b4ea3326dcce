"""Running: how a command of the simulators runs its coroutine, and what it says of failure."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import apsw
import trio
import typer

from gateway.errors import GatewayError
from loadtest.addresses import NotLoopback
from loadtest.chaos_actors import UnexpectedEnd
from loadtest.processes import ChildFailed
from loadtest.show import CannotShow

T = TypeVar("T")

FAILED = 1


async def until_signalled(run: Callable[[trio.Event], Awaitable[T]]) -> T:
    """What `run` returns; the event it is given is set by SIGTERM and SIGINT."""
    stop = trio.Event()

    async def listen(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                stop.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(listen)
        result = await run(stop)
        nursery.cancel_scope.cancel()
    return result


async def unless_stopped(run: Callable[[], Awaitable[T]], stop: trio.Event) -> T | None:
    """What `run` returns, or None where it was cancelled since `stop` came first."""
    result: T | None = None
    async with trio.open_nursery() as nursery:

        async def cancel() -> None:
            await stop.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(cancel)
        result = await run()
        nursery.cancel_scope.cancel()
    return result


def run_told(run: Callable[[trio.Event], Awaitable[T]]) -> T:
    """What `run` returns; what cannot be done is told in plain words, and the exit status is 1."""
    try:
        return trio.run(until_signalled, run)
    except* (
        ChildFailed,
        UnexpectedEnd,
        CannotShow,
        NotLoopback,
        GatewayError,
        OSError,
        apsw.Error,
    ) as group:
        for error in _leaves(group):
            say(f"loadtest: {error}")
    raise typer.Exit(FAILED)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


def print_json(value: object) -> None:
    print_line(json.dumps(value))


def print_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    typer.echo(text, err=True)


def fail(text: str) -> NoReturn:
    say(f"loadtest: {text}")
    raise typer.Exit(FAILED)
