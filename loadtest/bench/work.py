"""Work: what the rows of the benchmark share, and what a row is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.faults import Fault
from loadtest.bench.figures import Measured
from loadtest.bench.load import Load, Said
from loadtest.bench.stand import Server, Stand

PLAIN = Load(terminals=100)


@dataclass(slots=True)
class Bench:
    """The stand, whether only a glance is wanted, and what the echo took in the beginning."""

    stand: Stand
    quick: bool
    say: Callable[[str], None]
    unit: Said | None = None  # the echo under PLAIN

    async def run(self, server: Server, load: Load) -> Said:
        """Put a load on a server, or a glance of it. Raises ChildFailed."""
        return await self.stand.run(server, load.quick() if self.quick else load)

    async def of_echo(self, load: Load) -> Said:
        """What the bare echo takes for a load. Raises ChildFailed."""
        async with self.stand.echo(tls=load.tls) as echo:
            return await self.run(echo, load)

    async def of_gateway(self, load: Load, fault: Fault = Fault.NONE) -> Said:
        """What a gateway of its own takes for a load. Raises ChildFailed."""
        async with self.stand.gateway(fault) as gateway:
            return await self.run(gateway, load)

    async def unit_of(self) -> Said:
        """The echo under PLAIN, measured once. Raises ChildFailed."""
        if self.unit is None:
            self.unit = await self.of_echo(PLAIN)
        return self.unit


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: its name on the command line, its title, and how it is measured."""

    key: str
    title: str
    measure: Callable[[Bench, Measured], Awaitable[None]]
    long: bool = False  # of `make bench-long` alone


def took(found: Measured, name: str, said: Said) -> None:
    """Keep what isoload said of the gateway, and count what failed."""
    found.raw[name] = said.raw
    found.errors += said.errors
    if said.errors:
        found.failure = f"{said.errors} transactions failed: {said.raw.get('first_error', '')}"
