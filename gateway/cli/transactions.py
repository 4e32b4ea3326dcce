"""`gateway transactions`: find transactions, and tell what happened to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn

from gateway.cli.output import (
    DEFAULT_CONFIG,
    Config,
    Json,
    data,
    duration_s,
    print_csv,
    print_json,
    print_table,
    say,
    wall_ms,
    words,
)
from gateway.cli.reach import Run, with_transactions
from gateway.clock import SystemClock
from gateway.store.store import State

app = typer.Typer(
    name="transactions",
    help="Find transactions and tell the history of one; card numbers are masked.",
    no_args_is_help=True,
)

PAGE_MAX = 250
COLUMNS = (
    "transaction_id",
    "created",
    "terminal_id",
    "kind",
    "stan",
    "rrn",
    "amount_minor",
    "currency",
    "card",
    "state",
    "response_code",
    "upstream",
)
CSV_COLUMNS = (
    *COLUMNS[:3],
    "merchant_id",
    "kind",
    "mti",
    *COLUMNS[4:11],
    "approval_code",
    "upstream",
    "upstream_stan",
    "answered",
    "delivered",
    "original_id",
    "batch",
)

Terminal = Annotated[str, typer.Option("--terminal", help="Terminal id (DE41).")]
Rrn = Annotated[str, typer.Option("--rrn", help="Retrieval reference number, as answered (DE37).")]
Stan = Annotated[str, typer.Option("--stan", help="The terminal's own trace number (DE11).")]
Amount = Annotated[
    int | None, typer.Option("--amount", min=0, help="In the currency's smallest unit.")
]
LastFour = Annotated[str, typer.Option("--last-four", help="Last four digits of the card.")]
Since = Annotated[
    float | None,
    typer.Option("--since", parser=duration_s, metavar="DURATION", help="The last 2h, 7d …"),
]
From = Annotated[
    int | None,
    typer.Option("--from", parser=wall_ms, metavar="TIME", help="2026-11-21 or 2026-11-21T20:33Z."),
]
Until = Annotated[
    int | None, typer.Option("--until", parser=wall_ms, metavar="TIME", help="Up to this time.")
]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV, with every column.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]


@app.command("list")
def list_(
    terminal: Terminal = "",
    rrn: Rrn = "",
    stan: Stan = "",
    since: Since = None,
    from_: From = None,
    until: Until = None,
    amount: Amount = None,
    last_four: LastFour = "",
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    upstream: Annotated[str, typer.Option(help="Only those routed to it.")] = "",
    undelivered: Annotated[
        bool,
        typer.Option("--undelivered", help="Approvals that no terminal is known to have got."),
    ] = False,
    limit: Limit = 50,
    before: Annotated[int, typer.Option(help="Only those before this id: the next page.")] = 0,
    json: Json = False,
    csv: Csv = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """List transactions, the newest first.

    A terminal, an RRN or an open state is found at once. Anything else is looked for in the last
    24 hours, unless --since or --from say otherwise.

    With --undelivered: approvals that were answered and not handed over as far as is known, older
    than the grace time, the oldest first. Ask the shop whether it has them.
    """
    _check_form(json=json, csv=csv)
    if state is State.SENT:
        raise typer.BadParameter("what is under way is on disk as intended: ask for that")
    from_ms = _from_ms(since, from_)
    chosen: dict[str, Any]
    if undelivered:
        if (
            any((terminal, rrn, stan, last_four, state, upstream, until, before))
            or amount is not None
        ):
            raise typer.BadParameter("--undelivered goes with --since, --from and --limit only")
        chosen = {"from_ms": _day_ago_ms() if from_ms is None else from_ms}
        found, next_id = with_transactions(config, _pages("undelivered", chosen, limit, "after_id"))
    else:
        indexed = terminal or rrn or state in _INDEXED
        searched = stan or last_four or upstream or amount is not None or state
        if from_ms is None:
            from_ms = 0 if indexed or not searched else _day_ago_ms()
        chosen = {
            "terminal_id": terminal,
            "rrn": rrn,
            "stan": stan,
            "from_ms": from_ms,
            "until_ms": until or 0,
            "amount_minor": -1 if amount is None else amount,
            "last_four": last_four,
            "state": state,
            "upstream": upstream,
            "before_id": before,
        }
        found, next_id = with_transactions(config, _pages("list", chosen, limit, "before_id"))
    print_transactions(found, json=json, csv=csv, more={"next": next_id})
    if next_id and not json:
        hint = f"; go on with --before {next_id}" if not undelivered else "; raise --limit"
        say(f"there are more{hint}", "dim")


@app.command()
def show(
    transaction_id: Annotated[int, typer.Argument(min=1, metavar="ID", help="Of `list`.")],
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Tell what happened to a transaction: intended, sent, answered, delivered, what is owed."""

    async def command(run: Run) -> dict[str, Any]:
        return await run("show", {"transaction_id": transaction_id})

    history = with_transactions(config, command)
    if json:
        print_json(history)
    else:
        print_history(history)


# --- how it is printed; `gateway reversals` and `gateway archive` do it alike -----------------


def print_transactions(
    found: Sequence[dict[str, Any]], *, json: bool, csv: bool, more: dict[str, Any] | None = None
) -> None:
    """Transactions as a table, as JSON or as CSV."""
    if json:
        print_json({"transactions": found, **(more or {})})
    elif csv:
        print_csv(CSV_COLUMNS, ([one[column] for column in CSV_COLUMNS] for one in found))
    else:
        print_table(
            [column.removesuffix("_id").replace("_", " ") for column in COLUMNS],
            [[str(one[column]) or "-" for column in COLUMNS] for one in found],
        )
        say(f"{len(found)} transactions", "dim")


def print_history(history: dict[str, Any]) -> None:
    """All that is known of one transaction, and its timeline."""
    out = data()
    for name, value in history["transaction"].items():
        out.print(f"{name.replace('_', ' '):<16}{value if value != '' else '-'}", markup=False)
    out.print()
    print_table(
        ("when", "what", "detail"),
        [(step["at"] or "-", step["what"], step["detail"]) for step in history["timeline"]],
    )


# --- helpers ----------------------------------------------------------------------------------

_INDEXED = (
    State.INTENDED,
    State.TIMED_OUT,
    State.REVERSAL_OWED,
    State.ADVICE_OWED,
    State.GIVEN_UP,
)


def _pages(
    operation: str, chosen: dict[str, Any], limit: int, position: str
) -> Callable[[Run], Any]:
    async def command(run: Run) -> tuple[list[dict[str, Any]], int]:
        console = words()
        found: list[dict[str, Any]] = []
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as bar:
            task = bar.add_task("looking", total=None)

            def progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            wanted = dict(chosen)
            while True:
                wanted["limit"] = min(PAGE_MAX, limit - len(found))
                page = await run(operation, wanted, progress)
                found += page["transactions"]
                wanted[position] = page["next"]
                if not page["next"] or len(found) >= limit:
                    return found, page["next"]

    return command


def _check_form(*, json: bool, csv: bool) -> None:
    if json and csv:
        raise typer.BadParameter("give --json or --csv, not both")


def _from_ms(since: float | None, from_: int | None) -> int | None:
    if since is not None and from_ is not None:
        raise typer.BadParameter("give --since or --from, not both")
    if since is not None:
        return SystemClock().wall_ms() - round(since * 1000)
    return from_


def _day_ago_ms() -> int:
    return SystemClock().wall_ms() - 86_400_000
