"""A simulated terminal buys, and reverses what it is in doubt about until that is answered."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from gateway.clock import VirtualClock
from gateway.wire.message import Message, response_mti
from loadtest.cards import Shop
from loadtest.commit import GroupCommit
from loadtest.connection import Connection
from loadtest.host import REFERENCE
from loadtest.ledger import Attempt, Outcome, TerminalLedger, read_attempts
from loadtest.terminal import Behaviour, Sale, Terminal, TerminalName
from loadtest.wire import MessageReader, shipped_wire

WIRE = shipped_wire()
START_MS = 1_795_000_000_000

# What a fake gateway does with a request: the code to answer with, None for silence, or HANG_UP.
HANG_UP = "hang up"
Script = Callable[[Message], str | None]


class FakeGateway:
    """Answers as its script says and remembers every message."""

    def __init__(self, nursery: trio.Nursery, script: Script) -> None:
        self.script = script
        self.reachable = True
        self.seen: list[Message] = []
        self._nursery = nursery
        self._lines: list[trio.CancelScope] = []

    def hang_up(self) -> None:
        for line in self._lines:
            line.cancel()

    async def dial(self) -> tuple[trio.abc.Stream, Callable[[], bool]]:
        if not self.reachable:
            raise OSError("connection refused")
        near, far = trio.testing.memory_stream_pair()
        ended = trio.Event()
        self._nursery.start_soon(self._serve, far, ended)
        return near, lambda: not ended.is_set()

    async def _serve(self, stream: trio.abc.Stream, ended: trio.Event) -> None:
        reader = MessageReader(stream, WIRE)
        with trio.CancelScope() as line:
            self._lines.append(line)
            await self._converse(stream, reader)
        ended.set()

    async def _converse(self, stream: trio.abc.Stream, reader: MessageReader) -> None:
        async with stream:
            while (request := await reader.next()) is not None:
                self.seen.append(request)
                code = self.script(request)
                if code == HANG_UP:
                    break
                if code is not None:
                    more = {38: "000042", 37: "000000000042"} if request.mti == "0200" else {}
                    answer = Message(
                        response_mti(request.mti), {11: request.stan, 39: code, **more}
                    )
                    await stream.send_all(WIRE.pack(answer))

    @property
    def mtis(self) -> list[str]:
        return [message.mti for message in self.seen]


class Bench:
    def __init__(self, folder: Path, nursery: trio.Nursery) -> None:
        self.path = folder / "terminals.sqlite"
        self.nursery = nursery
        self.gateway = FakeGateway(nursery, lambda _: "00")
        self.sales: list[Sale] = []
        self.goal = 0
        self.selling: Terminal | None = None
        self.on_sale: Callable[[Sale], None] = lambda _: None
        self.ledger = TerminalLedger(self.path)
        self.commit = GroupCommit(self.ledger.database, inline=True)
        nursery.start_soon(self.commit.run)

    def terminal(self, **behaviour: object) -> Terminal:
        given = {"purchases_per_s": 1.0, "answer_s": 5.0, **behaviour}
        return Terminal(
            name=TerminalName("T0000001", "MERCHANT0000001", 1),
            behaviour=Behaviour(**given),  # type: ignore[arg-type]
            shop=Shop(seed=1, number=1, amount_min_minor=100, amount_max_minor=900),
            connection=Connection(dial=self.gateway.dial, wire=WIRE, connect_s=5),
            ledger=self.ledger,
            commit=self.commit,
            clock=VirtualClock(START_MS),
            random=Random(1),
            observe=self._sold,
        )

    def _sold(self, sale: Sale) -> None:
        self.sales.append(sale)
        self.on_sale(sale)
        if len(self.sales) == self.goal and self.selling is not None:
            self.selling.stop()

    async def sell(self, count: int, **behaviour: object) -> None:
        """Runs a terminal until it has ended so many purchases."""
        self.goal = len(self.sales) + count
        self.selling = self.terminal(**behaviour)
        await self.selling.run()

    @property
    def attempts(self) -> list[Attempt]:
        return list(read_attempts(self.path))


@pytest.fixture
async def bench(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, nursery)
    yield bench
    nursery.cancel_scope.cancel()
    bench.ledger.close()


async def test_it_signs_on_and_buys_at_its_rate(bench: Bench, autojump_clock: MockClock) -> None:
    start_s = trio.current_time()
    await bench.sell(3)
    assert bench.gateway.mtis == ["0800", "0200", "0200", "0200"]
    assert bench.gateway.seen[0].get(70) == "001"
    assert 2.0 <= trio.current_time() - start_s <= 4.0
    first, second, third = bench.attempts
    assert [a.stan for a in (first, second, third)] == ["000001", "000002", "000003"]
    assert {a.outcome for a in bench.attempts} == {Outcome.APPROVED}
    sent = bench.gateway.seen[1]
    assert sent.amount_minor == first.amount_minor
    assert sent.get(REFERENCE) == first.reference
    assert (first.approval_code, first.rrn) == ("000042", "000000000042")


async def test_a_decline_is_a_clean_answer(bench: Bench, autojump_clock: MockClock) -> None:
    bench.gateway.script = lambda request: "00" if request.mti == "0800" else "51"
    await bench.sell(1)
    [attempt] = bench.attempts
    assert (attempt.outcome, attempt.response_code) == (Outcome.DECLINED, "51")


async def test_the_attempt_is_in_the_ledger_before_it_is_sent(
    bench: Bench, autojump_clock: MockClock
) -> None:
    held: list[Outcome] = []

    def script(request: Message) -> str:
        if request.mti == "0200":
            held.extend(a.outcome for a in bench.attempts if a.stan == request.stan)
        return "00"

    bench.gateway.script = script
    await bench.sell(1)
    assert held == [Outcome.OPEN]


async def test_an_unanswered_purchase_is_reversed_and_the_reversal_repeated(
    bench: Bench, autojump_clock: MockClock
) -> None:
    answers: dict[str, list[str | None]] = {
        "0200": [None],
        "0400": [None],
        "0401": [None, "96", "00"],
    }

    def script(request: Message) -> str | None:
        queue = answers.get(request.mti)
        return queue.pop(0) if queue else "00"

    bench.gateway.script = script
    await bench.sell(1)
    assert bench.gateway.mtis == ["0800", "0200", "0400", "0401", "0401", "0401"]
    [attempt] = bench.attempts
    assert (attempt.outcome, attempt.reversal_code, attempt.reversals_sent) == (
        Outcome.REVERSED,
        "00",
        4,
    )
    purchase, reversal = bench.gateway.seen[1], bench.gateway.seen[-1]
    assert reversal.get(90) == f"0200{purchase.stan}{purchase.get(7)}{0:022d}"
    for number in (2, 4, 11, 12, 13, 41, 42, 49):
        assert reversal.get(number) == purchase.get(number)
    assert reversal.get(39) == "98"
    assert bench.sales[0].attempt == attempt


async def test_a_reversal_goes_on_over_reconnections(
    bench: Bench, autojump_clock: MockClock
) -> None:
    hang_ups = iter([HANG_UP, HANG_UP, HANG_UP])
    bench.gateway.script = lambda request: "00" if request.mti == "0800" else next(hang_ups, "00")
    await bench.sell(1)
    assert bench.gateway.mtis == ["0800", "0200", "0800", "0400", "0800", "0401", "0800", "0401"]
    assert bench.attempts[0].outcome is Outcome.REVERSED


async def test_an_original_that_the_gateway_never_saw_needs_no_more_reversing(
    bench: Bench, autojump_clock: MockClock
) -> None:
    codes = {"0200": None, "0400": "25"}
    bench.gateway.script = lambda request: codes.get(request.mti, "00")
    await bench.sell(1)
    assert bench.attempts[0].reversal_code == "25"


async def test_an_unanswered_purchase_can_be_repeated_first(
    bench: Bench, autojump_clock: MockClock
) -> None:
    codes = {"0200": None, "0201": "00"}
    bench.gateway.script = lambda request: codes.get(request.mti, "00")
    await bench.sell(1, repeats=1)
    assert bench.gateway.mtis == ["0800", "0200", "0201"]
    assert bench.gateway.seen[1].fields == bench.gateway.seen[2].fields
    assert bench.attempts[0].outcome is Outcome.APPROVED


async def test_a_late_answer_is_not_taken_for_another(
    bench: Bench, autojump_clock: MockClock
) -> None:
    codes = {"0200": None, "0400": "00"}
    bench.gateway.script = lambda request: codes.get(request.mti, "00")
    await bench.sell(2)
    assert [a.outcome for a in bench.attempts] == [Outcome.REVERSED, Outcome.REVERSED]


async def test_without_a_connection_nothing_was_sent_and_nothing_is_reversed(
    bench: Bench, autojump_clock: MockClock
) -> None:
    def cut_the_cable(sale: Sale) -> None:
        bench.gateway.reachable = False
        bench.gateway.hang_up()

    bench.on_sale = cut_the_cable
    await bench.sell(3)
    assert [a.outcome for a in bench.attempts] == [
        Outcome.APPROVED,
        Outcome.UNSENT,
        Outcome.UNSENT,
    ]
    assert bench.gateway.mtis == ["0800", "0200"]


async def test_it_can_wait_for_a_line_instead(bench: Bench, autojump_clock: MockClock) -> None:
    async def cut_and_mend_the_cable() -> None:
        bench.gateway.reachable = False
        bench.gateway.hang_up()
        await trio.sleep(60)
        bench.gateway.reachable = True

    def on_sale(sale: Sale) -> None:
        if len(bench.sales) == 1:
            bench.nursery.start_soon(cut_and_mend_the_cable)

    bench.on_sale = on_sale
    await bench.sell(3, waits_for_line=True)
    assert [a.outcome for a in bench.attempts] == [Outcome.APPROVED] * 3
    assert bench.gateway.mtis == ["0800", "0200", "0800", "0200", "0200"]


async def test_a_repeat_waits_for_a_new_line(bench: Bench, autojump_clock: MockClock) -> None:
    async def cut_and_mend_the_cable() -> None:
        bench.gateway.reachable = False
        bench.gateway.hang_up()
        await trio.sleep(2)
        bench.gateway.reachable = True

    def script(request: Message) -> str | None:
        if request.mti == "0200" and bench.gateway.reachable:
            bench.nursery.start_soon(cut_and_mend_the_cable)
            return None
        return "00"

    bench.gateway.script = script
    await bench.sell(1, repeats=1)
    assert bench.gateway.mtis == ["0800", "0200", "0800", "0201"]
    assert bench.attempts[0].outcome is Outcome.APPROVED


async def test_repeats_can_be_the_very_same_message(
    bench: Bench, autojump_clock: MockClock
) -> None:
    answers = iter([None, "00"])
    bench.gateway.script = lambda request: "00" if request.mti == "0800" else next(answers)
    await bench.sell(1, repeats=1, plain_repeats=1.0)
    assert bench.gateway.mtis == ["0800", "0200", "0200"]
    assert bench.gateway.seen[1].fields == bench.gateway.seen[2].fields


async def test_another_life_repeats_what_was_open(bench: Bench, autojump_clock: MockClock) -> None:
    bench.gateway.script = lambda request: "00" if request.mti == "0800" else None
    with trio.move_on_after(4):  # killed while it waits for the first answer
        await bench.terminal(repeats=1).run()
    assert [a.outcome for a in bench.attempts] == [Outcome.OPEN]
    before = bench.gateway.seen[1]
    bench.gateway.seen.clear()
    bench.gateway.script = lambda _: "00"
    await bench.sell(1, repeats=1)
    assert bench.gateway.mtis == ["0800", "0201", "0200"]
    assert bench.gateway.seen[1].fields == before.fields
    assert [a.outcome for a in bench.attempts] == [Outcome.APPROVED, Outcome.APPROVED]


async def test_a_refused_sign_on_is_no_connection(bench: Bench, autojump_clock: MockClock) -> None:
    codes = iter(["58", "58", "00"])
    bench.gateway.script = lambda request: next(codes) if request.mti == "0800" else "00"
    await bench.sell(1)
    assert bench.gateway.mtis == ["0800", "0800", "0800", "0200"]


async def test_another_life_goes_on_where_the_last_one_ended(
    bench: Bench, autojump_clock: MockClock
) -> None:
    bench.gateway.script = lambda request: "00" if request.mti == "0800" else None
    with trio.move_on_after(12):  # killed with its reversal unanswered
        await bench.terminal().run()
    assert [a.outcome for a in bench.attempts] == [Outcome.REVERSING]
    before = bench.gateway.seen[1]
    bench.gateway.seen.clear()
    bench.gateway.script = lambda _: "00"
    await bench.sell(1)
    assert bench.gateway.mtis == ["0800", "0401", "0200"]
    assert bench.gateway.seen[1].fields[2] == before.fields[2]
    assert [(a.stan, a.outcome) for a in bench.attempts] == [
        ("000001", Outcome.REVERSED),
        ("000002", Outcome.APPROVED),
    ]
