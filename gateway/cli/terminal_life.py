"""`gateway terminals`: what is done to a device in its life, and what is known of it afterwards."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.output import (
    DEFAULT_CONFIG,
    USAGE,
    Config,
    Json,
    print_json,
    print_table,
    say,
)
from gateway.cli.reach import Run, with_terminals
from gateway.keys.authority import INDEX, Authority, CertificateState, Reason
from gateway.settings.loader import load

TerminalId = Annotated[str, typer.Argument(help="Terminal id (DE41), at most 8 characters.")]
Why = Annotated[str, typer.Option("--reason", help="Why; is kept with what is done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask back.")]
Ca = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        exists=True,
        file_okay=False,
        help="Folder of the authority whose list is to revoke the certificate; default: the"
        " listeners', where it is on this machine.",
    ),
]
_TRANSACTION_COLUMNS = (
    "created",
    "kind",
    "stan",
    "amount_minor",
    "currency",
    "card",
    "response_code",
    "state",
)
_HISTORY_PAGE = 250


def add_to(app: typer.Typer) -> None:
    """Add these commands to those of `gateway terminals`."""
    for command in (lost, found, replace, deregister, history, incidents, inspect):
        app.command()(command)
    app.command("close-batch")(close_batch)
    app.command("open")(open_)


def lost(
    terminal_id: TerminalId,
    reason: Why = "",
    stolen: Annotated[bool, typer.Option("--stolen", help="It was stolen.")] = False,
    hours: Annotated[
        int | None, typer.Option(min=1, max=744, help="List so many of its last hours.")
    ] = None,
    ca: Ca = None,
    yes: Yes = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """A device is lost or stolen: it is out at once, its certificate and keys for good.

    Its connections are cut, an incident is opened, and what it did in its last hours and what is
    open of it is listed. Found again it begins anew: `gateway terminals found`.
    """
    what = "stolen" if stolen else "lost"
    _confirm(f"{terminal_id} is {what}: destroy its keys and take its certificate away?", yes=yes)
    arguments = {"terminal_id": terminal_id, "reason": reason, "stolen": stolen, "hours": hours}
    done = _run(config, "lost", arguments)
    done["revoked"] = _revoke(
        config, ca, terminal_id, done["certificates_taken_away"], Reason.KEY_COMPROMISE
    )
    if json:
        print_json(done)
        return
    report = done["report"]
    say(
        f"{done['device']['terminal_id']} {what}: {done['keys_destroyed']} keys destroyed,"
        f" {len(done['certificates_taken_away'])} certificates taken away,"
        f" {len(done['revoked'])} revoked by their authority"
    )
    say(f"incident {report['incident']['number']}: {', '.join(report['files']) or 'no files'}")
    if "failed" in report:
        say(f"its last hours could not be read: {report['failed']}", "red")
        return
    say(f"the last {report['hours']} hours:")
    _print_transactions(report["transactions"])
    _print_open(report["open"])


def found(
    terminal_id: TerminalId, reason: Why = "", json: Json = False, config: Config = DEFAULT_CONFIG
) -> None:
    """A lost device is back: it is pending, and wants a new certificate and new keys."""
    device = _run(config, "found", {"terminal_id": terminal_id, "reason": reason})
    if json:
        print_json(device)
        return
    say(
        f"{device['terminal_id']} is {device['state']}, activation {device['activation']}: bind a"
        " new certificate and enter new keys, then activate it"
    )


def replace(
    terminal_id: Annotated[str, typer.Argument(metavar="OLD", help="The device that goes.")],
    new_id: Annotated[
        str, typer.Argument(metavar="NEW", help="The enrolled device that comes.")
    ] = "",
    keep_ids: Annotated[
        bool,
        typer.Option(
            "--keep-ids", help="It keeps its own terminal id; else it takes over the old one's."
        ),
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take it back, until the new one has transacted.")
    ] = False,
    reason: Why = "",
    yes: Yes = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Have another device go on for this one: its batch, its approvals, what may be taken back.

    Asked for again it says the same. Keys are never copied: the new device has its own.
    """
    if undo:
        _confirm(f"Have {terminal_id} replaced by no other?", yes=yes)
        made = _run(config, "undo", {"terminal_id": terminal_id, "reason": reason})
    else:
        if not new_id:
            raise typer.BadParameter("say which device replaces it: OLD NEW")
        _confirm(f"Have {new_id} go on for {terminal_id}?", yes=yes)
        arguments = {"terminal_id": terminal_id, "new_id": new_id}
        made = _run(config, "replace", {**arguments, "reason": reason, "keep_ids": keep_ids})
    if json:
        print_json(made)
        return
    if undo:
        say(f"{made['old']} is what it was again, and so is {made['new']}")
        return
    again = " already" if made["again"] else ""
    say(
        f"{made['new']} goes on for {made['old']}{again}, as {made['serves_as']}, activation"
        f" {made['activation']}, with batch {made['batch'] or 'none'}"
    )


def deregister(
    terminal_id: TerminalId,
    reason: Why = "",
    ca: Ca = None,
    yes: Yes = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """End a device for good: archived, keys destroyed, its terminal id never used again.

    Refused while something of it is open: it says what, and how to end it.
    """
    _confirm(f"Deregister {terminal_id} for good?", yes=yes)
    done = _run(config, "deregister", {"terminal_id": terminal_id, "reason": reason})
    done["revoked"] = _revoke(config, ca, terminal_id, [], Reason.CESSATION_OF_OPERATION)
    if json:
        print_json(done)
        return
    archive = done["archive"]
    say(
        f"{done['device']['terminal_id']} is deregistered; {archive['transactions']} transactions"
        f" and its history are in {archive['file']}: `gateway archive show"
        f" {done['device']['terminal_id']}`"
    )


def close_batch(
    terminal_id: TerminalId,
    reason: Why = "",
    yes: Yes = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Close the batch of a device that cannot do so itself, with the gateway's totals."""
    _confirm(f"Close the batch of {terminal_id} with the gateway's totals?", yes=yes)
    closed = _run(config, "close-batch", {"terminal_id": terminal_id, "reason": reason})
    if json:
        print_json(closed)
        return
    say(
        f"{closed['terminal_id']}: batch {closed['batch']} closed with {closed['debits']} debits of"
        f" {closed['debits_minor']} and {closed['credits']} credits of {closed['credits_minor']}"
    )


def open_(terminal_id: TerminalId, json: Json = False, config: Config = DEFAULT_CONFIG) -> None:
    """Show what is open of a device: batch, approvals, debts."""
    items = _run(config, "open", {"terminal_id": terminal_id})
    if json:
        print_json(items)
        return
    _print_open(items)
    for problem in items["in_the_way"]:
        say(problem)


def history(
    terminal_id: TerminalId,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 1_000,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """What was done to a device and where it was seen when it may not come, the latest first."""

    async def command(run: Run) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        page: dict[str, Any] = {"next": 0}
        while len(found) < limit:
            asked = min(limit - len(found), _HISTORY_PAGE)
            arguments = {"terminal_id": terminal_id, "limit": asked, "before_id": page["next"]}
            page = await run("history", arguments)
            found += page["history"]
            if not page["next"]:
                break
        seen = await run("sightings", {"terminal_id": terminal_id})
        return {
            "history": found,
            "replacements": page["replacements"],
            "sightings": seen["sightings"],
        }

    told = with_terminals(config, command)
    if json:
        print_json(told)
        return
    lines = [
        (one["at"], one["who"], one["what"], one["reason"] or "-", one["detail"] or "-")
        for one in told["history"]
    ]
    lines += [
        (one["last"], "-", "sighted", one["why"], f"{one['count']} times from {one['address']}")
        for one in told["sightings"]
    ]
    print_table(("at", "who", "what", "reason", "detail"), sorted(lines, reverse=True))
    say(f"{len(lines)} lines", "dim")


def incidents(
    terminal_id: Annotated[
        str, typer.Argument(help="Terminal id (DE41); without one: all of them.")
    ] = "",
    number: Annotated[
        int | None, typer.Option("--show", min=1, help="The report of this one, as JSON.")
    ] = None,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """List devices lost and stolen, or show the report of one."""
    if number is not None:
        print_json(_run(config, "incident", {"number": number}))
        return
    listed = _run(config, "incidents", {"terminal_id": terminal_id})["incidents"]
    if json:
        print_json({"incidents": listed})
        return
    columns = ("number", "terminal_id", "kind", "opened", "closed", "opened_by", "reason")
    print_table(
        [column.removesuffix("_id").replace("_", " ") for column in columns],
        [[str(one[column]) or "-" for column in columns] for one in listed],
    )


def inspect(
    terminal_id: TerminalId,
    by: Annotated[str, typer.Option("--by", help="Who inspected it.")] = "",
    date: Annotated[str, typer.Option("--date", help="YYYY-MM-DD; default: today.")] = "",
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Note that a device was inspected: nothing was swapped, attached or opened."""
    day = date or f"{datetime.now(UTC):%Y-%m-%d}"
    device = _run(config, "inspect", {"terminal_id": terminal_id, "date": day, "by": by})
    if json:
        print_json(device)
        return
    say(f"{device['terminal_id']}: last inspected on {device['inspected']}")


# --- helpers ----------------------------------------------------------------------------------


def _run(config: Path, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    async def command(run: Run) -> dict[str, Any]:
        return await run(operation, arguments)

    return with_terminals(config, command)


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        say(f"gateway terminals: {question} Give --yes, as nobody can be asked.")
        raise typer.Exit(USAGE)
    typer.confirm(question, abort=True, err=True)


def _revoke(
    config: Path, ca: Path | None, terminal_id: str, sha256s: list[str], reason: Reason
) -> list[str]:
    """Have our own authorities revoke these certificates and those of this name; returns their
    serial numbers. The gateway refuses them in any case."""
    revoked = []
    for folder in [ca] if ca is not None else _own_authorities(config):
        authority = Authority.load(folder)
        now = datetime.now(UTC)
        serials = [
            one.serial
            for one in authority.issued()
            if (one.sha256 in sha256s or one.name == terminal_id.rstrip())
            and one.state(now) is CertificateState.VALID
        ]
        if serials:
            done = authority.revoke(serials, reason=reason, now=now)
            revoked += [f"{one.serial:x}" for one in done]
    return revoked


def _own_authorities(config: Path) -> list[Path]:
    """The folders of the listeners' authorities that are on this machine, key and all."""
    configuration = load(config)
    files = [
        configuration.resolve(listener.tls.client_ca)
        for listener in configuration.settings.listeners
        if listener.tls is not None
    ]
    folders = dict.fromkeys(file.parent for file in files if file.name == "ca.crt")
    return [one for one in folders if (one / INDEX).exists() and (one / "ca.key").exists()]


def _print_transactions(transactions: list[dict[str, Any]]) -> None:
    print_table(
        [column.replace("_", " ") for column in _TRANSACTION_COLUMNS],
        [[str(one[column]) or "-" for column in _TRANSACTION_COLUMNS] for one in transactions],
    )


def _print_open(items: dict[str, Any]) -> None:
    batch = items["batch"]
    if batch is not None:
        say(
            f"batch {batch['number']} is open since {batch['opened']}: {batch['debits']} debits of"
            f" {batch['debits_minor']}, {batch['credits']} credits of {batch['credits_minor']}"
        )
    for name, value in items.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            say(f"{name.replace('_', ' ')}: {len(value)}")
            _print_transactions(value)
