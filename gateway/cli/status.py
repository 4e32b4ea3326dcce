"""`gateway status`: how the running daemon does, and whether somebody must look after it."""

from __future__ import annotations

import typer

from gateway.admin.api import Status, UpstreamStatus
from gateway.admin.client import DaemonNotRunning
from gateway.cli.ask import client_of
from gateway.cli.output import (
    DEFAULT_CONFIG,
    FAILED,
    OK,
    Config,
    Json,
    data,
    duration_words,
    print_json,
    print_table,
    say,
)

FINDINGS_SHOWN_MAX = 5
BROKEN = frozenset(("down",))  # somebody must look after it
NOT_TAKING = frozenset(("down", "draining", "drained", "disabled", "retiring"))


def status(config: Config = DEFAULT_CONFIG, json: Json = False) -> None:
    """How the running gateway does: listeners, upstreams, store, what is under way and owed.

    Exit status: 0 all is well, 1 the gateway does not run or something is wrong, 2 wrong usage.
    """
    client = client_of(config)
    try:
        found = client.status()
    except DaemonNotRunning as error:
        if not json:
            raise
        print_json({"running": False, "problems": [str(error)]})
        raise typer.Exit(FAILED) from None
    problems = problems_of(found)
    if json:
        print_json({"running": True, "problems": problems, **found})
    else:
        _print(found)
        for problem in problems:
            say(problem, "red")
        for notice in notices_of(found):
            say(notice, "yellow")
    raise typer.Exit(FAILED if problems else OK)


def problems_of(status: Status) -> list[str]:
    """What is wrong with a node, in words; empty where transactions can flow."""
    upstreams = status["upstreams"]
    problems = [_upstream_words(one) for one in upstreams if one["state"] in BROKEN]
    if upstreams and all(one["state"] in NOT_TAKING for one in upstreams):
        problems.append("no upstream takes requests: terminals hear 91")
    configuration = status["configuration"]
    problems += [
        f"the configuration as it is now is not in force: {one['file']}:{one['line']}:"
        f" {one['problem']}; {one['remedy']}"
        for one in configuration["refused"][:FINDINGS_SHOWN_MAX]
    ]
    if configuration["waits"]:
        problems.append(
            f"an edit waits for `gateway reload --confirm`: {'; '.join(configuration['waits'])}"
        )
    store = status["store"]
    if not store["healthy"]:
        problems.append(f"the store fails: {store['last_error'] or 'no reason given'}")
    return problems


def notices_of(status: Status) -> list[str]:
    """What an operator should know of and nobody has to mend: an upstream's doubts and orders."""
    return [
        _upstream_words(one)
        for one in status["upstreams"]
        if one["state"] != "up" and one["state"] not in BROKEN
    ]


def _upstream_words(upstream: UpstreamStatus) -> str:
    words = f"upstream {upstream['name']} is {upstream['state']} since {upstream['since']}"
    pending = f" ({upstream['pending']} pending)" if upstream["pending"] else ""
    return f"{words}{pending}: {upstream['why'] or 'no reason given'}"


def _print(status: Status) -> None:
    print_out = data()
    store = status["store"]
    print_out.print(
        f"{status['node']}: version {status['version']}, configuration {status['config_version']}, "
        f"up {duration_words(status['uptime_s'])} (since {status['started']})\n",
        markup=False,
    )
    print_table(
        ("listener", "address", "security", "connections", "at most"),
        [
            (
                listener["name"],
                listener["address"],
                listener["security"],
                str(listener["connections"]),
                str(listener["connections_max"]),
            )
            for listener in status["listeners"]
        ],
    )
    print_out.print()
    print_table(
        ("upstream", "state", "links up", "pending", "since", "why"),
        [
            (
                upstream["name"],
                upstream["state"],
                f"{upstream['links_up']}/{upstream['links']}",
                str(upstream["pending"]),
                upstream["since"],
                upstream["why"],
            )
            for upstream in status["upstreams"]
        ],
    )
    queued = f"{store['queue_depth']} of {store['queue_max']}"
    health = "healthy" if store["healthy"] else "failing"
    lines = [
        "",
        f"store         {store['kind']}, {health}, {queued} queued",
        f"transactions  {status['under_way']} of {status['under_way_max']} under way",
        f"reversals     {status['reversals_owed']} owed, {status['reversals_given_up']} given up",
        f"configuration since {status['configuration']['since']}",
        f"approvals     {status['approvals_waiting'] or 'none'} waiting",
        f"audit log     {status['audit_sequence']}:{status['audit_sha256']}",
        f"alarms        {len(status['alarms']) or 'none'}",
    ]
    lines += [
        f"  {alarm['since']} {alarm['event']} {alarm['detail']}" for alarm in status["alarms"]
    ]
    for line in lines:
        print_out.print(line, markup=False)
