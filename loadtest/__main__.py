"""`python -m loadtest`: finds the command that was asked for and loads nothing of the others."""

from __future__ import annotations

import typer

from gateway.cli.lazy import Command, LazyGroup

_COMMANDS = {
    "run": Command(
        "loadtest.run.command",
        "run_scenario",
        "Run a load test; exit 0: all thresholds hold, 1: one does not, 2: it cannot be run.",
    ),
    "acquirer": Command(
        "loadtest.cli.simulators",
        "acquirer",
        "Simulate an acquirer until SIGTERM; its summary is the last line on standard output.",
    ),
    "switch": Command(
        "loadtest.cli.simulators",
        "switch",
        "Change how a running acquirer behaves, or show it: mute=true delay_ms=300 …",
    ),
    "terminals": Command(
        "loadtest.cli.simulators",
        "terminals",
        "Simulate terminals until SIGTERM or for some seconds; prints a JSON summary.",
    ),
    "reconcile": Command(
        "loadtest.cli.simulators",
        "reconcile",
        "Compare ledgers: what was lost, doubled or cannot be explained.",
    ),
    "demo": Command(
        "loadtest.cli.trials",
        "demo",
        "Gateway, two acquirers and terminals for some seconds; exit 0 only if all ledgers agree.",
    ),
    "show": Command(
        "loadtest.cli.trials",
        "show",
        "Play a configuration on this machine: gateway, acquirers, three terminals that buy.",
    ),
    "chaos": Command(
        "loadtest.cli.trials",
        "chaos",
        "Kill, stop and cut off everybody while terminals buy; exit 0 only if all ledgers agree.",
    ),
    "cutoff": Command(
        "loadtest.cli.trials",
        "cutoff",
        "Block one terminal after the other while others buy: how soon each is cut off.",
    ),
    "swaps": Command(
        "loadtest.cli.trials",
        "swaps",
        "Put one configuration after the other in force under load; exit 0 if each decision fits.",
    ),
    "failover": Command(
        "loadtest.cli.trials",
        "failover",
        "Sicken an acquirer under load in every way; exit 0 only if every target is met.",
    ),
}


class _Commands(LazyGroup):
    COMMANDS = _COMMANDS


app = typer.Typer(
    name="loadtest",
    cls=_Commands,
    help="Simulated acquirers and terminals for the gateway, on this machine only.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def loadtest() -> None:
    """Simulated acquirers and terminals for the gateway, on this machine only."""


if __name__ == "__main__":
    app()
