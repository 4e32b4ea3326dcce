"""Show: what `make run` starts; a gateway with something to do, until it is told to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from gateway.clock import SystemClock, iso_time
from gateway.settings.loader import Configuration, load
from gateway.settings.schema_terminals import Listener, ServerTls
from loadtest.addresses import HostPort, loopback
from loadtest.fleet import Fleet, FleetOptions, terminal_names
from loadtest.ledger import Outcome
from loadtest.processes import Child, ChildFailed, Children
from loadtest.stage import AcquirerSeat, Stage, import_devices, make_certificates
from loadtest.terminal import Behaviour, Sale, TerminalName
from loadtest.wire import shipped_wire

Say = Callable[[str], None]

TERMINALS = 3
_PURCHASES_PER_S = 1.0
_SETTLE_S = 5.0  # what is open at the tills ends within this
_GRACE_MORE_S = 5.0
_CRL_KEPT_S = 14 * 24 * 3600.0  # `gateway certs init` signs it again before it ends


class CannotShow(Exception):
    """The configuration has nothing that could be shown on this machine."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a configuration asks the show to play."""

    configuration: Configuration
    listener: Listener
    tls: ServerTls
    target: HostPort
    acquirers: dict[str, HostPort]
    var: Path

    @property
    def authority(self) -> Path:
        return self.configuration.resolve(self.tls.client_ca)

    @property
    def admin_socket(self) -> Path:
        return self.configuration.resolve(self.configuration.settings.node.admin_socket)

    @property
    def certs(self) -> Path:
        return self.authority.parent / "terminals"


def plan_of(config: Path) -> Plan:
    """What is to be started for a configuration file.

    Raises CannotShow, NotLoopback, and SettingsError for a file that is not right.
    """
    configuration = load(config)
    settings = configuration.settings
    listener = next((one for one in settings.listeners if one.tls is not None), None)
    if listener is None or listener.tls is None:
        raise CannotShow(f"{config} has no listener with mutual TLS")
    acquirers: dict[str, HostPort] = {}
    for upstream in settings.upstreams:
        if not upstream.plain or upstream.dialect != "iso87_ascii":
            raise CannotShow(f"upstream {upstream.name} is not one that the simulator can play")
        for number, address in enumerate(upstream.addresses, start=1):
            name = upstream.name if number == 1 else f"{upstream.name}-{number}"
            acquirers[name] = loopback(address)
    return Plan(
        configuration,
        listener,
        listener.tls,
        loopback(listener.listen),
        acquirers,
        configuration.resolve(settings.store.path).parent,
    )


async def run_show(config: Path, say: Say, stop: trio.Event) -> None:
    """Plays until `stop` is set, and then stops in order: terminals, gateway, acquirers.

    Raises ChildFailed where a part does not start or the gateway ends by itself, and what
    `plan_of` raises.
    """
    started_s = trio.current_time()
    plan = plan_of(config)
    plan.var.mkdir(parents=True, exist_ok=True)
    names = terminal_names(TERMINALS)
    grace_s = plan.configuration.settings.node.drain_s + _GRACE_MORE_S
    async with Children(grace_s=grace_s) as children:
        stage = Stage(children, logs=plan.var / "log")
        gateway = await _start_unless(stop, plan, names, stage, say)
        if gateway is None:
            return
        _announce(plan, stage, say)
        await _play(plan, names, stage, gateway, stop=stop, started_s=started_s, say=say)
        say("stopping the gateway, then the acquirers")
        ended_by_itself = gateway.process.poll() is not None
        status = await gateway.stop(grace_s=grace_s)
        if ended_by_itself or status:
            raise gateway.failure()


async def _start_unless(
    stop: trio.Event, plan: Plan, names: Sequence[TerminalName], stage: Stage, say: Say
) -> Child | None:
    """The gateway once everything before the terminals runs; None if `stop` came first."""
    gateway: Child | None = None
    async with trio.open_nursery() as starting:

        async def give_up() -> None:
            await stop.wait()
            starting.cancel_scope.cancel()

        starting.start_soon(give_up)
        async with trio.open_nursery() as first:
            for name, address in plan.acquirers.items():
                first.start_soon(_start_acquirer, stage, name, address, plan.var)
            await _certificates(plan, names, say)
        config = plan.configuration.file
        gateway = await stage.start_gateway(config, admin_socket=plan.admin_socket)
        try:
            await import_devices(plan.certs / "devices.csv", config=config)
        except ChildFailed as error:
            say(f"the devices were not imported: {error}")  # an earlier run may have done it
        starting.cancel_scope.cancel()
    return None if stop.is_set() else gateway


async def _start_acquirer(stage: Stage, name: str, address: HostPort, folder: Path) -> None:
    await stage.start_acquirer(name, folder=folder, address=address)


async def _certificates(plan: Plan, names: Sequence[TerminalName], say: Say) -> None:
    folder = plan.authority.parent
    needed = [plan.authority, plan.configuration.resolve(plan.tls.certificate)]
    needed += [plan.certs / "devices.csv"]
    needed += [plan.certs / f"{name.terminal_id}.crt" for name in names]
    if all(path.exists() for path in needed) and _age_s(folder / "ca.crl") < _CRL_KEPT_S:
        return
    say(f"making certificates in {_shown(folder)}")
    await make_certificates(folder, names)


def _age_s(path: Path) -> float:
    try:
        return SystemClock().wall_ms() / 1000 - path.stat().st_mtime
    except OSError:
        return float("inf")


async def _play(
    plan: Plan,
    names: Sequence[TerminalName],
    stage: Stage,
    gateway: Child,
    *,
    stop: trio.Event,
    started_s: float,
    say: Say,
) -> None:
    """Runs the terminals until `stop`, which the gateway's end sets too."""
    fleet = Fleet(
        FleetOptions(
            target=plan.target,
            names=names,
            ledger=plan.var / "terminals.ledger.db",
            certs=plan.certs,
            ca=plan.authority,
            behaviour=Behaviour(purchases_per_s=_PURCHASES_PER_S),
            wire=shipped_wire(plan.listener.dialect, plan.listener.framing),
        ),
        observe=_teller(say, started_s),
    )
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_with, gateway, stop)
            for seat in stage.acquirers.values():
                nursery.start_soon(_tell_of_end, seat, say)

            async def until_stopped() -> None:
                await stop.wait()
                say("stopping the terminals")

            settled = await fleet.run_while(until_stopped, settle_s=_SETTLE_S)
            nursery.cancel_scope.cancel()
            if not settled:
                say("purchases without an answer are left; the next start settles them")
    finally:
        fleet.close()


def _teller(say: Say, started_s: float) -> Callable[[Sale], None]:
    first = True

    def tell(sale: Sale) -> None:
        nonlocal first
        say(sale_line(sale))
        if first and sale.attempt.outcome is Outcome.APPROVED:
            first = False
            say(f"(the first approval, {trio.current_time() - started_s:.1f} s after the start)")

    return tell


async def _stop_with(gateway: Child, stop: trio.Event) -> None:
    await gateway.process.wait()
    stop.set()


async def _tell_of_end(seat: AcquirerSeat, say: Say) -> None:
    if seat.child is not None:
        say(f"{seat.name} ended with {await seat.child.process.wait()}")


# --- what is printed -----------------------------------------------------------------------------


def _announce(plan: Plan, stage: Stage, say: Say) -> None:
    settings = plan.configuration.settings
    config = _shown(plan.configuration.file)
    say("")
    say(f"gateway      {plan.target}  (mutual TLS, listener {plan.listener.name})")
    if settings.metrics.listen:
        say(f"metrics      http://{settings.metrics.listen}/metrics")
    say(f"admin        {_shown(plan.admin_socket)}")
    seats = [stage.acquirers[name] for name in plan.acquirers]
    for seat in seats:
        say(f"{seat.name:<12} {seat.address}  (simulated; ledger {_shown(seat.ledger)})")
    say(f"terminals    {TERMINALS}, simulated; certificates in {_shown(plan.certs)}")
    say(f"logs         {_shown(plan.var / 'log')}")
    say("")
    say("In another terminal, try:")
    say(f"  .venv/bin/gateway status --config {config}")
    say(f"  .venv/bin/gateway terminals list --config {config}")
    if settings.metrics.listen:
        say(f"  curl -s http://{settings.metrics.listen}/metrics | grep ^gateway_")
    switch = f".venv/bin/python -m loadtest switch {_shown(seats[0].control)}"
    say(f"  {switch} mute=true  # it answers nothing, until mute=false")
    say(f"  {switch} decline=51:amount%2=0  # no money for even amounts, until decline=")
    say("Ctrl-C stops everything.")
    say("")


def _shown(path: Path) -> str:
    """A path as it can be typed: relative where it lies below the current folder."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def sale_line(sale: Sale) -> str:
    """A sale for people: time (UTC), terminal, amount, answer, how long it took."""
    attempt = sale.attempt
    amount = f"{attempt.amount_minor // 100}.{attempt.amount_minor % 100:02d}"
    answer = f"{attempt.outcome} {attempt.response_code or attempt.reversal_code}".rstrip()
    took_ms = (sale.ended_s - sale.started_s) * 1000
    time = iso_time(attempt.started_ms)[11:19]
    return f"{time}  {attempt.terminal_id}  {amount:>8}  {answer:<12}  {took_ms:7.1f} ms"
