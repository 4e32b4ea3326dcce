"""Two acquirers with ledgers of their own, each told of terminals under the names that it gave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from gateway.clock import VirtualClock
from gateway.policy.response_codes import Reason
from gateway.settings.boarding import BoardedTerminal, BoardedTerminals
from gateway.settings.schema_upstreams import Group, Member, Route
from gateway.store.store import ReserveStans, State
from gateway.transactions.version import Version
from gateway.upstreams.routing import Router, boardings
from gateway.upstreams.upstream import Means, Upstream
from gateway.wire.message import Message
from loadtest.acquirer import Acquirer
from loadtest.commit import GroupCommit
from loadtest.host import Host
from loadtest.ledger import AcquirerLedger, Entry, read_entries
from loadtest.switches import Switches
from loadtest.wire import shipped_wire
from tests.support.acquirer import CODEC, FakeAcquirer
from tests.support.fake_store import FakeStore
from tests.support.rig import (
    DEVICE,
    KEEPING,
    START_MS,
    Rig,
    advice,
    by_rrn,
    purchase,
    refund_of,
    reversal_of,
    upstream_settings,
    void_of,
)

CARDS: dict[str, Any] = {
    "terminal_id": "GATEWAY1",
    "merchant_id": "AGGREGATOR",
    "fields": {
        "set": {32: "777777", 33: "888888"},
        "map": {18: {"5411": "5999"}},
        "drop": [26],
        "require": [22],
    },
}
WALLETS: dict[str, Any] = {"knows_terminals": "one_by_one", "terminals_file": "wallets.csv"}
BOARDED: dict[str, BoardedTerminals] = {
    "wallets": {"T0000001": BoardedTerminal("W0000009", "WALLETMERCHANT1")}
}
SALE = purchase(1, {18: "5411", 26: "12", 32: "1234"})
CODE = purchase(2, {2: "2850123456789012", 22: "031"}).without([35, 14])


class RecordingHost(Host):
    """An acquirer's host that remembers what it was asked."""

    def __init__(self, ledger: AcquirerLedger, clock: VirtualClock) -> None:
        super().__init__(ledger, clock)
        self.received: list[Message] = []

    def answer(self, request: Message, switches: Switches) -> Message:
        self.received.append(request)
        return super().answer(request, switches)


class LedgerAcquirer(FakeAcquirer):
    """The load test's acquirer behind memory streams: it books, and finds originals by DE90."""

    def __init__(self, path: Path, clock: VirtualClock) -> None:
        super().__init__()
        self.path = path
        self.ledger = AcquirerLedger(path)
        self.commit = GroupCommit(self.ledger.database, inline=True)
        host = RecordingHost(self.ledger, clock)
        self.received = host.received
        self.acquirer = Acquirer(
            host=host,
            commit=self.commit,
            wire=shipped_wire(),
            random=Random(1),
            switches=Switches(),
        )

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.commit.run)
            nursery.start_soon(super().run)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        await self.acquirer.serve_stream(stream)

    @property
    def entries(self) -> list[Entry]:
        return list(read_entries(self.path))


class TwoAcquirers(Rig):
    """Cards go to one, codes of wallets to the other."""

    def _upstream(self, name: str) -> Upstream:
        async def reserve(upstream: str, first: int, now_ms: int) -> None:
            await self.store.commit(ReserveStans(upstream, first, now_ms))

        return Upstream(
            Means(
                settings=upstream_settings(name, **(CARDS if name == "cards" else WALLETS)),
                codec=CODEC,
                terminals=BOARDED.get(name, {}),
            ),
            clock=self.clock,
            emit=self.emit,
            random=lambda: 0.5,
            reserve_stans=reserve,
            on_answered=lambda name, seconds: None,
            connect_with=self.acquirers[name].connect_with,
        )

    def route(self) -> None:
        """Codes go where codes are taken, all else to the cards' acquirer."""
        upstreams = [upstream.settings for upstream in self.pool]
        router = Router(
            [
                Route.model_validate({"name": "w", "entry_modes": ["qr"], "group": "wallets"}),
                Route(name="c", group="cards"),
            ],
            [Group(name=one.name, members=[Member(upstream=one.name)]) for one in upstreams],
            boarding=boardings(upstreams, BOARDED),
        )
        self.flow.swap(Version(self.flow.version.policy, router))


@asynccontextmanager
async def two_acquirers(folder: Path) -> AsyncIterator[TwoAcquirers]:
    clock = VirtualClock(START_MS)
    acquirers = {name: LedgerAcquirer(folder / name, clock) for name in ("cards", "wallets")}
    made = TwoAcquirers(FakeStore(), clock=clock, acquirers=dict(acquirers))
    made.route()
    async with trio.open_nursery() as nursery:
        await made.start(nursery)
        yield made
        nursery.cancel_scope.cancel()
    for acquirer in acquirers.values():
        acquirer.ledger.close()


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[TwoAcquirers]:
    async with two_acquirers(tmp_path) as running:
        yield running


def of(made: TwoAcquirers, name: str) -> LedgerAcquirer:
    acquirer = made.acquirers[name]
    assert isinstance(acquirer, LedgerAcquirer)
    return acquirer


def own(message: Message) -> tuple[str, ...]:
    """Whom and where a message names."""
    return tuple(message.get(number).rstrip() for number in (41, 42, 18, 26, 32, 33))


AT_CARDS = ("GATEWAY1", "AGGREGATOR", "5999", "", "777777", "888888")


async def test_each_acquirer_gets_the_names_it_gave_and_the_terminal_hears_its_own(
    made: TwoAcquirers,
    autojump_clock: MockClock,
) -> None:
    sale, code = await made.ask(SALE), await made.ask(CODE)
    assert (sale.message.response_code, code.message.response_code) == ("00", "00")
    [sold] = of(made, "cards").received
    assert own(sold) == AT_CARDS
    [coded] = of(made, "wallets").received
    assert (coded.get(41), coded.get(42)) == ("W0000009", "WALLETMERCHANT1")
    assert coded.get(32) == ""
    for reply in (sale, code):
        assert (reply.message.get(41), reply.message.get(42)) == ("T0000001", "MERCHANT0000001")
    assert sale.message.get(33) == ""
    # What is kept is the terminal's own, since it might have gone elsewhere.
    kept = [made.records.request_of(one) for one in made.store.transactions.values()]
    assert {one.terminal_id for one in kept if one is not None} == {"T0000001"}


async def test_a_void_a_refund_and_their_repeats_name_what_the_acquirer_knows(
    made: TwoAcquirers,
    autojump_clock: MockClock,
) -> None:
    sale = await made.ask(SALE)
    assert await made.code(void_of(SALE, changes={18: "5411", 26: "12"})) == "00"
    sold, void = of(made, "cards").received
    assert own(void) == AT_CARDS
    # DE90: MTI, STAN and DE7 of the sale, and DE32 and DE33 as this acquirer got them.
    assert void.get(90) == f"0200{sold.stan}{sold.get(7)}{'777777':0>11}{'888888':0>11}"
    assert sale.message.response_code == "00"
    second = purchase(5, {18: "5411"})
    bought = await made.ask(second)
    assert await made.code(by_rrn(refund_of(second), bought)) == "00"
    assert own(of(made, "cards").received[-1])[:2] == ("GATEWAY1", "AGGREGATOR")
    assert of(made, "wallets").received == []


@pytest.mark.parametrize(("name", "request_"), [("cards", SALE), ("wallets", CODE)])
async def test_the_gateway_s_own_reversal_undoes_what_the_acquirer_booked(
    name: str, request_: Message, made: TwoAcquirers, autojump_clock: MockClock
) -> None:
    acquirer = of(made, name)
    acquirer.acquirer.change({"mute": True})
    assert await made.code(request_) == "91"
    acquirer.acquirer.change({"mute": False})
    await trio.sleep(60)
    [sold] = [one for one in acquirer.received if one.mti == "0200"]
    reversals = [one for one in acquirer.received if one.mti[:3] == "042"]
    assert reversals
    for reversal in reversals:
        assert own(reversal) == own(sold)
        assert reversal.get(90)[4:10] == sold.stan
        assert reversal.get(90)[20:31] == f"{sold.get(32):0>11}"
    [entry] = acquirer.entries
    assert not entry.holds_money
    assert made.only() is State.REVERSED


async def test_the_terminal_s_own_reversal_undoes_it_too(
    made: TwoAcquirers, autojump_clock: MockClock
) -> None:
    await made.ask(CODE)
    assert await made.code(reversal_of(CODE)) == "00"
    await trio.sleep(10)
    [entry] = of(made, "wallets").entries
    assert (entry.terminal_id, entry.merchant_id) == ("W0000009", "WALLETMERCHANT1")
    assert not entry.holds_money
    assert of(made, "cards").received == []


async def test_an_advice_that_is_sent_again_bears_the_same_names(
    made: TwoAcquirers, autojump_clock: MockClock
) -> None:
    acquirer = of(made, "cards")
    acquirer.acquirer.change({"mute": True})
    offline = advice(3, {18: "5411", 26: "12", 32: "1234"})
    assert (await made.ask(offline, device=KEEPING)).message.response_code == "00"
    acquirer.acquirer.change({"mute": False})
    await trio.sleep(60)
    first, *again = acquirer.received
    assert first.mti == "0220"
    assert {one.mti for one in again} == {"0221"}
    assert {own(one) for one in acquirer.received} == {AT_CARDS}
    assert {one.stan for one in again} == {first.stan}
    assert made.only() is State.ADVISED


async def test_who_is_not_boarded_gets_91_and_nothing_is_sent(
    made: TwoAcquirers, autojump_clock: MockClock
) -> None:
    stranger = CODE.changed({41: "T0000002"})
    reply = await made.ask(stranger, device=DEVICE)
    assert reply.message.response_code == "91"
    assert reply.reason is Reason.NO_UPSTREAM
    assert of(made, "wallets").received == of(made, "cards").received == []
    assert any(
        fields.get("rule")
        == "route w, group wallets: none of its upstreams takes this merchant or terminal"
        for _, fields in made.events
    )


async def test_what_an_acquirer_requires_is_there_or_it_gets_91(
    made: TwoAcquirers, autojump_clock: MockClock
) -> None:
    assert await made.code(SALE.without([22])) == "91"
    assert of(made, "cards").received == []
    assert any(
        "upstream cards requires DE22, which is absent" in str(fields.get("rule"))
        for _, fields in made.events
    )


# --- under another configuration than the one it was sent under -----------------------------------


def edited(made: TwoAcquirers, boarded: BoardedTerminals, **cards: Any) -> None:
    """Take up another terminals file for wallets, and other rules for cards."""
    made.pool.apply(
        [
            Means(
                settings=upstream_settings("cards", **(CARDS | cards)),
                codec=CODEC,
            ),
            Means(settings=upstream_settings("wallets", **WALLETS), codec=CODEC, terminals=boarded),
        ],
        groups=[],
    )


@pytest.mark.parametrize(
    "boarded", [{"T0000001": BoardedTerminal("W0000010", "WALLETMERCHANT2")}, {}]
)
async def test_a_reversal_names_whom_the_sale_named_though_the_terminals_file_was_edited(
    boarded: BoardedTerminals, made: TwoAcquirers, autojump_clock: MockClock
) -> None:
    assert await made.code(CODE) == "00"
    edited(made, boarded)
    assert await made.code(reversal_of(CODE)) == "00"
    await trio.sleep(60)
    sold, *reversals = of(made, "wallets").received
    assert reversals
    assert {own(one) for one in reversals} == {own(sold)}
    [entry] = of(made, "wallets").entries
    assert not entry.holds_money
    assert made.only() is State.REVERSED


async def test_a_reversal_and_a_void_name_what_was_sent_though_the_field_rules_were_edited(
    made: TwoAcquirers, autojump_clock: MockClock
) -> None:
    assert await made.code(SALE) == "00"
    other = purchase(7, {18: "5411", 26: "12"})
    assert await made.code(other) == "00"
    edited(made, BOARDED["wallets"], terminal_id="GATEWAY2", fields={"set": {32: "666666"}})
    assert await made.code(reversal_of(SALE)) == "00"
    assert await made.code(void_of(other)) == "00"
    await trio.sleep(60)
    received = of(made, "cards").received
    [reversal] = [one for one in received if one.mti == "0420"]
    assert own(reversal) == AT_CARDS
    assert reversal.get(90)[20:] == f"{'777777':0>11}{'888888':0>11}"
    [void] = [one for one in received if one.get(3) == "020000"]
    assert void.get(90)[20:] == f"{'777777':0>11}{'888888':0>11}"
