"""`gateway explain`: what the running gateway would do with a message, and by which rule."""

from __future__ import annotations

import json as json_
import sys
from typing import Annotated, Any

import typer

from gateway.cli.ask import client_of
from gateway.cli.output import DEFAULT_CONFIG, FAILED, Config, Json, data, print_json, say
from gateway.policy.card_numbers import holds_card_number

_INPUT_CHARS_MAX = 65_536


def explain(
    field: Annotated[
        list[str] | None,
        typer.Option("--field", "-f", metavar="NUMBER=VALUE", help="A field: 41=T0000001 …"),
    ] = None,
    mti: Annotated[str, typer.Option("--mti", help="Message type, with --field.")] = "0200",
    hex_: Annotated[
        str, typer.Option("--hex", help="The message's bytes, from the MTI on; - reads them.")
    ] = "",
    listener: Annotated[
        str, typer.Option(help="Whose dialect and codes; default: the first.")
    ] = "",
    address: Annotated[str, typer.Option(help="Where its connection would come from.")] = "",
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """What would become of a message: its device, the rule that decides, the code, the route.

    Without --field and --hex a JSON object is read from standard input: {"mti": "0200", "fields":
    {"2": "...", "41": "T0000001"}}. A card number never stands in the command itself. Nothing is
    changed, and no limit is taken from. It has no connection to look at: MACs, sessions, repeats
    and what else it did not see stand under "unseen". Exit status: 0 it may go on, 1 it is refused.
    """
    asked: dict[str, Any] = {"listener": listener, "address": address}
    if field and hex_:
        raise typer.BadParameter("give --field or --hex, not both")
    if hex_:
        digits = sys.stdin.read(_INPUT_CHARS_MAX) if hex_ == "-" else hex_
        asked["hex"] = "".join(digits.split())
    elif field:
        asked |= {"mti": mti, "fields": _fields(field)}
    else:
        asked |= _from_standard_input()
    found = client_of(config).run("explain", "message", asked)
    if json:
        print_json(found)
    else:
        _print(found)
    if found["decision"] == "refused":
        raise typer.Exit(FAILED)


def _fields(texts: list[str]) -> dict[str, str]:
    fields = {}
    for text in texts:
        number, equals, value = text.partition("=")
        if not equals or not number.isdigit():
            raise typer.BadParameter("write NUMBER=VALUE, such as 41=T0000001")
        if number in ("2", "35", "45") and holds_card_number(value):
            raise typer.BadParameter(
                "a card number does not stand in a command, where others can read it: give the"
                " message as JSON on standard input"
            )
        fields[number] = value
    return fields


def _from_standard_input() -> dict[str, Any]:
    try:
        found = json_.loads(sys.stdin.read(_INPUT_CHARS_MAX))
        fields = {str(number): str(value) for number, value in found["fields"].items()}
        return {"mti": str(found.get("mti", "0200")), "fields": fields}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise typer.BadParameter(
            'standard input is no message: write {"mti": "0200", "fields": {"41": "T0000001"}}'
        ) from None


def _print(found: dict[str, Any]) -> None:
    out = data()
    device = found["device"]
    rows = [
        ("message", found["message"]),
        ("kind", found["kind"]),
        (
            "device",
            "none"
            if device is None
            else f"{device['terminal_id']} of {device['merchant_id']}, {device['state']}, profile"
            f" {device['profile']}",
        ),
        ("decision", found["decision"] + (f": {found['reason']}" if found["reason"] else "")),
        ("rule", found["rule"] or "-"),
        ("code", found["code"] or "the acquirer's"),
        ("route", f"{found['route']}, group {found['group']}" if found["route"] else "-"),
        ("version", found["version"]),
    ]
    for name, text in rows:
        out.print(f"{name:<10}{text}", markup=False)
    for one in found["upstreams"]:
        why = f": {one['why']}" if one["why"] else ""
        out.print(f"{'upstream':<10}{one['upstream']} ({one['state']}){why}", markup=False)
    for one in found["unseen"]:
        out.print(f"{'unseen':<10}{one}", markup=False)
    for note in found["notes"]:
        say(note, "dim")
