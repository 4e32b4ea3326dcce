"""`gateway reload`: has the running gateway take up what was edited, and says what became of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.cli.ask import client_of
from gateway.cli.output import DEFAULT_CONFIG, FAILED, Config, Json, print_json, say


def reload(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done; change nothing.")
    ] = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Take up a list that lost many entries, too.")
    ] = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Have the running gateway take up the configuration, lists and profiles as they are now.

    It does so by itself when a file is edited; this waits for the outcome. Exit status: 0 the files
    are in force, 1 they are not (a mistake, a restart is needed, or --confirm is).
    """
    if dry_run and confirm:
        raise typer.BadParameter("give --dry-run or --confirm, not both")
    operation = "try" if dry_run else "confirm" if confirm else "reload"
    report = client_of(config).run("config", operation, {})
    if json:
        print_json(report)
    else:
        _say(report)
    if report["result"] in ("refused", "waits"):
        raise typer.Exit(FAILED)


def _say(report: dict[str, Any]) -> None:
    for one in report["findings"]:
        path = f"{one['path']}: " if one["path"] else ""
        say(f"{one['file']}:{one['line']}: {path}{one['problem']}; {one['remedy']}", "red")
    for note in report["notes"]:
        say(note, "yellow")
    files = ", ".join(report["files"])
    words = {
        "unchanged": f"nothing to do: {report['version']} is what the files say",
        "loaded": f"{report['version']} is in force ({files})",
        "would_load": f"{report['candidate']} would be taken up ({files})",
        "waits": f"{report['candidate']} waits: `gateway reload --confirm` takes it up;"
        f" {report['version']} stays in force",
        "refused": f"nothing was taken up: {report['version']} stays in force",
    }
    say(words[report["result"]])
