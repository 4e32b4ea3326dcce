"""`gateway routes`: which upstream a request would go to, and why."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.admin.api import Status
from gateway.admin.client import DaemonNotRunning
from gateway.cli.ask import client_of
from gateway.cli.output import (
    DEFAULT_CONFIG,
    FAILED,
    OK,
    Config,
    Json,
    data,
    print_json,
    print_table,
    say,
    wall_ms,
)
from gateway.clock import SystemClock, iso_time
from gateway.errors import OperatorError
from gateway.live import prepare
from gateway.routes import router_of
from gateway.settings.loader import Configuration, load
from gateway.settings.reload import read_whole
from gateway.settings.schema_upstreams import Route
from gateway.upstreams.adaptation import Adaptation
from gateway.upstreams.conditions import Subject
from gateway.upstreams.routing import Explanation, UpstreamStep
from gateway.wire.entry_mode import EntryMode
from gateway.wire.id_patterns import padded
from gateway.wire.message import FOLLOWING_KINDS, MERCHANT_ID, TERMINAL_ID, Kind, Message

app = typer.Typer(
    name="routes",
    help="Which upstream a request would go to, and why.",
    no_args_is_help=True,
)

_BIN_DIGITS_MAX = 11
_BIN_DIGITS_SHOWN = 6  # as everywhere
# ISO 4217, by their digits: the currencies without a minor unit, and those with a thousandth. All
# others have a hundredth.
_WHOLE = frozenset(
    (
        *("108", "152", "174", "262", "324", "352", "392", "410", "548", "600"),
        *("646", "704", "800", "940", "950", "952", "953"),
    )
)
_THOUSANDTHS = frozenset(("048", "368", "400", "414", "434", "512", "788"))
# What is no candidate for new requests, as the status of a daemon names it.
_NOT_TAKING = frozenset(("down", "disabled", "draining", "drained"))


def _card_bin(text: str) -> str:
    if text and not (text.isascii() and text.isdigit() and len(text) <= _BIN_DIGITS_MAX):
        raise typer.BadParameter(
            f"write the first digits of the card or code, {_BIN_DIGITS_MAX} at most: a whole card"
            " number does not belong on a command line"
        )
    return text


def _currency(text: str) -> str:
    if text and not re.fullmatch("[0-9A-Z]{3}", text):
        raise typer.BadParameter(f"{text!r} is no currency: write it as DE49 has it, such as 156")
    return text


@app.command()
def explain(
    terminal: Annotated[str, typer.Option("--terminal", help="Terminal id (DE41).")],
    merchant: Annotated[
        str, typer.Option("--merchant", help="Merchant id (DE42); default: the terminal's own.")
    ] = "",
    card_bin: Annotated[
        str,
        typer.Option(
            "--card-bin", callback=_card_bin, help="The first digits of the card, or of a code."
        ),
    ] = "",
    kind: Annotated[Kind, typer.Option("--kind", help="What is asked for.")] = Kind.PURCHASE,
    amount: Annotated[
        str, typer.Option("--amount", help="Such as 100.00, in the currency's own units.")
    ] = "",
    currency: Annotated[
        str, typer.Option("--currency", callback=_currency, help="The digits of DE49.")
    ] = "",
    entry_mode: Annotated[
        EntryMode, typer.Option("--entry-mode", help="How the card was read.")
    ] = EntryMode.UNKNOWN,
    at: Annotated[
        str, typer.Option("--at", help="When, such as 2026-11-21T20:00 (UTC); default: now.")
    ] = "",
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Which route such a request takes, which upstreams in which order, and why no others.

    Routes are read from the configuration file; how each upstream does is asked of the daemon.

    Exit status: 0 an upstream would take it, 1 none would, 2 wrong usage.
    """
    amount_minor = _minor(amount, currency)
    when_ms = wall_ms(at) if at else SystemClock().wall_ms()
    # As the daemon reads it, with the files that it names: else it would never be the same version.
    configuration = read_whole(config.absolute(), prepare).prepared.configuration
    status, note = _daemon(config, configuration)
    merchant = merchant or _merchant_of(terminal, config, running=status is not None)
    subject = Subject(
        kind, card_bin, entry_mode, currency, amount_minor, merchant, padded(terminal), when_ms
    )
    pending = {one["name"]: one["pending"] for one in status["upstreams"]} if status else {}
    router = router_of(configuration, pending=lambda name: pending.get(name, 0))
    found = router.explain(subject)
    view = _view(found, subject, configuration, status, note)
    if json:
        print_json(view)
    else:
        _print(view)
    raise typer.Exit(OK if view["taken"] else FAILED)


@app.command("list")
def list_(json: Json = False, config: Config = DEFAULT_CONFIG) -> None:
    """The routes in their order: what fits each, and where it leads."""
    settings = load(config).settings
    groups = {group.name: group for group in settings.groups}
    rows: list[dict[str, Any]] = [
        {
            "route": route.name,
            "fits": _conditions(route),
            "group": route.group,
            "strategy": groups[route.group].strategy,
            "upstreams": {member.upstream: member.weight for member in groups[route.group].members},
        }
        for route in settings.routes
    ]
    if json:
        print_json({"routes": rows})
        return
    print_table(
        ("route", "group", "strategy", "upstreams", "fits"),
        [
            (
                row["route"],
                row["group"],
                row["strategy"],
                ", ".join(
                    name if row["strategy"] == "priority" else f"{name} x{weight}"
                    for name, weight in row["upstreams"].items()
                ),
                "; ".join(f"{key}: {text}" for key, text in row["fits"].items()) or "everything",
            )
            for row in rows
        ],
    )


def _conditions(route: Route) -> dict[str, str]:
    """What a route asks, in the words of the configuration."""
    found = {
        key: ", ".join(map(str, getattr(route, key)))
        for key in ("kinds", "bins", "entry_modes", "currencies", "merchants", "terminal_groups")
        if getattr(route, key)
    }
    if route.amount_minor_min is not None:
        found["amount_minor_min"] = str(route.amount_minor_min)
    if route.amount_minor_max is not None:
        found["amount_minor_max"] = str(route.amount_minor_max)
    if route.hours:
        hours = ", ".join(f"{' '.join(one.days)} {one.time}" for one in route.hours)
        found["hours"] = f"{hours} ({route.time_zone})"
    return found


def _minor(text: str, currency: str) -> int | None:
    if not text:
        return None
    digits = 0 if currency in _WHOLE else 3 if currency in _THOUSANDTHS else 2
    try:
        minor = Decimal(text).scaleb(digits)
        whole = int(minor)
    except (InvalidOperation, ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no amount: write 100 or 100.00") from None
    if whole != minor or not 0 <= whole < 10**12:
        raise typer.BadParameter(
            f"{text!r} is no amount with {digits} decimals at most (currency {currency or 'any'})"
        )
    return whole


# --- the daemon ----------------------------------------------------------------------------------


def _daemon(config: Path, configuration: Configuration) -> tuple[Status | None, str]:
    """How the running daemon does, and what must be said about it."""
    try:
        status = client_of(config).status()
    except DaemonNotRunning:
        return None, "no daemon runs on this file: how the upstreams do is not known"
    if status["config_version"] != configuration.version:
        running = status["config_version"]
        return status, (
            f"the daemon runs on version {running}, and the file is {configuration.version} by now:"
            " the routes shown are the file's"
        )
    return status, ""


def _merchant_of(terminal: str, config: Path, *, running: bool) -> str:
    """The merchant that a terminal is enrolled with; nothing where that cannot be found out."""
    if not running:
        return ""
    try:
        device = client_of(config).run("terminals", "show", {"terminal_id": terminal})
    except OperatorError:
        return ""
    merchant = str(device["merchant_id"])
    return "" if merchant == "*" else merchant


# --- what is printed -----------------------------------------------------------------------------


def _view(
    found: Explanation,
    subject: Subject,
    configuration: Configuration,
    status: Status | None,
    note: str,
) -> dict[str, Any]:
    upstreams = [_upstream_view(step, subject, configuration, status) for step in found.upstreams]
    follows = subject.kind is Kind.REVERSAL or subject.kind in FOLLOWING_KINDS
    boarded = [one for one in upstreams if one["candidate"]]
    return {
        "request": {
            "kind": str(subject.kind),
            "terminal_id": subject.terminal_id.rstrip(),
            "merchant_id": subject.merchant_id,
            "card_bin": subject.card[:_BIN_DIGITS_SHOWN],
            "entry_mode": str(subject.entry_mode),
            "currency": subject.currency,
            "amount_minor": subject.amount_minor,
            "at": iso_time(subject.wall_ms),
        },
        "config_version": configuration.version,
        "daemon_version": status["config_version"] if status else None,
        "note": note,
        "follows_original": follows,
        "route": found.route,
        "group": found.group,
        "strategy": found.strategy,
        "routes": [
            {"route": step.route, "fits": step.fits, "why": step.why} for step in found.routes
        ],
        "upstreams": upstreams,
        "taken": any(one["state"] not in _NOT_TAKING for one in boarded),
    }


def _upstream_view(
    step: UpstreamStep, subject: Subject, configuration: Configuration, status: Status | None
) -> dict[str, Any]:
    settings = next(one for one in configuration.settings.upstreams if one.name == step.upstream)
    state = next(
        (one for one in (status["upstreams"] if status else ()) if one["name"] == step.upstream),
        None,
    )
    sent = subject
    if step.boarded:
        message = Message(
            "0200", {TERMINAL_ID: subject.terminal_id, MERCHANT_ID: subject.merchant_id}
        )
        adaptation = Adaptation(settings, configuration.terminals.get(step.upstream, {}))
        adapted = adaptation.outgoing(message)
        sent = subject._replace(terminal_id=adapted.terminal_id, merchant_id=adapted.merchant_id)
    return {
        "upstream": step.upstream,
        "weight": step.weight,
        "candidate": step.boarded,
        "why": step.why,
        "state": state["state"] if state else None,
        "state_why": state["why"] if state else None,
        "links_up": state["links_up"] if state else None,
        "pending": state["pending"] if state else None,
        "requires": sorted(settings.fields.require),
        "terminal_id": sent.terminal_id.rstrip(),
        "merchant_id": sent.merchant_id.rstrip(),
    }


def _print(view: dict[str, Any]) -> None:
    if view["note"]:
        say(view["note"], "yellow")
    if view["follows_original"]:
        say(
            f"a {view['request']['kind']} goes to the upstream that got its original; routes are"
            " asked only for a refund that names none",
            "yellow",
        )
    print_table(
        ("route", "fits", "why"),
        [
            (
                step["route"],
                "yes" if step["route"] == view["route"] else "no",
                "the first that fits" if step["route"] == view["route"] else step["why"],
            )
            for step in view["routes"]
        ],
    )
    out = data()
    if not view["route"]:
        out.print("\nno route fits: the terminal is told 91", markup=False)
        return
    out.print(
        f"\nroute {view['route']}, group {view['group']} ({view['strategy']})\n", markup=False
    )
    print_table(
        ("", "upstream", "weight", "state", "pending", "terminal", "merchant", "why"),
        [_row(number, one) for number, one in enumerate(view["upstreams"], 1)],
    )
    if not view["taken"]:
        out.print("\nnone of them would take it: the terminal is told 91", markup=False)


def _row(number: int, one: dict[str, Any]) -> tuple[str, ...]:
    requires = ", ".join(f"DE{field}" for field in one["requires"])
    said = [
        one["why"],
        f"if it has {requires}" if requires and not one["why"] else "",
        one["state_why"] if one["state"] not in (None, "up") else "",
    ]
    return (
        str(number) if one["candidate"] else "-",
        one["upstream"],
        str(one["weight"]),
        one["state"] or "?",
        "?" if one["pending"] is None else str(one["pending"]),
        one["terminal_id"] if one["candidate"] else "",
        one["merchant_id"] if one["candidate"] else "",
        "; ".join(filter(None, said)),
    )
