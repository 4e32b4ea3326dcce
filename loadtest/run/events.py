"""Events: what happens to a run while devices sell, each noted with its real times."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import inf
from random import Random

import trio

from gateway.errors import OperatorError
from loadtest.control import ControlError, ask
from loadtest.fleet import terminal_names
from loadtest.processes import ChildFailed, python, run_once
from loadtest.run.scenario import EVENTS_MAX, Happening, Scenario
from loadtest.run.stand import Stand
from loadtest.stage import AcquirerSeat

# Tells every worker something; devices are theirs.
TellWorkers = Callable[[dict[str, object]], Awaitable[None]]

_ASKING = ("reload", "block-terminals")  # they need a gateway that answers
_WELL: dict[str, object] = {"mute": False, "reset": False, "response_code": "", "delay_ms": 0}


@dataclass(slots=True)
class Happened:
    """An event as it took place, in seconds from the start of the run."""

    at_s: float
    what: str
    detail: str = ""
    until_s: float = 0.0  # 0: it is not over
    excuse_s: float = 0.0  # so long after its end failures are its own

    def to_json(self) -> dict[str, object]:
        return {
            "at_s": round(self.at_s, 2),
            "until_s": round(self.until_s, 2),
            "what": self.what,
            "detail": self.detail,
        }


def occurrences(scenario: Scenario) -> list[tuple[float, Happening]]:
    """When what is to happen, repetitions one by one."""
    found: list[tuple[float, Happening]] = []
    for event in scenario.events:
        at_s = event.at_s
        while at_s < scenario.seconds and len(found) < EVENTS_MAX:
            found.append((at_s, event))
            if not event.every_s:
                break
            at_s += event.every_s
    return sorted(found, key=lambda one: one[0])


def windows(scenario: Scenario) -> list[tuple[float, float]]:
    """The times within which failures are laid at the door of an event."""
    return [
        (at_s, at_s + event.lasts_s + event.excuse_s)
        for at_s, event in occurrences(scenario)
        if event.excuse_s
    ]


def lasted(happened: Sequence[Happened]) -> list[tuple[float, float]]:
    """As `windows`, by how long events really took: a restart is not over when it was to be."""
    return [(one.at_s, (one.until_s or inf) + one.excuse_s) for one in happened if one.excuse_s]


class Events:
    """Carries out what a scenario says is to happen."""

    def __init__(self, scenario: Scenario, stand: Stand, tell_workers: TellWorkers) -> None:
        self.happened: list[Happened] = []
        self.restarts_s: list[float] = []  # how long a killed gateway took to answer again
        self.expects_death = False  # of the gateway: it is being killed
        self._alive = trio.Event()
        self._alive.set()
        self._scenario = scenario
        self._stand = stand
        self._tell_workers = tell_workers
        self._random = Random(f"{scenario.seed}/events")
        self._own = dict(switch.split("=", 1) for switch in scenario.acquirers.switches)
        self._reloads = 0
        self._editing = trio.Lock()
        self._blocked: set[str] = set()
        self._do = {
            "kill-gateway": self._kill_gateway,
            "reload": self._reload,
            "acquirer": self._acquirer,
            "reconnect-storm": self._storm,
            "block-terminals": self._block,
        }

    async def run(self, start_s: float) -> None:
        """All of them, from a moment on trio's clock; raises ChildFailed where one cannot be."""
        async with trio.open_nursery() as nursery:
            for at_s, event in occurrences(self._scenario):
                await trio.sleep_until(start_s + at_s)
                nursery.start_soon(self._note, event, start_s)

    async def _note(self, event: Happening, start_s: float) -> None:
        happened = Happened(trio.current_time() - start_s, event.do, excuse_s=event.excuse_s)
        self.happened.append(happened)
        try:
            happened.detail = await self._done(event)
        except (OperatorError, ControlError, ChildFailed) as error:
            raise ChildFailed(f"{event.do} at {happened.at_s:.1f} s: {error}") from None
        finally:
            happened.until_s = trio.current_time() - start_s

    async def _done(self, event: Happening) -> str:
        """What came of it; what asks a gateway that is killed just then asks the next one."""
        while True:
            gateway = self._stand.gateway
            if event.do in _ASKING:
                await self._alive.wait()
            try:
                return await self._do[event.do](event)
            except (OperatorError, ChildFailed):
                killed = self.expects_death or gateway is not self._stand.gateway
                if event.do not in _ASKING or not killed:
                    raise

    # --- what can happen -----------------------------------------------------------------------

    async def _kill_gateway(self, event: Happening) -> str:
        gateway = self._stand.gateway
        if gateway is None:
            raise ChildFailed("there is no gateway to be killed")
        self.expects_death = True
        self._alive = trio.Event()
        gateway.signal(signal.SIGKILL)
        await gateway.process.wait()
        await trio.sleep(event.lasts_s)
        began_s = trio.current_time()
        await self._stand.start_gateway()
        self.expects_death = False
        self._alive.set()
        self.restarts_s.append(round(trio.current_time() - began_s, 2))
        return f"answered again {self.restarts_s[-1]:.2f} s after its start"

    async def _reload(self, event: Happening) -> str:
        self._reloads += 1
        number = self._reloads
        async with self._editing:  # A run made short has them close together.
            await trio.to_thread.run_sync(self._stand.edited, number)
            report = await trio.to_thread.run_sync(self._stand.client.run, "config", "reload", {})
        return f"edit {number}, version {report['version']}"

    async def _acquirer(self, event: Happening) -> str:
        seats = list(self._stand.stage.acquirers.values())
        sick = seats if event.acquirer == 0 else [seats[event.acquirer - 1]]
        for seat in sick:
            await self._sicken(seat, event)
        try:
            await trio.sleep(event.lasts_s)
        finally:
            with trio.CancelScope(shield=True):
                for seat in sick:
                    await self._heal(seat)
        return f"{' and '.join(seat.name for seat in sick)} {event.sickness}"

    async def _sicken(self, seat: AcquirerSeat, event: Happening) -> None:
        if event.sickness == "dead":
            if seat.child is not None:
                seat.child.signal(signal.SIGKILL)
                await seat.child.process.wait()
            return
        switches: dict[str, dict[str, object]] = {
            "mute": {"mute": True},
            "slow": {"delay_ms": event.delay_ms},
            "busy": {"response_code": "96"},
            "reset": {"reset": True},
        }
        await ask(seat.control, switches[event.sickness])

    async def _heal(self, seat: AcquirerSeat) -> None:
        if seat.child is None or seat.child.process.poll() is not None:
            switches = [f"{name}={value}" for name, value in self._own.items()]
            await self._stand.stage.restart_acquirer(seat, switches=switches)
        else:
            await ask(seat.control, {**_WELL, **self._own})

    async def _storm(self, event: Happening) -> str:
        await self._tell_workers({"storm": event.share})
        return f"{event.share:.0%} of the devices"

    async def _block(self, event: Happening) -> str:
        names = [one.terminal_id for one in terminal_names(self._scenario.devices.count)]
        left = [name for name in names if name not in self._blocked]
        chosen = self._random.sample(left, min(event.count, len(left)))
        self._blocked.update(chosen)
        # First the devices' own side: what is refused them from now on is as it should be.
        await self._tell_workers({"block": chosen})
        for terminal_id in chosen:
            await run_once(
                *python("gateway", "block", "terminal", terminal_id, "--yes"),
                *("--reason", "load test", "--config", str(self._stand.config)),
            )
        return " ".join(chosen)
