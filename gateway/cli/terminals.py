"""`gateway terminals`: enrol devices, look after them, and move them in and out as CSV."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from gateway.cli import terminal_life
from gateway.cli.certificate_files import fingerprint
from gateway.cli.output import (
    DEFAULT_CONFIG,
    Config,
    Json,
    duration_s,
    print_json,
    print_table,
    say,
    wall_ms,
    words,
)
from gateway.cli.reach import Run, with_terminals
from gateway.errors import OperatorError
from gateway.keys.credentials import read_certificate
from gateway.store.store import DeviceState
from gateway.terminals import roster

app = typer.Typer(
    name="terminals",
    help="Enrol devices and look after them: through the running gateway, or in its store.",
    no_args_is_help=True,
)

TerminalId = Annotated[str, typer.Argument(help="Terminal id (DE41), at most 8 characters.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; goes into the log.")]
CertificateFile = Annotated[
    Path | None,
    typer.Option("--certificate", exists=True, dir_okay=False, help="The device's certificate."),
]
Sha256 = Annotated[str, typer.Option("--sha256", help="SHA-256 of the certificate's DER, in hex.")]


@app.command()
def enrol(
    terminal_id: TerminalId,
    merchant: Annotated[str, typer.Option("--merchant", help="Merchant id (DE42).")],
    profile: Annotated[str, typer.Option(help="What it may do; default: the registry's.")] = "",
    serial: Annotated[str, typer.Option(help="Serial number of the device.")] = "",
    model: Annotated[str, typer.Option(help="Model of the device.")] = "",
    place: Annotated[str, typer.Option(help="Where it stands.")] = "",
    networks: Annotated[str, typer.Option(help="CIDR ranges it may call from.")] = "",
    group: Annotated[str, typer.Option(help="The devices of one shop or chain.")] = "",
    certificate: CertificateFile = None,
    sha256: Sha256 = "",
    activate: Annotated[bool, typer.Option("--activate", help="Let it work at once.")] = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Add a device; it waits for `activate`, unless told otherwise."""
    arguments = {
        "terminal_id": terminal_id,
        "merchant_id": merchant,
        "profile": profile,
        "serial": serial,
        "model": model,
        "place": place,
        "networks": networks,
        "group": group,
        "certificate_sha256": _certificate_sha256(certificate, sha256),
    }

    async def command(run: Run) -> dict[str, Any]:
        device = await run("enrol", arguments)
        return await run("activate", {"terminal_id": terminal_id}) if activate else device

    _print_change(with_terminals(config, command), "enrolled", json=json)


@app.command("list")
def list_(
    silent_for: Annotated[
        float | None,
        typer.Option(parser=duration_s, metavar="DURATION", help="Not heard of for 24h, 7d …"),
    ] = None,
    state: Annotated[DeviceState | None, typer.Option(help="Only those in this state.")] = None,
    merchant: Annotated[str, typer.Option(help="Only those of this merchant.")] = "",
    group: Annotated[str, typer.Option(help="Only those of this group.")] = "",
    inspection_older_than: Annotated[
        int | None,
        typer.Option(min=0, max=10_000, metavar="DAYS", help="Not inspected for so many days."),
    ] = None,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """List devices; those that a registry rule stands for appear once they were heard of."""
    chosen: dict[str, Any] = {
        "silent_for_s": silent_for,
        "state": state,
        "merchant_id": merchant,
        "group": group,
    }
    if inspection_older_than is not None:
        day = datetime.now(UTC) - timedelta(days=inspection_older_than)
        chosen["inspected_before"] = f"{day:%Y-%m-%d}"
    devices, rules = with_terminals(config, _all_devices(chosen))
    if json:
        print_json({"devices": devices, "rules": rules})
        return
    columns = (
        ("terminal_id", "merchant_id", "group", "state", "inspected", "inspected_by", "place")
        if inspection_older_than is not None
        else ("terminal_id", "merchant_id", "state", "profile", "last_seen", "place")
    )
    print_table(
        [column.removesuffix("_id").replace("_", " ") for column in columns],
        [[device[column] or "-" for column in columns] for device in devices],
    )
    say(f"{len(devices)} devices", "dim")
    for rule in rules:
        say(
            f"and by rule: {rule['terminals']} ({rule['count']} ids, merchant "
            f"{rule['merchant_id']}, profile {rule['profile']})",
            "dim",
        )


@app.command()
def show(terminal_id: TerminalId, json: Json = False, config: Config = DEFAULT_CONFIG) -> None:
    """Show all that is known of one device."""
    device = with_terminals(config, _one("show", {"terminal_id": terminal_id}))
    if json:
        print_json(device)
        return
    for name, value in device.items():
        shown = ("yes" if value else "no") if isinstance(value, bool) else value or "-"
        typer.echo(f"{name.replace('_', ' '):<24}{shown}")


@app.command()
def activate(
    terminal_id: TerminalId,
    reason: Reason = "",
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Let a pending device work."""
    _move("activate", "activated", terminal_id, reason, config, json=json)


@app.command()
def suspend(
    terminal_id: TerminalId,
    reason: Reason = "",
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Resumes by itself then: 2026-11-21T20:33.")
    ] = None,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Stop an active device: its connections are cut, its messages refused."""
    until_ms = 0 if until is None else wall_ms(until)
    arguments = {"terminal_id": terminal_id, "reason": reason, "until_ms": until_ms}
    _print_change(with_terminals(config, _one("suspend", arguments)), "suspended", json=json)


@app.command()
def resume(
    terminal_id: TerminalId,
    reason: Reason = "",
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Let a suspended device work again."""
    _move("resume", "resumed", terminal_id, reason, config, json=json)


@app.command()
def bind(
    terminal_id: TerminalId,
    certificate: CertificateFile = None,
    sha256: Sha256 = "",
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Bind a certificate to a device in place of the one before; counts the activation up."""
    arguments = {
        "terminal_id": terminal_id,
        "certificate_sha256": _certificate_sha256(certificate, sha256),
    }
    if not arguments["certificate_sha256"]:
        raise typer.BadParameter("give --certificate FILE or --sha256 HEX")
    _print_change(with_terminals(config, _one("bind", arguments)), "bound", json=json)


@app.command()
def renew(
    terminal_id: TerminalId,
    certificate: CertificateFile = None,
    sha256: Sha256 = "",
    overlap: Annotated[
        str, typer.Option("--overlap", help="How long the certificate before it still works: 30d.")
    ] = "30d",
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Bind a new certificate beside the old one, which works too until the overlap is over."""
    arguments = {
        "terminal_id": terminal_id,
        "certificate_sha256": _certificate_sha256(certificate, sha256),
        "overlap_s": round(duration_s(overlap)),
    }
    if not arguments["certificate_sha256"]:
        raise typer.BadParameter("give --certificate FILE or --sha256 HEX")
    _print_change(with_terminals(config, _one("renew", arguments)), "renewed", json=json)


@app.command()
def sightings(
    terminal_id: Annotated[
        str, typer.Argument(help="Terminal id (DE41); without one: all of them.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="At most so many.")] = 100,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Where blocked and suspended devices tried to come in since, the latest first."""
    found = with_terminals(config, _one("sightings", {"terminal_id": terminal_id, "limit": limit}))[
        "sightings"
    ]
    if json:
        print_json({"sightings": found})
        return
    print_table(
        ("last", "times", "terminal", "address", "listener", "certificate", "why"),
        [
            (
                one["last"],
                str(one["count"]),
                one["terminal_id"] or "-",
                one["address"],
                one["listener"],
                one["certificate_sha256"][:16] or "-",
                one["why"],
            )
            for one in found
        ],
    )
    say(f"{len(found)} sightings", "dim")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV; - is standard input.")],
    activate: Annotated[
        bool, typer.Option("--activate", help="Make active what is or would be pending.")
    ] = False,
    merchant: Annotated[
        str, typer.Option("--merchant", help="Merchant id of new devices that the file gives none.")
    ] = "",
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Add the devices of a CSV file, all or none; `devices.csv` of `gateway certs issue` is one.

    The first line names the columns: terminal_id, and any of merchant_id, state, profile, serial,
    model, place, certificate_sha256, networks, group, inspected, inspected_by. Devices that exist
    get what they lack and lose nothing, so the same file may be imported again; a later inspection
    takes the place of the one before.
    """
    arguments = {"csv": _text_of(file), "activate": activate, "merchant_id": merchant}
    console = words()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("devices", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        outcome = with_terminals(config, _one("import", arguments, progress))
    if json:
        print_json(outcome)
        return
    say(
        f"{outcome['added']} devices added, {outcome['completed']} completed, "
        f"{outcome['unchanged']} unchanged"
    )


@app.command()
def export(
    out: Annotated[Path | None, typer.Option("--out", help="Default: standard output.")] = None,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Write all enrolled devices as CSV, in the form that `import` reads."""
    devices, _ = with_terminals(config, _all_devices({}))
    text = roster.write(device for device in devices if not device["from_rule"])
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"{out} cannot be written: {error.strerror}") from None


terminal_life.add_to(app)


# --- helpers ----------------------------------------------------------------------------------


def _one(
    operation: str,
    arguments: dict[str, Any],
    progress: Callable[[int, int], None] | None = None,
) -> Callable[[Run], Any]:
    async def command(run: Run) -> dict[str, Any]:
        return await run(operation, arguments, progress)

    return command


def _all_devices(chosen: dict[str, Any]) -> Callable[[Run], Any]:
    async def command(run: Run) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        page = await run("list", chosen)
        devices, rules = page["devices"], page["rules"]
        while page["next"]:
            page = await run("list", {**chosen, "after": page["next"]})
            devices += page["devices"]
        return devices, rules

    return command


def _move(
    operation: str, done: str, terminal_id: str, reason: str, config: Path, *, json: bool
) -> None:
    arguments = {"terminal_id": terminal_id, "reason": reason}
    _print_change(with_terminals(config, _one(operation, arguments)), done, json=json)


def _print_change(device: dict[str, Any], done: str, *, json: bool) -> None:
    if json:
        print_json(device)
        return
    say(
        f"{device['terminal_id']} {done}: {device['state']}, merchant {device['merchant_id']}, "
        f"profile {device['profile']}, activation {device['activation']}"
    )


def _certificate_sha256(certificate: Path | None, sha256: str) -> str:
    if certificate is None:
        return sha256
    if sha256:
        raise typer.BadParameter("give --certificate or --sha256, not both")
    return fingerprint(read_certificate(certificate))


def _text_of(file: Path) -> str:
    if not (str(file) == "-" or file.exists()):
        raise typer.BadParameter(f"{file} does not exist", param_hint="FILE")
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return content.decode("utf-8")
    except OSError as error:
        raise OperatorError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise OperatorError(f"{file}: line {line} is not UTF-8: save the file as UTF-8") from None
