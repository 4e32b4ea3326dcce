"""`gateway`: its commands, and how it says what went wrong."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway import __version__
from gateway.cli.lazy import Command, LazyGroup
from gateway.errors import GatewayError

_FAILED = 1


_COMMANDS = {
    "run": Command("gateway.cli.run", "run", "Run the gateway until it is told to stop."),
    "check": Command("gateway.cli.check", "check", "Check a configuration; opens nothing."),
    "status": Command("gateway.cli.status", "status", "How the running gateway does."),
    "terminals": Command("gateway.cli.terminals", "app", "Enrol devices and look after them."),
    "transactions": Command(
        "gateway.cli.transactions", "app", "Find transactions and tell the history of one."
    ),
    "reversals": Command(
        "gateway.cli.reversals", "app", "What is owed to acquirers, and what was given up."
    ),
    "backup": Command(
        "gateway.cli.backup", "app", "Write all that must survive into one file; verify one."
    ),
    "restore": Command(
        "gateway.cli.restore", "app", "Put a backup in place; settle what fell into the gap."
    ),
    "archive": Command("gateway.cli.archive", "app", "Transactions that left the store."),
    "routes": Command(
        "gateway.cli.routes", "app", "Which upstream a request would go to, and why."
    ),
    "upstreams": Command(
        "gateway.cli.upstreams", "app", "How acquirers do, and taking one out of use and back."
    ),
    "reload": Command(
        "gateway.cli.reload", "reload", "Take up edits of the configuration, and say how it went."
    ),
    "explain": Command(
        "gateway.cli.explain", "explain", "What would become of a message, and by which rule."
    ),
    "block": Command("gateway.cli.block", "block", "Block a terminal, card, merchant … at once."),
    "unblock": Command("gateway.cli.block", "unblock", "Take an entry out of a blocklist."),
    "blocklist": Command("gateway.cli.block", "app", "Look at the blocklists."),
    "approve": Command(
        "gateway.cli.approve", "approve", "Say yes to what another operator asked for."
    ),
    "audit": Command("gateway.cli.audit", "app", "Who did what, and proof that it is whole."),
    "inspect": Command(
        "gateway.cli.inspect", "inspect", "Read one message, pasted in any form; masked."
    ),
    "errors": Command(
        "gateway.cli.errors", "app", "What terminals sent that could not be read; masked."
    ),
    "dialect": Command(
        "gateway.cli.dialect", "app", "How messages are written: show, check, compare, try."
    ),
    "keys": Command("gateway.cli.keys", "app", "Keys of terminals, upstreams and the gateway."),
    "certs": Command("gateway.cli.certs", "app", "The gateway's own certificate authority."),
}


class _Commands(LazyGroup):
    COMMANDS = _COMMANDS

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what the gateway raises on purpose becomes a line and exit status 1."""
        try:
            return super().invoke(ctx)
        except GatewayError as error:
            typer.echo(_in_words(error), err=True)
            raise typer.Exit(_FAILED) from None


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
