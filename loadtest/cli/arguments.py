"""What the commands take, checked; each raises typer.BadParameter in words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, TypeVar

import typer

from loadtest.addresses import HostPort, loopback
from loadtest.switches import BadSwitch, Switches

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def valid(make: Callable[[], T]) -> T:
    try:
        return make()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def address(text: str) -> HostPort:
    return valid(partial(loopback, text))


def pairs(texts: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r}: NAME=VALUE would be right")
        pairs[name] = value
    return pairs


def checked(texts: list[str] | None) -> Switches:
    try:
        return Switches().changed(pairs(texts))
    except BadSwitch as error:
        raise typer.BadParameter(str(error)) from error
