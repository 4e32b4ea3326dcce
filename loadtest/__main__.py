"""`python -m loadtest`: the simulators' commands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Annotated, Literal, TypeVar

import trio
import typer

from gateway.errors import GatewayError
from gateway.settings.schema_base import Framing
from loadtest.acquirer import (
    STARTS,
    AcquirerOptions,
    Tls,
    calling_tls,
    run_acquirer,
    serving_tls,
)
from loadtest.acquirer_keys import AcquirerKeys
from loadtest.addresses import HostPort, loopback
from loadtest.chaos import ChaosOptions, run_chaos
from loadtest.chaos_plan import plan_of
from loadtest.control import ControlError, ask
from loadtest.demo import DemoOptions, run_demo
from loadtest.disks import NoDisk, keep_mounts_private
from loadtest.edits import CutOff, EditOptions, Swapped, run_cutoff, run_swaps
from loadtest.failover import FailoverOptions, run_failover
from loadtest.failover_cases import BY_NAME, CASES
from loadtest.failover_result import told
from loadtest.fleet import CONNECT_S, Fleet, FleetOptions, terminal_names
from loadtest.reconcile import reconcile_files
from loadtest.run.command import run_scenario
from loadtest.running import FAILED, fail, print_json, print_line, run_told, say, unless_stopped
from loadtest.show import run_show
from loadtest.switches import BadSwitch, Switches
from loadtest.terminal import Behaviour
from loadtest.wire import Wire, shipped_wire

T = TypeVar("T")

app = typer.Typer(
    name="loadtest",
    help="Simulated acquirers and terminals for the gateway, on this machine only.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("run")(run_scenario)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Control = Annotated[Path, typer.Argument(metavar="SOCKET", help="The acquirer's control socket.")]
SwitchArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SWITCH=VALUE",
        help=f"disconnect=true, start={'|'.join(STARTS)}, or any of"
        f" {', '.join(Switches.model_fields)}.",
    ),
]


@app.command()
def acquirer(
    *,
    switches: SwitchArguments = None,
    listen: Annotated[str | None, typer.Option("--listen", help="HOST:PORT; port 0: any.")] = None,
    call: Annotated[
        str | None, typer.Option("--call", help="HOST:PORT of a gateway that listens for it.")
    ] = None,
    calls: Annotated[int, typer.Option("--calls", min=1, max=64, help="At once.")] = 1,
    ledger: Annotated[Path, typer.Option("--ledger", help="SQLite file; goes on if it is there.")],
    outlives_power: Annotated[
        bool, typer.Option(help="The ledger outlives a loss of power; else its process only.")
    ] = True,
    control: Annotated[Path | None, typer.Option("--control", help="Unix socket.")] = None,
    name: Annotated[str, typer.Option("--name", help="How it calls itself.")] = "acquirer",
    seed: Annotated[int, typer.Option("--seed", help="Of its jitter and drops.")] = 1,
    dialect: Annotated[str, typer.Option("--dialect", help="One that is shipped.")] = "iso87_ascii",
    length: Annotated[str, typer.Option("--length", help="binary2, ascii4 or bcd2.")] = "binary2",
    tpdu: Annotated[str, typer.Option("--tpdu", help="Hex, of what it starts itself.")] = "",
    header: Annotated[str, typer.Option("--header", help="Hex; the same.")] = "",
    certificate: Annotated[Path | None, typer.Option("--certificate", help="TLS, PEM.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Of the certificate, PEM.")] = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", help="Listening: demands a certificate of its clients.")
    ] = None,
    server_name: Annotated[
        str, typer.Option("--server-name", help="Calling: the gateway's name.")
    ] = "localhost",
    keys: Annotated[
        Path | None,
        typer.Option("--keys", help='JSON: {"zmk": HEX, "pin": "1234"}; wants MACs, sees to PINs.'),
    ] = None,
) -> None:
    """Simulate an acquirer until SIGTERM; its summary is the last line on standard output."""
    if (listen is None) == (call is None):
        raise typer.BadParameter("either --listen or --call, and not both")
    tls: Tls | None = None
    try:
        if call is not None and ca is not None:
            tls = calling_tls(ca, server_name=server_name, certificate=certificate, key=key)
        elif listen is not None and certificate is not None:
            tls = serving_tls(certificate, key or certificate, client_ca=ca)
    except (GatewayError, OSError) as error:
        fail(str(error))
    options = AcquirerOptions(
        name=name,
        address=_address(listen or call or ""),
        calls=0 if call is None else calls,
        ledger=ledger,
        synchronous="FULL" if outlives_power else "NORMAL",
        control=control,
        switches=_checked(switches),
        wire=_wire(dialect, length, tpdu, header),
        tls=tls,
        keys=None if keys is None else _acquirer_keys(keys),
        seed=seed,
    )
    print_json(run_told(partial(run_acquirer, options=options)))


def _acquirer_keys(path: Path) -> AcquirerKeys:
    try:
        return AcquirerKeys.load(path)
    except (OSError, ValueError, KeyError) as error:
        fail(f"{path}: no keys of an acquirer: {type(error).__name__}")


@app.command()
def switch(*, control: Control, switches: SwitchArguments = None, json: AsJson = False) -> None:
    """Change how a running acquirer behaves, or show it: mute=true delay_ms=300 …"""
    try:
        answer = trio.run(ask, control, _pairs(switches))
    except ControlError as error:
        fail(str(error))
    if json:
        print_json(answer)
        return
    for part in ("switches", "counts"):
        typer.echo("  ".join(f"{name}={_plain(value)}" for name, value in answer[part].items()))


@app.command()
def terminals(
    *,
    target: Annotated[str, typer.Option("--target", help="HOST:PORT of the gateway.")],
    ledger: Annotated[Path, typer.Option("--ledger", help="SQLite file; goes on if it is there.")],
    count: Annotated[int, typer.Option("--count", min=1, max=20_000)] = 10,
    first: Annotated[int, typer.Option("--first", min=1, help="Number of the first.")] = 1,
    certs: Annotated[
        Path | None, typer.Option("--certs", help="T0000001.crt, .key …; without it: plain TCP.")
    ] = None,
    ca: Annotated[Path | None, typer.Option("--ca", help="Default: ca.crt beside.")] = None,
    merchant: Annotated[str, typer.Option("--merchant")] = "MERCHANT{number:07d}",
    rate: Annotated[float, typer.Option("--rate", min=0, help="Purchases/s each; 0: all.")] = 1.0,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Default: endless.")] = None,
    answer_s: Annotated[float, typer.Option("--answer-s", help="Wait for an answer.")] = 30.0,
    repeats: Annotated[int, typer.Option("--repeats", help="Before it is reversed.")] = 0,
    plain_repeats: Annotated[
        float, typer.Option("--plain-repeats", min=0, max=1, help="Share not marked as repeats.")
    ] = 0.0,
    waits_for_line: Annotated[
        bool, typer.Option("--waits-for-line", help="No purchase without a connection.")
    ] = False,
    backoff_max_s: Annotated[float, typer.Option("--backoff-max-s", min=0.01)] = 5.0,
    connect_s: Annotated[float, typer.Option("--connect-s", min=0.01)] = CONNECT_S,
    settle_s: Annotated[float, typer.Option("--settle-s", help="At the end.")] = 30.0,
    seed: Annotated[int, typer.Option("--seed")] = 1,
) -> None:
    """Simulate terminals until SIGTERM or for some seconds; prints a JSON summary."""
    options = FleetOptions(
        target=_address(target),
        names=_valid(partial(terminal_names, count, first=first, merchant=merchant)),
        ledger=ledger,
        certs=certs,
        ca=ca or _ca_beside(certs),
        behaviour=Behaviour(
            purchases_per_s=rate,
            answer_s=answer_s,
            repeats=repeats,
            plain_repeats=plain_repeats,
            waits_for_line=waits_for_line,
            backoff_max_s=backoff_max_s,
        ),
        seed=seed,
        connect_s=connect_s,
    )

    async def sell(stop: trio.Event) -> dict[str, int | bool]:
        async def wait() -> None:
            with trio.move_on_after(float("inf") if seconds is None else seconds):
                await stop.wait()

        fleet = Fleet(options)
        try:
            settled = await fleet.run_while(wait, settle_s=settle_s)
        finally:
            fleet.close()
        return {"settled": settled, **fleet.outcomes}

    summary = run_told(sell)
    print_json(summary)
    raise typer.Exit(0 if summary["settled"] else FAILED)


@app.command()
def reconcile(
    *,
    terminals: Annotated[
        list[Path], typer.Option("--terminals", exists=True, dir_okay=False, help="Their ledger.")
    ],
    acquirers: Annotated[
        list[Path], typer.Option("--acquirer", exists=True, dir_okay=False, help="Its ledger.")
    ],
    limit: Annotated[int, typer.Option("--limit", help="Disagreements shown.")] = 50,
) -> None:
    """Compare ledgers: what was lost, doubled or cannot be explained."""
    named = {path.name.partition(".")[0]: path for path in acquirers}
    if len(named) < len(acquirers):
        named = {str(path): path for path in acquirers}
    result = reconcile_files(terminals, named)
    for disagreement in result.disagreements[:limit]:
        say(str(disagreement))
    print_json(result.summary())
    raise typer.Exit(0 if result.agrees else FAILED)


@app.command()
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
    summary = result.reconciliation.summary()
    if json:
        print_json(summary)
    else:
        typer.echo("  ".join(f"{name} {value}" for name, value in summary.items()))
    raise typer.Exit(0 if result.passed else FAILED)


@app.command()
def show(
    *,
    config: Annotated[Path, typer.Option("--config", "-c")] = Path("config/gateway.toml"),
) -> None:
    """Play a configuration on this machine: gateway, acquirers, three terminals that buy."""

    async def play(stop: trio.Event) -> None:
        await run_show(config, print_line, stop)

    run_told(play)


@app.command()
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
    _checked(switches)
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
    summary = result.summary()
    if json:
        print_json(summary)
    else:
        typer.echo("  ".join(f"{name} {value}" for name, value in summary.items()))
    raise typer.Exit(0 if result.passed else FAILED)


Edits = Annotated[int, typer.Option(min=1, max=100_000)]


@app.command()
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


@app.command()
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


def _report(found: CutOff | Swapped, *, json: bool) -> None:
    told = found.to_json()
    if json:
        print_json(told)
    else:
        for name, value in told.items():
            print_line(f"{name:<20} {value}")
    raise typer.Exit(0 if found.passed else FAILED)


@app.command()
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


# --- arguments -----------------------------------------------------------------------------------


def _valid(make: Callable[[], T]) -> T:
    try:
        return make()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _wire(dialect: str, length: str, tpdu: str, header: str) -> Wire:
    """How an acquirer writes; with a TPDU or a header its frames have them."""

    def make() -> Wire:
        # pydantic refuses a length that there is not, as a ValueError.
        framing = Framing.model_validate(
            {"length": length, "tpdu": bool(tpdu), "header_bytes": len(header) // 2}
        )
        return shipped_wire(dialect, framing, tpdu=tpdu, header=header)

    return _valid(make)


def _acquirer_kind(text: str) -> Literal["ours", "isoload"]:
    if text == "ours":
        return "ours"
    if text == "isoload":
        return "isoload"
    raise typer.BadParameter(f"--acquirer {text!r}: ours or isoload would be right")


def _address(text: str) -> HostPort:
    return _valid(partial(loopback, text))


def _pairs(texts: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r}: NAME=VALUE would be right")
        pairs[name] = value
    return pairs


def _checked(texts: list[str] | None) -> Switches:
    try:
        return Switches().changed(_pairs(texts))
    except BadSwitch as error:
        raise typer.BadParameter(str(error)) from error


def _ca_beside(certs: Path | None) -> Path | None:
    """In the folder, as isoload keeps it, or the one above, as `gateway certs` does."""
    if certs is None or (certs / "ca.crt").exists():
        return None
    return certs.parent / "ca.crt"


# --- what is printed -----------------------------------------------------------------------------


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    app()
