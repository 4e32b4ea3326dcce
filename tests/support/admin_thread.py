"""The real admin server over a FakeStore, in a thread with a loop of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import trio
import trio.testing

from gateway.admin.api import AdminApi, Status, UpstreamStatus
from gateway.admin.configuration import ConfigurationOperations
from gateway.admin.server import serve_admin
from gateway.admin.terminals import TerminalOperations
from gateway.admin.transactions import ReversalOperations, TransactionOperations
from gateway.clock import SystemClock
from gateway.errors import InDoubt, OperatorError
from gateway.settings.reload import ReloadReport
from gateway.settings.schema_terminals import DeviceRange
from gateway.store.store import EndReversal, OweReversal, State
from gateway.telemetry.events import Event
from gateway.terminals.registry import Registry
from gateway.upstreams.pool import Pool
from gateway.wire.message import Kind
from tests.support.acquirer import FakeAcquirer, approve
from tests.support.desk import an_api
from tests.support.fake_store import FakeStore
from tests.support.rig import purchase
from tests.support.steered import Steered
from tests.support.steered import an_upstream as an_idle_upstream


def an_upstream(name: str, *, links_up: int, pending: int = 0) -> UpstreamStatus:
    """An upstream that is up, with two links."""
    return {
        "name": name,
        "state": "up",
        "control": "enabled",
        "since": "2026-01-01T00:00:02.000Z",
        "why": "it has a link that may be used",
        "links_up": links_up,
        "links": 2,
        "pending": pending,
        "pending_max": 5_000,
    }


def a_status() -> Status:
    """A node with which all is well."""
    return {
        "node": "till-side",
        "version": "0.1.0",
        "config_version": "c0ffee",
        "configuration": {
            "version": "c0ffee",
            "since": "2026-01-01T00:00:00.000Z",
            "reloads": 0,
            "refused": [],
            "refused_since": "",
            "waits": [],
            "waits_version": "",
        },
        "approvals_waiting": 0,
        "audit_sequence": 12,
        "audit_sha256": "abababababababababababababababababababababababababababababababab",
        "started": "2026-01-01T00:00:00.000Z",
        "uptime_s": 93_784.2,
        "listeners": [
            {
                "name": "tls",
                "address": "127.0.0.1:9443",
                "security": "mutual-tls",
                "connections": 3,
                "connections_max": 100,
            }
        ],
        "upstreams": [
            an_upstream("north", links_up=2, pending=1),
            an_upstream("south", links_up=1),
        ],
        "store": {
            "kind": "sqlite",
            "healthy": True,
            "queue_depth": 4,
            "queue_max": 1_000,
            "last_error": "",
        },
        "under_way": 5,
        "under_way_max": 5_000,
        "reversals_owed": 6,
        "reversals_given_up": 0,
        "alarms": [
            {
                "event": "certificate_expiring",
                "since": "2026-01-01T00:00:01.000Z",
                "detail": "[red]server.crt[/red] ends in 9 days",
            }
        ],
    }


class AdminThread:
    """What the served daemon is made of; `status` may be changed while it runs."""

    def __init__(self) -> None:
        self.status = a_status()
        self.report: ReloadReport
        self.looks: list[dict[str, bool]] = []
        self.store = FakeStore()
        self.events: list[tuple[Event, dict[str, object]]] = []
        self.acquirers = {"north": FakeAcquirer(), "south": FakeAcquirer()}
        self.upstreams: Pool  # to be touched in the daemon's thread only
        self._loop: tuple[trio.lowlevel.TrioToken, trio.Nursery]

    async def look(self, **how: bool) -> ReloadReport:
        """As `Reloader.look`."""
        self.looks.append(how)
        return self.report

    async def retry(self, transaction_id: int) -> None:
        """As `Reversals.retry`, as far as commands see it."""
        await self._given_up(transaction_id)
        await self.store.commit(OweReversal(transaction_id, "north", "68", 1))

    async def resolve(
        self, transaction_id: int, reason: str, *, booked: bool | None = None
    ) -> None:
        """As `Reversals.resolve`, as far as commands see it."""
        await self._given_up(transaction_id)
        await self.store.commit(EndReversal(transaction_id, State.CLOSED))
        self.emit(Event.REVERSAL_DONE, transaction=transaction_id, resolved=reason)

    def pend(self, name: str) -> None:
        """Have an upstream wait for an answer that never comes; for the test's own thread."""
        token, nursery = self._loop
        self.acquirers[name].script = lambda one: approve(one) if one.mti[1] == "8" else None

        async def pended() -> None:
            nursery.start_soon(self._ask, name)
            await trio.testing.wait_all_tasks_blocked()

        trio.from_thread.run(pended, trio_token=token)

    async def _ask(self, name: str) -> None:
        with suppress(InDoubt):
            await self.upstreams[name].ask(purchase(1), transaction_id=1, kind=Kind.PURCHASE)

    async def _given_up(self, transaction_id: int) -> None:
        transaction = await self.store.transaction(transaction_id)
        if transaction is None or transaction.state is not State.GIVEN_UP:
            raise OperatorError(f"transaction {transaction_id} was not given up")

    def emit(self, event: Event, /, **fields: object) -> None:
        self.events.append((event, fields))

    async def serve(self, path: Path, started: threading.Event, stop: trio.Event) -> None:
        registry = await Registry.load(
            self.store,
            ranges=[DeviceRange(terminals="R0000001-R0000003", profile="standard")],
            default_profile="standard",
            profiles=["standard"],
            clock=SystemClock(),
            emit=self.emit,
        )
        clock = SystemClock()
        self.upstreams = Pool(
            an_idle_upstream(name, acquirer, clock=clock, emit=self.emit)
            for name, acquirer in self.acquirers.items()
        )
        steered = Steered(self.upstreams, store=self.store, clock=clock, emit=self.emit)
        groups = {
            "config": ConfigurationOperations(self),
            "terminals": TerminalOperations(registry),
            "transactions": TransactionOperations(store=self.store, clock=clock, grace_s=60),
            "reversals": ReversalOperations(store=self.store, reversals=self, clock=clock),
            "upstreams": steered.operations,
        }
        with TemporaryDirectory() as folder:
            async with an_api(
                groups, Path(folder), emit=self.emit, status=lambda: self.status
            ) as api:
                await self._serve(api, path, started, stop)

    async def _serve(
        self, api: AdminApi, path: Path, started: threading.Event, stop: trio.Event
    ) -> None:
        async with trio.open_nursery() as nursery:
            self._loop = trio.lowlevel.current_trio_token(), nursery
            for acquirer in self.acquirers.values():
                nursery.start_soon(acquirer.run)
            await nursery.start(self.upstreams.run)
            await trio.testing.wait_all_tasks_blocked()
            await nursery.start(partial(serve_admin, api, path))
            started.set()
            await stop.wait()
            nursery.cancel_scope.cancel()


@contextmanager
def admin_thread(path: Path) -> Iterator[AdminThread]:
    """A daemon's admin API at this socket, until the block ends."""
    daemon = AdminThread()
    started = threading.Event()
    stops: list[tuple[trio.lowlevel.TrioToken, trio.Event]] = []

    async def main() -> None:
        stop = trio.Event()
        stops.append((trio.lowlevel.current_trio_token(), stop))
        await daemon.serve(path, started, stop)

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert started.wait(10)
    try:
        yield daemon
    finally:
        token, stop = stops[0]
        token.run_sync_soon(stop.set)
        thread.join(10)
