"""A worker's plan is what it was told, and its devices sell to the end of the run."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from gateway.wire.message import Message, response_mti
from loadtest.addresses import HostPort
from loadtest.run.journal import Journal, read_journal
from loadtest.run.line import TlsFolder
from loadtest.run.scenario import Scenario
from loadtest.run.tally import Tally
from loadtest.run.worker import Plan, Worker
from loadtest.wire import MessageReader, shipped_wire

WIRE = shipped_wire()


def plan_of(folder: Path, target: HostPort, **more: object) -> Plan:
    scenario = Scenario.model_validate(
        {
            "name": "test",
            "seconds": 0.6,
            "devices": {"count": 4, "security": "plain"},
            "arrival": {"rate": 40.0, "spread": "even"},
            **more,
        }
    )
    return Plan(
        scenario=scenario,
        part=0,
        parts=1,
        first=1,
        count=4,
        target=target,
        tls=None,
        merchant="MERCHANT{number:07d}",
        journal=folder / "one.journal",
        windows=[(1.0, 2.0)],
        settle_s=5.0,
    )


@asynccontextmanager
async def gateway(seen: Counter[str]) -> AsyncIterator[HostPort]:
    """Approves everything, at once."""

    async def serve(stream: trio.abc.Stream) -> None:
        seen["connections"] += 1
        reader = MessageReader(stream, WIRE)
        try:
            while (request := await reader.next()) is not None:
                seen[request.mti] += 1
                fields = {11: request.stan, 39: "00", 66: "1"}
                await stream.send_all(WIRE.pack(Message(response_mti(request.mti), fields)))
        except trio.BrokenResourceError:
            seen["broken"] += 1

    async with trio.open_nursery() as nursery:
        serving = partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serving)
        yield HostPort("127.0.0.1", listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


def test_a_plan_survives_its_way_to_the_worker(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, HostPort("127.0.0.1", 9))
    assert Plan.of_json(plan.to_json()) == plan
    tls = TlsFolder(tmp_path, tmp_path / "ca.crt")
    told = plan.to_json() | {"tls": [str(tls.folder), str(tls.ca), tls.server_name]}
    assert Plan.of_json(told).tls == tls


def test_the_devices_secret_is_in_no_repr(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, HostPort("127.0.0.1", 9))
    told = plan.to_json() | {"secret": "ab" * 16}
    assert "ab" * 16 not in repr(Plan.of_json(told))


@pytest.mark.parametrize("arrival", [{"rate": 40.0}, {"kind": "closed", "think_s": 0.05}])
async def test_devices_connect_sell_and_close_their_batches(
    tmp_path: Path, arrival: dict[str, object]
) -> None:
    seen: Counter[str] = Counter()
    tally = Tally()
    devices = {"count": 4, "security": "plain", "close_batch": True}
    async with gateway(seen) as target:
        plan = plan_of(tmp_path, target, arrival=arrival, devices=devices)
        with Journal(plan.journal, currency="978") as journal:
            worker = Worker(plan, journal)
            assert await worker.open() == 0
            assert (seen["connections"], seen["0800"]) == (4, 4)
            async with trio.open_nursery() as nursery:

                async def storm() -> None:
                    await trio.sleep(0.2)
                    worker.storm(1.0)

                nursery.start_soon(storm)
                await worker.run(trio.current_time())
            await worker.close()
            worker.give_up()
        tally.merge(worker.tell())
    sold = tally.whole().latency.count
    assert sold == seen["0200"] > 10
    assert seen["connections"] == 8  # each lost its first line in the storm
    assert any(name.startswith("back_ms:") for name in tally.counts)
    assert tally.counts["batches_closed"] == seen["0500"] == 4
    assert len(list(read_journal(plan.journal))) == sold + 4
    assert tally.whole().counts == {"approved": sold}
