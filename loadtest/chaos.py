"""Chaos: everything around real transactions dies, stalls and lies, and then all ledgers agree."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import trio

from gateway.admin.api import Status
from gateway.admin.client import AdminClient
from gateway.errors import OperatorError
from loadtest.addresses import HostPort, lasting_ports
from loadtest.chaos_actors import Acquirer, Disk, Gateway, Network, Say, Terminals
from loadtest.chaos_evidence import Evidence, Found
from loadtest.chaos_plan import Plan, Step, plan_of
from loadtest.disks import NoDisk, SmallDisk
from loadtest.faults import FaultProxy
from loadtest.fleet import terminal_names
from loadtest.processes import Children
from loadtest.stage import Stage, import_devices, make_certificates, write_configuration

_ACQUIRERS = ("acquirer-a", "acquirer-b")
_DECLINE = "decline=51:amount%17=0"
# One of the two approves what it was told to reverse before: the gateway must reverse it again.
_SWITCHES = ((_DECLINE,), (_DECLINE, "tombstones=false"))
_GATEWAY_ANSWER_S = 1.0
_LATE_MAX_S = 10.0  # more than all that can hold an original back: see chaos_plan.HELD_S_MAX
_UPSTREAM_SETTINGS = """\
connect_s = 1.0
reversal_attempts_max = 1000
reversals_under_way_max = 64
backoff = { first_s = 0.05, max_s = 0.5 }
reversal_backoff = { first_s = 0.1, max_s = 1.0 }
"""
# Of two fleets one is less patient than the gateway, the other more.
_FLEETS = (
    ("terminals-a", "--answer-s=0.6", "--repeats=1", "--plain-repeats=0.5"),
    ("terminals-b", "--answer-s=2.5", "--repeats=2", "--plain-repeats=0.3"),
)
_POLL_S = 0.5
_STATUS_TIMEOUT_S = 5.0
_GRACE_S = 10.0
_ABANDON_S = 1.0  # for what still runs when a run is broken off
_TOLD_S = 5.0  # between two lines of progress
_DISK_BYTES = 64 << 20
_DISK_BYTES_PER_S = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosOptions:
    seconds: float = 60.0
    terminals: int = 200
    purchases_per_s: float = 2.0  # of each terminal
    seed: int = 1
    converge_s: float = 60.0  # at most, once all has healed
    full_disk: bool = True  # where a small disk can be mounted
    switches: tuple[str, ...] = ()  # more of them for both acquirers, all the time

    @property
    def command(self) -> str:
        """What runs it again."""
        told = f"python -m loadtest chaos --seconds {self.seconds:g} --terminals {self.terminals}"
        told += f" --rate {self.purchases_per_s:g} --seed {self.seed}"
        told += "" if self.full_disk else " --no-full-disk"
        return told + "".join(f" --switch {switch}" for switch in self.switches)


@dataclass(slots=True, kw_only=True)
class ChaosResult:
    """What a run did, and what was found when all had healed; printed as JSON."""

    seed: int
    transactions: int = 0
    approved: int = 0
    declined: int = 0
    reversed: int = 0
    gateway_kills: int = 0
    acquirer_kills: int = 0
    cuts: int = 0
    lost: int = 0
    doubled: int = 0
    unexplained: int = 0
    reversals_open: int = 0
    converged_s: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether something was bought, and nobody's money is missing or taken twice."""
        wrong = self.lost or self.doubled or self.unexplained or self.reversals_open
        return not wrong and self.approved > 0

    def summary(self) -> dict[str, int | float]:
        return asdict(self)


@dataclass(slots=True)
class _Cast:
    """Everybody who takes part in a run."""

    gateway: Gateway
    acquirers: list[Acquirer]
    fleets: list[Terminals]
    front: Network
    backs: list[Network]
    disk: Disk
    proxies: list[FaultProxy] = field(default_factory=list)


async def run_chaos(options: ChaosOptions, say: Say) -> ChaosResult:
    """Runs all in a temporary folder, which is kept where the result is not clean.

    Raises ChildFailed and UnexpectedEnd.
    """
    folder = Path(tempfile.mkdtemp(prefix="gateway-chaos-"))
    disk = _small_disk(folder / "disk", options, say)
    kept = False
    try:
        async with Children(grace_s=_ABANDON_S) as children:
            result = await _run(folder, children, disk, options, say)
        kept = not result.passed
    except Exception:
        # Whoever stops it wants nothing of it any more, whatever breaks while it ends.
        kept = trio.current_effective_deadline() > trio.current_time()
        raise
    finally:
        if disk is not None:
            if kept:
                disk.keep(folder / "store")
            disk.close()
        if kept:
            say(f"kept: {folder}")
            say(f"again: {options.command}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return result


def _small_disk(folder: Path, options: ChaosOptions, say: Say) -> SmallDisk | None:
    folder.mkdir(mode=0o700)
    if not options.full_disk:
        return None
    size_bytes = _DISK_BYTES + round(options.seconds * _DISK_BYTES_PER_S)
    try:
        return SmallDisk(folder, size_bytes=size_bytes)
    except NoDisk as error:
        say(f"the gateway's disk will not be full in this run: {error}")
        return None


async def _run(
    folder: Path,
    children: Children,
    disk: SmallDisk | None,
    options: ChaosOptions,
    say: Say,
) -> ChaosResult:
    plan = plan_of(options.seed, seconds=options.seconds)
    stage = Stage(children, logs=folder / "logs")
    async with trio.open_nursery() as networks:
        cast = await _assemble(folder, stage, networks, disk, options, say)
        await _play(plan, cast, options, say)
        result, found = await _heal(folder, stage, cast, options, say)
        networks.cancel_scope.cancel()
    for line in found.lines(folder / "logs" / "gateway.log"):
        say(line)
    return result


# --- before --------------------------------------------------------------------------------------


async def _assemble(
    folder: Path,
    stage: Stage,
    networks: trio.Nursery,
    disk: SmallDisk | None,
    options: ChaosOptions,
    say: Say,
) -> _Cast:
    names = terminal_names(options.terminals)
    say(f"seed {options.seed}: issuing certificates to {len(names)} terminals")
    certs = await make_certificates(folder / "certs", names)
    ports = [HostPort("127.0.0.1", port) for port in lasting_ports(2 + 2 * len(_ACQUIRERS))]
    listen, front, *others = ports
    acquirers, backs, upstreams = [], [], {}
    for number, name in enumerate(_ACQUIRERS):
        address, proxied = others[2 * number], others[2 * number + 1]
        switches = (*_SWITCHES[number], *options.switches)
        seed = options.seed * 1_000 + number * 500
        seat = await stage.start_acquirer(
            name, folder=folder, address=address, switches=switches, seed=seed
        )
        proxy = FaultProxy(target=address, random=Random(f"{options.seed}/{name}"))
        await networks.start(proxy.serve, proxied)
        acquirers.append(Acquirer(stage, seat, proxy=proxy, switches=switches, seed=seed))
        backs.append(Network(proxy))
        upstreams[name] = proxied
    config = write_configuration(
        folder,
        name="chaos",
        listen=listen,
        upstreams=upstreams,
        answer_s=_GATEWAY_ANSWER_S,
        late_max_s=_LATE_MAX_S,
        drain_s=5.0,
        store="disk/gateway.db",
        upstream_settings=_UPSTREAM_SETTINGS,
    )
    await import_devices(certs / "devices.csv", config=config)
    proxy = FaultProxy(target=listen, random=Random(f"{options.seed}/front"))
    await networks.start(proxy.serve, front)
    fleets = _fleets(stage, folder, certs, front, options)
    disk_actor = Disk(disk)
    gateway = Gateway(
        stage,
        config=config,
        admin_socket=folder / "gateway.sock",
        disk=disk_actor,
        say=say,
    )
    proxies = [proxy, *(back.proxy for back in backs)]
    return _Cast(gateway, acquirers, fleets, Network(proxy), backs, disk_actor, proxies)


def _fleets(
    stage: Stage, folder: Path, certs: Path, target: HostPort, options: ChaosOptions
) -> list[Terminals]:
    fleets = []
    first = 1
    for number, (name, *behaviour) in enumerate(_FLEETS):
        # The first takes what cannot be divided.
        count = (options.terminals + len(_FLEETS) - 1 - number) // len(_FLEETS)
        arguments = (
            f"--count={count}",
            f"--first={first}",
            f"--ca={certs.parent / 'ca.crt'}",
            f"--rate={options.purchases_per_s}",
            f"--seed={options.seed}",
            f"--settle-s={options.converge_s}",
            "--backoff-max-s=0.5",
            "--connect-s=2",
            "--waits-for-line",
            *behaviour,
        )
        first += count
        if count:
            fleets.append(
                Terminals(stage, name, folder=folder, certs=certs, target=target, options=arguments)
            )
    return fleets


# --- meanwhile -----------------------------------------------------------------------------------


async def _play(plan: Plan, cast: _Cast, options: ChaosOptions, say: Say) -> None:
    """Carries the plan out; takes longer than planned where the machine is slow."""
    started_s = trio.current_time()
    for fleet in cast.fleets:
        await fleet.start()
    async with trio.open_nursery() as telling:
        telling.start_soon(_tell, started_s, cast, say)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cast.gateway.live, plan.lives)
            acts: list[tuple[Callable[[Step], Awaitable[None]], Iterable[Step]]] = [
                (cast.front.act, plan.front),
                (cast.disk.act, plan.disk),
                *(
                    (acquirer.act, s)
                    for acquirer, s in zip(cast.acquirers, plan.acquirers, strict=True)
                ),
                *((fleet.act, s) for fleet, s in zip(cast.fleets, plan.fleets, strict=True)),
                *((back.act, s) for back, s in zip(cast.backs, plan.backs, strict=True)),
            ]
            for act, steps in acts:
                nursery.start_soon(_act, act, steps, started_s)
            await trio.sleep(options.seconds)
        telling.cancel_scope.cancel()


async def _act(
    act: Callable[[Step], Awaitable[None]], steps: Iterable[Step], started_s: float
) -> None:
    for step in steps:
        await trio.sleep_until(started_s + step.at_s)
        await act(step)


async def _tell(started_s: float, cast: _Cast, say: Say) -> None:
    while True:
        await trio.sleep(_TOLD_S)
        say(
            f"{trio.current_time() - started_s:5.0f} s: killed the gateway {cast.gateway.kills}"
            f" times, acquirers {sum(a.kills for a in cast.acquirers)}, terminals"
            f" {sum(f.kills for f in cast.fleets)}; cut {sum(p.cuts for p in cast.proxies)}"
        )


# --- afterwards ----------------------------------------------------------------------------------


async def _heal(
    folder: Path, stage: Stage, cast: _Cast, options: ChaosOptions, say: Say
) -> tuple[ChaosResult, Found]:
    """Makes everything well again, waits until all agree, and counts what does not."""
    cast.disk.heal()
    for proxy in cast.proxies:
        proxy.refuse(False)
        proxy.clear()
    for acquirer in cast.acquirers:
        await acquirer.heal()
    gateway = await cast.gateway.start()
    starts_s = sorted(cast.gateway.start_s)
    say(
        f"healed; the gateway took {starts_s[len(starts_s) // 2]:.2f} s to start in the middle, "
        f"{starts_s[-1]:.2f} s at most; it ended by itself {cast.gateway.ended} times"
    )
    healed_s = trio.current_time()
    evidence = Evidence(
        terminals=[fleet.ledger for fleet in cast.fleets],
        acquirers={name: seat.ledger for name, seat in stage.acquirers.items()},
        store=folder / "disk" / "gateway.db",
    )
    client = AdminClient(folder / "gateway.sock", config=folder, timeout_s=_STATUS_TIMEOUT_S)
    with trio.move_on_after(options.converge_s):
        async with trio.open_nursery() as settling:
            for fleet in cast.fleets:
                settling.start_soon(fleet.settle)
        say(f"the terminals settled within {trio.current_time() - healed_s:.1f} s")
        await _converge(evidence, client)
    converged_s = trio.current_time() - healed_s
    open_ = await _reversals_open(client)
    await gateway.stop(grace_s=_GRACE_S)
    for seat in stage.acquirers.values():
        if seat.child is not None:
            await seat.child.stop(grace_s=_GRACE_S)
    # Once more on ledgers that nobody writes to: this one counts.
    found = await trio.to_thread.run_sync(evidence.look)
    held = found.reconciliation
    result = ChaosResult(
        seed=options.seed,
        transactions=held.sent - held.unsent,
        approved=held.approved,
        declined=held.declined,
        reversed=held.reversed,
        gateway_kills=cast.gateway.kills,
        acquirer_kills=sum(acquirer.kills for acquirer in cast.acquirers),
        cuts=sum(proxy.cuts for proxy in cast.proxies),
        lost=found.lost,
        doubled=found.doubled,
        unexplained=found.unexplained,
        reversals_open=open_,
        converged_s=round(converged_s, 2),
    )
    return result, found


async def _converge(evidence: Evidence, client: AdminClient) -> None:
    """Waits until no reversal is owed and everybody agrees."""
    while True:
        if await _reversals_open(client) == 0:
            found = await trio.to_thread.run_sync(evidence.look)
            if found.agrees:
                return
        await trio.sleep(_POLL_S)


async def _reversals_open(client: AdminClient) -> int:
    """How many the gateway says it owes or has handed to an operator; -1: it does not say."""
    try:
        status: Status = await trio.to_thread.run_sync(partial(client.status))
    except OperatorError:
        return -1
    return status["reversals_owed"] + status["reversals_given_up"]
