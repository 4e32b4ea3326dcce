"""`gateway run`: the daemon."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import trio
import typer

from gateway.daemon import run_node
from gateway.errors import GatewayError, InvariantBroken
from gateway.settings.findings import SettingsError
from gateway.settings.loader import load


def run(
    config: Annotated[
        Path, typer.Option("--config", envvar="GATEWAY_CONFIG", help="The configuration file.")
    ] = Path("config/gateway.toml"),
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C; exits 0 after an orderly stop."""
    if not config.is_file():
        print(f"{config}: there is no such file; name one with --config", file=sys.stderr)
        raise typer.Exit(2)
    try:
        configuration = load(config)
    except SettingsError as error:
        for finding in error.findings:
            print(finding, file=sys.stderr)
        raise typer.Exit(1) from None
    failed = False
    try:
        trio.run(run_node, configuration)
    except* (GatewayError, OSError) as group:
        failed = True
        for one in _leaves(group):
            print(f"gateway: {one}", file=sys.stderr)
    except* InvariantBroken as broken:
        failed = True
        for one in _leaves(broken):
            print(f"gateway: stopped, since it must not go on: {one}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for one in group.exceptions:
        found += _leaves(one) if isinstance(one, BaseExceptionGroup) else [one]
    return found
