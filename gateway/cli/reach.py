"""How commands reach a gateway's devices: through its daemon, or, if none runs, in its store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import trio

from gateway.admin.api import Progress
from gateway.admin.operations import TerminalOperations
from gateway.cli.ask import client_of
from gateway.clock import SystemClock
from gateway.settings import loader
from gateway.telemetry.events import Event
from gateway.terminals.registry import Registry

T = TypeVar("T")


class Run(Protocol):
    """Does one operation of `admin/operations.py`, wherever it is done."""

    async def __call__(
        self, operation: str, arguments: Mapping[str, Any], progress: Progress | None = None, /
    ) -> dict[str, Any]: ...


def with_terminals(config: Path, command: Callable[[Run], Awaitable[T]]) -> T:
    """What the command returns, which is given the means to run operations on terminals.

    Raises SettingsError, OperatorError and StoreError.
    """
    client = client_of(config)
    if client.answers():

        async def remotely(
            operation: str, arguments: Mapping[str, Any], progress: Progress | None = None, /
        ) -> dict[str, Any]:
            return client.terminals(operation, arguments, progress)

        return trio.run(command, remotely)
    return trio.run(partial(_directly, config, command))


async def _directly(config: Path, command: Callable[[Run], Awaitable[T]]) -> T:
    configuration = loader.load(config)
    settings = configuration.settings
    from gateway.store.sqlite import SqliteStore  # not needed where a daemon is asked

    store = await SqliteStore.open(
        configuration.resolve(settings.store.path),
        queue_max=settings.store.queue_max,
        batch_max=settings.store.batch_max,
        emit=_unheard,
    )
    try:
        registry = await Registry.load(
            store,
            ranges=settings.registry.ranges,
            default_profile=settings.registry.default_profile,
            profiles=[profile.name for profile in settings.profiles],
            clock=SystemClock(),
            emit=_unheard,
        )
        return await command(TerminalOperations(registry).run)
    finally:
        await store.aclose()


def _unheard(event: Event, /, **fields: object) -> None:
    """No daemon runs whose log this could go to; the command says itself what it did."""
