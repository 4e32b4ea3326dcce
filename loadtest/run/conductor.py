"""Conductor: a run from its first process to its ledgers; every process it starts it ends."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from gateway.clock import SystemClock
from gateway.errors import OperatorError
from loadtest.addresses import HostPort
from loadtest.control import ControlError, ask
from loadtest.processes import Child, ChildFailed, Children, python
from loadtest.run.board import Board, Crew
from loadtest.run.books import Books, compare
from loadtest.run.events import Events, windows
from loadtest.run.histogram import Histogram
from loadtest.run.line import TlsFolder
from loadtest.run.samples import Samples, sample
from loadtest.run.scenario import Scenario, ScenarioFile
from loadtest.run.stand import GRACE_S, MERCHANT, Stand
from loadtest.run.talk import Talk
from loadtest.run.worker import Plan

Say = Callable[[str], None]

_HELLO_S = 30.0
_OPEN_EACH_S = 0.05  # that thousands of handshakes may take
_SAMPLE_S = 1.0
_LEAD_S = 0.5  # from the word to start to the first customer
_POLL_S = 0.5
_ABANDON_S = 2.0  # for what still runs when a run is broken off
_HUNG_UP_S = 1.5  # until the gateway has noticed that everybody left


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What is to be run, and against what."""

    file: ScenarioFile
    scenario: Scenario  # the file's, scaled
    direct: bool = False  # devices call an acquirer: what the tool itself costs
    target: HostPort | None = None  # a gateway that runs; None: start one
    target_pid: int = 0  # its process, where it is to be watched
    tls: TlsFolder | None = None  # of devices that a running gateway knows
    merchant: str = MERCHANT
    keep: bool = False


@dataclass(slots=True)
class Ran:
    """What a run came to, before it is judged."""

    board: Board
    began_ms: int
    books: Books | None = None  # None: they are not ours to see
    store_bytes: int = 0
    configuration: str = ""
    restarts_s: list[float] = field(default_factory=list)
    idle_fds: tuple[int, int] | None = None  # of the gateway, before and after
    settled_s: float = 0.0  # until nothing was owed and all ledgers agreed
    folder: Path | None = None  # where it is kept


async def conduct(options: RunOptions, board: Board, folder: Path, say: Say) -> Ran:
    """Runs a scenario in a folder; raises ChildFailed."""
    async with Children(grace_s=_ABANDON_S) as children:
        return await _Conductor(options, board, folder, children, say).run()


class _Conductor:
    def __init__(
        self, options: RunOptions, board: Board, folder: Path, children: Children, say: Say
    ) -> None:
        self._options = options
        self._scenario = options.scenario
        self._board = board
        self._folder = folder
        self._children = children
        self._say = say
        self._stand = Stand(options.scenario, folder, children, direct=options.direct)
        self._events = Events(options.scenario, self._stand, self._tell)
        self._talks: list[Talk] = []
        self._workers: list[Child] = []
        self._owns = options.target is None

    async def run(self) -> Ran:
        ran = Ran(self._board, SystemClock().wall_ms())
        self._board.happened = self._events.happened
        if self._owns:
            self._phase("starting gateway and acquirers")
            await self._stand.start()
            if not self._options.direct:
                ran.configuration = self._stand.config.read_text(encoding="utf-8")
        idle_before = self._idle_fds()
        async with self._hired() as nursery:
            await self._open()
            self._phase("running")
            await self._work(nursery)
            if self._owns and not self._options.direct:
                await trio.sleep(_HUNG_UP_S)
                idle_after = self._idle_fds()
                if idle_before and idle_after:
                    ran.idle_fds = (idle_before, idle_after)
                await self._settle(ran)
            nursery.cancel_scope.cancel()
        ran.restarts_s = self._events.restarts_s
        if self._owns:
            await self._end(ran)
        return ran

    def _phase(self, words: str) -> None:
        self._board.phase = words
        self._say(words)

    # --- workers -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _hired(self) -> AsyncIterator[trio.Nursery]:
        """Worker processes that have said hello and have their plans."""
        scenario, path = self._scenario, self._folder / "w.sock"
        parts = scenario.devices.processes
        hired: list[trio.SocketStream] = []
        everybody = trio.Event()

        async def greet(stream: trio.SocketStream) -> None:
            hired.append(stream)
            if len(hired) == parts:
                everybody.set()
            await trio.sleep_forever()

        sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(parts)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, greet, [trio.SocketListener(sock)])
            for number in range(parts):
                worker = await self._children.start(
                    f"worker-{number + 1}",
                    python("loadtest.run.worker", str(path)),
                    log=self._folder / "logs" / f"worker-{number + 1}.log",
                )
                self._workers.append(worker)
            with trio.move_on_after(_HELLO_S) as scope:
                await everybody.wait()
            if scope.cancelled_caught:
                raise self._failure("did not come up")
            self._talks = [Talk(stream) for stream in hired]
            self._board.crews = {number: Crew() for number in range(parts)}
            yield nursery

    async def _open(self) -> None:
        """Hand out the plans, and wait until every device is connected."""
        scenario, options = self._scenario, self._options
        devices = scenario.devices
        self._phase(f"connecting {devices.count:,} devices")
        target = options.target or self._stand.target
        tls = options.tls or self._stand.tls
        ceremony = self._stand.ceremony
        share, more = divmod(devices.count, devices.processes)
        first = 1
        for number, talk in enumerate(self._talks):
            count = share + (number < more)
            plan = Plan(
                scenario=scenario,
                part=number,
                parts=devices.processes,
                first=first,
                count=count,
                target=target,
                tls=tls if devices.security == "mutual-tls" and not options.direct else None,
                merchant=options.merchant,
                journal=self._journal(number),
                windows=windows(scenario),
                settle_s=scenario.gateway.settle_s,
                secret="" if ceremony is None else ceremony.secret.hex(),
            )
            first += count
            await talk.say(plan.to_json())
        with trio.move_on_after(60 + devices.connect_s + _OPEN_EACH_S * devices.count) as scope:
            for number, talk in enumerate(self._talks):
                told = await talk.hear()
                if told is None:
                    raise self._failure("ended")
                self._opened(number, told)
        if scope.cancelled_caught:
            raise ChildFailed(f"{devices.count:,} devices were not connected in time")
        failed = sum(crew.failed for crew in self._board.crews.values())
        if failed:
            raise ChildFailed(
                f"{failed} of {devices.count:,} devices could not connect and sign on:"
                f" {', '.join(self._board.tally.troubles)}"
            )

    def _opened(self, number: int, told: dict[str, Any]) -> None:
        board = self._board
        board.crews[number].failed = told["failed"]
        board.opening.add(Histogram.of_json(told["connecting"]))
        for name, count in told["counts"].items():
            board.opening_counts[name] = board.opening_counts.get(name, 0) + count
        board.tally.troubles.update(told["troubles"])

    async def _tell(self, what: dict[str, object]) -> None:
        for talk in self._talks:
            await talk.say(what)

    async def _work(self, nursery: trio.Nursery) -> None:
        board, scenario = self._board, self._scenario
        start_monotonic_s = time.monotonic() + _LEAD_S
        await self._tell({"start_monotonic_s": start_monotonic_s})
        board.start_s = trio.current_time() + start_monotonic_s - time.monotonic()
        nursery.start_soon(self._watch)
        if self._owns:
            nursery.start_soon(self._ask)
        if self._owns and not self._options.direct:
            nursery.start_soon(self._events.run, board.start_s)
        within_s = scenario.seconds + 2 * scenario.gateway.settle_s + _HELLO_S
        with trio.move_on_after(within_s) as scope:
            async with trio.open_nursery() as hearing:
                for number in range(len(self._talks)):
                    hearing.start_soon(self._hear, number)
        if scope.cancelled_caught:
            raise self._failure(f"did not end within {within_s:g} s")

    async def _hear(self, number: int) -> None:
        crew = self._board.crews[number]
        while True:
            told = await self._talks[number].hear()
            if told is None:
                raise self._failure("ended before its work was done")
            self._board.tally.merge(told)
            for name in ("in_flight", "waiting", "queued", "away"):
                setattr(crew, name, told[name])
            if told["say"] == "done":
                crew.busy_s = told["busy_s"]
                crew.settled = told["settled"]
                return

    def _failure(self, what: str) -> ChildFailed:
        for worker in self._workers:
            if worker.process.poll() is not None:
                return worker.failure()
        return ChildFailed(f"a worker {what}; see {self._folder / 'logs'}")

    def _journal(self, number: int) -> Path:
        return self._folder / f"worker-{number + 1}.journal"

    # --- watching ------------------------------------------------------------------------------

    def _gateway_pid(self) -> int:
        gateway = self._stand.gateway
        if gateway is None:
            return self._options.target_pid
        return gateway.pid if gateway.process.poll() is None else 0

    def _idle_fds(self) -> int:
        pid = self._gateway_pid()
        found = sample(pid, at_s=0.0) if pid else None
        return 0 if found is None else found.fds

    async def _watch(self) -> None:
        """Reads /proc each second; raises ChildFailed where the gateway died by itself."""
        number = 0
        while True:
            await trio.sleep_until(self._board.start_s + number * _SAMPLE_S)
            number += 1
            self._sample()
            gateway = self._stand.gateway
            dead = gateway is not None and gateway.process.poll() is not None
            if gateway is not None and dead and not self._events.expects_death:
                raise gateway.failure()

    async def _ask(self) -> None:
        """Asks acquirers and gateway how they do, as often as they answer."""
        while True:
            await self._ask_acquirers()
            if not self._options.direct:
                await self._ask_gateway()
            await trio.sleep(_SAMPLE_S)

    def _sample(self) -> None:
        at_s = self._board.at_s
        pids = {
            # One that starts again is not yet what it is going to be.
            "gateway": [0 if self._events.expects_death else self._gateway_pid()],
            "tool": [worker.pid for worker in self._workers] + [os.getpid()],
            "acquirers": [
                seat.child.pid
                for seat in self._stand.stage.acquirers.values()
                if seat.child is not None
            ],
        }
        for name, of in pids.items():
            samples = self._board.samples.setdefault(name, Samples())
            for pid in of:
                if pid:
                    samples.take(pid, at_s=at_s)

    async def _ask_acquirers(self) -> None:
        board = self._board
        for seat in list(self._stand.stage.acquirers.values()):
            try:
                told = await ask(seat.control, {}, timeout_s=_SAMPLE_S)
            except ControlError:
                continue  # it is dead, or busy being killed
            received = int(told["counts"].get("received", 0))
            board.received.setdefault(seat.name, []).append((board.at_s, received))

    async def _ask_gateway(self) -> None:
        try:
            status = await trio.to_thread.run_sync(self._stand.client.status)
        except OperatorError:
            return
        self._board.upstreams = {one["name"]: one["state"] for one in status["upstreams"]}

    # --- afterwards ----------------------------------------------------------------------------

    async def _settle(self, ran: Ran) -> None:
        """Waits until nothing is owed and all ledgers agree, within the time that is set."""
        self._phase("waiting until all ledgers agree")
        began_s = trio.current_time()
        with trio.move_on_after(self._scenario.gateway.settle_s):
            while True:
                if await self._stand.reversals_open() == 0:
                    ran.books = await trio.to_thread.run_sync(self._compare)
                    if ran.books.agree:
                        break
                await trio.sleep(_POLL_S)
        ran.settled_s = round(trio.current_time() - began_s, 2)

    def _compare(self) -> Books:
        return compare(
            journals=[self._journal(number) for number in range(len(self._workers))],
            store=self._stand.store,
            acquirers=self._stand.ledgers,
            log=self._stand.log,
        )

    async def _end(self, ran: Ran) -> None:
        self._phase("stopping")
        gateway = self._stand.gateway
        if gateway is not None:
            status = await gateway.stop(grace_s=GRACE_S)
            if status:
                raise gateway.failure()
        for seat in self._stand.stage.acquirers.values():
            if seat.child is not None:
                await seat.child.stop(grace_s=5)
        if gateway is None:
            return
        # Once more on ledgers that nobody writes to: this one counts.
        if ran.books is None or not ran.books.agree:
            ran.books = await trio.to_thread.run_sync(self._compare)
        store = self._stand.store
        ran.store_bytes = sum(
            path.stat().st_size
            for path in (store, store.with_name(store.name + "-wal"))
            if path.exists()
        )
