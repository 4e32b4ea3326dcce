"""`gateway run`: the daemon."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import trio
import typer

from gateway.daemon import run_node
from gateway.errors import GatewayError, InvariantBroken
from gateway.keys.components import Component
from gateway.settings.findings import SettingsError
from gateway.settings.loader import Configuration, load


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
        components = _components(configuration)
        ask = None if components is None else lambda _: components
        trio.run(partial(run_node, configuration, ask=ask))
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


def _components(configuration: Configuration) -> Sequence[Component] | None:
    """The components of a key-encryption key that is in no files, asked for before the start."""
    kek = configuration.settings.keys.kek
    if kek is None or kek.source != "components" or kek.component_files:
        return None
    if not sys.stdin.isatty():
        return None  # the start says what to do about it
    from gateway.cli.key_prompts import ask_kek

    return ask_kek("keys.kek")


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for one in group.exceptions:
        found += _leaves(one) if isinstance(one, BaseExceptionGroup) else [one]
    return found
