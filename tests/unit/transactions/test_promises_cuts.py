"""Whatever is cut at whatever await, acquirers and terminals agree once all has healed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count

import pytest
import trio
import trio.lowlevel
import trio.testing

from gateway.clock import VirtualClock
from gateway.settings.schema_base import Backoff
from gateway.store.store import Device, State
from gateway.transactions.request import Reply
from gateway.wire.message import Kind, Message
from tests.support.bank import AtStep, Bank, SteppingStore
from tests.support.rig import (
    DEVICE,
    GRACE_S,
    KEEPING,
    START_MS,
    Rig,
    advice,
    completion_of,
    preauthorisation,
    purchase,
    refund_of,
    repeated,
    reversal_of,
    rig,
    settlement,
    totals,
    void_of,
)

QUICK = {
    "answer_s": 0.5,
    "late_max_s": 2.0,
    "backoff": Backoff(first_s=0.1, max_s=0.2),
    "reversal_backoff": Backoff(first_s=0.2, max_s=0.5),
    "reversal_attempts_max": 1_000,
}
HEALED_S = 4.0
FULL_S = 1.0  # how long the disk is full
OPEN = (State.INTENDED, State.REVERSAL_OWED, State.ADVICE_OWED, State.GIVEN_UP)


@dataclass(frozen=True)
class Case:
    """A request, what has to come before it, and whether a reversal of it can be asked for."""

    request: Message
    before: tuple[Message, ...] = ()
    device: Device = DEVICE
    reversible: bool = True


OWN_TIME = {7: "1121120009"}  # tells it from what comes before it
SALE = purchase(1)
HOLD = preauthorisation(1)
CASES = {
    "purchase": Case(purchase(9, OWN_TIME)),
    "preauthorisation": Case(preauthorisation(9, OWN_TIME)),
    "void": Case(void_of(SALE, 9, OWN_TIME), (SALE,)),
    "completion": Case(completion_of(HOLD, 9, OWN_TIME), (HOLD,)),
    "advice": Case(advice(9, OWN_TIME), reversible=False),
    "kept advice": Case(advice(9, OWN_TIME), device=KEEPING, reversible=False),
    "refund": Case(refund_of(SALE, 9, OWN_TIME), (SALE,), reversible=False),
}
FIRSTS = ["answer", "decline", "say nothing", "hang up", "never get"]


@dataclass
class Terminal:
    """Asks; if it hears nothing it repeats or reverses until it is answered.

    96 is no answer to it, unless it takes that for a no.
    """

    case: Case
    reverses: bool = False
    takes_96: bool = False
    answer: str = ""
    reversed: str = ""

    async def ask(self, made: Rig) -> None:
        """The first time; `answer` stays empty where the node dies meanwhile."""
        self._hear(made, await made.ask(self.case.request, device=self.case.device))

    async def go_on(self, made: Rig) -> None:
        """What it does once the node is back."""
        for _ in range(20):
            if self._settled:
                return
            if self.reverses:
                await self.reverse(made)
            else:
                again = repeated(self.case.request)
                self._hear(made, await made.ask(again, device=self.case.device))
            await trio.sleep(0.5)
        raise AssertionError("it was never answered")

    async def reverse(self, made: Rig) -> None:
        code = await made.code(reversal_of(self.case.request))
        if code in ("00", "25"):
            self.reversed = code

    @property
    def holds_approval(self) -> bool:
        return self.answer == "00" and not self.reversed

    @property
    def _settled(self) -> bool:
        if self.reversed:
            return True
        if self.answer == "96":
            return self.takes_96
        # An advice is sent until it is taken: what it tells of has happened.
        return self.answer != "" and (self.case.request.mti != "0220" or self.answer != "91")

    def _hear(self, made: Rig, reply: Reply) -> None:
        made.flow.delivered(reply)
        self.answer = reply.message.response_code


@dataclass
class World:
    """Everything that outlives the node."""

    store: SteppingStore = field(default_factory=SteppingStore)
    clock: VirtualClock = field(default_factory=lambda: VirtualClock(START_MS))
    bank: Bank = field(default_factory=Bank)
    other: Bank = field(default_factory=Bank)

    def life(self) -> AbstractAsyncContextManager[Rig]:
        """The node, until it dies."""
        acquirers = {"a": self.bank.acquirer, "b": self.other.acquirer}
        return rig(self.store, clock=self.clock, acquirers=acquirers, settings=QUICK)

    async def two_lives(
        self,
        first: Callable[[Rig, trio.CancelScope], Awaitable[None]],
        second: Callable[[Rig], Awaitable[None]],
    ) -> None:
        """What is done before the node is killed (its scope is cancelled), and after."""
        async with trio.open_nursery() as nursery:
            for bank in (self.bank, self.other):
                nursery.start_soon(bank.acquirer.run)
            with trio.CancelScope() as life:
                async with self.life() as made:
                    await first(made, life)
                    await trio.sleep(HEALED_S)
            self.store.heal()
            self.bank.be("answer")
            async with self.life() as made:
                await second(made)
                await trio.sleep(HEALED_S)
            nursery.cancel_scope.cancel()

    def check(self, case: Case, terminal: Terminal) -> None:
        """Nothing stands at an acquirer but what the terminal holds, and nothing is left open."""
        assert self.bank.doubles == self.other.doubles == []
        standing = self.bank.standing(case.request) + self.other.standing(case.request)
        if any(t.state is State.GIVEN_UP for t in self.store.transactions.values()):
            # Only what can be neither reversed nor repeated is left to an operator: a refund, and
            # an advice that its acquirer refused after the terminal was told that it is booked.
            assert not case.reversible
            told_in_its_place = case.device is KEEPING and not standing
            assert told_in_its_place or not terminal.holds_approval
            return
        assert len(standing) == terminal.holds_approval, (terminal, standing)
        assert not [t for t in self.store.transactions.values() if t.state in OPEN]


# --- a request is cut ---------------------------------------------------------------------------

Cut = Callable[[Rig, trio.CancelScope, trio.CancelScope], object]
CUTS: dict[str, Cut] = {
    "node killed": lambda made, life, exchange: life.cancel(),
    "exchange cancelled": lambda made, life, exchange: exchange.cancel(),
    "link lost": lambda made, life, exchange: made.acquirers["a"].hang_up_now(),
}


EACH = [
    pytest.param(what, first, reverses, cut, id=f"{what} {first} {'reverses ' * reverses}{cut}")
    for what, case in CASES.items()
    for first in FIRSTS
    for reverses in (False, True)
    for cut in CUTS
    if (case.reversible or not reverses)
    # The others differ from a kill in nothing that this would show.
    and (cut != "exchange cancelled" or (first in ("answer", "say nothing") and not reverses))
]


async def prepare(world: World, case: Case, first: str, made: Rig) -> None:
    for message in case.before:
        made.flow.delivered(await made.ask(message))
    world.bank.be(first)


async def is_cut(case: Case, terminal: Terminal, *, first: str, cut: Cut, number: int) -> bool:
    """Cut a request at its n-th step; whether it has so many."""
    world = World()
    steps: list[AtStep] = []

    async def ask(made: Rig, life: trio.CancelScope) -> None:
        await prepare(world, case, first, made)
        with trio.CancelScope() as exchange:
            steps.append(AtStep(number, lambda: cut(made, life, exchange)))
            with steps[0].watching():
                await terminal.ask(made)

    await world.two_lives(ask, terminal.go_on)
    world.check(case, terminal)
    return steps[0].acted


@pytest.mark.parametrize(("what", "first", "reverses", "cut"), EACH)
async def test_cut_at_each_await_all_agree(
    what: str, first: str, reverses: bool, cut: str, autojump_clock: trio.testing.MockClock
) -> None:
    case = CASES[what]
    for number in count(1):
        terminal = Terminal(case, reverses)
        if not await is_cut(case, terminal, first=first, cut=CUTS[cut], number=number):
            assert number > 3
            return


async def store_fails(
    case: Case, terminal: Terminal, *, first: str, for_s: float, number: int
) -> bool:
    """Have the n-th write of a request fail; whether it has so many."""
    world = World()

    async def ask(made: Rig, life: trio.CancelScope) -> None:
        await prepare(world, case, first, made)
        world.store.fail_at(number, for_s=for_s)
        await terminal.ask(made)

    await world.two_lives(ask, terminal.go_on)
    world.check(case, terminal)
    return world.store.failed


@pytest.mark.parametrize("takes_96", [False, True], ids=["repeats", "takes 96 for a no"])
@pytest.mark.parametrize("for_s", [FULL_S, 1_000], ids=["until it heals", "until a restart"])
@pytest.mark.parametrize("first", ["answer", "decline", "say nothing"])
@pytest.mark.parametrize("what", CASES)
async def test_with_a_store_that_fails_at_each_write_all_agree(
    what: str, first: str, for_s: float, takes_96: bool, autojump_clock: trio.testing.MockClock
) -> None:
    case = CASES[what]
    for number in count(1):
        terminal = Terminal(case, takes_96=takes_96 and case.reversible)
        if not await store_fails(case, terminal, first=first, for_s=for_s, number=number):
            assert number > 2
            return


async def nobody_hears(case: Case, *, first: str, number: int) -> bool:
    """The terminal is gone before its answer, and never comes back; the n-th write fails."""
    world = World()

    async def ask(made: Rig, life: trio.CancelScope) -> None:
        await prepare(world, case, first, made)
        world.store.fail_at(number, for_s=FULL_S)
        made.flow.undelivered(await made.ask(case.request))
        await trio.sleep(GRACE_S)

    async def nothing(made: Rig) -> None:
        await trio.lowlevel.checkpoint()

    await world.two_lives(ask, nothing)
    world.check(case, Terminal(case))
    return world.store.failed


@pytest.mark.parametrize("first", ["answer", "say nothing"])
@pytest.mark.parametrize("what", [what for what, case in CASES.items() if case.reversible])
async def test_an_approval_that_nobody_got_is_reversed_though_the_store_fails_at_each_write(
    what: str, first: str, autojump_clock: trio.testing.MockClock
) -> None:
    for number in count(1):
        if not await nobody_hears(CASES[what], first=first, number=number):
            return


# --- a reversal is cut --------------------------------------------------------------------------


async def is_reversal_cut(case: Case, *, first: str, number: int) -> bool:
    """Kill the node at the n-th step of a terminal's reversal; whether it has so many."""
    world, terminal = World(), Terminal(case, reverses=True)
    steps: list[AtStep] = []

    async def reverse(made: Rig, life: trio.CancelScope) -> None:
        await prepare(world, case, first, made)
        if first != "never seen":
            await made.ask(case.request)  # It hears nothing of it.
        steps.append(AtStep(number, life.cancel))
        with steps[0].watching():
            await terminal.reverse(made)

    async def go_on(made: Rig) -> None:
        await terminal.go_on(made)
        if first == "never seen":
            # The original was on its way all the time.
            assert await made.code(case.request) == "12"

    await world.two_lives(reverse, go_on)
    assert terminal.reversed == ("25" if first == "never seen" else "00")
    world.check(case, terminal)
    return steps[0].acted


@pytest.mark.parametrize("first", [*FIRSTS, "never seen"])
async def test_a_terminals_reversal_cut_at_each_await_reverses_all_the_same(
    first: str, autojump_clock: trio.testing.MockClock
) -> None:
    for number in count(1):
        if not await is_reversal_cut(CASES["purchase"], first=first, number=number):
            assert number > 2
            return


@pytest.mark.parametrize("original_first", [True, False])
@pytest.mark.parametrize("delay", range(0, 24, 2))
async def test_an_original_and_its_reversal_in_any_order_leave_nothing(
    delay: int, original_first: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """They come over two connections, one of them so many steps later."""
    world, case = World(), CASES["purchase"]
    terminal = Terminal(case, reverses=True)

    async def both(made: Rig, life: trio.CancelScope) -> None:
        async def original() -> None:
            await made.ask(case.request)

        async def reversal() -> None:
            await terminal.reverse(made)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(original if original_first else reversal)
            for _ in range(delay):
                await trio.lowlevel.checkpoint()
            nursery.start_soon(reversal if original_first else original)

    await world.two_lives(both, terminal.go_on)
    world.check(case, terminal)


# --- a batch's close is cut ---------------------------------------------------------------------


async def is_close_cut(*, killed: bool, number: int) -> bool:
    """Kill the node at the n-th step of a close, or have its n-th write fail."""
    world = World()
    closing = settlement(changes=totals(debits=1, debits_minor=1000))
    steps: list[AtStep] = []

    async def close(made: Rig, life: trio.CancelScope) -> None:
        made.flow.delivered(await made.ask(SALE))
        if not killed:
            world.store.fail_at(number, for_s=FULL_S)
        steps.append(AtStep(number, life.cancel if killed else lambda: None))
        with steps[0].watching():
            await made.ask(closing)

    async def close_again(made: Rig) -> None:
        assert await made.code(repeated(closing)) == "00"
        await made.ask(purchase(2))

    await world.two_lives(close, close_again)
    batches = sorted(world.store.batches_by_key.values(), key=lambda batch: batch.number)
    assert [(batch.number, batch.debits, bool(batch.closed_ms)) for batch in batches] == [
        (1, 1, True),
        (2, 0, False),
    ]
    transactions = list(world.store.transactions.values())
    assert [t.kind for t in transactions].count(Kind.SETTLEMENT) == 1
    assert [t.batch for t in transactions if t.stan == "000002"] == [2]
    return steps[0].acted if killed else world.store.failed


@pytest.mark.parametrize("killed", [True, False], ids=["node killed", "store fails"])
async def test_a_close_cut_at_each_await_closes_one_batch(
    killed: bool, autojump_clock: trio.testing.MockClock
) -> None:
    for number in count(1):
        if not await is_close_cut(killed=killed, number=number):
            return
