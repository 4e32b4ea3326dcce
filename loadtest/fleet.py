"""Fleet: many simulated terminals in one process, on one ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import trio

from gateway.clock import SystemClock
from gateway.wire.tls import client_context
from loadtest.addresses import HostPort
from loadtest.cards import Shop
from loadtest.commit import GroupCommit
from loadtest.connection import Connection, Dial, dialler
from loadtest.ledger import TerminalLedger
from loadtest.terminal import Behaviour, Book, Commit, Sale, Terminal, TerminalName
from loadtest.wire import Wire, shipped_wire

CONNECT_S = 10.0


def terminal_names(
    count: int, *, first: int = 1, merchant: str = "MERCHANT{number:07d}"
) -> list[TerminalName]:
    """T0000001 and so on; `{number}` in `merchant` is the terminal's, padded as it says.

    Raises ValueError for a merchant that is not one.
    """
    try:
        merchant.format(number=first)
    except (KeyError, IndexError) as error:
        raise ValueError(f"merchant {merchant!r}: only {{number}} can stand in it") from error
    return [
        TerminalName(f"T{number:07d}", merchant.format(number=number), number)
        for number in range(first, first + count)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """What a fleet is made of; `certs` is a folder with ca.crt and T0000001.crt, .key and so on."""

    target: HostPort
    names: Sequence[TerminalName]
    ledger: Path
    certs: Path | None = None  # None: plain TCP
    ca: Path | None = None  # default: ca.crt in `certs`
    server_name: str = "localhost"
    behaviour: Behaviour = field(default_factory=Behaviour)
    wire: Wire = field(default_factory=shipped_wire)
    seed: int = 1
    amount_min_minor: int = 100
    amount_max_minor: int = 25_000
    connect_s: float = CONNECT_S


class Fleet:
    """Terminals that run together. Its ledger is open from its making until `close`."""

    def __init__(
        self, options: FleetOptions, *, observe: Callable[[Sale], None] | None = None
    ) -> None:
        """Raises gateway.errors.CertificateUnusable for certificates that cannot be used."""
        self.outcomes: Counter[str] = Counter()
        self._observe = observe
        self._ledger = TerminalLedger(options.ledger)
        self._commit = GroupCommit(self._ledger.database)
        self.terminals = terminals_of(
            options, ledger=self._ledger, commit=self._commit, observe=self._sold
        )

    def _sold(self, sale: Sale) -> None:
        self.outcomes[sale.attempt.outcome] += 1
        if self._observe is not None:
            self._observe(sale)

    def stop(self) -> None:
        """No more purchases; `run` returns once all terminals have settled what is open."""
        for terminal in self.terminals:
            terminal.stop()

    async def run(self) -> None:
        """Runs all terminals until `stop`, or until cancelled."""
        async with trio.open_nursery() as committing:
            committing.start_soon(self._commit.run)
            async with trio.open_nursery() as running:
                for terminal in self.terminals:
                    running.start_soon(terminal.run)
            committing.cancel_scope.cancel()

    async def run_while(self, wait: Callable[[], Awaitable[object]], *, settle_s: float) -> bool:
        """Buys as long as `wait` waits, then settles; whether that was done within `settle_s`."""
        settled = False
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                nonlocal settled
                await self.run()
                settled = True
                nursery.cancel_scope.cancel()

            nursery.start_soon(run)
            await wait()
            self.stop()
            await trio.sleep(settle_s)
            nursery.cancel_scope.cancel()
        return settled

    def close(self) -> None:
        self._ledger.close()


def terminals_of(
    options: FleetOptions, *, ledger: Book, commit: Commit, observe: Callable[[Sale], None]
) -> list[Terminal]:
    """The terminals that some options describe.

    Raises gateway.errors.CertificateUnusable for certificates that cannot be used.
    """
    behaviour, clock = options.behaviour, SystemClock()
    return [
        Terminal(
            name=name,
            behaviour=behaviour,
            shop=Shop(
                seed=options.seed,
                number=name.number,
                amount_min_minor=options.amount_min_minor,
                amount_max_minor=options.amount_max_minor,
            ),
            connection=Connection(
                dial=_dial_of(name, options), wire=options.wire, connect_s=options.connect_s
            ),
            ledger=ledger,
            commit=commit,
            clock=clock,
            random=Random(f"{options.seed}/{name.number}"),
            observe=observe,
        )
        for name in options.names
    ]


def _dial_of(name: TerminalName, options: FleetOptions) -> Dial:
    context = None
    if options.certs is not None:
        context = client_context(
            options.ca or options.certs / "ca.crt",
            certificate=options.certs / f"{name.terminal_id}.crt",
            key=options.certs / f"{name.terminal_id}.key",
        )
    return dialler(options.target, context, server_name=options.server_name)
