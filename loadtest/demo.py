"""Demo: gateway, two acquirers and terminals for some seconds, then all ledgers compared."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from loadtest.addresses import HostPort, lasting_ports
from loadtest.fleet import Fleet, FleetOptions, terminal_names
from loadtest.processes import Children
from loadtest.reconcile import Reconciliation, reconcile_files
from loadtest.stage import Stage, import_devices, make_certificates, write_configuration
from loadtest.terminal import Behaviour

Say = Callable[[str], None]

_ACQUIRERS = ("acquirer-a", "acquirer-b")
_DECLINE = "decline=51:amount%17=0"  # some customers have no money
_ANSWER_S = 5.0
_TERMINAL_ANSWER_S = 8.0
_SETTLE_S = 20.0
_DRAIN_S = 5.0
_POLL_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    seconds: float = 10.0
    terminals: int = 10
    purchases_per_s: float = 5.0  # of each terminal
    seed: int = 1


@dataclass(frozen=True, slots=True)
class DemoResult:
    reconciliation: Reconciliation
    exit_statuses: dict[str, int]

    @property
    def passed(self) -> bool:
        """Whether something was bought, everybody agrees, and every process ended well."""
        return (
            self.reconciliation.agrees
            and self.reconciliation.approved > 0
            and not any(self.exit_statuses.values())
        )


async def run_demo(options: DemoOptions, say: Say) -> DemoResult:
    """Runs all in a temporary folder that is gone afterwards; raises ChildFailed."""
    with tempfile.TemporaryDirectory(prefix="gateway-demo-") as folder:
        async with Children(grace_s=_DRAIN_S + 5) as children:
            return await _run(Path(folder), children, options, say)


async def _run(folder: Path, children: Children, options: DemoOptions, say: Say) -> DemoResult:
    names = terminal_names(options.terminals)
    stage = Stage(children, logs=folder / "logs")
    say(f"issuing certificates to {len(names)} terminals")
    certs = await make_certificates(folder / "certs", names)
    for number, name in enumerate(_ACQUIRERS, start=options.seed):
        await stage.start_acquirer(name, folder=folder, switches=[_DECLINE], seed=number)
    listen = HostPort("127.0.0.1", lasting_ports(1)[0])
    config = write_configuration(
        folder,
        name="demo",
        listen=listen,
        upstreams={seat.name: seat.address for seat in stage.acquirers.values()},
        answer_s=_ANSWER_S,
        drain_s=_DRAIN_S,
    )
    gateway = await stage.start_gateway(config, admin_socket=folder / "gateway.sock")
    await import_devices(certs / "devices.csv", config=config)
    say(f"the gateway listens on {listen}; buying for {options.seconds:g} s")
    ledger = folder / "terminals.ledger.db"
    fleet = Fleet(
        FleetOptions(
            target=listen,
            names=names,
            ledger=ledger,
            certs=certs,
            ca=folder / "certs" / "ca.crt",
            behaviour=Behaviour(
                purchases_per_s=options.purchases_per_s, answer_s=_TERMINAL_ANSWER_S
            ),
            seed=options.seed,
        )
    )
    try:
        await fleet.run_while(partial(trio.sleep, options.seconds), settle_s=_SETTLE_S)
    finally:
        fleet.close()
    say(f"{sum(fleet.outcomes.values())} purchases; waiting until all ledgers agree")
    ledgers = {seat.name: seat.ledger for seat in stage.acquirers.values()}
    await _converge(ledger, ledgers)
    statuses = {"gateway": await gateway.stop(grace_s=_DRAIN_S + 5)}
    for seat in stage.acquirers.values():
        if seat.child is not None:
            statuses[seat.name] = await seat.child.stop(grace_s=5)
    # Once more on ledgers that nobody writes to: this one counts.
    result = DemoResult(reconcile_files([ledger], ledgers), statuses)
    for disagreement in result.reconciliation.disagreements:
        say(str(disagreement))
    for name, status in statuses.items():
        if status:
            say(f"{name} ended with {status}")
    return result


async def _converge(ledger: Path, acquirers: dict[str, Path]) -> None:
    """Waits until the ledgers agree, or for so long as reversals may take."""
    with trio.move_on_after(_SETTLE_S):
        while True:
            found = await trio.to_thread.run_sync(reconcile_files, [ledger], acquirers)
            if found.agrees:
                return
            await trio.sleep(_POLL_S)
