"""`gateway`: finds the command that was asked for and loads nothing of the others."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from gateway import __version__
from gateway.errors import GatewayError

_FAILED = 1


@dataclass(frozen=True, slots=True)
class _Command:
    module: str
    attribute: str  # a function with typer's annotations, or a Typer with commands of its own
    help: str


_COMMANDS = {
    "run": _Command("gateway.cli.run", "run", "Run the gateway until it is told to stop."),
    "check": _Command("gateway.cli.check", "check", "Check a configuration; opens nothing."),
    "status": _Command("gateway.cli.status", "status", "How the running gateway does."),
    "terminals": _Command("gateway.cli.terminals", "app", "Enrol devices and look after them."),
    "transactions": _Command(
        "gateway.cli.transactions", "app", "Find transactions and tell the history of one."
    ),
    "reversals": _Command(
        "gateway.cli.reversals", "app", "What is owed to acquirers, and what was given up."
    ),
    "backup": _Command(
        "gateway.cli.backup", "app", "Write all that must survive into one file; verify one."
    ),
    "restore": _Command(
        "gateway.cli.restore", "app", "Put a backup in place; settle what fell into the gap."
    ),
    "archive": _Command("gateway.cli.archive", "app", "Transactions that left the store."),
    "routes": _Command(
        "gateway.cli.routes", "app", "Which upstream a request would go to, and why."
    ),
    "upstreams": _Command(
        "gateway.cli.upstreams", "app", "How acquirers do, and taking one out of use and back."
    ),
    "reload": _Command(
        "gateway.cli.reload", "reload", "Take up edits of the configuration, and say how it went."
    ),
    "explain": _Command(
        "gateway.cli.explain", "explain", "What would become of a message, and by which rule."
    ),
    "block": _Command("gateway.cli.block", "block", "Block a terminal, card, merchant … at once."),
    "unblock": _Command("gateway.cli.block", "unblock", "Take an entry out of a blocklist."),
    "blocklist": _Command("gateway.cli.block", "app", "Look at the blocklists."),
    "approve": _Command(
        "gateway.cli.approve", "approve", "Say yes to what another operator asked for."
    ),
    "audit": _Command("gateway.cli.audit", "app", "Who did what, and proof that it is whole."),
    "inspect": _Command(
        "gateway.cli.inspect", "inspect", "Read one message, pasted in any form; masked."
    ),
    "errors": _Command(
        "gateway.cli.errors", "app", "What terminals sent that could not be read; masked."
    ),
    "dialect": _Command(
        "gateway.cli.dialect", "app", "How messages are written: show, check, compare, try."
    ),
    "keys": _Command("gateway.cli.keys", "app", "Keys of terminals, upstreams and the gateway."),
    "certs": _Command("gateway.cli.certs", "app", "The gateway's own certificate authority."),
}


class _Commands(TyperGroup):
    """Commands whose modules are imported when they are run, so that help is there at once."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, command in _COMMANDS.items():
            self.add_command(TyperCommand(name=name, help=command.help))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else _loaded(name), rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what the gateway raises on purpose becomes a line and exit status 1."""
        try:
            return super().invoke(ctx)
        except GatewayError as error:
            typer.echo(_in_words(error), err=True)
            raise typer.Exit(_FAILED) from None


def _loaded(name: str) -> Any:
    command = _COMMANDS[name]
    found = getattr(importlib.import_module(command.module), command.attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name)(found)
        found = single
    return get_command(found)


def _in_words(error: GatewayError) -> str:
    from gateway.settings.findings import SettingsError  # help does without it

    if isinstance(error, SettingsError):
        # Its lines begin with file:line:, for editors that jump there.
        return f"gateway: the configuration cannot be used:\n{error}"
    return f"gateway: {error}"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gateway {__version__}")
        raise typer.Exit


def build_app() -> typer.Typer:
    """The command line as a Typer application."""
    app = typer.Typer(
        name="gateway",
        cls=_Commands,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def gateway(
        version: Annotated[
            bool,
            typer.Option(
                "--version", is_eager=True, callback=_print_version, help="Print the version."
            ),
        ] = False,
    ) -> None:
        """A payment gateway between terminals and acquirers."""

    return app


def main() -> None:
    """Run the command that the arguments name; exits with 0, 1 (failed) or 2 (usage)."""
    build_app()()
