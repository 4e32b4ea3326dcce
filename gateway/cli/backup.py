"""`gateway backup`: all that must survive in one file, made as the gateway runs; and its proof."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress as Bar

from gateway.cli.output import (
    DEFAULT_CONFIG,
    Config,
    Default,
    Json,
    print_json,
    print_table,
    say,
    words,
)
from gateway.cli.reach import Run, with_backup
from gateway.clock import iso_time
from gateway.errors import OperatorError
from gateway.settings.loader import load
from gateway.transactions.restoring import unpacked


class _Commands(Default):
    default = "create"


app = typer.Typer(
    name="backup",
    cls=_Commands,
    help="Write all that must survive into one file, and prove that such a file is whole.",
    no_args_is_help=True,
)


@app.command(help="Write a backup; the command's own name may be left out: gateway backup FILE.")
def create(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="Where to; -: standard output.")],
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Store, wrapped keys, audit log and configuration as of one moment, while payments go on.

    No key-encryption key, passphrase or private key is in it: keep those apart.
    """
    if file == "-":
        _stream(config)
        return
    view = _made(config, Path(file).absolute())
    if json:
        print_json(view)
    else:
        print_table(("backup", "bytes", "sha256"), [(file, str(view["bytes"]), view["sha256"])])
        _say(view)


def _made(config: Path, file: Path) -> dict[str, Any]:
    async def command(run: Run) -> dict[str, Any]:
        with Bar(console=words(), transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("backup", total=None)
            return await run(
                "create",
                {"file": str(file)},
                lambda done, total: bar.update(task, completed=done, total=total),
            )

    return with_backup(config, command)


def _stream(config: Path) -> None:
    """Through a file beside the store, which only the gateway's user can make and read."""
    if sys.stdout.isatty():
        raise OperatorError("a backup is no text for a terminal: give a file, or | and a command")
    configuration = load(config)
    folder = configuration.resolve(configuration.settings.store.path).parent
    file = folder / f".backup-{secrets.token_hex(8)}"
    view = _made(config, file)
    try:
        with file.open("rb") as content:
            shutil.copyfileobj(content, sys.stdout.buffer, 1 << 20)
        sys.stdout.buffer.flush()
    except PermissionError:
        raise OperatorError(f"{file}: is the gateway's user's alone: run this as that") from None
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 (nobody reads on)
        raise OperatorError("who reads the backup broke off: it is not whole there") from None
    finally:
        file.unlink(missing_ok=True)
    _say(view)


def _say(view: dict[str, Any]) -> None:
    say(
        f"{view['transactions']} transactions as of {view['taken']}, {view['open_intents']} of them"
        f" under way; audit log up to record {view['audit_sequence']}; {view['seconds']:.1f} s"
    )
    for one in view["left_out"]:
        say(f"not in it: {one}", "yellow")
    say(f"keep this elsewhere, it proves the file: sha256 {view['sha256']}", "dim")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A backup.")],
    scratch: Annotated[
        Path | None,
        typer.Option("--scratch", help="A folder with room for all of it; default: the system's."),
    ] = None,
    sha256: Annotated[
        str, typer.Option("--sha256", metavar="HEX", help="Of the whole file, as it was kept.")
    ] = "",
    json: Json = False,
) -> None:
    """Prove that a backup is whole: each checksum, the store's pages, the audit log's chain.

    Exit status: 0 it is, 1 it is not.
    """
    with unpacked(file, scratch, sha256=sha256) as (looked, _):
        pass
    manifest = looked.manifest
    if json:
        print_json({"ok": True, "audit_records": looked.audit_records} | manifest.to_json())
        return
    print_table(
        ("file", "bytes", "sha256"),
        [(one.name, str(one.bytes), one.sha256) for one in manifest.files],
    )
    say(
        f"whole: {manifest.node} at {iso_time(manifest.taken_ms)}, version {manifest.gateway}, "
        f"{manifest.store.transactions} transactions, {manifest.store.open_intents} under way, "
        f"{manifest.store.reversals_owed} reversals owed, {looked.audit_records} audit records"
    )
    for one in manifest.left_out:
        say(f"not in it: {one}", "yellow")
    for remark in looked.remarks:
        say(remark, "yellow")
