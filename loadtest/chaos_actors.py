"""Chaos actors: who carries out a plan on the gateway, acquirers, terminals, networks and disk."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import trio

from loadtest.addresses import HostPort
from loadtest.chaos_plan import Life, Step
from loadtest.control import ControlError, ask
from loadtest.disks import SmallDisk
from loadtest.faults import Direction, FaultProxy, Weather
from loadtest.processes import Child, ChildFailed
from loadtest.stage import AcquirerSeat, Stage, gateway_ready

Say = Callable[[str], None]

_RESTART_S = 0.2  # before a gateway that could not start is started again
_FULL_S = 3.0  # so long after the disk was full a gateway may still end of itself
_FAILURES_MAX = 40
_GOOD_HEALTH = {
    "hold_ms": 0,
    "delay_ms": 0,
    "jitter_ms": 0,
    "drop": 0,
    "lose": 0,
    "mute": False,
    "refuse": False,
}


class UnexpectedEnd(Exception):
    """The gateway ended though nobody killed it and its disk was not full."""


class Disk:
    """Fills the gateway's disk when the plan says so; without one it does nothing."""

    def __init__(self, disk: SmallDisk | None) -> None:
        self._disk = disk
        self._freed_s = float("-inf")

    @property
    def excuses(self) -> bool:
        """Whether a gateway may end by itself now: its disk is full, or was just before."""
        full = self._disk is not None and self._disk.full
        return full or trio.current_time() - self._freed_s < _FULL_S

    async def act(self, step: Step) -> None:
        if self._disk is None:
            return
        self._disk.fill()
        try:
            await trio.sleep(step.lasts_s)
        finally:
            self.heal()

    def heal(self) -> None:
        if self._disk is not None and self._disk.full:
            self._disk.free()
            self._freed_s = trio.current_time()


class Gateway:
    """Lives and dies as the plan says, and is started again each time."""

    def __init__(
        self, stage: Stage, *, config: Path, admin_socket: Path, disk: Disk, say: Say
    ) -> None:
        self.kills = 0
        self.ended = 0  # of itself, since its disk was full
        self.start_s: list[float] = []  # how long it took to get ready
        self._stage = stage
        self._config = config
        self._admin_socket = admin_socket
        self._disk = disk
        self._say = say

    async def live(self, lives: Iterable[Life]) -> None:
        """All lives one after the other; raises UnexpectedEnd and ChildFailed."""
        for life in lives:
            while not await self._live(life):  # noqa: ASYNC110 (a pause between two attempts)
                await trio.sleep(_RESTART_S)

    async def start(self) -> Child:
        """A gateway that is ready; raises UnexpectedEnd."""
        while (child := await self._ready()) is None:  # noqa: ASYNC110 (a pause between attempts)
            await trio.sleep(_RESTART_S)
        return child

    async def _live(self, life: Life) -> bool:
        """Whether this life ended as it was to end."""
        if life.starting:
            child = await self._stage.spawn_gateway(self._config)
        else:
            ready = await self._ready()
            if ready is None:
                return False
            child = ready
        with trio.move_on_after(life.kill_s):
            async with trio.open_nursery() as nursery:
                for at_s, lasts_s in life.stops:
                    nursery.start_soon(self._stop_for, child, at_s, lasts_s)
                for at_s in life.reloads:
                    nursery.start_soon(self._reload, child, at_s)
                await child.process.wait()
                nursery.cancel_scope.cancel()
        return await self._kill(child)

    async def _ready(self) -> Child | None:
        started_s = trio.current_time()
        child = await self._stage.spawn_gateway(self._config)
        try:
            await gateway_ready(child, admin_socket=self._admin_socket)
        except ChildFailed:
            if child.process.poll() is None:
                raise
            self._ended(child)
            return None
        self.start_s.append(trio.current_time() - started_s)
        return child

    async def _kill(self, child: Child) -> bool:
        child.signal(signal.SIGKILL)
        await child.process.wait()
        if child.process.returncode != -signal.SIGKILL:
            self._ended(child)
            return False
        self.kills += 1
        return True

    def _ended(self, child: Child) -> None:
        if not self._disk.excuses or self.ended >= _FAILURES_MAX:
            raise UnexpectedEnd(str(child.failure()))
        self.ended += 1

    async def _stop_for(self, child: Child, at_s: float, lasts_s: float) -> None:
        await trio.sleep(at_s)
        child.signal(signal.SIGSTOP)
        try:
            await trio.sleep(lasts_s)
        finally:
            child.signal(signal.SIGCONT)

    async def _reload(self, child: Child, at_s: float) -> None:
        await trio.sleep(at_s)
        child.signal(signal.SIGHUP)


class Acquirer:
    """An acquirer's process, killed, stopped and made to misbehave."""

    def __init__(
        self,
        stage: Stage,
        seat: AcquirerSeat,
        *,
        proxy: FaultProxy,
        switches: tuple[str, ...],
        seed: int,
    ) -> None:
        self.kills = 0
        self._stage = stage
        self._seat = seat
        self._proxy = proxy
        self._switches = switches
        self._own = dict(switch.split("=", 1) for switch in switches)
        self._seed = seed

    async def act(self, step: Step) -> None:
        """Raises ChildFailed where it cannot be started again."""
        if step.action == "kill":
            await self._kill(step)
        elif step.action == "stop":
            await self._stop_for(step.lasts_s)
        elif step.action == "disconnect":
            await ask(self._seat.control, {"disconnect": True})
        else:
            value = step.amount or True
            await ask(self._seat.control, {step.action: value})
            try:
                await trio.sleep(step.lasts_s)
            finally:
                with trio.CancelScope(shield=True):
                    await self.heal()

    async def heal(self) -> None:
        """In good health again, as far as its own switches go."""
        try:
            await ask(self._seat.control, {**_GOOD_HEALTH, **self._own})
        except ControlError as error:
            raise ChildFailed(str(error)) from None

    async def _kill(self, step: Step) -> None:
        child = self._child()
        child.signal(signal.SIGKILL)
        await child.process.wait()
        self.kills += 1
        if step.abrupt:
            self._proxy.refuse(True)
        try:
            await trio.sleep(step.lasts_s)
            self._seed += 1
            await self._stage.restart_acquirer(self._seat, switches=self._switches, seed=self._seed)
        finally:
            if step.abrupt:
                self._proxy.refuse(False)

    async def _stop_for(self, seconds: float) -> None:
        child = self._child()
        child.signal(signal.SIGSTOP)
        try:
            await trio.sleep(seconds)
        finally:
            child.signal(signal.SIGCONT)

    def _child(self) -> Child:
        child = self._seat.child
        if child is None or child.process.poll() is not None:
            raise ChildFailed(f"{self._seat.name} does not run")
        return child


class Terminals:
    """A process of terminals, killed and started again; `settle` is its orderly end."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        *,
        folder: Path,
        certs: Path,
        target: HostPort,
        options: tuple[str, ...],
    ) -> None:
        self.ledger = folder / f"{name}.ledger.db"
        self.kills = 0
        self._stage = stage
        self._name = name
        self._folder = folder
        self._certs = certs
        self._target = target
        self._options = options
        self._child: Child | None = None

    async def start(self) -> None:
        self._child = await self._stage.start_terminals(
            self._name,
            folder=self._folder,
            certs=self._certs,
            target=self._target,
            options=self._options,
        )

    async def act(self, step: Step) -> None:
        """Raises ChildFailed where it had ended before."""
        child = self._running()
        child.signal(signal.SIGKILL)
        await child.process.wait()
        self.kills += 1
        await trio.sleep(step.lasts_s)
        await self.start()

    async def settle(self) -> None:
        """Buy nothing more and end once nothing is open; raises ChildFailed."""
        child = self._running()
        child.signal(signal.SIGTERM)
        await child.process.wait()

    def _running(self) -> Child:
        if self._child is None:
            raise ChildFailed(f"{self._name} does not run")
        if self._child.process.poll() is not None:
            raise self._child.failure()
        return self._child


class Network:
    """The network on one side of the gateway."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.acts: Counter[str] = Counter()

    async def act(self, step: Step) -> None:
        self.acts[step.action] += 1
        proxy = self.proxy
        if step.action == "reset":
            proxy.reset(step.share)
        elif step.action == "cut":
            proxy.cut_mid_frame(step.share)
        elif step.action == "refuse":
            proxy.refuse(True)
            try:
                await trio.sleep(step.lasts_s)
            finally:
                proxy.refuse(False)
        else:
            proxy.change(weather_of(step), share=step.share)
            try:
                await trio.sleep(step.lasts_s)
            finally:
                proxy.clear(cut_held=step.abrupt)


def weather_of(step: Step) -> Weather:
    """What a step of the plan does to connections; raises KeyError for an unknown action."""
    weathers = {
        "latency": Weather(latency_s=step.amount, jitter_s=step.amount / 2),
        "slow": Weather(bytes_per_s=step.amount),
        "mute": Weather(held=frozenset(Direction)),
        "half-open": Weather(held=frozenset(d for d in Direction if d == step.direction)),
    }
    return weathers[step.action]
