"""`gateway reversals`: what is owed to acquirers, and what was given up and waits for somebody."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from gateway.cli.output import (
    DEFAULT_CONFIG,
    Config,
    Json,
    duration_words,
    print_csv,
    print_json,
    print_table,
    say,
)
from gateway.cli.reach import Run, with_reversals
from gateway.cli.transactions import print_history

app = typer.Typer(
    name="reversals",
    help="What is owed to acquirers (reversals and advices), and what was given up.",
    no_args_is_help=True,
)

COLUMNS = (
    "transaction_id",
    "state",
    "owed",
    "upstream",
    "terminal_id",
    "stan",
    "amount_minor",
    "currency",
    "card",
    "age",
    "attempts",
    "next_attempt",
)
CSV_COLUMNS = (
    "transaction_id",
    "state",
    "owed",
    "upstream",
    "terminal_id",
    "stan",
    "rrn",
    "kind",
    "card",
    "amount_minor",
    "left_minor",
    "currency",
    "reason",
    "since",
    "age_s",
    "attempts",
    "upstream_stan",
    "next_attempt",
)

Id = Annotated[int, typer.Argument(min=1, metavar="ID", help="Of the transaction: see `list`.")]


@app.command("list")
def list_(
    upstream: Annotated[str, typer.Option(help="Only what is owed to it.")] = "",
    given_up: Annotated[
        bool, typer.Option("--given-up", help="Only what waits for an operator.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with every column.")] = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """List what is owed: first what was given up, then what is being sent, the oldest first.

    "nothing" is owed for a refund in doubt: it is never reversed or repeated. Settle it with the
    acquirer, then resolve it.
    """
    if json and csv:
        raise typer.BadParameter("give --json or --csv, not both")
    chosen: dict[str, Any] = {"upstream": upstream, "given_up": True if given_up else None}

    async def command(run: Run) -> tuple[list[dict[str, Any]], int]:
        found: list[dict[str, Any]] = []
        after = 0
        while True:
            page = await run(
                "list", {**chosen, "after": after, "limit": min(250, limit - len(found))}
            )
            found += page["reversals"]
            after = page["next"]
            if not after or len(found) >= limit:
                return found, after

    found, more = with_reversals(config, command)
    if json:
        print_json({"reversals": found, "more": bool(more)})
    elif csv:
        print_csv(CSV_COLUMNS, ([one[column] for column in CSV_COLUMNS] for one in found))
    else:
        rows = [{**one, "age": duration_words(one["age_s"])} for one in found]
        print_table(
            [column.removesuffix("_id").replace("_", " ") for column in COLUMNS],
            [[str(row[column]) or "-" for column in COLUMNS] for row in rows],
        )
        waiting = sum(one["state"] == "given_up" for one in found)
        say(f"{len(found)} open, {waiting} of them wait for an operator", "dim")
    if more and not json:
        say("there are more: raise --limit", "dim")


@app.command()
def show(transaction_id: Id, json: Json = False, config: Config = DEFAULT_CONFIG) -> None:
    """Tell what is owed for a transaction, and what happened to it."""
    history = _one("show", {"transaction_id": transaction_id}, config)
    if json:
        print_json(history)
        return
    print_history(history)
    owed = history["reversal"]
    say(
        f"{owed['state'].replace('_', ' ')} for {duration_words(owed['age_s'])}, "
        f"{owed['attempts']} attempts",
        "dim",
    )


@app.command()
def retry(transaction_id: Id, json: Json = False, config: Config = DEFAULT_CONFIG) -> None:
    """Have what was given up sent again, at once."""
    history = _one("retry", {"transaction_id": transaction_id}, config)
    _say_change(history, "is sent again", json=json)


@app.command()
def resolve(
    transaction_id: Id,
    reason: Annotated[str, typer.Option("--reason", help="How it was settled; goes into the log.")],
    booked: Annotated[
        bool | None,
        typer.Option("--booked/--not-booked", help="Whether the acquirer has it booked."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Close what was given up and has been settled with the acquirer by hand.

    Of a refund it has to be said whether the acquirer has it booked: then it counts against what
    may still be refunded. Nothing is sent for it any more, and what was kept of it is wiped.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("--yes is needed where nobody can be asked")
        typer.confirm(
            f"Close transaction {transaction_id}? It is never reversed after that",
            abort=True,
            err=True,
        )
    arguments = {"transaction_id": transaction_id, "reason": reason, "booked": booked}
    _say_change(_one("resolve", arguments, config), "is closed", json=json)


def _one(operation: str, arguments: dict[str, Any], config: Any) -> dict[str, Any]:
    async def command(run: Run) -> dict[str, Any]:
        return await run(operation, arguments)

    return with_reversals(config, command)


def _say_change(history: dict[str, Any], done: str, *, json: bool) -> None:
    if json:
        print_json(history)
        return
    one = history["transaction"]
    say(f"transaction {one['transaction_id']} {done}: {one['state'].replace('_', ' ')}")
