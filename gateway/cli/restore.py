"""`gateway restore`: a backup put in place, and the list of what may have fallen into the gap."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Annotated, Any

import trio
import typer

from gateway.admin.access import this_process
from gateway.cli.output import (
    DEFAULT_CONFIG,
    Config,
    Default,
    Json,
    duration_words,
    print_json,
    print_table,
    say,
)
from gateway.cli.reach import Run, with_gaps
from gateway.clock import SystemClock, iso_time
from gateway.settings.loader import audit_folder, load
from gateway.settings.schema_backup import Restore
from gateway.store import bundle
from gateway.transactions import restoring
from gateway.transactions.restoring import Looked, Place, Restored


class _Commands(Default):
    default = "put"


app = typer.Typer(
    name="restore",
    cls=_Commands,
    help="Put a backup in place, and settle what may have fallen into the gap since it was made.",
    no_args_is_help=True,
)
gap = typer.Typer(
    name="gap",
    help="What may have been done between a backup and its restore: answered 96, and listed here.",
    no_args_is_help=True,
)
app.add_typer(gap)

_COLUMNS = (
    *("number", "state", "what", "terminal_id", "kind", "stan", "amount_minor", "currency"),
    *("card", "rrn", "first", "count"),
)


@app.command(help="Put a backup in place; the command's own name may be left out.")
def put(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A backup.")],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", help="A folder for all of it, the configuration too; default: in place."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Prove and tell; write nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    sha256: Annotated[
        str, typer.Option("--sha256", metavar="HEX", help="Of the whole file, as it was kept.")
    ] = "",
    json: Json = False,
    config: Annotated[
        Path,
        typer.Option(
            "--config", "-c", envvar="GATEWAY_CONFIG", help="Without --to: for its paths."
        ),
    ] = DEFAULT_CONFIG,
) -> None:
    """Restore store, wrapped keys and audit log; the gateway must not run, and no store be there.

    STANs jump ahead, and what the backup owes is marked, before the store is in its place.
    """
    if not dry_run:
        _confirm(file, to, yes=yes)
    beside = None if dry_run else (to or _store(config).parent)
    with restoring.unpacked(file, beside, sha256=sha256) as (looked, staging):
        place, settings = _place(looked, staging, to, config)
        restoring.check_place(looked, place, staging)
        answer = _answer(looked, place)
        if not dry_run:
            answer |= _put(looked, staging, place, settings, file)
    if json:
        print_json(answer | {"dry_run": dry_run})
        return
    print_table(("what", "where"), [(key, answer[key]) for key in ("store", "keyring", "audit")])
    _say(answer, dry_run=dry_run)


def _place(looked: Looked, staging: Path, to: Path | None, config: Path) -> tuple[Place, Restore]:
    """Where everything goes, and the settings that hold there: those of the configuration."""
    if to is not None:
        copy = staging / bundle.CONFIG / looked.manifest.paths["config"]
        return restoring.in_folder(looked.manifest, to.absolute()), load(copy).settings.restore
    configuration = load(config)
    settings = configuration.settings
    place = restoring.Place(
        store=configuration.resolve(settings.store.path),
        keyring=configuration.resolve(settings.keys.keyring),
        audit=audit_folder(configuration),
        config=None,
    )
    return place, settings.restore


def _store(config: Path) -> Path:
    configuration = load(config)
    return configuration.resolve(configuration.settings.store.path)


def _put(
    looked: Looked, staging: Path, place: Place, settings: Restore, file: Path
) -> dict[str, Any]:
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()

    async def run() -> Restored:
        return await restoring.restore(
            looked,
            staging,
            place,
            settings=settings,
            sha256=sha256,
            who=this_process().who,
            clock=SystemClock(),
            emit=restoring.unheard,
        )

    restored = trio.run(run)
    return {
        "restored": iso_time(restored.gap.restored_ms),
        "reversals_marked": restored.recovered.reversals,
        "for_operators": restored.recovered.for_operators,
        "under_way": restored.under_way,
        "stans_passed_over_to": restored.stans,
        "sha256": sha256,
    }


def _answer(looked: Looked, place: Place) -> dict[str, Any]:
    manifest = looked.manifest
    now_ms = SystemClock().wall_ms()
    return {
        "node": manifest.node,
        "taken": iso_time(manifest.taken_ms),
        "gap_s": round((now_ms - manifest.taken_ms) / 1000),
        "store": str(place.store),
        "keyring": str(place.keyring),
        "audit": str(place.audit),
        "transactions": manifest.store.transactions,
        "open_intents": manifest.store.open_intents,
        "reversals_owed": manifest.store.reversals_owed,
        "stans": dict(manifest.store.stans),
        "audit_records": looked.audit_records,
        "left_out": list(manifest.left_out),
        "notes": list(place.notes),
    }


def _say(answer: dict[str, Any], *, dry_run: bool) -> None:
    say(
        f"{'would restore' if dry_run else 'restored'} {answer['node']} as of {answer['taken']}: "
        f"{answer['transactions']} transactions, {answer['open_intents']} under way then, "
        f"{answer['reversals_owed']} reversals owed, {answer['audit_records']} audit records"
    )
    say(f"the gap since is {duration_words(answer['gap_s'])}: what may be of it gets 96 and a line")
    for one in (*answer["left_out"], *answer["notes"]):
        say(f"see to it: {one}", "yellow")
    if not dry_run:
        say(f"{answer['under_way']} lines: `gateway restore gap list`; then start the gateway")


def _confirm(file: Path, to: Path | None, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("--yes or --dry-run is needed where nobody can be asked")
    typer.confirm(
        f"Restore {file} {'in place' if to is None else f'to {to}'}?", abort=True, err=True
    )


# --- the gap --------------------------------------------------------------------------------------


@gap.command("list")
def list_(
    all_: Annotated[bool, typer.Option("--all", help="Those that are settled, too.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """What is to be settled with the acquirer, the oldest first.

    reversal, repeat, follow_up: a terminal asked for it, and got 96. under_way: the backup holds no
    answer, its reversal is owed, and the shop may hold an approval.
    """

    async def command(run: Run) -> tuple[list[dict[str, Any]], int, int]:
        found: list[dict[str, Any]] = []
        after = 0
        while True:
            asked = {"all": all_, "after": after, "limit": min(1_000, limit - len(found))}
            page = await run("list", asked)
            found += page["lines"]
            after = page["next"]
            if not after or len(found) >= limit:
                return found, page["open"], after

    lines, open_, more = with_gaps(config, command)
    if json:
        print_json({"lines": lines, "open": open_, "more": bool(more)})
        return
    print_table(
        [column.removesuffix("_id").replace("_", " ") for column in _COLUMNS],
        [[str(line[column]) or "-" for column in _COLUMNS] for line in lines],
    )
    say(
        f"{open_} wait for an operator" + ("; there are more: raise --limit" if more else ""), "dim"
    )


@gap.command()
def resolve(
    number: Annotated[int, typer.Argument(min=1, help="Of the line: see `list`.")],
    reason: Annotated[str, typer.Option("--reason", help="How it was settled with the acquirer.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Close a line that was settled with the acquirer by hand; its reversal then gets 00."""
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("--yes is needed where nobody can be asked")
        typer.confirm(f"Close line {number}? A reversal of it is answered 00", abort=True, err=True)

    async def command(run: Run) -> dict[str, Any]:
        return await run("resolve", {"number": number, "reason": reason})

    line = with_gaps(config, command)
    if json:
        print_json(line)
    else:
        say(f"line {line['number']} is settled: {line['resolution']}")
