"""How commands reach what a gateway keeps: through its daemon, or, if none runs, in its store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import trio

from gateway.admin.access import this_process
from gateway.admin.api import Progress
from gateway.admin.approvals import PendingApprovals
from gateway.admin.client import AdminClient
from gateway.admin.guard import Guard
from gateway.admin.operations import Operations
from gateway.admin.terminals import TerminalOperations
from gateway.admin.transactions import ReversalOperations, TransactionOperations
from gateway.cli.ask import client_of
from gateway.cli.output import say
from gateway.clock import SystemClock
from gateway.policy.response_codes import APPROVED
from gateway.settings import loader
from gateway.settings.loader import Configuration
from gateway.store.store import Store
from gateway.telemetry.audit import AuditLog, opened
from gateway.telemetry.events import Event
from gateway.terminals.device_life import life_of
from gateway.terminals.readiness import missing
from gateway.terminals.registry import Registry
from gateway.terminals.sightings import Sightings
from gateway.terminals.surroundings import Surroundings
from gateway.transactions.open_batches import OpenBatches

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
    return _reach(config, "terminals", command, _terminals)


def with_transactions(config: Path, command: Callable[[Run], Awaitable[T]]) -> T:
    """As `with_terminals`, for operations on transactions."""

    async def made(store: Store, configuration: Configuration) -> Operations:
        return TransactionOperations(
            store=store,
            clock=SystemClock(),
            grace_s=configuration.settings.repeats.undelivered_grace_s,
        )

    return _reach(config, "transactions", command, made)


def with_reversals(config: Path, command: Callable[[Run], Awaitable[T]]) -> T:
    """As `with_terminals`, for operations on reversals; without a daemon they can be looked at."""

    async def made(store: Store, _: Configuration) -> Operations:
        return ReversalOperations(store=store, reversals=None, clock=SystemClock())

    return _reach(config, "reversals", command, made)


def with_blocklists(config: Path, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """An operation on blocklists: by the daemon, or on their files where none runs.

    Raises SettingsError and OperatorError.
    """
    client = client_of(config)
    if client.answers():
        return client.run("blocklists", operation, arguments)

    async def directly() -> dict[str, Any]:
        from gateway.admin.blocklists import BlocklistOperations
        from gateway.live import prepare

        configuration = loader.load(config)
        lists = prepare(configuration).parts.blocklists
        operations = BlocklistOperations(
            configuration=lambda: configuration,
            lists=lambda: lists,
            wall_ms=SystemClock().wall_ms,
        )
        async with opened(_audit_log(configuration)) as audit:
            run = await _guarded("blocklists", operations, configuration, audit)
            return await run(operation, arguments)

    return trio.run(directly)


def with_keys(config: Path, command: Callable[[Run], Awaitable[T]]) -> T:
    """As `with_terminals`, for keys; where no daemon runs the keyring is opened as by its start.

    Raises SettingsError, OperatorError, KeyUnavailable and StoreError.
    """
    client = client_of(config)
    if client.answers():
        return trio.run(command, _remotely(client, "keys"))

    async def directly() -> T:
        from gateway.cli.keys_offline import key_operations

        async with _store_of(config) as (store, configuration):
            operations = await key_operations(store, configuration)
            async with opened(_audit_log(configuration)) as audit:
                return await command(await _guarded("keys", operations, configuration, audit))

    return trio.run(directly)


def with_gaps(config: Path, command: Callable[[Run], Awaitable[T]]) -> T:
    """As `with_terminals`, for what fell between a backup and its restore."""

    async def made(store: Store, configuration: Configuration) -> Operations:
        from gateway.admin.gaps import GapOperations
        from gateway.transactions.gaps import Gaps

        gaps = Gaps(
            store=store,
            settings=configuration.settings.restore,
            clock=SystemClock(),
            emit=_unheard,
        )
        await gaps.restore()
        return GapOperations(gaps)

    return _reach(config, "restore", command, made)


def with_backup(config: Path, command: Callable[[Run], Awaitable[T]]) -> T:
    """As `with_terminals`, for backups; where no daemon runs the files are read as they lie."""
    client = client_of(config)
    if client.answers():
        return trio.run(command, _remotely(client, "backup"))

    async def directly() -> T:
        from gateway.admin.backup import BackupOperations

        configuration = loader.load(config)
        operations = BackupOperations(
            configuration=lambda: configuration, clock=SystemClock(), emit=_unheard
        )
        async with opened(_audit_log(configuration)) as audit:
            return await command(await _guarded("backup", operations, configuration, audit))

    return trio.run(directly)


def _remotely(client: AdminClient, group: str) -> Run:
    async def run(
        operation: str, arguments: Mapping[str, Any], progress: Progress | None = None, /
    ) -> dict[str, Any]:
        return client.run(group, operation, arguments, progress)

    return run


def _reach(
    config: Path,
    group: str,
    command: Callable[[Run], Awaitable[T]],
    made: Callable[[Store, Configuration], Awaitable[Operations]],
) -> T:
    client = client_of(config)
    if client.answers():
        return trio.run(command, _remotely(client, group))

    async def directly() -> T:
        async with _store_of(config) as (store, configuration):
            operations = await made(store, configuration)
            async with opened(_audit_log(configuration)) as audit:
                return await command(await _guarded(group, operations, configuration, audit))

    return trio.run(directly)


async def _terminals(store: Store, configuration: Configuration) -> Operations:
    settings = configuration.settings
    registry = await Registry.load(
        store,
        ranges=settings.registry.ranges,
        default_profile=settings.registry.default_profile,
        profiles=[profile.name for profile in settings.profiles],
        clock=SystemClock(),
        emit=_unheard,
    )
    sightings = Sightings(
        store,
        clock=SystemClock(),
        emit=_unheard,
        kept_max=settings.registry.sightings_max,
        subjects_max=settings.registry.sighted_max,
    )
    await sightings.restore()
    batches = OpenBatches(store=store, clock=SystemClock())
    await batches.restore()
    keys = await store.keys()
    registry.missing = lambda device: missing(
        device, settings.profiles, lambda owner: [key for key in keys if key.owner == owner]
    )
    codes = {upstream.name: upstream.approving_codes for upstream in settings.upstreams}
    life = life_of(
        lambda: configuration,
        Surroundings(
            registry=registry,
            store=store,
            batches=batches,
            clock=SystemClock(),
            approving=lambda upstream: codes.get(upstream, [APPROVED]),
        ),
        original_days=settings.repeats.original_days,
        sightings=sightings,
        emit=_unheard,
        write_down=_not_written_down,
    )
    await life.restore()
    return TerminalOperations(registry, sightings, life)


async def _not_written_down(action: str, subject: str, new: Mapping[str, object]) -> None:
    """Nothing happens by itself where no daemon runs."""


def _audit_log(configuration: Configuration) -> AuditLog:
    settings = configuration.settings
    return AuditLog(
        loader.audit_folder(configuration),
        node=settings.node.name,
        clock=SystemClock(),
        emit=_unheard,
        file_bytes_max=settings.audit.file_bytes_max,
        files_kept=settings.audit.files_kept,
        waiting_max=settings.audit.waiting_max,
    )


async def _guarded(
    group: str, operations: Operations, configuration: Configuration, audit: AuditLog
) -> Run:
    """Operations on the store itself, written down and put off for a second operator as in the
    daemon, which takes up later what waits."""
    clock = SystemClock()
    approvals = PendingApprovals(
        audit.folder,
        settings=lambda: configuration.settings.approvals,
        clock=clock,
        emit=_said,
    )
    await approvals.load()
    guard = Guard(audit=audit, approvals=approvals, clock=clock, emit=_unheard)
    caller = this_process()

    async def run(
        operation: str, arguments: Mapping[str, Any], progress: Progress | None = None, /
    ) -> dict[str, Any]:
        return await guard.run(caller, group, operations, operation, arguments, progress)

    return run


@asynccontextmanager
async def _store_of(config: Path) -> AsyncIterator[tuple[Store, Configuration]]:
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
        yield store, configuration
    finally:
        await store.aclose()


def _said(event: Event, /, **fields: object) -> None:
    """No log hears of it: whoever runs the command does."""
    say(f"{fields['path']}: entry {fields['entry']} {fields['reason']}", "yellow")


def _unheard(event: Event, /, **fields: object) -> None:
    """No daemon runs whose log this could go to; the command says itself what it did."""
