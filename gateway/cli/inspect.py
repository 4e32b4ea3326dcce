"""`gateway inspect`: any message, in hex, a file or a paste, as a table that may be shown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.dialect import Dialects, chosen_dialects
from gateway.cli.output import FAILED, OK, Json, data, print_json, print_table
from gateway.errors import OperatorError
from gateway.wire.dumps import DUMP_BYTES_MAX, read_dump
from gateway.wire.inspection import (
    Part,
    Reading,
    context,
    meaning,
    meaning_of_mti,
    parts,
    read,
    shown,
    surroundings,
)
from gateway.wire.message import printable
from gateway.wire.sub_elements import SubElementError

Unmasked = Annotated[
    bool, typer.Option("--unmasked", help="Show card data; only where you may see it.")
]


def inspect(
    source: Annotated[
        list[str] | None,
        typer.Argument(help="Hex, or a file; standard input without it, or with -."),
    ] = None,
    dialect: Annotated[
        str, typer.Option("--dialect", "-d", help="The dialect; guessed without it.")
    ] = "",
    dialects: Dialects = None,
    json: Json = False,
    unmasked: Unmasked = False,
) -> None:
    """Read one message and say what is in it: hex, a dump as it was pasted, or raw bytes.

    Exit status: 0 where it can be read, 1 where it cannot (the table then ends at the first error).
    """
    known = chosen_dialects(dialects)
    if dialect and dialect not in known:
        raise OperatorError(f'no dialect is named "{dialect}"; there are: {", ".join(known)}')
    candidates = read_dump(_bytes(source or ["-"]))
    if not candidates:
        raise OperatorError("there is nothing to read; give hex, a file, or standard input")
    reading = read(candidates, [known[dialect]] if dialect else known.values())
    if json:
        print_json(as_json(reading, guessed=not dialect, unmasked=unmasked))
    else:
        _print(reading, guessed=not dialect, unmasked=unmasked)
    raise typer.Exit(OK if reading.error is None else FAILED)


def as_json(reading: Reading, *, guessed: bool, unmasked: bool) -> dict[str, Any]:
    """A reading as the object that --json prints."""
    message, error = reading.message, reading.error
    answer: dict[str, Any] = {
        "dialect": reading.dialect.name,
        "guessed": guessed,
        "length": reading.prefix.hex().upper(),
        "tpdu": reading.tpdu.hex().upper(),
        "header": reading.header.hex().upper(),
        "mti": message.mti,
        "fields": {
            str(number): {
                "name": _field_name(reading, str(number)),
                "value": value if unmasked else shown(number, value),
                **({"meaning": said} if (said := meaning(number, value)) else {}),
                **({"pad": message.pads[number]} if number in message.pads else {}),
                **_elements(reading, number, guessed=guessed, unmasked=unmasked),
            }
            for number, value in message.fields.items()
        },
    }
    if error is not None:
        answer["error"] = {
            "field": error.field,
            "name": _field_name(reading, error.field),
            "position": reading.error_position,
            "reason": error.reason,
            "context": context(reading, unmasked=unmasked),
            "around": list(surroundings(reading, unmasked=unmasked)),
        }
    return answer


def _print(reading: Reading, *, guessed: bool, unmasked: bool) -> None:
    out = data()
    how = " (guessed)" if guessed else ""
    out.print(f"dialect  {reading.dialect.name}{how}: {reading.dialect.title}", markup=False)
    for name, part in (
        ("length", reading.prefix),
        ("TPDU", reading.tpdu),
        ("header", reading.header),
    ):
        if part:
            out.print(f"{name:8} {part.hex().upper()}", markup=False)
    message, error = reading.message, reading.error
    out.print(f"MTI      {printable(message.mti)}  {meaning_of_mti(message)}", markup=False)
    print_table(
        ["DE", "name", "value", "meaning"],
        [
            row
            for number, value in message.fields.items()
            for row in (
                [
                    str(number),
                    _field_name(reading, str(number)),
                    printable(value) if unmasked else shown(number, value),
                    meaning(number, value),
                ],
                *_rows(reading, number, guessed=guessed, unmasked=unmasked),
            )
        ],
    )
    if error is not None:
        name = _field_name(reading, error.field)
        out.print(
            f"error    field {error.field}{f' ({name})' if name else ''}, byte"
            f" {reading.error_position} of {len(reading.data)}: {error.reason}",
            markup=False,
        )
        out.print(f"there    {context(reading, unmasked=unmasked)}", markup=False)
        for line in surroundings(reading, unmasked=unmasked):
            out.print(f"         {line}", markup=False)


def elements_as_json(inside: list[Part]) -> list[dict[str, Any]]:
    """Sub-elements as they stand in JSON, those inside others after them."""
    return [
        {"id": one.id, "name": one.name, "value": one.value, "byte": one.position}
        | ({"depth": one.depth} if one.depth else {})
        for one in inside
    ]


def _elements(reading: Reading, number: int, *, guessed: bool, unmasked: bool) -> dict[str, Any]:
    """What is inside a field, or why that cannot be read."""
    try:
        inside = parts(
            reading.dialect, reading.message, number, certain=not guessed, unmasked=unmasked
        )
    except SubElementError as error:
        return {"elements_error": str(error)}
    return {"elements": elements_as_json(inside)} if inside else {}


def _rows(reading: Reading, number: int, *, guessed: bool, unmasked: bool) -> list[list[str]]:
    try:
        inside = parts(
            reading.dialect, reading.message, number, certain=not guessed, unmasked=unmasked
        )
    except SubElementError as error:
        return [["", "", "", str(error)]]
    return [
        [f"{'  ' * one.depth} .{one.id}", one.name, one.value, f"byte {one.position}"]
        for one in inside
    ]


def _field_name(reading: Reading, field: str) -> str:
    special = {"t": "message type", "p": "first bitmap", "1": "second bitmap"}
    if field in special:
        return special[field]
    known = reading.dialect.fields.get(int(field)) if field.isdigit() else None
    return known.name if known is not None else ""


def _bytes(source: list[str]) -> bytes:
    """What the arguments name: standard input, a file, or hex; bounded."""
    if source == ["-"]:
        return sys.stdin.buffer.read(DUMP_BYTES_MAX)
    if len(source) == 1:
        try:
            is_file = Path(source[0]).is_file()
        except OSError:  # hex is longer than a name may be
            is_file = False
        if is_file:
            with Path(source[0]).open("rb") as file:
                return file.read(DUMP_BYTES_MAX)
    return " ".join(source).encode()
