"""`gateway keys`: keys of terminals, upstreams and the gateway itself; a value is never shown."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from gateway.cli.key_prompts import ask_kek, entered
from gateway.cli.output import (
    DEFAULT_CONFIG,
    FAILED,
    Config,
    Json,
    print_json,
    print_table,
    say,
    wall_ms,
    words,
)
from gateway.cli.reach import Run, with_keys
from gateway.clock import SystemClock
from gateway.errors import OperatorError
from gateway.keys.components import read_component
from gateway.keys.keyring import OWN_ALGORITHMS
from gateway.keys.message_security import KeyForm
from gateway.keys.records import GATEWAY, KeyAlgorithm, KeyPurpose, StoredKeyState

app = typer.Typer(
    name="keys",
    help="Keys of terminals, upstreams and the gateway: a value is never shown.",
    no_args_is_help=True,
)

COLUMNS = ("key", "algorithm", "state", "works", "start", "end", "check value", "under")

Owner = Annotated[
    str,
    typer.Argument(
        metavar="OWNER",
        help="terminal:ID, upstream:NAME, profile:NAME, transport:NAME or gateway.",
    ),
]
Purpose = Annotated[KeyPurpose, typer.Argument(help="What the key is for.")]
Algorithm = Annotated[KeyAlgorithm, typer.Option("--algorithm", help="What it is used with.")]
Start = Annotated[
    str, typer.Option("--start", metavar="2026-12-01T00:00", help="Default: at once.")
]
End = Annotated[
    str,
    typer.Option(
        "--end", metavar="2027-12-01", help="Default: as keys.lifetime_days says, else never."
    ),
]
Pending = Annotated[
    bool, typer.Option("--pending", help="It waits for `keys activate`, or its first good use.")
]
Under = Annotated[
    str, typer.Option("--under", metavar="OWNER", help="Whose master key it travels under.")
]
Form = Annotated[KeyForm, typer.Option("--form", help="How it is wrapped.")]
Version = Annotated[int, typer.Option("--version", min=0, help="0: the one in force.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; for the audit log.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask back.")]
ComponentFiles = Annotated[
    list[Path] | None,
    typer.Option("--component-file", help="One person's component; once for each. Else asked for."),
]


@app.command()
def init(
    make_passphrase: Annotated[
        bool, typer.Option("--make-passphrase", help="Write a random passphrase file if absent.")
    ] = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Make the keyring under the key-encryption key of [keys.kek]; nothing is overwritten."""
    from gateway.keys.kek_settings import source_of
    from gateway.keys.kek_sources import PassphraseSource
    from gateway.keys.own_keys import OwnKeys
    from gateway.settings.loader import load
    from gateway.settings.schema_keys import Kek

    configuration = load(config)
    settings = configuration.settings.keys
    path = configuration.resolve(settings.keyring)
    kek = settings.kek or Kek(source="passphrase")
    source = source_of(kek, path, configuration.resolve, ask=ask_kek)
    if make_passphrase and isinstance(source, PassphraseSource):
        source.create_file()
    own = OwnKeys.create(path, source, now_ms=SystemClock().wall_ms())
    say(f"{path}: made, under {own.wrapping.in_force.name} ({source.describe()})")
    say("Keep a copy of the keyring and of what leads to its key apart from each other.", "dim")


@app.command("list")
def list_(
    owner: Annotated[str, typer.Argument(metavar="[OWNER]", help="Whose; default: all.")] = "",
    purpose: Annotated[KeyPurpose | None, typer.Option("--purpose")] = None,
    state: Annotated[StoredKeyState | None, typer.Option("--state")] = None,
    values: Annotated[
        bool,
        typer.Option("--values", help="Count what the store holds under each store-data version."),
    ] = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Keys with their versions, states, times and check values.

    --values reads all that is sealed in the store, which takes its time where it is large. An
    older version with none opens nothing any more, but for what is in backups.
    """
    arguments: dict[str, Any] = {"owner": owner, "purpose": purpose, "state": state}
    keys: list[dict[str, Any]] = []
    under: dict[str, int] = {}
    after = ""
    while True:
        page = _run(config, "list", {**arguments, "after": after, "values": values and not after})
        keys += page["keys"]
        under |= page["values"]
        after = page["next"]
        if not after:
            break
    if json:
        print_json({"keys": keys, "values": under} if values else {"keys": keys})
        return
    _print(keys)
    say(f"{len(keys)} keys", "dim")
    for version in sorted(under, key=int):
        name = f"{GATEWAY}/{KeyPurpose.STORE_DATA.value}.{version}"
        say(f"{under[version]} values in the store are under {name}")
    if values and not under:
        say("no value in the store is sealed")


@app.command()
def generate(
    owner: Owner,
    purpose: Purpose,
    algorithm: Algorithm,
    start: Start = "",
    end: End = "",
    pending: Pending = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Make a random key; it leaves only under a master key (`keys export`)."""
    arguments = _wanted(owner, purpose, algorithm, start=start, end=end, pending=pending)
    _told(_run(config, "generate", arguments), "made", json=json)


@app.command("import")
def import_(
    owner: Owner,
    purpose: Purpose,
    algorithm: Algorithm,
    components: Annotated[
        int, typer.Option("--components", min=0, max=3, help="In so many parts, by as many people.")
    ] = 0,
    part: Annotated[
        int, typer.Option("--part", min=0, max=3, help="Enter this one only: others come later.")
    ] = 0,
    component_file: ComponentFiles = None,
    under: Under = "",
    form: Form = KeyForm.ECB,
    wrapped: Annotated[
        str, typer.Option("--wrapped", help="The wrapped key: hex digits, or a key block.")
    ] = "",
    check_value: Annotated[str, typer.Option("--check-value", help="Of the key, in hex.")] = "",
    start: Start = "",
    end: End = "",
    pending: Pending = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Enter a key: by components, or wrapped under a master key.

    Components are asked for without echo, each with its check value, or come from files of mode
    0600 with two lines each. They stand in no argument, and go to the daemon's socket alone.
    """
    files = component_file or []
    count = components or len(files)
    arguments = _wanted(owner, purpose, algorithm, start=start, end=end, pending=pending)
    if bool(count) == bool(wrapped):
        raise typer.BadParameter("enter it by --components, or --wrapped with --under: not both")
    if wrapped:
        arguments |= {"wrapped": wrapped, "check_value": check_value, **_under(under, form)}
        _told(_run(config, "import_wrapped", arguments), "entered", json=json)
        return
    if files and len(files) not in (count, 1):
        raise typer.BadParameter(f"{len(files)} files for {count} components")
    parts = []
    for number in [part] if part else range(1, count + 1):
        file = None
        if files:
            file = files[0] if part else files[number - 1]
        given = entered(number, count, file=file, what=f"{owner}/{purpose.value}")
        component = read_component(
            given.component, given.check_value, algorithm, where=f"component {number}"
        )
        say(f"component {number} of {count}: check value {component.check_value}")
        parts.append({"part": number, "of": count, **asdict(given)})
    key = with_keys(config, _components(arguments, parts))
    if key is not None:
        _told(key, "entered", json=json)
    elif json:
        print_json({"key": None})
    else:
        say("taken; the key is there once the other components are entered", "yellow")


@app.command("import-many")
def import_many(
    file: Annotated[Path, typer.Argument(help="CSV of terminal_id,key,check_value; - is stdin.")],
    under: Under,
    algorithm: Algorithm,
    form: Form = KeyForm.ECB,
    purpose: Annotated[KeyPurpose, typer.Option("--purpose")] = KeyPurpose.TERMINAL_MASTER,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Enter wrapped keys of many terminals, all or none: the whole file is checked first.

    The same file may be imported again: what is in force already stays as it is.
    """
    arguments = {
        "csv": _text_of(file),
        "purpose": purpose,
        "algorithm": algorithm,
        **_under(under, form),
    }
    done = _with_progress("keys", config, "import_many", arguments)
    if json:
        print_json(done)
        return
    say(f"{done['keys']} keys are in force, {done['unchanged']} were already")
    if done["unknown"]:
        say(f"{done['unknown']} are of terminals that are not enrolled (yet)", "yellow")


@app.command()
def export(
    owner: Owner,
    purpose: Purpose,
    under: Under,
    form: Form = KeyForm.TR31_B,
    version: Version = 0,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Print a key wrapped under a master key, for the other side; never in the clear."""
    arguments = _named(owner, purpose, version) | _under(under, form)
    done = _run(config, "export", arguments)
    if json:
        print_json(done)
        return
    typer.echo(done["wrapped"])
    say(
        f"{done['key']['key']}, check value {done['key']['check_value']}, under"
        f" {done['under']['key']}, check value {done['under']['check_value']}"
    )


@app.command()
def activate(
    owner: Owner,
    purpose: Purpose,
    version: Annotated[int, typer.Argument(min=1)],
    reason: Reason = "",
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Put a key in force that waits; the one before it works on for the overlap."""
    arguments = _named(owner, purpose, version) | {"reason": reason}
    _told(_run(config, "activate", arguments), "in force", json=json)


@app.command()
def rotate(
    owner: Annotated[
        str, typer.Argument(metavar="OWNER", help="As in `list`; or store-data, card-token …")
    ],
    purpose: Annotated[KeyPurpose | None, typer.Argument(help="What the key is for.")] = None,
    reason: Reason = "",
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Make another key after the one in force.

    Of the gateway's own keys (store-data, card-token, content) it is in force at once, and the
    former version goes on reading what it made. One that somebody shares waits: hand it on by
    `keys export`, then `keys activate`. A terminal's working keys come with its sign-on.
    """
    if purpose is None:
        owner, purpose = _own(owner)
    arguments = _named(owner, purpose, 0) | {"reason": reason}
    done = _run(config, "rotate", arguments)
    waits = done["state"] == StoredKeyState.PENDING
    _told(done, "made, and waits for `keys activate`" if waits else "in force", json=json)


@app.command()
def rollback(
    owner: Owner,
    purpose: Purpose,
    reason: Reason = "",
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Take a rotation back while the overlap lasts: the key before it is in force again."""
    arguments = _named(owner, purpose, 0) | {"reason": reason}
    _told(_run(config, "rollback", arguments), "in force again", json=json)


@app.command()
def destroy(
    owner: Owner,
    purpose: Annotated[KeyPurpose | None, typer.Argument(help="Default: all.")] = None,
    version: Annotated[int, typer.Option("--version", min=0, help="0: all.")] = 0,
    reason: Reason = "",
    yes: Yes = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Take keys' values away for good; what is left says that they were there.

    What was encrypted under them can no longer be read by anybody.
    """
    what = f"{purpose.value if purpose else 'every'} key of {owner}" + (
        f", version {version}" if version else ""
    )
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter(f"to destroy {what} without being asked takes --yes")
        typer.confirm(f"Destroy {what}? It cannot be taken back", abort=True, err=True)
    arguments = {"owner": owner, "purpose": purpose, "version": version, "reason": reason}
    done = _run(config, "destroy", arguments)
    if json:
        print_json(done)
        return
    for key in done["destroyed"]:
        say(f"{key['key']} is destroyed")


@app.command()
def rewrap(
    component_file: ComponentFiles = None,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Change the key-encryption key to the one of [keys.kek_next], while the gateway runs.

    Cut off, it is gone on with by being asked for again. Afterwards write what is in
    [keys.kek_next] into [keys.kek], and destroy what led to the former key.
    """
    components = []
    for number, file in enumerate(component_file or [], start=1):
        given = entered(number, len(component_file or []), file=file, what="the next key")
        components.append({"component": given.component, "check_value": given.check_value})
    if not components and _asks_for_next(config):
        for number in (1, 2):
            given = entered(number, 2, file=None, what="the next key-encryption key")
            components.append({"component": given.component, "check_value": given.check_value})
    done = _with_progress("keys", config, "rewrap", {"components": components})
    if json:
        print_json(done)
        return
    say(
        f"the gateway's own keys and {done['keys']} of the store are under {done['kek']} now, which"
        " is in force"
    )
    say(
        "Next: move [keys.kek_next] to [keys.kek], and destroy what led to"
        f" {done['former']} once no backup needs it any more.",
        "dim",
    )


@app.command()
def check(json: Json = False, config: Config = DEFAULT_CONFIG) -> None:
    """Whether every key unwraps, has its check value and is none that everybody knows.

    Exit status: 0 nothing is wrong, 1 something is.
    """
    found = _with_progress("keys", config, "check", {})
    if json:
        print_json(found)
    else:
        for kek, count in found["under"].items():
            mark = ", in force" if kek == found["kek"] else ""
            say(f"{count} keys are under {kek}{mark}")
        for one in found["problems"]:
            say(f"{one['key']}: {one['problem']}", "red")
        if found["rewrapping"]:
            say("the key-encryption key is being changed: `gateway keys rewrap` goes on", "yellow")
        say(f"{found['keys']} keys, {found['problems_count']} with a problem")
    if found["problems_count"]:
        raise typer.Exit(FAILED)


# --- helpers ----------------------------------------------------------------------------------


def _wanted(
    owner: str,
    purpose: KeyPurpose,
    algorithm: KeyAlgorithm,
    *,
    start: str,
    end: str,
    pending: bool,
) -> dict[str, Any]:
    return {
        "owner": owner,
        "purpose": purpose,
        "algorithm": algorithm,
        "start_ms": wall_ms(start) if start else 0,
        "end_ms": wall_ms(end) if end else 0,
        "pending": pending,
    }


def _named(owner: str, purpose: KeyPurpose, version: int) -> dict[str, Any]:
    return {"owner": owner, "purpose": purpose, "version": version}


def _under(owner: str, form: KeyForm) -> dict[str, Any]:
    """The master key that an owner's keys travel under: its only one."""
    if not owner:
        raise typer.BadParameter("say under whose master key: --under transport:NAME")
    is_terminal = owner.startswith("terminal:")
    master = KeyPurpose.TERMINAL_MASTER if is_terminal else KeyPurpose.ZONE_MASTER
    return {"master_owner": owner, "master_purpose": master, "form": form}


def _components(
    arguments: dict[str, Any], parts: list[dict[str, Any]]
) -> Callable[[Run], Awaitable[dict[str, Any] | None]]:
    async def command(run: Run) -> dict[str, Any] | None:
        key = None
        for part in parts:
            key = (await run("component", arguments | part))["key"]
        return key

    return command


def _run(config: Path, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    async def command(run: Run) -> dict[str, Any]:
        return await run(operation, arguments)

    return with_keys(config, command)


def _own(name: str) -> tuple[str, KeyPurpose]:
    for purpose in OWN_ALGORITHMS:
        if purpose.value == name:
            return GATEWAY, purpose
    names = ", ".join(purpose.value for purpose in OWN_ALGORITHMS)
    raise typer.BadParameter(f"say which key of {name}; alone stand only {names}")


def _told(key: dict[str, Any], done: str, *, json: bool) -> None:
    if json:
        print_json(key)
        return
    _print([key])
    say(f"{key['key']} is {done}: check value {key['check_value']}")


def _print(keys: list[dict[str, Any]]) -> None:
    print_table(
        COLUMNS,
        [
            (
                key["key"],
                key["algorithm"],
                key["state"],
                "yes" if key["works"] else "no",
                key["start"],
                key["end"] or "-",
                key["check_value"],
                key["kek"],
            )
            for key in keys
        ],
    )


def _with_progress(
    what: str, config: Path, operation: str, arguments: dict[str, Any]
) -> dict[str, Any]:
    console = words()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        async def command(run: Run) -> dict[str, Any]:
            return await run(operation, arguments, progress)

        return with_keys(config, command)


def _asks_for_next(config: Path) -> bool:
    """Whether the next key-encryption key is made of components that are in no files."""
    from gateway.settings.loader import load

    kek = load(config).settings.keys.kek_next
    return kek is not None and kek.source == "components" and not kek.component_files


def _text_of(file: Path) -> str:
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return content.decode("utf-8")
    except OSError as error:
        raise OperatorError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise OperatorError(f"{file} is not UTF-8: save the file as UTF-8") from None
