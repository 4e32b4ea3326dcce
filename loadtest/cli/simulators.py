"""Acquirers and terminals that are simulated, and their ledgers compared."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

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
from loadtest.cli.arguments import AsJson, address, checked, pairs, valid
from loadtest.control import ControlError, ask
from loadtest.fleet import CONNECT_S, Fleet, FleetOptions, terminal_names
from loadtest.reconcile import reconcile_files
from loadtest.running import FAILED, fail, print_json, run_told, say
from loadtest.switches import Switches
from loadtest.terminal import Behaviour
from loadtest.wire import Wire, shipped_wire

Control = Annotated[Path, typer.Argument(metavar="SOCKET", help="The acquirer's control socket.")]
SwitchArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SWITCH=VALUE",
        help=f"disconnect=true, start={'|'.join(STARTS)}, or any of"
        f" {', '.join(Switches.model_fields)}.",
    ),
]


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
        address=address(listen or call or ""),
        calls=0 if call is None else calls,
        ledger=ledger,
        synchronous="FULL" if outlives_power else "NORMAL",
        control=control,
        switches=checked(switches),
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


def switch(*, control: Control, switches: SwitchArguments = None, json: AsJson = False) -> None:
    """Change how a running acquirer behaves, or show it: mute=true delay_ms=300 …"""
    try:
        answer = trio.run(ask, control, pairs(switches))
    except ControlError as error:
        fail(str(error))
    if json:
        print_json(answer)
        return
    for part in ("switches", "counts"):
        typer.echo("  ".join(f"{name}={_plain(value)}" for name, value in answer[part].items()))


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
        target=address(target),
        names=valid(partial(terminal_names, count, first=first, merchant=merchant)),
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


def _wire(dialect: str, length: str, tpdu: str, header: str) -> Wire:
    """How an acquirer writes; with a TPDU or a header its frames have them."""

    def make() -> Wire:
        # pydantic refuses a length that there is not, as a ValueError.
        framing = Framing.model_validate(
            {"length": length, "tpdu": bool(tpdu), "header_bytes": len(header) // 2}
        )
        return shipped_wire(dialect, framing, tpdu=tpdu, header=header)

    return valid(make)


def _ca_beside(certs: Path | None) -> Path | None:
    """In the folder, as isoload keeps it, or the one above, as `gateway certs` does."""
    if certs is None or (certs / "ca.crt").exists():
        return None
    return certs.parent / "ca.crt"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
