"""`gateway block`, `unblock` and `blocklist`: who may not come any more, by the lists' files."""

from __future__ import annotations

import getpass
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.output import DEFAULT_CONFIG, FAILED, Config, Json, print_json, print_table, say
from gateway.cli.reach import with_blocklists
from gateway.errors import OperatorError

_CARD_LINE_MAX = 100


class Kind(StrEnum):
    """What can be blocked; the list of each is its plural."""

    TERMINAL = "terminal"
    CARD = "card"
    BIN = "bin"
    MERCHANT = "merchant"
    NETWORK = "network"
    CERTIFICATE = "certificate"

    @property
    def list(self) -> str:
        return f"{self.value}s"


KindArgument = Annotated[Kind, typer.Argument(help="What is to be named.")]
Value = Annotated[
    str | None,
    typer.Argument(
        help="Its id, BIN or range, network, or sha256:… or serial:… of a certificate. A card's "
        "number is asked for, or read from standard input: it never stands here, and has to end in "
        "its right check digit (Luhn)."
    ),
]
Reason = Annotated[str, typer.Option("--reason", help="Why; stands in the list and in the log.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask back.")]

app = typer.Typer(name="blocklist", help="Look at the blocklists.", no_args_is_help=True)


def block(
    kind: KindArgument,
    value: Value = None,
    reason: Reason = ...,  # type: ignore[assignment]
    until: Annotated[
        str, typer.Option("--until", metavar="2026-12-31", help="Blocked to the end of that day.")
    ] = "",
    code: Annotated[
        str, typer.Option("--code", help="DE39 for a card or BIN: 41 lost, 43 stolen; else 62.")
    ] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Block a terminal, card, BIN, merchant, network or certificate, at once.

    Open connections are cut, what is under way is finished and reversed if it is approved, and
    later attempts are refused and kept: `gateway terminals sightings`. Exit status: 0 it is in
    force, 1 it is not.
    """
    arguments: dict[str, Any] = {"reason": reason, "code": code}
    if until:
        arguments["until"] = until
    _change("block", kind, value, arguments, config, dry_run=dry_run, yes=yes, json=json)


def unblock(
    kind: KindArgument,
    value: Value = None,
    reason: Reason = ...,  # type: ignore[assignment]
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Take an entry out of its list; a second operator has to say yes where the settings want it.

    Comments and the order of the others stay.
    """
    arguments = {"reason": reason}
    _change("unblock", kind, value, arguments, config, dry_run=dry_run, yes=yes, json=json)


@app.command("list")
def list_(
    kind: Annotated[
        Kind | None, typer.Argument(help="Of which list; without: how many each has.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most so many.")] = 1_000,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """The lists that there are, or the entries of one, as they stand in its file."""
    sizes: dict[str, int] = {}
    entries: list[dict[str, Any]] = []
    after = 0
    while True:
        arguments: dict[str, Any] = {"after_line": after, "limit": min(limit - len(entries), 1_000)}
        if kind is not None:
            arguments["list"] = kind.list
        page = with_blocklists(config, "list", arguments)
        sizes = page["sizes"]
        entries += page["entries"]
        after = page["next"]
        if not after or len(entries) >= limit:
            break
    if json:
        print_json({"sizes": sizes, "entries": entries})
    elif kind is None:
        print_table(("list", "entries"), [(name, str(size)) for name, size in sizes.items()])
    else:
        print_table(("line", "entry"), [(str(one["line"]), one["entry"]) for one in entries])
        say(f"{sizes[kind.list]} in force" + ("; there are more" if after else ""), "dim")


@app.command()
def search(
    kind: KindArgument,
    value: Value = None,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Which entry blocks a terminal, card, BIN, merchant, address or certificate now.

    Exit status: 0 it is blocked, 1 it is not.
    """
    named = _named(kind, value, config)
    found = with_blocklists(config, "search", {"list": kind.list, "value": named})["found"]
    if json:
        print_json({"found": found})
    elif found is None:
        say(f"no entry blocks this {kind}")
    else:
        say(f"blocked by {found['rule']}" + (f", code {found['code']}" if found["code"] else ""))
    if found is None:
        raise typer.Exit(FAILED)


# --- helpers ----------------------------------------------------------------------------------


def _change(
    operation: str,
    kind: Kind,
    value: str | None,
    arguments: dict[str, Any],
    config: Path,
    *,
    dry_run: bool,
    yes: bool,
    json: bool,
) -> None:
    named = _named(kind, value, config)
    if not (dry_run or yes) and sys.stdin.isatty():
        typer.confirm(f"{operation} {kind} {named}?", abort=True, err=True)
    asked = f"would_{operation}" if dry_run else operation
    done = with_blocklists(config, asked, {"list": kind.list, "value": named, **arguments})
    if json:
        print_json(done)
    else:
        _say(operation, kind, done)
    if done["result"] in ("refused", "waits"):
        raise typer.Exit(FAILED)


def _named(kind: Kind, value: str | None, config: Path) -> str:
    """What stands in the list. A card's number goes to the daemon and comes back as a token."""
    if kind is not Kind.CARD:
        if value is None:
            raise typer.BadParameter(f"say which {kind}", param_hint="VALUE")
        return value
    if value is not None and not value.startswith("h"):
        raise typer.BadParameter(
            "a card's number does not stand in a command, where others can read it: leave it out"
            " and it is asked for, or give it on standard input; remove it from your shell's"
            " history",
            param_hint="VALUE",
        )
    if value is not None:
        return value
    if sys.stdin.isatty():
        number = getpass.getpass("card number (not shown): ")
    else:
        number = sys.stdin.readline(_CARD_LINE_MAX)
    if not number.strip():
        raise OperatorError("no card number was given")
    return str(with_blocklists(config, "token", {"card_number": number.strip()})["token"])


def _say(operation: str, kind: Kind, done: dict[str, Any]) -> None:
    where = f"{done['file']}:{done['line']}"
    named = f"{kind} {done['value']}"
    for one in done["findings"]:
        say(f"{one['file']}:{one['line']}: {one['problem']}; {one['remedy']}", "red")
    for note in done["notes"]:
        say(note, "yellow")
    words = {
        "in_force": f"{named} is {operation}ed: {where}, version {done['version']} is in force",
        "would_change": f"{where} would be written",
        "unchanged": f"{named} stands in no entry of {done['file']}: nothing to do",
        "no_daemon": f"{where} is written; no daemon runs, and the next start reads it",
        "waits": f"{where} is written, but not in force: `gateway reload --confirm` takes it up",
        "refused": f"{where} is written, but not in force: {done['version']} stays so until what"
        " is said above is mended",
    }
    say(words[done["result"]])
