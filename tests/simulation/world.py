"""World: everybody on one virtual clock, what goes wrong until it heals, and what is left then."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from unittest.mock import patch

import trio
import trio.testing
from trio._core import _run as scheduler

from gateway.clock import VirtualClock
from gateway.errors import InvariantBroken, OperatorError, StoreError
from gateway.store import queries, rows
from gateway.store.store import State, Transaction
from gateway.telemetry.events import Event
from gateway.transactions import delivery
from gateway.wire.framing import FramingSpec
from gateway.wire.message import Kind
from loadtest.wire import Wire
from tests.simulation.acquirer import SimulatedAcquirer
from tests.simulation.disk import Disk
from tests.simulation.doubles import Doubles
from tests.simulation.network import Network, SimulatedStream
from tests.simulation.node import Life, codec
from tests.simulation.plan import Plan, plan_of
from tests.simulation.terminal import SimulatedTerminal
from tests.simulation.trace import Trace
from tests.simulation.verdict import Finding, judge
from tests.support.powerloss import PowerDisk, restore

CONVERGE_S = 400.0
_POLL_S = 0.5
_START_S = 0.1


@dataclass(slots=True)
class Result:
    """What became of one seed."""

    seed: int
    digest: str
    findings: list[Finding]
    trace: Trace
    attempts: int
    crashes: int
    virtual_s: float
    counts: dict[str, int] = field(default_factory=dict)


class World:
    """One run."""

    def __init__(self, plan: Plan, folder: Path, doubles: Doubles) -> None:
        self.plan = plan
        self.trace = Trace()
        self.clock = VirtualClock(plan.start_ms)
        self.random = Random(f"world/{plan.seed}")
        self.findings: list[Finding] = []
        self.crashes = 0
        self.closing = False  # the terminals' shops
        self.transactions: list[Transaction] = []  # at the end, as the store has them
        self.settled_by_operator: set[int] = set()
        self._folder = folder
        self._doubles = doubles
        self._calm = False
        self._over = False
        self._life: Life | None = None
        self._steps_to_crash = -1
        wire = Wire(codec(), FramingSpec())
        self.network = Network(self.random, self.trace)
        self.network.at_point = self._at_point
        self.disk = Disk(plan.disk, self.random, self.trace)
        self.acquirers = [
            SimulatedAcquirer(
                name,
                plan=plan.acquirers,
                weather=plan.inside,
                late_max_s=plan.late_max_s,
                network=self.network,
                wire=wire,
                clock=self.clock,
                random=self.random,
                trace=self.trace,
            )
            for name in ("north", "south")
        ]
        self.terminals = [
            SimulatedTerminal(
                number,
                plan=plan.shops,
                dial=partial(self._dial, f"t{number}"),
                wire=wire,
                clock=self.clock,
                random=self.random,
                trace=self.trace,
                closing=lambda: self.closing,
            )
            for number in range(1, plan.terminals + 1)
        ]

    async def run(self) -> None:
        """The whole of it: trouble, healing, convergence, and what the store holds at the end."""
        self.clock.wall_ms()
        async with trio.open_nursery() as everybody:
            for acquirer in self.acquirers:
                await everybody.start(acquirer.run)
            everybody.start_soon(self._keep_gateway)
            async with trio.open_nursery() as trouble:
                trouble.start_soon(self.disk.go_wrong)
                trouble.start_soon(self._stop_now_and_then)
                for acquirer in self.acquirers:
                    trouble.start_soon(acquirer.go_wrong)
                for terminal in self.terminals:
                    trouble.start_soon(terminal.go_wrong)
                    everybody.start_soon(terminal.run)
                self._plan_crash()
                await trio.sleep(self.plan.active_s)
                trouble.cancel_scope.cancel()
            self._heal()
            await self._converge()
            everybody.cancel_scope.cancel()

    def before_step(self) -> None:
        """Called before every step of the scheduler: the gateway may die at any of them."""
        if self._steps_to_crash > 0:
            self._steps_to_crash -= 1
            if self._steps_to_crash == 0:
                self._crash("at a step")
                self._plan_crash()

    # --- the gateway's process ----------------------------------------------------------------

    async def _keep_gateway(self) -> None:
        while not self._over:
            power = self._power_disk()
            life = self._life = Life(
                plan=self.plan,
                path=self._folder / "store.db",
                disk=self.disk,
                acquirers=self.acquirers,
                clock=self.clock,
                emit=self._emit,
                random=self.random,
                doubles=self._doubles,
                at_point=self._at_point,
                power=power,
            )
            self.trace("gateway", "starts")
            try:
                await life.run()
            except* InvariantBroken as broken:
                if not life.fatal:
                    self._found("the node broke an invariant", broken)
            except* (StoreError, OperatorError) as error:
                if life.has_served:
                    self._found("the node fell", error)
            except* Exception as error:
                self._found("the node fell", error)
            self.trace("gateway", "gone")
            if power is not None:
                power.unregister()
            if life.left is not None:
                self._folder = self._folder / "left"
                restore(life.left, self._folder)
            down_s = _START_S if self._calm else self.plan.crashes.down_s
            await trio.sleep(_START_S + self.random.expovariate(1 / down_s))

    def _power_disk(self) -> PowerDisk | None:
        if not self.plan.crashes.power:
            return None
        return PowerDisk(self.random, folder=self._folder)

    def _found(self, what: str, group: BaseExceptionGroup) -> None:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        self.trace("gateway", what, error=repr(error))
        self.findings.append(Finding.of_error(what, error))

    def _plan_crash(self) -> None:
        mean = self.plan.crashes.steps
        self._steps_to_crash = 1 + round(self.random.expovariate(1 / mean)) if mean else -1

    def _at_point(self, where: str) -> None:
        if not self._calm and self.random.random() < self.plan.crashes.point:
            self._crash(where)

    def _crash(self, where: str) -> None:
        life = self._life
        if self._calm or life is None or life.dead:
            return
        power = self.random.random() < self.plan.crashes.power
        self.crashes += 1
        self.trace("gateway", f"{'power lost' if power else 'killed'} {where}")
        life.die(power=power)

    async def _stop_now_and_then(self) -> None:
        while self.plan.crashes.stops_every_s:
            await trio.sleep(self.random.expovariate(1 / self.plan.crashes.stops_every_s))
            if self._life is not None:
                self.trace("gateway", "is stopped")
                self._life.stop()

    def _emit(self, event: Event, /, **fields: object) -> None:
        self.trace("gateway", event.value, **fields)
        if event is Event.HANDLER_FAILED and "listener" in fields:
            self.findings.append(
                Finding("handler failed", f"{fields.get('reason')} at {fields.get('at')}")
            )

    async def _dial(self, caller: str) -> tuple[SimulatedStream, Callable[[], bool]]:
        weather = self.plan.outside
        await trio.sleep(weather.latency_s)
        life = self._life
        if life is None or not life.accepts or self.network.refuses(weather):
            raise ConnectionRefusedError("refused")
        ours, theirs = self.network.pair(caller, "gateway", weather)
        life.accept(theirs, "10.0.0.1")
        return ours, lambda: ours.established

    # --- the end ------------------------------------------------------------------------------

    def _heal(self) -> None:
        self.trace("world", "heals")
        self._calm = True
        self.network.heal()
        self.disk.heal()
        for acquirer in self.acquirers:
            acquirer.heal()
        self.closing = True

    async def _converge(self) -> None:
        """Wait until nobody has anything to do any more; an operator settles what is given up."""
        with trio.move_on_after(CONVERGE_S) as limit:
            while not self._at_rest() or await self._operate():
                await trio.sleep(_POLL_S)
        if limit.cancelled_caught:
            self.findings.append(Finding("not converged", "; ".join(self._restless())))
        life = self._life
        if life is not None and life.ready:
            self.transactions = await everything(life)
            self.findings += judge(self, life, open_reversals=await life.store.owed_reversals())
        self._over = True

    def _at_rest(self) -> bool:
        return not any(True for _ in self._restless())

    def _restless(self) -> Iterator[str]:
        for terminal in self.terminals:
            if not terminal.done:
                yield f"{terminal.terminal_id} is not done"
        life = self._life
        if life is None or not life.ready:
            yield "the gateway is not up"
            return
        for name, count in (
            ("under way", life.flow.under_way),
            ("reversals open", life.reversals.open),
            ("unwritten", life.records.unwritten),
            ("undelivered", life.delivery.undelivered_count),
        ):
            if count:
                yield f"{count} {name}"

    async def _operate(self) -> int:
        """An operator goes through what was given up; returns how much that was."""
        life = self._life
        assert life is not None
        given_up = [one for one in await everything(life) if one.state is State.GIVEN_UP]
        for transaction in given_up:
            try:
                if transaction.kind is Kind.REFUND:
                    # Settled with the acquirer by telephone.
                    self.settled_by_operator.add(transaction.transaction_id)
                    await life.reversals.resolve(
                        transaction.transaction_id,
                        "by telephone",
                        booked=self._is_booked(transaction),
                    )
                else:
                    await life.reversals.retry(transaction.transaction_id)
            except (OperatorError, StoreError) as error:
                self.trace("operator", "cannot", why=str(error))
        return len(given_up)

    def _is_booked(self, transaction: Transaction) -> bool:
        """What the acquirer says when it is called."""
        stan = f"{transaction.upstream_stan:06d}"
        return any(
            entry.stan == stan and entry.holds_money
            for acquirer in self.acquirers
            if acquirer.name == transaction.upstream
            for entry in acquirer.ledger.entries.values()
        )


async def everything(life: Life) -> list[Transaction]:
    """All transactions in the store."""
    found = await life.store._read(queries.SELECT_TRANSACTIONS + "ORDER BY t.transaction_id")
    return [rows.transaction(row) for row in found]


# --- running a seed -------------------------------------------------------------------------------


class _Steps(trio.abc.Instrument):
    def __init__(self, world: World) -> None:
        self._world = world

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._world.before_step()


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """trio's scheduler takes its turns by the seed, as it does under Hypothesis."""
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    state = scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
        scheduler._r.setstate(state)


def simulate(seed: int, *, doubles: Doubles | None = None) -> Result:
    """Run one seed from its first moment to its verdict."""
    memory = Path("/dev/shm")  # noqa: S108 (a folder of our own is made in it)
    where = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="simulation-", dir=where) as folder:
        world = World(plan_of(seed), Path(folder), doubles or Doubles())
        clock = trio.testing.MockClock(autojump_threshold=0)
        # Ten times a second would be half of all that happens; nothing rests on these marks.
        with deterministic(seed), patch.object(delivery, "_MARK_EVERY_S", 1.0):
            trio.run(world.run, clock=clock, instruments=[_Steps(world)])
    return Result(
        seed=seed,
        digest=world.trace.digest(),
        findings=world.findings,
        trace=world.trace,
        attempts=sum(len(terminal.book.attempts) for terminal in world.terminals),
        crashes=world.crashes,
        virtual_s=world.trace.lines[-1].at_s,
    )
