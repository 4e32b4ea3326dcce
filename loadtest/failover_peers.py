"""Failover peers: acquirers that fall ill and recover on command, ours and isoload's."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, Protocol

import trio

from loadtest.addresses import HostPort
from loadtest.control import ask
from loadtest.failover_cases import Sickness
from loadtest.processes import Child, Children
from loadtest.stage import AcquirerSeat, Stage

_LATER_MS = 1_500  # than any till waits
_LISTENS_S = 10.0
_POLL_S = 0.02

# What our simulator is told; what is not here is not done by a switch.
_SWITCHES: dict[Sickness, dict[str, object]] = {
    Sickness.MUTE: {"mute": True},
    Sickness.ECHO_WHILE_MUTE: {"mute": True, "echo_while_mute": True},
    Sickness.RESET: {"reset": True},
    Sickness.BUSY: {"response_code": "96"},
    Sickness.SLOW: {"delay_ms": _LATER_MS, "jitter_ms": 1_000},
    Sickness.LONG_TAIL: {"delay_ms": 0, "tail_from_ms": 300, "tail_to_ms": 2_000},
}
_WELL: dict[str, object] = {
    "mute": False,
    "echo_while_mute": False,
    "reset": False,
    "response_code": "",
    "delay_ms": 0,
    "jitter_ms": 0,
    "tail_from_ms": 0,
    "tail_to_ms": 0,
}


class Peer(Protocol):
    """An acquirer that the gateway calls."""

    name: str
    address: HostPort

    @property
    def pid(self) -> int: ...

    async def start(self) -> None:
        """Starts it, in good health; raises ChildFailed."""
        ...

    async def sicken(self, sickness: Sickness) -> None: ...

    async def heal(self) -> None: ...

    async def connections(self) -> int | None:
        """How many it has accepted in all; None where it does not say."""
        ...

    async def stop(self) -> None: ...


class Simulated:
    """Our own simulator, which keeps a ledger."""

    def __init__(self, stage: Stage, name: str, address: HostPort, *, folder: Path) -> None:
        self.name = name
        self.address = address
        self._stage = stage
        self._folder = folder
        self._before = 0  # accepted by processes that were killed
        self._seat: AcquirerSeat | None = None

    @property
    def pid(self) -> int:
        child = self._running.child
        return 0 if child is None else child.pid

    @property
    def ledger(self) -> Path:
        return self._running.ledger

    @property
    def _running(self) -> AcquirerSeat:
        if self._seat is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._seat

    async def start(self) -> None:
        # It is killed, and the machine is not: an fsync of its own for each answer would only take
        # the disk from the gateway.
        self._seat = await self._stage.start_acquirer(
            self.name,
            folder=self._folder,
            address=self.address,
            switches=_texts(_WELL),
            options=["--no-outlives-power"],
        )

    async def sicken(self, sickness: Sickness) -> None:
        switches = _SWITCHES.get(sickness)
        if switches is not None:
            await ask(self._running.control, switches)
            return
        self._before += await self.connections()
        child = self._running.child
        if child is not None:
            child.signal(signal.SIGKILL)
            await child.process.wait()

    async def heal(self) -> None:
        seat = self._running
        if seat.child is None or seat.child.process.poll() is not None:
            await self._stage.restart_acquirer(seat, switches=_texts(_WELL))
        else:
            await ask(seat.control, _WELL)

    async def connections(self) -> int:
        child = self._running.child
        if child is None or child.process.poll() is not None:
            return self._before
        counts: dict[str, Any] = (await ask(self._running.control, {}))["counts"]
        return self._before + int(counts.get("connections", 0))

    async def stop(self) -> None:
        if self._running.child is not None:
            await self._running.child.stop(grace_s=5)


def _texts(switches: dict[str, object]) -> list[str]:
    return [f"{name}={value}" for name, value in switches.items()]


class Isoload:
    """isoload's acquirer: it has no ledger, and tells what it received when it is stopped."""

    CAN = frozenset((Sickness.MUTE, Sickness.DEAD, Sickness.DRAINED))

    def __init__(
        self, children: Children, tool: Path, name: str, address: HostPort, *, folder: Path
    ) -> None:
        self.name = name
        self.address = address
        self.killed = False
        self.received: dict[str, int] = {}  # by message type, known once it was stopped
        self._children = children
        self._tool = tool
        self._log = folder / f"{name}.log"
        self._child: Child | None = None
        self._mute = False

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def _running(self) -> Child:
        if self._child is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._child

    async def start(self) -> None:
        command = [str(self._tool), "acquirer", "-listen", str(self.address)]
        self._child = await self._children.start(self.name, command, log=self._log, talks=True)
        with trio.move_on_after(_LISTENS_S):
            while self._child.process.poll() is None:
                try:
                    stream = await trio.open_tcp_stream(*self.address)
                except OSError:
                    await trio.sleep(_POLL_S)
                else:
                    await stream.aclose()
                    return
        raise self._child.failure()

    async def sicken(self, sickness: Sickness) -> None:
        if sickness is Sickness.MUTE:
            self._toggle()
            return
        self.killed = True
        self._running.signal(signal.SIGKILL)
        await self._running.process.wait()

    async def heal(self) -> None:
        if self._running.process.poll() is not None:
            self._mute = False
            await self.start()
        elif self._mute:
            self._toggle()

    def _toggle(self) -> None:
        self._mute = not self._mute
        self._running.signal(signal.SIGUSR1)

    async def connections(self) -> None:
        return None

    async def stop(self) -> None:
        child = self._running
        child.signal(signal.SIGTERM)
        self.received = json.loads(await child.line(timeout_s=5))["received"] or {}
        await child.stop(grace_s=5)
