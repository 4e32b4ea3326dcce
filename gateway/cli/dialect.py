"""`gateway dialect`: the dialects there are, what they say, and what they make of a message."""

from __future__ import annotations

import json as json_
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.output import FAILED, OK, Json, print_json, print_table, say
from gateway.errors import OperatorError
from gateway.wire import moov, packager
from gateway.wire.codec import Codec
from gateway.wire.dialect import Dialect, DialectError, dialect_of, load_dialects
from gateway.wire.dumps import DUMP_BYTES_MAX
from gateway.wire.message import Message
from gateway.wire.packager import PACKAGER_BYTES_MAX, PackagerError

app = typer.Typer(
    name="dialect",
    help="How messages are written: the shipped dialects and your own.",
    no_args_is_help=True,
)

OWN_FOLDER = Path("config/dialects")

Dialects = Annotated[
    list[Path] | None,
    typer.Option(
        "--dialects",
        exists=True,
        help=f"A dialect file, or a folder of them; {OWN_FOLDER}/*.toml without it.",
    ),
]
_Name = Annotated[str, typer.Argument(help="The name of a dialect, or its file.")]


def chosen_dialects(paths: list[Path] | None) -> dict[str, Dialect]:
    """The shipped dialects and those of the files and folders named, by name.

    Raises DialectError with everything that is wrong in any of them.
    """
    files: list[Path] = []
    for path in paths if paths is not None else [OWN_FOLDER]:
        files += sorted(path.glob("*.toml")) if path.is_dir() or paths is None else [path]
    return load_dialects(files)


def named(name: str, paths: list[Path] | None) -> Dialect:
    """The dialect of a name or of a file; raises OperatorError where there is none."""
    file = Path(name)
    if file.suffix == ".toml" and file.is_file():
        known = chosen_dialects([*(paths or []), file])
        return list(known.values())[-1]
    known = chosen_dialects(paths)
    if name not in known:
        raise OperatorError(f'no dialect is named "{name}"; there are: {", ".join(known)}')
    return known[name]


@app.command("list")
def list_(dialects: Dialects = None, json: Json = False) -> None:
    """The dialects that can be named in a configuration."""
    rows = [
        {
            "name": dialect.name,
            "title": dialect.title,
            "extends": dialect.extends,
            "fields": len(dialect.fields),
            "sha256": dialect.sha256,
        }
        for dialect in chosen_dialects(dialects).values()
    ]
    if json:
        print_json(rows)
    else:
        columns = ["name", "extends", "fields", "title"]
        print_table(columns, [[str(row[column]) for column in columns] for row in rows])


@app.command()
def show(name: _Name, dialects: Dialects = None, json: Json = False) -> None:
    """Every field of a dialect, with what it inherits filled in."""
    dialect = named(name, dialects)
    if json:
        fields = {
            str(number): {"name": info.name, "type": info.type, **_form(dialect, str(number))}
            for number, info in dialect.fields.items()
        }
        print_json({"name": dialect.name, "title": dialect.title, "fields": fields})
        return
    say(
        f"{dialect.title}; message type {_encoding(dialect, 't')}, bitmap {_encoding(dialect, 'p')}"
    )
    print_table(
        ["DE", "name", "type", "form"],
        [
            [str(number), info.name, info.type, _in_words(dialect, str(number))]
            for number, info in dialect.fields.items()
        ],
    )


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="Dialect files.")], json: Json = False
) -> None:
    """Everything that is wrong in dialect files; status 1 where anything is."""
    try:
        load_dialects(files)
    except DialectError as error:
        findings = error.findings
    else:
        findings = ()
    if json:
        fields = ("file", "line", "path", "text")
        print_json([{key: getattr(found, key) for key in fields} for found in findings])
    else:
        for found in findings:
            typer.echo(str(found))
        say(f"{len(files)} read, {len(findings)} findings")
    raise typer.Exit(FAILED if findings else OK)


@app.command()
def decode(
    name: _Name,
    body: Annotated[str, typer.Argument(help="The message in hex, without its frame.")],
    dialects: Dialects = None,
    unmasked: Annotated[bool, typer.Option("--unmasked", help="Show card data.")] = False,
) -> None:
    """A message as JSON, in the form that `encode` takes; masked unless --unmasked."""
    from gateway.wire.inspection import shown

    codec = Codec(named(name, dialects))
    try:
        raw = bytes.fromhex(body)
    except ValueError:
        raise OperatorError("the message is not hex; two digits for each byte") from None
    message = codec.decode(raw)
    fields = {
        str(number): value if unmasked else shown(number, value)
        for number, value in message.fields.items()
    }
    answer: dict[str, Any] = {"mti": message.mti, "fields": fields}
    inside = _inside(codec.dialect, message, unmasked=unmasked)
    if inside:
        answer["elements"] = inside
    if message.pads:
        answer["pads"] = {str(number): pad for number, pad in message.pads.items()}
    print_json(answer)


def _inside(dialect: Dialect, message: Message, *, unmasked: bool) -> dict[str, Any]:
    """By field, what is inside it, or why that cannot be read; `encode` does not look at it."""
    from gateway.cli.inspect import elements_as_json
    from gateway.wire.inspection import parts
    from gateway.wire.sub_elements import SubElementError

    found: dict[str, Any] = {}
    for number in message.fields:
        try:
            inside = parts(dialect, message, number, certain=True, unmasked=unmasked)
        except SubElementError as error:
            found[str(number)] = str(error)
        else:
            if inside:
                found[str(number)] = elements_as_json(inside)
    return found


@app.command()
def encode(
    name: _Name,
    file: Annotated[
        Path | None, typer.Argument(exists=True, help="JSON; standard input without it.")
    ] = None,
    dialects: Dialects = None,
) -> None:
    """JSON such as {"mti": "0800", "fields": {"11": "000001"}} as a message in hex."""
    codec = Codec(named(name, dialects))
    text = sys.stdin.read(DUMP_BYTES_MAX) if file is None else file.read_text(encoding="utf-8")
    typer.echo(codec.encode(_message(text)).hex().upper())


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="A jPOS generic packager (XML), or a moov specification (JSON).",
        ),
    ],
    name: Annotated[
        str, typer.Option("--name", help="What to call it; the file's name else.")
    ] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The dialect file to make.")
    ] = None,
) -> None:
    """Make a dialect file of a jPOS packager or a moov-io/iso8583 specification.

    What a dialect has no words for is named with its field, and nothing is made then; nothing that
    exists is written over.
    """
    with file.open("rb") as opened:
        content = opened.read(PACKAGER_BYTES_MAX + 1)
    own = name or re.sub(r"[^a-z0-9_.-]", "_", file.stem.lower())[:40]
    reader = moov if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") else packager
    try:
        text = reader.dialect_text(content, own)
    except PackagerError as error:
        raise OperatorError(f"{file}: {error}") from None
    dialect = dialect_of(text, str(output or "the dialect made"))
    if output is None:
        typer.echo(text, nl=False)
    else:
        try:
            with output.open("x", encoding="utf-8") as made:
                made.write(text)
        except FileExistsError:
            raise OperatorError(f"{output} is there already; name another file") from None
    say(f"{dialect.name}: {len(dialect.fields)} fields")


@app.command()
def diff(
    first: _Name,
    second: _Name,
    dialects: Dialects = None,
    json: Json = False,
    translation: Annotated[
        bool,
        typer.Option(
            "--translation", help="What becomes of each field on its way from one to the other."
        ),
    ] = False,
) -> None:
    """Fields that two dialects write differently; status 1 where there are any."""
    one, other = named(first, dialects), named(second, dialects)
    if translation:
        _translation(one, other, json=json)
    rows = [
        (key, _in_words(one, key), _in_words(other, key))
        for key in ("t", "p", *map(str, sorted(one.fields.keys() | other.fields.keys())))
        if _form(one, key) != _form(other, key)
    ]
    heads = {"t": "message type", "p": "bitmap"}
    if json:
        print_json([dict(zip(("field", one.name, other.name), row, strict=True)) for row in rows])
    else:
        print_table(["DE", one.name, other.name], [(heads.get(k, k), a, b) for k, a, b in rows])
    raise typer.Exit(FAILED if rows else OK)


def _translation(one: Dialect, other: Dialect, *, json: bool) -> None:
    """What the requests of terminals of one dialect become for an upstream of the other."""
    from gateway.wire.translation import Translation

    found = Translation(one, other).differences()
    if json:
        print_json([{"field": row.number, "effect": row.effect, "why": row.why} for row in found])
    else:
        print_table(
            ["DE", f"{one.name} to {other.name}", "why"],
            [[str(row.number), row.effect, row.why] for row in found],
        )
    raise typer.Exit(FAILED if found else OK)


def _message(text: str) -> Message:
    """The message that JSON describes; raises OperatorError where it describes none."""
    try:
        raw = json_.loads(text)
        fields = {int(number): _value(value) for number, value in raw["fields"].items()}
        pads = {int(number): str(pad) for number, pad in raw.get("pads", {}).items()}
        return Message(str(raw["mti"]), fields, pads=pads)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise OperatorError(
            'the JSON describes no message; give {"mti": "0800", "fields": {"11": "000001"}}'
        ) from None


def _value(raw: Any) -> str:
    value = raw["value"] if isinstance(raw, dict) else raw
    if not isinstance(value, str):
        raise TypeError
    return value


def _form(dialect: Dialect, key: str) -> dict[str, Any]:
    """What decides the bytes of a field; empty where the dialect lacks it."""
    return {name: what for name, what in dialect.spec.get(key, {}).items() if name != "desc"}


def _encoding(dialect: Dialect, key: str) -> str:
    encoding: str = dialect.spec[key]["data_enc"]
    return "binary" if encoding == "b" else encoding


def _in_words(dialect: Dialect, key: str) -> str:
    keys = dialect.spec.get(key)
    if keys is None:
        return "absent"
    if key in ("t", "p"):
        return _encoding(dialect, key)
    packed = keys["len_count"] == "nibbles"
    unit = "digits, packed" if packed else "bytes"
    encoding = "" if packed else f", {_encoding(dialect, key)}"
    if keys["len_type"]:
        length = f"up to {keys['max_len']} {unit}{encoding}"
        prefix = "binary" if keys["len_enc"] == "b" else keys["len_enc"]
        length += f", length in {keys['len_type']} bytes {prefix}"
    else:
        length = f"{keys['max_len']} {unit}{encoding}"
    for pad in ("left_pad", "right_pad"):
        if pad in keys and (keys["len_type"] or keys["max_len"] % 2):
            length += f", {pad.partition('_')[0]} pad {keys[pad]}"
            if keys.get("other_pads"):
                length += f" (also {keys['other_pads']})"
    return length
