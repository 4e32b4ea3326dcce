"""The section on reversals of the domain rules, sentence by sentence; and tombstones."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.errors import OperatorError, StoreError
from gateway.store.store import DeviceState, PutTombstone, State
from gateway.telemetry.events import Event
from gateway.transactions.replies import Naming, reversal
from gateway.upstreams.upstream import Means
from gateway.wire.message import Message
from tests.support.acquirer import CODEC, FakeAcquirer, approve, silent, with_code
from tests.support.fake_store import FakeStore
from tests.support.rig import (
    DAY_S,
    DEVICE,
    GRACE_S,
    START_MS,
    Rig,
    advice,
    completion_of,
    original_data,
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

BARRED = replace(DEVICE, profile="nothing")
OTHER_CARD = "9999990000000015"


def only_reversals(script: Callable[[Message], Message | None]) -> Callable[[Message], object]:
    """A script that leaves originals unanswered."""
    return lambda request: None if request.mti[1] in "12" else script(request)


def reversals_at(acquirer: FakeAcquirer) -> list[Message]:
    return [message for message in acquirer.received if message.mti[1] == "4"]


async def at_once(made: Rig, *messages: Message) -> list[str]:
    """The codes of requests of which each is sent while those before it are under way."""
    codes = [""] * len(messages)

    async def ask(number: int, message: Message) -> None:
        codes[number] = await made.code(message)

    async with trio.open_nursery() as nursery:
        for number, message in enumerate(messages):
            nursery.start_soon(ask, number, message)
            await trio.testing.wait_all_tasks_blocked()
    return codes


# --- the gateway's own ----------------------------------------------------------------------------


async def test_the_gateways_reversal_is_owed_before_the_terminal_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(FakeStore(commit_s=0.25)) as made:
        made.acquirers["a"].script = silent
        assert await made.code(purchase()) == "91"
        assert made.only() is State.REVERSAL_OWED


@pytest.mark.parametrize(("code_set", "code"), [("iso", "91"), ("unionpay", "98")])
async def test_sent_and_not_answered_in_time_is_91_or_98(
    code_set: str, code: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        made.acquirers["a"].script = silent
        reply = await made.ask(purchase(), code_set=code_set)  # type: ignore[arg-type]
        assert reply.message.response_code == code


@pytest.mark.parametrize(("first", "repeats"), [("0420", "0421"), ("0400", "0401")])
async def test_it_is_a_0420_repeated_as_0421_or_0400_where_the_upstream_says_so(
    first: str, repeats: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig(settings={"reversal_mti": first, "reversal_reason": "21"}) as made:
        acquirer = made.acquirers["a"]
        acquirer.script = silent
        await made.ask(purchase())
        [sent] = acquirer.received
        await trio.sleep(8)
        acquirer.script = approve
        await trio.sleep(20)
        mtis = [message.mti for message in reversals_at(acquirer)]
        assert mtis[0] == first
        assert len(mtis) > 1
        assert set(mtis[1:]) == {repeats}
        for message in reversals_at(acquirer):
            assert message.get(39) == "21"
            assert message.get(4) == sent.get(4)
            assert message.get(90)[:20] == f"0200{sent.stan}{sent.get(7)}"
            assert not {35, 45, 52} & set(message.fields)


async def test_it_is_repeated_with_exponential_backoff(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(settings={"reversal_attempts_max": 6}) as made:
        times: list[float] = []

        def note(request: Message) -> None:
            if request.mti[1] == "4":
                times.append(trio.current_time())

        made.acquirers["a"].script = note
        await made.ask(purchase())
        await trio.sleep(300)
        waits = [later - earlier for earlier, later in itertools.pairwise(times)]
        # Each attempt waits 5 s for its answer; the backoff of 1, 2, 4 and then 8 s runs meanwhile.
        assert waits == sorted(waits)
        assert waits[-1] == pytest.approx(6.0, abs=0.5)
        assert made.only() is State.GIVEN_UP


async def test_after_n_attempts_it_is_an_operators_and_never_dropped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        made.acquirers["a"].script = silent
        await made.ask(purchase())
        await trio.sleep(300)
        assert made.only() is State.GIVEN_UP
        assert len(reversals_at(made.acquirers["a"])) == 4
        assert Event.REVERSAL_GIVEN_UP in made.names()
        assert made.reversals.given_up == 1
    async with rig(store, clock=clock) as made:
        await trio.sleep(60)
        assert made.acquirers["a"].received == []
        assert made.reversals.given_up == 1
        await made.reversals.retry(1)
        await trio.sleep(5)
        assert made.only() is State.REVERSED
        assert made.reversals.given_up == 0
        with pytest.raises(OperatorError):
            await made.reversals.retry(1)


async def test_an_operator_resolves_what_was_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.acquirers["a"].script = only_reversals(with_code("12"))  # type: ignore[assignment]
        await made.ask(purchase())
        await trio.sleep(1)
        await made.reversals.resolve(1, "settled by telephone")
        assert made.only() is State.CLOSED
        assert made.store.transactions[1].image == b""
        assert await made.code(reversal_of(purchase())) == "00"
        assert made.reversals.open == 0


async def test_a_restart_goes_on_under_the_same_stan_as_a_repeat(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        made.acquirers["a"].script = silent
        await made.ask(purchase())
        await trio.sleep(1)
        [first] = reversals_at(made.acquirers["a"])
    async with rig(store, clock=clock) as made:
        await trio.sleep(10)
        [again] = made.acquirers["a"].received
        assert (again.mti, again.stan, again.get(90)) == ("0421", first.stan, first.get(90))
        assert made.only() is State.REVERSED


async def test_two_upstreams_that_the_configuration_lost_keep_what_they_are_owed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        made.acquirers["a"].script = silent
        await made.ask(purchase(1))
        await made.lose("a")
        made.acquirers["b"].script = silent
        with trio.move_on_after(1):
            await made.ask(purchase(2))
    async with rig(store, clock=clock, acquirers={"c": FakeAcquirer()}) as made:
        assert await made.code(purchase(3)) == "00"
        assert await made.code(purchase(1)) == "91"
        assert await made.code(reversal_of(purchase(2))) == "00"
        assert await made.code(void_of(purchase(1))) == "25"
        await trio.sleep(60)
        assert made.reversals.open == 2
        assert reversals_at(made.acquirers["c"]) == []
    async with rig(store, clock=clock) as made:
        await trio.sleep(10)
        assert [len(reversals_at(made.acquirers[name])) for name in "ab"] == [1, 1]
        assert made.reversals.open == 0


@pytest.mark.parametrize("code", ["91", "96", "68"])
async def test_an_acquirer_in_trouble_itself_is_asked_again(
    code: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        made.acquirers["a"].script = only_reversals(with_code(code))  # type: ignore[assignment]
        await made.ask(purchase())
        await trio.sleep(0.5)
        assert made.only() is State.REVERSAL_OWED
        made.acquirers["a"].script = approve
        await trio.sleep(5)
        assert made.only() is State.REVERSED


async def test_the_image_is_wiped_when_it_is_done(autojump_clock: trio.testing.MockClock) -> None:
    async with rig() as made:
        made.acquirers["a"].script = only_reversals(approve)  # type: ignore[assignment]
        await made.ask(purchase())
        assert made.store.transactions[1].image
        await trio.sleep(1)
        assert made.store.transactions[1].image == b""


# --- what ends it ---------------------------------------------------------------------------------


async def test_25_does_not_end_it_while_the_originals_answer_may_still_come(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(settings={"reversal_attempts_max": 2}) as made:
        made.acquirers["a"].script = only_reversals(with_code("25"))  # type: ignore[assignment]
        await made.ask(purchase())
        await trio.sleep(29)
        assert made.only() is State.REVERSAL_OWED
        assert len(reversals_at(made.acquirers["a"])) > 2
        await trio.sleep(30)
        assert made.only() is State.REVERSED


async def test_25_ends_it_once_the_originals_own_answer_is_known(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        assert await made.code(purchase()) == "00"
        made.acquirers["a"].script = with_code("25")
        await made.ask(reversal_of(purchase()))
        await trio.sleep(1)
        assert made.only() is State.REVERSED


@pytest.mark.parametrize("code", ["12", "05", "Z9", "30", "94"])
async def test_12_and_everything_else_unknown_goes_to_an_operator(
    code: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        made.acquirers["a"].script = only_reversals(with_code(code))  # type: ignore[assignment]
        await made.ask(purchase())
        await trio.sleep(1)
        assert made.only() is State.GIVEN_UP
        assert made.store.transactions[1].image  # an operator may want it sent again


# --- a terminal's reversal ------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["98", "96", "A0", "06"])
async def test_a_terminals_reversal_is_accepted_once_it_is_durable(
    reason: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        await made.ask(purchase())
        await made.lose("a", "b")
        assert await made.code(reversal_of(purchase(), {39: reason})) == "00"
        assert made.only() is State.REVERSAL_OWED
        made.find_again("a", "b")
        await trio.sleep(5)
        assert made.only() is State.REVERSED
        [sent] = reversals_at(made.acquirers["a"])
        assert sent.get(39) == reason
        assert sent.get(38) == "123456"


@pytest.mark.parametrize("kept_names", ["DE90", "DE11"])
async def test_it_is_tied_to_its_original_by_de90_or_its_own_de11(
    kept_names: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        await made.ask(purchase())
        reversal = reversal_of(purchase())
        if kept_names == "DE11":
            reversal = reversal.without([90]).changed({11: "000001"})
        assert await made.code(reversal) == "00"
        assert made.only() is State.REVERSAL_OWED


async def test_on_unionpay_it_is_tied_to_its_original_by_de61_and_the_batch(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.ask(purchase(changes={60: "22000007"}))
        reversal = reversal_of(purchase(), {60: "22000007", 61: "0000070000011121"}).without([90])
        assert await made.code(reversal) == "00"
        assert made.only() is State.REVERSAL_OWED


async def test_a_zero_filled_de90_names_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with rig() as made:
        await made.ask(purchase())
        assert await made.code(reversal_of(purchase(), {90: "0" * 42, 11: "000001"})) == "00"
        assert made.only() is State.REVERSAL_OWED


async def test_it_passes_identity_only_not_permissions() -> None:
    async with rig() as made:
        await made.ask(purchase())
        assert await made.code(reversal_of(purchase()), device=BARRED) == "00"


async def test_a_repeated_reversal_is_one_reversal_over_a_restart_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    acquirers = {"a": FakeAcquirer(), "b": FakeAcquirer()}
    for _ in range(2):
        async with rig(store, clock=clock, acquirers=acquirers) as made:
            await made.ask(purchase())
            for _ in range(3):
                assert await made.code(reversal_of(purchase())) == "00"
                assert await made.code(repeated(reversal_of(purchase()))) == "00"
                await trio.sleep(1)
    assert len(reversals_at(acquirers["a"])) == 1


async def test_two_reversals_at_once_are_one_however_fast_it_is_done(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(FakeStore(commit_s=0.1)) as made:
        await made.ask(purchase())
        codes = await at_once(made, *[reversal_of(purchase())] * 3)
        assert codes == ["00"] * 3
        await trio.sleep(5)
        assert made.only() is State.REVERSED
        assert len(reversals_at(made.acquirers["a"])) == 1


async def test_of_what_was_declined_or_is_no_money_nothing_is_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        enquiry = purchase(2, {3: "310000"})
        assert await made.code(enquiry) == "00"
        made.acquirers["a"].script = with_code("51")
        assert await made.code(purchase()) == "51"
        assert await made.code(reversal_of(purchase())) == "00"
        assert await made.code(reversal_of(enquiry)) == "00"
        await trio.sleep(5)
        assert reversals_at(made.acquirers["a"]) == []


@pytest.mark.parametrize("what", ["refund", "advice"])
async def test_what_cannot_be_reversed_is_refused(what: str) -> None:
    async with rig() as made:
        await made.ask(purchase(7))
        request = refund_of(purchase(7)) if what == "refund" else advice()
        assert await made.code(request) == "00"
        assert await made.code(reversal_of(request)) == "12"


async def test_of_one_given_up_at_the_route_nothing_is_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.lose("a", "b")
        assert await made.code(purchase()) == "91"
        made.find_again("a", "b")
        await trio.sleep(5)
        assert await made.code(reversal_of(purchase())) == "25"
        assert await made.code(purchase()) == "91"
        assert made.acquirers["a"].received == []


async def test_it_merges_with_the_one_already_owed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.acquirers["a"].script = only_reversals(approve)  # type: ignore[assignment]
        await made.lose("b")
        codes = await at_once(made, purchase(), reversal_of(purchase()))
        assert codes == ["91", "00"]
        await trio.sleep(5)
        assert len(reversals_at(made.acquirers["a"])) == 1


async def test_for_one_under_way_it_waits_for_the_outcome_and_then_reverses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        acquirer = made.acquirers["a"]
        acquirer.script = only_reversals(approve)  # type: ignore[assignment]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.ask, purchase())
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(made.ask, reversal_of(purchase()))
            await trio.testing.wait_all_tasks_blocked()
            assert reversals_at(acquirer) == []
            await acquirer.send(approve(acquirer.received[0]))
        await trio.sleep(1)
        assert made.only() is State.REVERSED


async def test_two_under_way_with_its_stan_are_both_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The second ends while the first is waited for."""
    async with rig() as made:
        acquirer = made.acquirers["a"]
        acquirer.script = only_reversals(approve)  # type: ignore[assignment]
        one, other = purchase(), purchase(changes={12: "120001", 7: "1121120001"})
        async with trio.open_nursery() as nursery:
            for message in (one, other):
                nursery.start_soon(made.ask, message)
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(made.ask, reversal_of(other))
            await trio.testing.wait_all_tasks_blocked()
            first, second = acquirer.received
            await acquirer.send(approve(second))
            await trio.testing.wait_all_tasks_blocked()
            await acquirer.send(approve(first))
        await trio.sleep(1)
        states = [transaction.state for transaction in made.store.transactions.values()]
        assert states == [State.ANSWERED, State.REVERSED]


async def test_of_what_was_voided_nothing_more_goes_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.ask(purchase())
        assert await made.code(void_of(purchase())) == "00"
        assert await made.code(reversal_of(purchase())) == "00"
        await trio.sleep(5)
        assert reversals_at(made.acquirers["a"]) == []


async def test_while_a_void_of_it_is_under_way_the_reversal_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        acquirer = made.acquirers["a"]
        await made.ask(purchase())
        acquirer.script = only_reversals(approve)  # type: ignore[assignment]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.ask, void_of(purchase()))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(made.ask, reversal_of(purchase()))
            await trio.testing.wait_all_tasks_blocked()
            await acquirer.send(approve(acquirer.received[-1]))
        await trio.sleep(5)
        assert reversals_at(acquirer) == []


async def test_while_a_reversal_of_it_is_being_written_a_void_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(FakeStore(commit_s=0.5)) as made:
        await made.ask(purchase())
        assert await at_once(made, reversal_of(purchase()), void_of(purchase())) == ["00", "25"]


@pytest.mark.parametrize("what", ["refund", "completion"])
async def test_what_was_refunded_or_completed_was_no_failure(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        original = preauthorisation() if what == "completion" else purchase()
        await made.ask(original)
        follow = completion_of(original) if what == "completion" else refund_of(original)
        assert await made.code(follow) == "00"
        assert await made.code(reversal_of(original)) == "12"
        await trio.sleep(5)
        assert reversals_at(made.acquirers["a"]) == []


# --- which original it is -------------------------------------------------------------------------


async def test_yesterdays_sale_with_the_same_stan_is_never_reversed_for_todays(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The terminal starts its STANs anew each day; today's sale never reached the gateway."""
    store = FakeStore()
    async with rig(store, clock=VirtualClock(START_MS - DAY_S * 1000)) as made:
        assert await made.code(purchase(changes={13: "1120", 7: "1120120000"})) == "00"
    async with rig(store) as made:
        assert await made.code(reversal_of(purchase())) == "25"
        own_stan = reversal_of(purchase()).without([90]).changed({11: "000001"})
        assert await made.code(own_stan) == "25"
        assert made.only() is State.ANSWERED


async def test_over_midnight_the_sale_that_de90_names_is_found_though_dated_yesterday(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        sale = purchase(changes={13: "1120", 7: "1120235959"})
        await made.ask(sale)
        assert await made.code(reversal_of(sale, {13: "1121", 12: "000010"})) == "00"
        assert made.only() is State.REVERSAL_OWED


async def test_over_midnight_a_sale_just_sent_is_found_by_its_stan(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.ask(purchase(changes={13: "1120"}))
        reversal = reversal_of(purchase(), {11: "000001", 12: "000010"}).without([90])
        assert await made.code(reversal) == "00"
        assert made.only() is State.REVERSAL_OWED


@pytest.mark.parametrize("changes", [{4: "000000000900"}, {2: OTHER_CARD, 35: ""}])
async def test_a_sale_of_another_amount_or_card_is_not_the_one(
    changes: dict[int, str], autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made:
        await made.ask(purchase())
        assert await made.code(reversal_of(purchase(), changes)) == "25"
        assert made.only() is State.ANSWERED
        # What was answered is answered so again, whatever else is looked for under its STAN.
        assert await made.code(purchase()) == "00"


async def test_of_two_with_its_stan_the_one_is_reversed_that_de90_names(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        one, other = purchase(), purchase(changes={12: "120001", 7: "1121120001"})
        await made.ask(one)
        await made.ask(other)
        await made.ask(reversal_of(one))
        states = [transaction.state for transaction in made.store.transactions.values()]
        assert states == [State.REVERSAL_OWED, State.ANSWERED]


# --- how a reversal names its original ------------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "changes", "element", "expected"),
    [
        ("de90", {}, 90, "0200{stan}1121180000" + "0" * 22),
        ("de90", {32: "123", 33: "45"}, 90, "0200{stan}11211800000000000012300000000045"),
        ("de56", {12: "180000", 13: "1121"}, 56, "0200{stan}26112118000000"),
        ("de56", {12: "261120235959", 32: "123456"}, 56, "0200{stan}26112023595906123456"),
        ("de61", {60: "22000007"}, 61, "000007{stan}1121"),
        ("de61", {}, 61, "000000{stan}1121"),
    ],
)
def test_a_reversal_names_its_original_as_the_upstream_wants_by_upstream_values(
    style: Naming, changes: dict[int, str], element: int, expected: str
) -> None:
    original = purchase(changes={7: "1121180000", 11: "004711"} | changes)
    made = reversal(
        original,
        mti="0420",
        stan=4712,
        reason="68",
        approval_code="",
        repeated=False,
        wall_ms=START_MS,
        named_by=style,
        made_ms=START_MS,
    )
    assert made.get(element) == expected.format(stan="004711")
    assert {90, 56, 61} & set(made.fields) == {element}
    assert made.stan == "004712"


async def test_a_unionpay_reversal_bears_the_stan_of_its_original_over_restarts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    settings = {"reversal_original": "de61"}
    for _ in range(2):
        async with rig(store, clock=clock, settings=settings) as made:
            made.acquirers["a"].script = silent
            await made.ask(purchase())
            await trio.sleep(2)
            stan = f"{store.transactions[1].upstream_stan:06d}"
            sent = reversals_at(made.acquirers["a"])
            assert {message.stan for message in sent} == {stan}
            assert {message.get(61)[6:12] for message in sent} == {stan}
    async with rig(store, clock=clock, settings=settings) as made:
        await trio.sleep(10)
        assert made.only() is State.REVERSED
        assert not made.pool["a"].stans._held


@pytest.mark.parametrize("code", ["A2", "A4", "A5", "A6", "11", "16"])
async def test_what_approves_is_a_table_per_code_set(code: str) -> None:
    unionpay = ["00", "11", "16", "A2", "A4", "A5", "A6"]
    async with rig(settings={"approving_codes": unionpay}) as made:
        made.acquirers["a"].script = with_code(code)
        assert await made.code(purchase()) == code
        assert made.store.transactions[1].image
        assert await made.code(void_of(purchase())) == code
        closing = settlement(changes=totals())
        assert await made.code(closing) == "00"


# --- partial reversals ----------------------------------------------------------------------------


async def test_a_partial_reversal_says_in_de95_what_is_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        await made.ask(purchase())
        made.acquirers["a"].script = silent
        partial = reversal_of(purchase(), {95: "000000000600" + "0" * 30})
        assert await made.code(partial) == "00"
        await trio.sleep(0.1)
        [sent] = reversals_at(made.acquirers["a"])
        assert (sent.get(4), sent.get(95)) == ("000000001000", "000000000600" + "0" * 30)
    async with rig(store, clock=clock) as made:
        await trio.sleep(10)
        [again] = reversals_at(made.acquirers["a"])
        assert again.get(95) == "000000000600" + "0" * 30
        assert made.only() is State.REVERSED


@pytest.mark.parametrize("left", ["000000001000", "000000009999"])
async def test_a_partial_reversal_that_takes_nothing_back_is_refused(left: str) -> None:
    async with rig() as made:
        await made.ask(purchase())
        assert await made.code(reversal_of(purchase(), {95: left + "0" * 30})) == "13"
        assert made.only() is State.ANSWERED


async def test_a_reversal_of_all_after_one_of_a_part_is_other_content(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.ask(purchase())
        made.acquirers["a"].script = silent
        partial = reversal_of(purchase(), {95: "000000000600" + "0" * 30})
        assert await made.code(partial) == "00"
        assert await made.code(reversal_of(purchase())) == "94"
        assert await made.code(partial) == "00"


@pytest.mark.parametrize("restart", [False, True])
async def test_what_a_finished_partial_reversal_left_is_reversed_by_a_full_one(
    restart: bool, autojump_clock: trio.testing.MockClock
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    partial = reversal_of(purchase(), {95: "000000000600" + "0" * 30})
    async with rig(store, clock=clock) as made:
        await made.ask(purchase())
        assert await made.code(partial) == "00"
        await trio.sleep(5)
        assert made.only() is State.REVERSED
        assert made.store.transactions[1].image  # part of it may be reversed yet
        if not restart:
            await _reverse_the_rest(made, partial)
    if restart:
        async with rig(store, clock=clock) as made:
            await _reverse_the_rest(made, partial)


async def _reverse_the_rest(made: Rig, partial: Message) -> None:
    before = len(reversals_at(made.acquirers["a"]))
    assert await made.code(partial) == "00"
    assert await made.code(reversal_of(purchase(), {95: "000000000700" + "0" * 30})) == "13"
    await trio.sleep(5)
    assert len(reversals_at(made.acquirers["a"])) == before
    for _ in range(2):
        assert await made.code(reversal_of(purchase())) == "00"
    await trio.sleep(5)
    [rest] = reversals_at(made.acquirers["a"])[before:]
    assert (rest.get(4), rest.get(95)) == ("000000001000", "0" * 42)  # nothing of it is to stand
    assert made.only() is State.REVERSED
    assert made.store.transactions[1].image == b""
    assert await made.code(reversal_of(purchase())) == "00"
    assert made.reversals.open == 0


async def test_a_partial_reversal_that_was_given_up_is_retried_as_a_partial_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.ask(purchase())
        made.acquirers["a"].script = with_code("12")
        assert await made.code(reversal_of(purchase(), {95: "000000000600" + "0" * 30})) == "00"
        await trio.sleep(5)
        assert made.only() is State.GIVEN_UP
        assert await made.code(reversal_of(purchase())) == "94"
        made.acquirers["a"].script = approve
        await made.reversals.retry(1)
        await trio.sleep(5)
        assert reversals_at(made.acquirers["a"])[-1].get(95) == "000000000600" + "0" * 30
        assert made.only() is State.REVERSED


async def test_the_original_is_reversed_after_the_void_of_it_that_is_in_doubt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def void_acknowledged_late(request: Message) -> Message | None:
        of_void = request.mti[1] == "4" and request.get(3).startswith("02")
        if request.get(3).startswith("02") and request.mti[1] == "2":
            return None
        return None if of_void and trio.current_time() < 20 else approve(request)

    async with rig() as made:
        made.acquirers["a"].script = void_acknowledged_late
        await made.ask(purchase())
        assert await made.code(void_of(purchase())) == "91"
        assert await made.code(reversal_of(purchase())) == "00"
        await trio.sleep(60)
        kinds = [message.get(3)[:2] for message in reversals_at(made.acquirers["a"])]
        assert kinds == ["02"] * (len(kinds) - 1) + ["00"]
        assert [one.state for one in made.store.transactions.values()] == [State.REVERSED] * 2


async def test_the_original_of_a_void_that_was_given_up_is_an_operators_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def never_undone(request: Message) -> Message | None:
        if request.get(3).startswith("02"):
            return None if request.mti[1] == "2" else with_code("12")(request)
        return approve(request)

    async with rig() as made:
        made.acquirers["a"].script = never_undone
        await made.ask(purchase())
        await made.ask(void_of(purchase()))
        await trio.sleep(1)
        assert await made.code(reversal_of(purchase())) == "00"
        await trio.sleep(1)
        assert [one.state for one in made.store.transactions.values()] == [State.GIVEN_UP] * 2
        made.acquirers["a"].script = approve
        for transaction_id in (2, 1):
            await made.reversals.retry(transaction_id)
        await trio.sleep(5)
        assert [one.state for one in made.store.transactions.values()] == [State.REVERSED] * 2


async def test_a_given_up_reversal_holds_the_stan_it_would_name(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        made.acquirers["a"].script = only_reversals(with_code("12"))  # type: ignore[assignment]
        await made.ask(purchase())
        await trio.sleep(1)
        assert made.only() is State.GIVEN_UP
        stan = store.transactions[1].upstream_stan
        assert list(made.pool["a"].stans._held) == [stan]
    async with rig(store, clock=clock) as made:
        assert list(made.pool["a"].stans._held) == [stan]
        made.acquirers["a"].script = only_reversals(silent)  # type: ignore[assignment]
        await made.reversals.retry(1)
        await trio.sleep(1)
        assert stan in made.pool["a"].stans._held
        made.acquirers["a"].script = approve
        await trio.sleep(30)
        assert made.only() is State.REVERSED
        assert not made.pool["a"].stans._held


async def test_two_operators_and_a_late_approval_have_it_sent_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    refused: list[str] = []

    async with rig(FakeStore(commit_s=0.1)) as made:

        async def operate(act: Callable[[], Awaitable[None]]) -> None:
            try:
                await act()
            except OperatorError as error:
                refused.append(str(error))

        made.acquirers["a"].script = only_reversals(with_code("12"))  # type: ignore[assignment]
        await made.ask(purchase())
        await trio.sleep(5)
        made.acquirers["a"].script = silent
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(operate, lambda: made.reversals.retry(1))
            nursery.start_soon(operate, lambda: made.reversals.resolve(1, "by telephone"))
            made.reversals.late_answer(1, approve(purchase()))
        assert made.reversals.given_up == 0
        held = made.pool["a"].stans._held
        if made.only() is State.CLOSED:
            assert not held
        else:
            assert made.only() is State.REVERSAL_OWED
            assert held[made.store.transactions[1].upstream_stan] == 1
        assert len(refused) >= 2
        made.acquirers["a"].script = approve
        await trio.sleep(60)
        assert made.reversals.open == 0
        assert not held


@pytest.mark.parametrize("how", ["an operator", "a late approval"])
async def test_what_is_owed_again_as_it_is_given_up_is_sent_without_a_restart(
    how: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig() as made, trio.open_nursery() as nursery:
        made.acquirers["a"].script = only_reversals(with_code("12"))  # type: ignore[assignment]
        emit, told = made.reversals._operators._emit, made.acquirers["a"]

        def at_once(event: Event, /, **fields: object) -> None:
            emit(event, **fields)
            if event is Event.REVERSAL_GIVEN_UP and told.script is not approve:
                told.script = approve
                if how == "an operator":
                    nursery.start_soon(made.reversals.retry, 1)
                else:
                    made.reversals.late_answer(1, approve(purchase()))

        made.reversals._operators._emit = at_once  # type: ignore[method-assign]
        await made.ask(purchase())
        await trio.sleep(5)
        assert made.only() is State.REVERSED
        assert made.reversals.open == 0


# --- tombstones -----------------------------------------------------------------------------------


async def test_for_an_original_never_seen_a_tombstone_is_durable_and_then_25_is_said(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(FakeStore(commit_s=1.0)) as made:
        asked_s = trio.current_time()
        assert await made.code(reversal_of(purchase())) == "25"
        assert trio.current_time() - asked_s >= 1.0
        assert made.store.tombs


@pytest.mark.parametrize("dated", [{}, {13: "1120"}, {60: "22000001"}])
async def test_an_original_that_arrives_later_is_refused_never_forwarded(
    dated: dict[int, str], autojump_clock: trio.testing.MockClock
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    async with rig(store, clock=clock) as made:
        assert await made.code(reversal_of(purchase(changes=dated))) == "25"
        assert await made.code(purchase(changes=dated)) == "12"
    async with rig(store, clock=clock) as made:
        assert await made.code(purchase(changes=dated)) == "12"
        assert await made.code(repeated(purchase(changes=dated))) == "12"
        assert made.acquirers["a"].received == []
        assert made.store.transactions == {}


async def test_a_repeat_of_a_reversal_of_nothing_known_gets_25_again_and_one_tombstone_is_enough(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store, clock = FakeStore(), VirtualClock(START_MS)
    for _ in range(2):
        async with rig(store, clock=clock) as made:
            for message in (reversal_of(purchase()), repeated(reversal_of(purchase()))):
                assert await made.code(message) == "25"
    put = [op for commit in store.commits for op in commit if isinstance(op, PutTombstone)]
    assert len(put) == len(store.tombs)


async def test_a_device_bound_anew_is_not_affected_by_a_tombstone() -> None:
    async with rig() as made:
        await made.ask(reversal_of(purchase()))
        again = replace(DEVICE, activation=2, state=DeviceState.ACTIVE)
        assert await made.code(purchase(), device=again) == "00"


async def test_nor_can_it_reverse_what_the_device_before_it_sold() -> None:
    async with rig() as made:
        await made.ask(purchase())
        again = replace(DEVICE, activation=2)
        assert await made.code(reversal_of(purchase()), device=again) == "25"
        assert made.only() is State.ANSWERED


async def test_a_terminal_id_may_hold_any_character() -> None:
    odd = replace(DEVICE, terminal_id="T/00/001")
    changes = {41: odd.terminal_id}
    async with rig() as made:
        assert await made.code(reversal_of(purchase(changes=changes)), device=odd) == "25"
        assert await made.code(purchase(changes=changes), device=odd) == "12"


async def test_an_original_that_comes_while_its_reversal_looks_for_it_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig(FakeStore(commit_s=0.5)) as made:
        assert await at_once(made, reversal_of(purchase()), purchase()) == ["25", "12"]
        assert made.acquirers["a"].received == []


async def test_with_the_store_unwritable_a_reversal_gets_96_never_00_or_25(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        await made.ask(purchase(2))
        for switch in ("fail_after", "failing"):
            setattr(made.store, switch, 0 if switch == "fail_after" else True)
            assert await made.code(reversal_of(purchase(1))) == "96"
            assert await made.code(reversal_of(purchase(2))) == "96"
        made.store.fail_after, made.store.failing = None, False
        assert made.store.tombs == {}
        # Nothing is left of the attempt: the original may still come.
        assert await made.code(purchase(1)) == "00"


async def test_of_two_at_once_none_says_25_for_a_tombstone_that_the_other_could_not_write(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Failing(FakeStore):
        failures = 1

        async def commit(self, *operations):  # type: ignore[no-untyped-def]
            if isinstance(operations[0], PutTombstone) and self.failures:
                self.failures -= 1
                await trio.sleep(1)
                raise StoreError("the first fails")
            await super().commit(*operations)

    async with rig(Failing()) as made:
        codes = await at_once(made, *[reversal_of(purchase())] * 2)
        assert sorted(codes) == ["25", "96"]
        assert made.store.tombs
        assert await made.code(purchase()) == "12"


async def test_an_undelivered_approval_that_its_terminal_reverses_is_reversed_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The terminal's reversal comes in the very moment of the grace time's end."""
    async with rig(FakeStore(commit_s=0.2)) as made:
        made.flow.undelivered(await made.ask(purchase()))
        await trio.sleep(GRACE_S + 0.1)
        assert await made.code(reversal_of(purchase())) == "00"
        await trio.sleep(10)
        assert made.only() is State.REVERSED
        assert len(reversals_at(made.acquirers["a"])) == 1


def test_de90_is_as_long_as_iso_8583_has_it() -> None:
    assert len(original_data(purchase())) == 42


def deliverers() -> int:
    """How many tasks look after what is owed to an upstream."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    tasks, count = [root], 0
    while tasks:
        task = tasks.pop()
        count += "_deliver_all" in task.name
        tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return count


async def test_nobody_waits_for_an_upstream_that_was_removed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with rig() as made:
        made.pool.removed = made.reversals.leave
        kept, gone = made.pool["a"], made.pool["b"]
        assert deliverers() == 2
        made.pool.apply([Means(settings=kept.settings, codec=CODEC)], groups=[])
        await trio.sleep(5)
        assert made.pool.get("b") is None
        assert deliverers() == 1
        made.reversals.serve(gone)
        made.reversals.serve(gone)  # added again: the new one serves the same queue, alone
        await trio.sleep(5)
        assert deliverers() == 2
