"""`gateway approve`: a second operator says yes, or no, to what another one asked for."""

from __future__ import annotations

import json as json_
from typing import Annotated

import typer

from gateway.cli.ask import client_of
from gateway.cli.output import DEFAULT_CONFIG, Config, Json, print_json, print_table, say


def approve(
    number: Annotated[
        int | None, typer.Argument(min=1, metavar="NUMBER", help="Of what waits: see --list.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List what waits.")] = False,
    reject: Annotated[
        bool, typer.Option("--reject", help="Say no; or take back what you asked for yourself.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why it is rejected.")] = "",
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Approve what another operator asked for, where the settings want two ([approvals]).

    It is done at once, under the rights of the one who approves. Nobody approves what they asked
    for themselves.
    """
    client = client_of(config)
    if list_ or number is None:
        if number is not None or reject:
            raise typer.BadParameter("give a number or --list, not both")
        _list(client.run("approvals", "list", {})["pending"], json=json)
        return
    if reject:
        answer = client.run("approvals", "reject", {"number": number, "reason": reason})
        done, words = answer["rejected"], "is rejected"
    else:
        answer = client.run("approvals", "approve", {"number": number})
        done, words = answer["approved"], f"is done, as {answer['approved']['operator']} asked"
    if json:
        print_json(answer)
    else:
        say(f"{number}: {done['action']} {done['subject']} {words}")


def _list(pending: list[dict[str, object]], *, json: bool) -> None:
    if json:
        print_json({"pending": pending})
        return
    print_table(
        ("number", "action", "subject", "asked by", "asked", "ends", "arguments"),
        [
            (
                *(str(one[key]) for key in ("number", "action", "subject", "operator")),
                str(one["asked"])[:19],
                str(one["ends"])[:19],
                json_.dumps(one["arguments"], sort_keys=True),
            )
            for one in pending
        ],
    )
    say(f"{len(pending)} wait for a second operator", "dim")
