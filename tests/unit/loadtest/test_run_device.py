"""A device asks, repeats, reverses and keeps its books, whatever its line does to it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gateway.wire.message import Message, kind_of, response_mti
from loadtest.connection import NoAnswer, NoConnection
from loadtest.ledger import Attempt, Outcome
from loadtest.run.device import Device
from loadtest.run.journal import Journal, read_journal
from loadtest.run.messages import Requests
from loadtest.run.scenario import Devices, Mixed, Scenario
from loadtest.run.shared import Shared
from loadtest.run.tally import Ending, Tally, Windows
from loadtest.wire import MessageReader, shipped_wire

WIRE = shipped_wire()
LOST = object()  # the request is gone with its answer
Answer = Callable[[Message], "Message | object"]


class OneFrame(trio.abc.ReceiveStream):
    """A stream with one frame in it."""

    def __init__(self, frame: bytes) -> None:
        self._frame = frame

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        frame, self._frame = self._frame, b""
        return frame

    async def aclose(self) -> None:
        """Nothing is open."""


class FakeLine:
    """A line whose other end is a function; it takes a tenth of a second."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.reachable = True
        self.is_open = False
        self.opened = 0
        self.resumed = 0
        self.asked: list[Message] = []

    async def open(self) -> None:
        await trio.sleep(0.1)
        if not self.reachable:
            raise NoConnection("refused")
        self.opened += 1
        self.is_open = True

    async def ask(self, frame: bytes, *, mti: str, stan: str, timeout_s: float) -> Message:
        message = await MessageReader(OneFrame(frame), WIRE).next()
        assert message is not None
        assert (message.mti[:3], message.stan) == (mti[:3], stan)
        self.asked.append(message)
        await trio.sleep(0.1)
        answer = self.answer(message)
        if answer is LOST:
            self.is_open = False
            raise NoAnswer("connection lost")
        assert isinstance(answer, Message)
        return answer

    def drop(self) -> None:
        self.is_open = False

    async def close(self) -> None:
        self.is_open = False

    @property
    def financial(self) -> list[Message]:
        return [message for message in self.asked if message.mti[1] != "8"]


def approve(request: Message, code: str = "00") -> Message:
    more = {38: "123456", 37: "000000000001"} if code == "00" else {}
    return Message(response_mti(request.mti), {11: request.stan, 39: code, **more})


class Stand:
    """One device with its books."""

    def __init__(
        self, folder: Path, answer: Answer, *, kinds: str = "purchase", **devices: object
    ) -> None:
        self.line = FakeLine(answer)
        self.path = folder / "one.journal"
        self.tally = Tally()
        scenario = Scenario(
            name="test",
            seconds=60.0,
            devices=Devices(count=1, security="plain", **devices),  # type: ignore[arg-type]
            mix=[Mixed(kind=kind, weight=1.0) for kind in kinds.split()],  # type: ignore[arg-type]
        )
        self.journal = Journal(self.path, currency="978")
        self.shared = Shared(
            scenario=scenario,
            wire=WIRE,
            requests=Requests(WIRE, currency="978"),
            journal=self.journal,
            tally=self.tally,
            windows=Windows([(30.0, 40.0)]),
            random=Random(4),
            wall_ms=lambda: 1_700_000_000_000 + round(1000 * trio.current_time()),
            start_s=trio.current_time(),
        )
        self.device = Device(
            number=1,
            terminal_id="T0000001",
            merchant_id="MERCHANT0000001",
            line=self.line,  # type: ignore[arg-type]
            shared=self.shared,
        )

    def attempts(self) -> list[Attempt]:
        with self.journal:
            pass
        return list(read_journal(self.path))

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.tally.whole().counts)


Stands = Callable[..., Stand]


@pytest.fixture
def stands(tmp_path: Path) -> Iterator[Stands]:
    """Makes stands, and closes their journals."""
    made: list[Stand] = []

    def make(answer: Answer, **more: Any) -> Stand:
        made.append(Stand(tmp_path, answer, **more))
        return made[-1]

    yield make
    for stand in made:
        stand.attempts()


async def test_latency_counts_from_the_moment_the_customer_was_due(
    stands: Stands, autojump_clock: MockClock
) -> None:
    stand = stands(approve)
    due_s = trio.current_time()
    await trio.sleep(2.0)  # the device was busy with somebody else
    await stand.device.serve(due_s)
    # Connecting, signing on and asking took 0.3 s more.
    assert stand.tally.kinds["purchase"].max_ms == pytest.approx(2_300, abs=1)
    assert stand.counts == {Ending.APPROVED: 1}
    (attempt,) = stand.attempts()
    assert (attempt.outcome, attempt.approval_code) == (Outcome.APPROVED, "123456")


async def test_what_was_not_answered_is_reversed_until_that_is(
    stands: Stands, autojump_clock: MockClock
) -> None:
    answers = iter([LOST, LOST, "96", "00"])

    def answer(request: Message) -> Message | object:
        if request.mti[1] == "8":
            return approve(request)
        told = next(answers)
        return told if told is LOST else approve(request, str(told))

    stand = stands(answer)
    await stand.device.serve(trio.current_time())
    asked = stand.line.financial
    assert [message.mti for message in asked] == ["0200", "0400", "0401", "0401"]
    assert {message.stan for message in asked} == {"000001"}
    assert stand.counts == {Ending.UNANSWERED: 1, "error": 1}
    (attempt,) = stand.attempts()
    assert (attempt.outcome, attempt.reversals_sent) == (Outcome.REVERSED, 3)
    # The customer was told after the first answer did not come, not after the last reversal.
    assert stand.tally.kinds["purchase"].max_ms == pytest.approx(300, abs=1)


async def test_a_refund_in_doubt_is_asked_again_and_never_reversed(
    stands: Stands, autojump_clock: MockClock
) -> None:
    lost = iter([True, True, False])

    def answer(request: Message) -> Message | object:
        if kind_of(request) == "refund" and next(lost):
            return LOST
        return approve(request)

    stand = stands(answer, kinds="refund")
    await stand.device.serve(trio.current_time())  # a purchase: there is nothing to refund yet
    await stand.device.serve(trio.current_time())
    assert [message.mti for message in stand.line.financial] == ["0200", "0200", "0201", "0201"]
    assert [attempt.outcome for attempt in stand.attempts()] == [Outcome.APPROVED] * 2


async def test_what_follows_names_its_original_and_uses_it_up(
    stands: Stands, autojump_clock: MockClock
) -> None:
    stand = stands(approve, kinds="void")
    for _ in range(3):
        await stand.device.serve(trio.current_time())
    first, void, next_one = stand.line.financial
    assert [kind_of(message) for message in (first, void, next_one)] == [
        "purchase",
        "void",
        "purchase",
    ]
    assert void.get(90)[:10] == f"0200{first.stan}"
    assert (void.amount_minor, void.pan) == (first.amount_minor, first.pan)


async def test_a_repeat_that_is_answered_otherwise_is_counted(
    stands: Stands, autojump_clock: MockClock
) -> None:
    def answer(request: Message) -> Message:
        return approve(request, "05" if request.is_repeat else "00")

    stand = stands(answer, repeats=1.0)
    await stand.device.serve(trio.current_time())
    assert [message.mti for message in stand.line.financial] == ["0200", "0201"]
    assert (stand.tally.counts["repeats"], stand.tally.counts["repeats_differing"]) == (1, 1)


async def test_a_sale_that_is_taken_back_is_in_no_batch(
    stands: Stands, autojump_clock: MockClock
) -> None:
    stand = stands(approve, reversals=1.0, close_batch=True)
    await stand.device.serve(trio.current_time())
    await stand.device.close_batch()
    sale, reversal, close = stand.line.financial
    assert (reversal.mti, reversal.get(39)) == ("0400", "06")
    assert (close.mti, close.get(76), close.get(88)) == ("0500", "0" * 10, "0" * 16)
    assert stand.counts == {Ending.APPROVED: 1}
    assert stand.attempts()[0].outcome is Outcome.REVERSED
    assert sale.stan == reversal.stan != close.stan


@pytest.mark.parametrize(("due_s", "counted"), [(0.0, "error"), (35.0, "disturbed")])
async def test_without_a_line_nothing_is_sent(
    stands: Stands, autojump_clock: MockClock, due_s: float, counted: str
) -> None:
    stand = stands(approve)
    stand.line.reachable = False
    await trio.sleep(due_s)
    await stand.device.serve(trio.current_time())
    assert stand.counts == {Ending.UNSENT: 1, counted: 1}
    assert stand.line.asked == []
    assert stand.attempts()[0].outcome is Outcome.UNSENT
    assert stand.tally.troubles["refused"] == 1


async def test_a_device_that_was_blocked_on_purpose_makes_no_errors(
    stands: Stands, autojump_clock: MockClock
) -> None:
    stand = stands(lambda request: approve(request, "58"), sign_on=False)
    stand.device.blocked = True
    await stand.device.serve(trio.current_time())
    assert stand.counts == {Ending.BLOCKED: 1}


async def test_an_answer_that_there_is_no_service_is_a_fault_and_a_decline_is_not(
    stands: Stands, autojump_clock: MockClock
) -> None:
    codes = iter(["00", "91", "51"])  # of the sign-on first
    stand = stands(lambda request: approve(request, next(codes)))
    for _ in range(2):
        await stand.device.serve(trio.current_time())
    assert stand.counts == {Ending.FAULT: 1, "error": 1, Ending.DECLINED: 1}


async def test_what_is_open_when_the_run_ends_stays_open_in_the_journal(
    stands: Stands, autojump_clock: MockClock
) -> None:
    def answer(request: Message) -> Message | object:
        return approve(request) if request.mti[1] == "8" else LOST

    stand = stands(answer)
    with trio.move_on_after(5):
        await stand.device.serve(trio.current_time())
    stand.device.give_up()
    (attempt,) = stand.attempts()
    assert attempt.outcome is Outcome.REVERSING
    assert attempt.reversals_sent > 1


async def test_one_that_calls_each_time_hangs_up_each_time(
    stands: Stands, autojump_clock: MockClock
) -> None:
    stand = stands(approve, connection="each-time", sign_on=False)
    for _ in range(3):
        await stand.device.serve(trio.current_time())
    assert (stand.line.opened, stand.line.is_open) == (3, False)


def test_a_line_that_is_none_is_told_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "broken.journal"
    path.write_text("T0000001\t1\tx\n")
    with pytest.raises(ValueError, match=r"broken.journal:1: not a line"):
        list(read_journal(path))
