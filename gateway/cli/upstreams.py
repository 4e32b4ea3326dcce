"""`gateway upstreams`: how acquirers do, and taking one out of use and back without a loss."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from gateway.cli.ask import client_of
from gateway.cli.output import (
    DEFAULT_CONFIG,
    FAILED,
    Config,
    Json,
    data,
    duration_s,
    duration_words,
    print_json,
    print_table,
    say,
)

app = typer.Typer(
    name="upstreams",
    help="How acquirers do, and taking one out of use and back.",
    no_args_is_help=True,
)

LOOK_S = 0.2
SPARE_S = 2.0  # beside what the daemon says that it takes
COLUMNS = (
    *("upstream", "state", "since", "links", "pending", "p50 ms", "p99 ms", "time-outs"),
    *("approved", "share", "ejected until", "owed", "why"),
)
LINK_COLUMNS = ("link", "state", "health", "since", "pending", "attempts", "why")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the upstream: see `list`.")]
Reason = Annotated[
    str, typer.Option("--reason", help="Why; shown with its state, and in the audit log.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has come about.")]
Within = Annotated[
    str,
    typer.Option("--within", help="How long to wait: 45s, 2m. Default: as long as it can take."),
]

Look = Callable[[], dict[str, Any]]


@app.command("list")
def list_(json: Json = False, config: Config = DEFAULT_CONFIG) -> None:
    """One line for each upstream: state, since when and why, links, pending, latencies, shares."""
    found = client_of(config).run("upstreams", "list", {})
    if json:
        print_json(found)
        return
    now = datetime.now(UTC)
    print_table(COLUMNS, [_row(one, now) for one in found["upstreams"]])
    for one in found["not_configured"]:
        say(
            f"{one['name']} is not configured; {one['control']} since {one['since']} {one['why']}:"
            " that holds should it come back",
            "yellow",
        )


@app.command()
def show(name: Name, json: Json = False, config: Config = DEFAULT_CONFIG) -> None:
    """Everything about one upstream, each of its links, and what it is owed."""
    found = client_of(config).run("upstreams", "show", {"name": name})
    if json:
        print_json(found)
        return
    _print(found, datetime.now(UTC))


@app.command()
def drain(
    name: Name,
    reason: Reason = "",
    wait: Wait = True,
    within: Within = "",
    yes: Yes = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Give it nothing new, and wait until what is under way is finished: nothing is lost.

    Holds until `resume`, over restarts too. Exit status 1: something is still pending.
    """
    client = client_of(config)
    look = _looking(name, config)
    before = look()
    if before["control"] == "enabled" and not before["others_up"]:
        _ask(f"No other upstream can do its work: without {name} terminals hear 91. Drain it", yes)
    bound_s = _bound_s(within, before["settled_within_s"])
    done = client.run("upstreams", "drain", {"name": name, "reason": reason})
    _tell_change(done, "gets nothing new", quiet=json)
    if wait:
        found = _wait(look, lambda one: one["state"] in ("drained", "disabled"), bound_s)
    else:
        found = done["upstream"]
    if json:
        print_json(found)
    if found["state"] == "drained":
        say(f"{name} is drained: nothing is pending, and its links are closed")
    else:
        say(f"{name} is {found['state']}: {found['pending']} still pending")
    if wait and found["state"] != "drained":
        say(
            f"not drained within {bound_s:g} s; it goes on: `gateway upstreams show {name}`,"
            f" `gateway upstreams resume {name}` takes it back",
            "red",
        )
        raise typer.Exit(FAILED)


@app.command()
def resume(
    name: Name,
    reason: Reason = "",
    wait: Wait = False,
    within: Within = "",
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Take back into use what was drained; with --wait, exit status 1 if it does not come up."""
    _change(
        "resume",
        "is taken back into use",
        name=name,
        reason=reason,
        wait=wait,
        within=within,
        json=json,
        config=config,
    )


@app.command()
def enable(
    name: Name,
    reason: Reason = "",
    wait: Wait = False,
    within: Within = "",
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Take back into use what was disabled; with --wait, exit status 1 if it does not come up."""
    _change(
        "enable",
        "is taken back into use",
        name=name,
        reason=reason,
        wait=wait,
        within=within,
        json=json,
        config=config,
    )


@app.command()
def disable(
    name: Name,
    reason: Reason = "",
    yes: Yes = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Close its links at once. What is pending is in doubt and reversed: `drain` loses nothing.

    Holds until `enable`, over restarts too.
    """
    _ask_about("Disable", name, yes, config)
    _change(
        "disable",
        "is disabled",
        name=name,
        reason=reason,
        wait=False,
        within="",
        json=json,
        config=config,
    )


@app.command()
def reconnect(
    name: Name,
    reason: Reason = "",
    wait: Wait = False,
    within: Within = "",
    yes: Yes = False,
    json: Json = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Close its links and make them anew, at once. What is pending is in doubt and reversed."""
    _ask_about("Reconnect", name, yes, config)
    _change(
        "reconnect",
        "connects anew",
        name=name,
        reason=reason,
        wait=wait,
        within=within,
        json=json,
        config=config,
    )


# --- doing ---------------------------------------------------------------------------------------


def _change(
    operation: str,
    words: str,
    *,
    name: str,
    reason: str,
    wait: bool,
    within: str,
    json: bool,
    config: Any,
) -> None:
    bound_s = _bound_s(within, 0.0) if within else None
    done = client_of(config).run("upstreams", operation, {"name": name, "reason": reason})
    _tell_change(done, words, quiet=json)
    found = done["upstream"]
    if wait:
        bound_s = found["settled_within_s"] + SPARE_S if bound_s is None else bound_s
        found = _wait(_looking(name, config), lambda one: one["state"] == "up", bound_s)
        say(f"{name} is {found['state']}: {found['why']}")
    if json:
        print_json(found)
    if wait and found["state"] != "up":
        say(f"not up within {bound_s:g} s; `gateway upstreams show {name}` says why", "red")
        raise typer.Exit(FAILED)


def _tell_change(done: dict[str, Any], words: str, *, quiet: bool) -> None:
    one = done["upstream"]
    if not done["changed"]:
        say(f"nothing to do: {one['name']} is {one['state']}, {one['why']}")
    elif not quiet:
        pending = done["pending_before"]
        say(f"{one['name']} {words}" + (f" (pending then: {pending})" if pending else ""), "dim")


def _ask_about(what: str, name: str, yes: bool, config: Any) -> None:
    if yes:
        return
    one = client_of(config).run("upstreams", "show", {"name": name})
    lost = f"What is pending ({one['pending']}) comes into doubt and is reversed"
    alone = "" if one["others_up"] else "; no other upstream can do its work"
    _ask(f"{what} {name}? {lost}{alone}. Go on", yes)


def _ask(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"--yes is needed where nobody can be asked. {question}?")
    typer.confirm(question, abort=True, err=True)


def _looking(name: str, config: Any) -> Look:
    client = client_of(config)
    return lambda: client.run("upstreams", "show", {"name": name})


def _bound_s(within: str, default_s: float) -> float:
    return duration_s(within) if within else default_s + SPARE_S


def _wait(
    look: Look,
    done: Callable[[dict[str, Any]], bool],
    bound_s: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
    now_s: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """How the upstream is once that has come about, or the time is over; tells on the way."""
    end_s = now_s() + bound_s
    said: tuple[object, ...] = ()
    while True:
        found = look()
        if done(found) or now_s() >= end_s:
            return found
        news = (found["state"], found["pending"])
        if news != said:
            said = news
            say(f"{found['name']} is {found['state']}: {found['pending']} pending", "dim")
        sleep(min(LOOK_S, max(0.0, end_s - now_s())))


# --- showing -------------------------------------------------------------------------------------


def _row(one: dict[str, Any], now: datetime) -> tuple[str, ...]:
    return (
        one["name"],
        one["state"],
        _ago(one["since"], now),
        f"{one['links_up']}/{one['links']}",
        f"{one['pending']}/{one['pending_max']}",
        _ms(one["latency_s"].get("p50")),
        _ms(one["latency_s"].get("p99")),
        str(one["time_outs"]),
        _percent(one["approved"]),
        _percent(one["share"]),
        one["ejected_until"] or "-",
        str(one["reversals_owed"]),
        one["why"],
    )


def _print(one: dict[str, Any], now: datetime) -> None:
    by_class = ", ".join(f"{count} {name}" for name, count in one["answers_by_class"].items())
    latencies = ", ".join(f"{name} {_ms(value)} ms" for name, value in one["latency_s"].items())
    lines = [
        f"{one['name']} is {one['state']} for {_ago(one['since'], now)} (since {one['since']})",
        f"why              {one['why']}",
        f"control          {one['control']}",
        f"links            {one['links_up']} of {one['links']} up",
        f"pending          {one['pending']} of {one['pending_max']}",
        f"latency          {latencies or 'no answer yet'}",
        f"answers          {one['answers']}: {by_class}; {_percent(one['approved'])} approved",
        f"time-outs        {one['time_outs']}",
        f"suspicions       {one['suspicions']}",
        f"ejections        {one['ejections']}"
        + (f", until {one['ejected_until']}" if one["ejected_until"] else ""),
        f"share            {_percent(one['share'])} of what is meant for it",
        f"reversals owed   {one['reversals_owed']}",
        "another upstream can do its work"
        if one["others_up"]
        else "no other upstream can do its work",
        "",
    ]
    out = data()
    for line in lines:
        out.print(line, markup=False)
    print_table(
        LINK_COLUMNS,
        [
            (
                link["name"],
                link["state"],
                link["health"],
                _ago(link["since"], now),
                str(link["pending"]),
                str(link["attempts"]),
                link["why"],
            )
            for link in one["each_link"]
        ],
    )


def _ago(text: str, now: datetime) -> str:
    return duration_words(max(0.0, (now - datetime.fromisoformat(text)).total_seconds()))


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.3g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"
