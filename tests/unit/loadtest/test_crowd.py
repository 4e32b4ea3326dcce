"""Customers come at their rate, whatever the tills are busy with."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from gateway.clock import VirtualClock
from gateway.wire.message import Message, response_mti
from loadtest.addresses import HostPort
from loadtest.cards import Shop
from loadtest.connection import Connection
from loadtest.crowd import Crowd
from loadtest.fleet import FleetOptions, terminal_names
from loadtest.ledger import Outcome, read_attempts
from loadtest.processors import Processors
from loadtest.terminal import Behaviour, Book, Commit, Sale, Terminal
from loadtest.wire import MessageReader, shipped_wire

WIRE = shipped_wire()


class SlowGateway:
    """Answers everything, purchases after `slow_s`."""

    def __init__(self, nursery: trio.Nursery, *, slow_s: float) -> None:
        self._nursery = nursery
        self._slow_s = slow_s

    async def dial(self) -> tuple[trio.abc.Stream, Callable[[], bool]]:
        near, far = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, far)
        return near, lambda: True

    async def _serve(self, stream: trio.abc.Stream) -> None:
        reader = MessageReader(stream, WIRE)
        while (request := await reader.next()) is not None:
            if request.mti == "0200":
                await trio.sleep(self._slow_s)
            answer = Message(response_mti(request.mti), {11: request.stan, 39: "00"})
            await stream.send_all(WIRE.pack(answer))

    def tills(
        self,
        options: FleetOptions,
        *,
        ledger: Book,
        commit: Commit,
        observe: Callable[[Sale], None],
    ) -> list[Terminal]:
        return [
            Terminal(
                name=name,
                behaviour=options.behaviour,
                shop=Shop(seed=1, number=name.number, amount_min_minor=100, amount_max_minor=900),
                connection=Connection(dial=self.dial, wire=WIRE, connect_s=5),
                ledger=ledger,
                commit=commit,
                clock=VirtualClock(1_795_000_000_000),
                random=Random(1),
                observe=observe,
            )
            for name in options.names
        ]


@pytest.mark.parametrize(("tills", "queued"), [(40, 0), (10, 10)])
async def test_a_slow_gateway_does_not_hold_customers_back(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock, tills: int, queued: int
) -> None:
    gateway = SlowGateway(nursery, slow_s=2.0)
    options = FleetOptions(
        target=HostPort("127.0.0.1", 1),
        names=terminal_names(tills),
        ledger=tmp_path / "unused",
        behaviour=Behaviour(answer_s=5.0),
    )
    crowd = Crowd(options, make=gateway.tills)
    await crowd.open()
    start_s = trio.current_time()
    async with trio.open_nursery() as selling:
        await crowd.come(start_s=start_s, per_s=10, seconds=2, till=selling)
        assert trio.current_time() - start_s == pytest.approx(1.9)
    assert [due_s - start_s for due_s in crowd.came] == pytest.approx([n / 10 for n in range(20)])
    assert sorted(sale.due_s for sale in crowd.sales) == crowd.came
    assert crowd.queued == queued
    assert max(crowd.lags_s) == pytest.approx(0)
    # Who queued counts from when he came: two seconds for the till's customer before him, less
    # the second that he came later.
    longest_s = max(sale.told_s - sale.due_s for sale in crowd.sales)
    assert longest_s == pytest.approx(3.0 if queued else 2.0)
    crowd.notes.save(tmp_path / "terminals.db")
    attempts = list(read_attempts(tmp_path / "terminals.db"))
    assert len(attempts) == 20
    assert {one.outcome for one in attempts} == {Outcome.APPROVED}
    await crowd.close()
    nursery.cancel_scope.cancel()


def test_who_used_the_processors_has_a_name() -> None:
    using = Processors({"tool": [1]})
    used = using.used_percent({"later": [2]})
    assert set(used) in ({"tool", "later", "others"}, set())  # nothing without /proc
    assert all(percent >= 0 for percent in used.values())
