"""Runs that play a whole street and judge it: demo, chaos, failover, edits under load."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Annotated, Literal, NoReturn

import trio
import typer

from loadtest.chaos import ChaosOptions, run_chaos
from loadtest.chaos_plan import plan_of
from loadtest.cli.arguments import AsJson, checked
from loadtest.demo import DemoOptions, run_demo
from loadtest.disks import NoDisk, keep_mounts_private
from loadtest.edits import CutOff, EditOptions, Swapped, run_cutoff, run_swaps
from loadtest.failover import FailoverOptions, run_failover
from loadtest.failover_cases import BY_NAME, CASES
from loadtest.failover_result import told
from loadtest.running import FAILED, fail, print_json, print_line, run_told, say, unless_stopped
from loadtest.show import run_show


def demo(
    *,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=3_600)] = 10.0,
    terminals: Annotated[int, typer.Option("--terminals", min=1, max=5_000)] = 10,
    rate: Annotated[float, typer.Option("--rate", min=0, help="Purchases/s of each.")] = 5.0,
    seed: Annotated[int, typer.Option("--seed")] = 1,
    json: AsJson = False,
) -> None:
    """Gateway, two acquirers and terminals for some seconds; exit 0 only if all ledgers agree."""
    options = DemoOptions(seconds=seconds, terminals=terminals, purchases_per_s=rate, seed=seed)
    result = run_told(partial(unless_stopped, partial(run_demo, options, say)))
    if result is None:
        fail("stopped before its end")
    _judge(result.reconciliation.summary(), passed=result.passed, json=json)


def show(
    *,
    config: Annotated[Path, typer.Option("--config", "-c")] = Path("config/gateway.toml"),
) -> None:
    """Play a configuration on this machine: gateway, acquirers, three terminals that buy."""

    async def play(stop: trio.Event) -> None:
        await run_show(config, print_line, stop)

    run_told(play)


def chaos(
    *,
    seconds: Annotated[float, typer.Option("--seconds", min=5, max=3_600)] = 60.0,
    terminals: Annotated[int, typer.Option("--terminals", min=2, max=5_000)] = 200,
    rate: Annotated[float, typer.Option("--rate", min=0.01, help="Purchases/s of each.")] = 2.0,
    seed: Annotated[int | None, typer.Option("--seed", help="Default: any.")] = None,
    converge_s: Annotated[
        float, typer.Option("--converge-s", min=1, max=600, help="How long it may take to agree.")
    ] = 60.0,
    full_disk: Annotated[bool, typer.Option(help="Fill the gateway's disk up (as root).")] = True,
    switches: Annotated[
        list[str] | None, typer.Option("--switch", help="SWITCH=VALUE of both acquirers.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would happen, and end.")] = False,
    json: AsJson = False,
) -> None:
    """Kill, stop and cut off everybody while terminals buy; exit 0 only if all ledgers agree."""
    seed = SystemRandom().randrange(1, 1_000_000) if seed is None else seed
    if plan:
        for line in plan_of(seed, seconds=seconds).lines():
            print_line(line)
        return
    checked(switches)
    if full_disk:
        try:
            keep_mounts_private()
        except NoDisk as error:
            say(f"the gateway's disk will not be full in this run: {error}")
            full_disk = False
    options = ChaosOptions(
        seconds=seconds,
        terminals=terminals,
        purchases_per_s=rate,
        seed=seed,
        converge_s=converge_s,
        full_disk=full_disk,
        switches=tuple(switches or ()),
    )
    result = run_told(partial(unless_stopped, partial(run_chaos, options, say)))
    if result is None:
        fail("stopped before its end")
    _judge(result.summary(), passed=result.passed, json=json)


Edits = Annotated[int, typer.Option(min=1, max=100_000)]


def cutoff(
    *,
    trials: Edits = 100,
    terminals: Annotated[int, typer.Option("--terminals", min=1, max=5_000)] = 500,
    rate: Annotated[float, typer.Option("--rate", min=0, help="Purchases/s of each.")] = 0.4,
    json: AsJson = False,
) -> None:
    """Block one terminal after the other while others buy: how soon each is cut off."""
    options = EditOptions(count=trials, terminals=terminals, rate=rate)
    _report(run_told(lambda _: run_cutoff(options, say)), json=json)


def swaps(
    *,
    swaps: Edits = 1_000,
    terminals: Annotated[int, typer.Option("--terminals", min=1, max=5_000)] = 100,
    rate: Annotated[float, typer.Option("--rate", min=0, help="Purchases/s of each.")] = 1.0,
    json: AsJson = False,
) -> None:
    """Put one configuration after the other in force under load; exit 0 if each decision fits."""
    options = EditOptions(count=swaps, terminals=terminals, rate=rate)
    _report(run_told(lambda _: run_swaps(options, say)), json=json)


def _judge(summary: Mapping[str, object], *, passed: bool, json: bool) -> NoReturn:
    if json:
        print_json(summary)
    else:
        typer.echo("  ".join(f"{name} {value}" for name, value in summary.items()))
    raise typer.Exit(0 if passed else FAILED)


def _report(found: CutOff | Swapped, *, json: bool) -> None:
    told = found.to_json()
    if json:
        print_json(told)
    else:
        for name, value in told.items():
            print_line(f"{name:<20} {value}")
    raise typer.Exit(0 if found.passed else FAILED)


def failover(
    *,
    case: Annotated[
        list[str] | None,
        typer.Option("--case", help=f"{', '.join(BY_NAME)}; default: all."),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1, max=600)] = 6.0,
    rate: Annotated[float, typer.Option("--rate", min=1, help="Purchases/s in all.")] = 500.0,
    back_s: Annotated[
        float, typer.Option("--back-s", min=1, max=600, help="How long it is watched once well.")
    ] = 20.0,
    flapping_s: Annotated[float, typer.Option("--flapping-s", min=4, max=600)] = 60.0,
    answer_s: Annotated[
        float, typer.Option("--answer-s", min=0, max=60, help="Of a till; 0: as the case says.")
    ] = 0.0,
    terminals: Annotated[
        int, typer.Option("--terminals", min=0, max=20_000, help="0: as many as are needed.")
    ] = 0,
    acquirer: Annotated[
        str, typer.Option("--acquirer", help="ours, or isoload where its sources are at hand.")
    ] = "ours",
    tls: Annotated[bool, typer.Option("--tls", help="Terminals call over mutual TLS.")] = False,
    upstream: Annotated[
        list[str] | None, typer.Option("--upstream", help="A line of TOML for both upstreams.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep ledgers and logs anyway.")] = False,
    seed: Annotated[int, typer.Option("--seed")] = 1,
    json: AsJson = False,
) -> None:
    """Sicken an acquirer under load in every way; exit 0 only if every target is met."""
    wanted = [name for name in case or ["all"] if name]
    unknown = [name for name in wanted if name != "all" and name not in BY_NAME]
    if unknown:
        raise typer.BadParameter(f"no case {unknown[0]!r}; there are {', '.join(BY_NAME)}")
    options = FailoverOptions(
        seconds=seconds,
        back_s=back_s,
        flapping_s=flapping_s,
        answer_s=answer_s,
        rate=rate,
        terminals=terminals,
        acquirer=_acquirer_kind(acquirer),
        tls=tls,
        upstream_settings=tuple(upstream or ()),
        keep=keep,
        seed=seed,
    )
    cases = CASES if "all" in wanted else [BY_NAME[name] for name in wanted]
    results = run_told(partial(unless_stopped, partial(run_failover, cases, options, say)))
    if results is None:
        fail("stopped before its end")
    passed = all(result.passed for result in results)
    if json:
        print_json({"passed": passed, "cases": [result.summary() for result in results]})
    else:
        for result in results:
            print_line(told(result))
    raise typer.Exit(0 if passed else FAILED)


def _acquirer_kind(text: str) -> Literal["ours", "isoload"]:
    if text == "ours":
        return "ours"
    if text == "isoload":
        return "isoload"
    raise typer.BadParameter(f"--acquirer {text!r}: ours or isoload would be right")
