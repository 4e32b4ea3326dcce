"""The simulators as processes: killed and started again they agree, and nothing is left running."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import trio

from loadtest.addresses import HostPort
from loadtest.control import ask
from loadtest.fleet import Fleet, FleetOptions, terminal_names
from loadtest.processes import ChildFailed, Children, python, run_once
from loadtest.reconcile import Fault, reconcile_files
from loadtest.stage import Stage
from loadtest.terminal import Behaviour


def fleet_at(target: HostPort, ledger: Path) -> Fleet:
    behaviour = Behaviour(purchases_per_s=50, answer_s=0.5, backoff_max_s=0.2)
    return Fleet(
        FleetOptions(target=target, names=terminal_names(5), ledger=ledger, behaviour=behaviour)
    )


async def test_an_acquirer_killed_under_load_and_started_again_agrees_with_its_terminals(
    tmp_path: Path,
) -> None:
    ledger = tmp_path / "terminals.db"
    async with Children(grace_s=30) as children:
        stage = Stage(children, logs=tmp_path)
        seat = await stage.start_acquirer("a", folder=tmp_path, switches=["drop=0.1"])
        fleet = fleet_at(seat.address, ledger)

        async def kill_and_restart() -> None:
            await trio.sleep(0.5)
            assert seat.child is not None
            seat.child.signal(signal.SIGKILL)
            await seat.child.process.wait()
            await stage.restart_acquirer(seat)
            before = fleet.outcomes["approved"]
            with trio.fail_after(60):
                while fleet.outcomes["approved"] < before + 50:  # noqa: ASYNC110 — counts, no events
                    await trio.sleep(0.05)

        assert await fleet.run_while(kill_and_restart, settle_s=60)
        fleet.close()
        result = reconcile_files([ledger], {"a": seat.ledger})
        assert result.agrees, result.disagreements
        assert result.approved > 50
        assert result.reversed > 0


async def test_a_mute_acquirer_leaves_a_trace_until_it_speaks_again(tmp_path: Path) -> None:
    ledger = tmp_path / "terminals.db"
    async with Children(grace_s=30) as children:
        stage = Stage(children, logs=tmp_path)
        seat = await stage.start_acquirer("a", folder=tmp_path)
        fleet = fleet_at(seat.address, ledger)

        async def mute() -> None:
            await trio.sleep(0.3)
            await ask(seat.control, {"mute": True})
            await trio.sleep(0.3)

        # They give up while it is mute: that has to show.
        assert not await fleet.run_while(mute, settle_s=0.3)
        fleet.close()
        assert reconcile_files([ledger], {"a": seat.ledger}).count(Fault.UNEXPLAINED) > 0
        await ask(seat.control, {"mute": False})
        # Another life of the same terminals settles it.
        fleet = fleet_at(seat.address, ledger)
        assert await fleet.run_while(partial(trio.sleep, 0.2), settle_s=60)
        fleet.close()
        result = reconcile_files([ledger], {"a": seat.ledger})
        assert result.agrees, result.disagreements


async def test_an_acquirer_ends_with_a_summary(tmp_path: Path) -> None:
    async with Children(grace_s=30) as children:
        stage = Stage(children, logs=tmp_path)
        seat = await stage.start_acquirer("a", folder=tmp_path)
        assert seat.child is not None
        seat.child.signal(signal.SIGTERM)
        summary = json.loads(await seat.child.line(timeout_s=60))
        assert summary["name"] == "a"
        assert await seat.child.process.wait() == 0
        assert not seat.control.exists()


async def test_children_are_gone_afterwards_even_if_cancelled(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with Children(grace_s=30) as children:
            seat = await Stage(children, logs=tmp_path).start_acquirer("a", folder=tmp_path)
            assert seat.child is not None
            pid = seat.child.pid
            scope.cancel()
            await trio.sleep_forever()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_part_that_does_not_start_says_why(tmp_path: Path) -> None:
    async with Children(grace_s=30) as children:
        stage = Stage(children, logs=tmp_path)
        with pytest.raises(ChildFailed, match="volume"):
            await stage.start_acquirer("a", folder=tmp_path, switches=["volume=11"])


async def test_targets_on_other_machines_are_refused(tmp_path: Path) -> None:
    command = python("loadtest", "terminals", "--target", "192.0.2.1:80", "--ledger", "x.db")
    with pytest.raises(ChildFailed, match="not on this machine"):
        await run_once(*command)
