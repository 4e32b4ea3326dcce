"""A group of commands that finds the one that was asked for and loads nothing of the others."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


@dataclass(frozen=True, slots=True)
class Command:
    """Where a command is; its module is imported when it is run."""

    module: str
    attribute: str  # a function with typer's annotations, or a Typer with commands of its own
    help: str


class LazyGroup(TyperGroup):
    """Commands whose modules are imported when they are run, so that help is there at once."""

    COMMANDS: ClassVar[Mapping[str, Command]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, command in self.COMMANDS.items():
            self.add_command(TyperCommand(name=name, help=command.help))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else _loaded(name, self.COMMANDS[name]), rest


def _loaded(name: str, command: Command) -> Any:
    found = getattr(importlib.import_module(command.module), command.attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name)(found)
        found = single
    return get_command(found)
