"""Worker: a process of devices; `python -m loadtest.run.worker SOCKET` is told what to do there."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import trio

from gateway.clock import SystemClock
from loadtest.addresses import HostPort
from loadtest.fleet import terminal_names
from loadtest.run.arrivals import moments, pieces_of
from loadtest.run.customers import Queue
from loadtest.run.device import Device
from loadtest.run.journal import Journal
from loadtest.run.keyed import DeviceKeys, master_key
from loadtest.run.line import Line, TlsFolder
from loadtest.run.messages import Requests
from loadtest.run.scenario import Scenario
from loadtest.run.shared import Shared
from loadtest.run.talk import Talk
from loadtest.run.tally import Tally, Windows
from loadtest.wire import shipped_wire

_TELL_S = 1.0
_LOOK_S = 1.0  # for idle connections that the gateway has closed
_LOOK_AT_ONCE = 250
_CLOSING_AT_ONCE = 50
_GC_THRESHOLD = 50_000
_SPARE_FDS = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """A worker's part of a run."""

    scenario: Scenario
    part: int  # of `parts`, from 0
    parts: int
    first: int  # number of its first device
    count: int
    target: HostPort
    tls: TlsFolder | None
    merchant: str
    journal: Path
    windows: list[tuple[float, float]]
    settle_s: float
    secret: str = field(default="", repr=False)  # hex, of the devices' master keys; "": none

    @classmethod
    def of_json(cls, told: dict[str, Any]) -> Plan:
        """The plan that `to_json` wrote."""
        tls = told["tls"]
        return cls(
            scenario=Scenario.model_validate(told["scenario"]),
            part=told["part"],
            parts=told["parts"],
            first=told["first"],
            count=told["count"],
            target=HostPort(*told["target"]),
            tls=None if tls is None else TlsFolder(Path(tls[0]), Path(tls[1]), tls[2]),
            merchant=told["merchant"],
            journal=Path(told["journal"]),
            windows=[(from_s, to_s) for from_s, to_s in told["windows"]],
            settle_s=told["settle_s"],
            secret=told["secret"],
        )

    def to_json(self) -> dict[str, Any]:
        tls = self.tls
        return {
            "scenario": self.scenario.model_dump(mode="json"),
            "part": self.part,
            "parts": self.parts,
            "first": self.first,
            "count": self.count,
            "target": list(self.target),
            "tls": None if tls is None else [str(tls.folder), str(tls.ca), tls.server_name],
            "merchant": self.merchant,
            "journal": str(self.journal),
            "windows": self.windows,
            "settle_s": self.settle_s,
            "secret": self.secret,
        }


class Worker:
    """The devices of one process, from their first connection to their last."""

    def __init__(self, plan: Plan, journal: Journal) -> None:
        self._plan = plan
        scenario = plan.scenario
        wire = shipped_wire()
        self._shared = Shared(
            scenario=scenario,
            wire=wire,
            requests=Requests(wire, currency=scenario.devices.currency),
            journal=journal,
            tally=Tally(),
            windows=Windows(plan.windows),
            random=Random(f"{scenario.seed}/{plan.part}"),
            wall_ms=SystemClock().wall_ms,
        )
        secret = bytes.fromhex(plan.secret)
        names = terminal_names(plan.count, first=plan.first, merchant=plan.merchant)
        self.devices = [
            Device(
                number=name.number,
                terminal_id=name.terminal_id,
                merchant_id=name.merchant_id,
                line=Line(
                    target=plan.target,
                    wire=wire,
                    terminal_id=name.terminal_id,
                    tls=plan.tls,
                    resume=scenario.devices.resume,
                    connect_s=scenario.devices.connect_s,
                ),
                shared=self._shared,
                secure=DeviceKeys(master_key(secret, name.terminal_id), wire.codec)
                if secret
                else None,
            )
            for name in names
        ]
        self._queue: Queue[Device] = Queue()
        self._away = 0  # devices that call the gateway again
        self._stormed_s = inf
        self._over = False
        self._transactions = 0

    # --- before --------------------------------------------------------------------------------

    async def open(self) -> int:
        """Connects every device that keeps its connection; how many could not."""
        if self._plan.scenario.devices.connection == "each-time":
            return 0
        limit = trio.CapacityLimiter(self._plan.scenario.devices.connects_at_once_max)
        failed = 0

        async def call(device: Device) -> None:
            nonlocal failed
            async with limit:
                failed += not await device.connected()

        async with trio.open_nursery() as nursery:
            for device in self.devices:
                nursery.start_soon(call, device)
        return failed

    # --- meanwhile -----------------------------------------------------------------------------

    async def run(self, start_s: float) -> None:
        """Serves customers from that moment on trio's clock to the scenario's end, and all who
        are still waiting then."""
        self._shared.start_s = start_s
        closed = self._plan.scenario.arrival.kind == "closed"
        async with trio.open_nursery() as nursery:
            if self._plan.scenario.devices.connection == "kept":
                nursery.start_soon(self._look_after_idle_ones)
            async with trio.open_nursery() as serving:
                for device in self.devices:
                    serving.start_soon(self._ask_again if closed else self._serve, device)
                if not closed:
                    await self._come()
            nursery.cancel_scope.cancel()

    async def _come(self) -> None:
        scenario, plan = self._plan.scenario, self._plan
        come = self._queue.come
        start_s = self._shared.start_s
        for at_s in moments(
            pieces_of(scenario.arrival, seconds=scenario.seconds),
            spread=scenario.arrival.spread,
            part=plan.part,
            parts=plan.parts,
            random=Random(f"{scenario.seed}/{plan.part}/arrivals"),
        ):
            due_s = start_s + at_s
            if due_s > trio.current_time():
                await trio.sleep_until(due_s)
            self._shared.tally.late.record(trio.current_time() - due_s)
            come(due_s)
            self._transactions += 1
            if self._transactions * plan.parts >= scenario.transactions_max:
                break
        self._over = True
        self._queue.close()

    async def _serve(self, device: Device) -> None:
        """A device of an open loop: it waits for customers until there are no more."""
        queue = self._queue
        while not queue.over:
            due_s = await queue.next(device)
            if due_s is not None:
                await device.serve(due_s)
            while device.must_reconnect:
                await self._call_again(device)

    async def _ask_again(self, device: Device) -> None:
        """A device of a closed loop: it thinks, asks, and thinks again."""
        shared, scenario = self._shared, self._plan.scenario
        end_s = shared.start_s + scenario.seconds
        think_s = scenario.arrival.think_s
        due_s = shared.start_s + shared.random.random() * min(think_s, scenario.seconds)
        while due_s < end_s and self._transactions * self._plan.parts < scenario.transactions_max:
            await trio.sleep_until(due_s)
            shared.tally.late.record(trio.current_time() - due_s)
            self._transactions += 1
            await device.serve(due_s)
            while device.must_reconnect:
                await self._call_again(device)
            pause_s = shared.random.expovariate(1 / think_s) if think_s else 0.0
            due_s = trio.current_time() + pause_s

    async def _call_again(self, device: Device) -> None:
        await device.reconnect(lambda: self._over or device.blocked)
        self._away -= 1
        if not self._away and self._stormed_s < inf:
            tally = self._shared.tally
            back_ms = round(1000 * (trio.current_time() - self._stormed_s))
            tally.counts[f"back_ms:{back_ms}"] += 1
            self._stormed_s = inf

    def _send_away(self, device: Device) -> None:
        """Have a device call again, at once or after what it is doing."""
        if not device.must_reconnect and not device.blocked:
            device.must_reconnect = True
            self._away += 1
            self._queue.call_away(device)

    async def _look_after_idle_ones(self) -> None:
        """A device whose connection was closed while it was idle calls again by itself."""
        while True:
            await trio.sleep(_LOOK_S)
            for number, device in enumerate(self._queue.idle):
                if not device.line.is_open:
                    self._send_away(device)
                if number % _LOOK_AT_ONCE == _LOOK_AT_ONCE - 1:
                    await trio.lowlevel.checkpoint()

    def storm(self, share: float) -> None:
        """Have a share of the devices lose their connections in this moment."""
        random = self._shared.random
        self._stormed_s = trio.current_time()
        for device in self.devices:
            if random.random() < share:
                self._send_away(device)

    def block(self, terminal_ids: list[str]) -> None:
        """These devices are about to be blocked: what is refused them from now on is no error."""
        blocked = frozenset(terminal_ids)
        for device in self.devices:
            device.blocked = device.blocked or device.terminal_id in blocked

    # --- afterwards ----------------------------------------------------------------------------

    async def close(self) -> None:
        """Closes the batches where the scenario says so, and hangs up."""
        limit = trio.CapacityLimiter(_CLOSING_AT_ONCE)

        async def end(device: Device) -> None:
            async with limit:
                if self._plan.scenario.devices.close_batch:
                    await device.close_batch()
                await device.hang_up()

        async with trio.open_nursery() as nursery:
            for device in self.devices:
                nursery.start_soon(end, device)

    def give_up(self) -> None:
        """What is still open stays so in the journal."""
        for device in self.devices:
            device.give_up()
            device.line.drop()

    def tell(self) -> dict[str, Any]:
        """What happened since this was last asked, and where things stand."""
        tally, self._shared.tally = self._shared.tally, Tally()
        return tally.to_json() | {
            "say": "tick",
            "in_flight": self._shared.in_flight,
            "waiting": self._queue.waiting,
            "queued": self._queue.queued,
            "away": self._away,
            "cpu_s": time.process_time(),
        }


async def work(talk: Talk) -> None:
    """Hears a plan, carries it out and tells of it; ends when nobody listens any more."""
    told = await talk.hear()
    if told is None:
        return
    plan = Plan.of_json(told)
    _let_open(plan.count + _SPARE_FDS)
    with Journal(plan.journal, currency=plan.scenario.devices.currency) as journal:
        worker = Worker(plan, journal)
        failed = await worker.open()
        await talk.say(worker.tell() | {"say": "ready", "failed": failed})
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD, 50, 1_000)
        started = await talk.hear()
        if started is None:
            return
        # Both processes have the same monotonic clock; trio's has an offset of its own.
        start_s = trio.current_time() + started["start_monotonic_s"] - time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, worker, talk, nursery.cancel_scope)
            nursery.start_soon(_tell, worker, talk)
            cpu_s = time.process_time()
            settled = await _within(
                start_s + plan.scenario.seconds + plan.settle_s, partial(worker.run, start_s)
            )
            cpu_s = time.process_time() - cpu_s
            if settled:
                settled = await _within(trio.current_time() + plan.settle_s, worker.close)
            nursery.cancel_scope.cancel()
        worker.give_up()
    await talk.say(worker.tell() | {"say": "done", "settled": settled, "busy_s": cpu_s})


async def _within(until_s: float, do: Callable[[], Awaitable[None]]) -> bool:
    """Whether it was done by that moment."""
    with trio.move_on_at(until_s) as scope:
        await do()
    return not scope.cancelled_caught


async def _obey(worker: Worker, talk: Talk, scope: trio.CancelScope) -> None:
    while (told := await talk.hear()) is not None:
        if "storm" in told:
            worker.storm(told["storm"])
        elif "block" in told:
            worker.block(told["block"])
    scope.cancel()  # whoever started this process has gone


async def _tell(worker: Worker, talk: Talk) -> None:
    while True:
        await trio.sleep(_TELL_S)
        await talk.say(worker.tell())


def _let_open(count: int) -> None:
    """Allow so many descriptors, as far as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        limit = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


async def _main(socket_path: str) -> None:
    async with await trio.open_unix_socket(socket_path) as stream:
        await work(Talk(stream))


if __name__ == "__main__":
    trio.run(_main, sys.argv[1])
