"""`gateway transactions` and `gateway reversals`, through a running daemon and without one."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trio
from typer.testing import CliRunner, Result

from gateway.cli.main import build_app
from gateway.clock import SystemClock, iso_time
from gateway.store.store import (
    EndReversal,
    MarkDelivered,
    NoteAttempt,
    OweReversal,
    Settle,
    State,
    Store,
)
from gateway.telemetry.events import Event
from gateway.wire.message import Kind
from tests.support.admin_thread import AdminThread, admin_thread
from tests.support.small_config import CONFIG
from tests.support.stores import a_transaction, opened

NOW_MS = SystemClock().wall_ms()
HOUR_MS = 3_600_000


async def fill(store: Store) -> None:
    """Ten transactions of the last ten hours, the newest last, in several states."""
    for number in range(1, 11):
        refund = number == 5
        await store.intend(
            a_transaction(
                number,
                created_ms=NOW_MS - (11 - number) * HOUR_MS,
                terminal_id=f"T{number % 3}      ",
                kind=Kind.REFUND if refund else Kind.VOID if number == 8 else Kind.PURCHASE,
                original_id=1 if number == 8 else 0,
                card_masked=f"622848******{number:04}",
                upstream="north",
            )
        )
    for number in (1, 2, 3, 8, 9):
        at_ms = NOW_MS - (11 - number) * HOUR_MS + 150
        await store.commit(
            Settle(number, State.ANSWERED, "00", "A1", b"", at_ms, True, f"RRN{number:09}")
        )
    for number in (1, 2, 8):
        await store.commit(MarkDelivered(number, NOW_MS - (11 - number) * HOUR_MS + 200))
    await store.commit(
        OweReversal(4, "north", "68", NOW_MS - HOUR_MS, response_code="91"),
        NoteAttempt(4, 77, 3, NOW_MS + 5_000),
        Settle(5, State.GIVEN_UP, "", "", b"", 0, False),
        OweReversal(6, "north", "98", NOW_MS - HOUR_MS, response_code="91", amount_minor=400),
        NoteAttempt(6, 78, 20, NOW_MS),
        EndReversal(6, State.GIVEN_UP),
        OweReversal(7, "north", "68", NOW_MS, response_code="91"),
        EndReversal(7, State.REVERSED),
    )


class Gateway:
    """Invokes the command line on one configuration."""

    def __init__(self, config: Path, daemon: AdminThread | None) -> None:
        self.config = config
        self.daemon = daemon

    def __call__(self, *arguments: object, input: str | None = None) -> Result:  # noqa: A002
        return CliRunner().invoke(
            build_app(),
            [*map(str, arguments)],
            input=input,
            env={"GATEWAY_CONFIG": str(self.config)},
        )

    def json(self, *arguments: object) -> Any:
        result = self(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def found(self, *arguments: object) -> list[int]:
        listed = self.json("transactions", "list", *arguments)
        return [one["transaction_id"] for one in listed["transactions"]]


@pytest.fixture(params=["through the daemon", "in the store"])
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    with TemporaryDirectory(prefix="gw") as name:
        config = Path(name) / "gateway.toml"
        config.write_text(CONFIG)
        if request.param == "in the store":

            async def write() -> None:
                async with opened(Path(name) / "var" / "gateway.db") as store:
                    await fill(store)

            trio.run(write)
            yield Gateway(config, None)
            return
        with admin_thread(Path(name) / "admin") as daemon:
            trio.run(fill, daemon.store)
            yield Gateway(config, daemon)


@pytest.fixture
def served() -> Iterator[Gateway]:
    with TemporaryDirectory(prefix="gw") as name:
        config = Path(name) / "gateway.toml"
        config.write_text(CONFIG)
        with admin_thread(Path(name) / "admin") as daemon:
            trio.run(fill, daemon.store)
            yield Gateway(config, daemon)


# --- transactions -------------------------------------------------------------------------------


def test_the_newest_come_first(gateway: Gateway) -> None:
    assert gateway.found() == list(range(10, 0, -1))
    assert gateway.found("--limit", 3) == [10, 9, 8]
    assert gateway.json("transactions", "list", "--limit", "3")["next"] == 8
    assert gateway.found("--limit", 3, "--before", 8) == [7, 6, 5]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (("--terminal", "T1"), [10, 7, 4, 1]),
        (("--rrn", "RRN000000003"), [3]),
        (("--rrn", "RRN"), []),
        (("--stan", "5"), [5]),
        (("--amount", "1006"), [6]),
        (("--last-four", "0007"), [7]),
        (("--state", "delivered"), [8, 2, 1]),
        (("--state", "intended"), [10]),
        (("--state", "given_up"), [6, 5]),
        (("--state", "reversal_owed", "--terminal", "T2"), []),
        (("--upstream", "south"), []),
        (("--since", "3h30m"), [10, 9, 8]),
        (("--amount", "1006", "--since", "1h"), []),
        (
            ("--from", iso_time(NOW_MS - 4 * HOUR_MS), "--until", iso_time(NOW_MS - HOUR_MS)),
            [9, 8, 7],
        ),
        (("--undelivered",), [3, 9]),
        (("--undelivered", "--since", "5h"), [9]),
        (("--undelivered", "--limit", "1"), [3]),
    ],
)
def test_what_can_be_looked_for(gateway: Gateway, wanted: tuple[str, ...], ids: list[int]) -> None:
    assert gateway.found(*wanted) == ids


def test_as_a_table(gateway: Gateway) -> None:
    result = gateway("transactions", "list", "--limit", 2)
    assert result.exit_code == 0
    heading, *rows = result.stdout.splitlines()
    assert heading.split()[:4] == ["transaction", "created", "terminal", "kind"]
    assert [row.split()[0] for row in rows] == ["10", "9"]
    assert "622848******0009" in rows[1]
    assert result.stderr == "2 transactions\nthere are more; go on with --before 9\n"


def test_as_csv(gateway: Gateway) -> None:
    result = gateway("transactions", "list", "--csv", "--limit", 2)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["transaction_id"] for row in rows] == ["10", "9"]
    assert rows[1]["card"] == "622848******0009"
    assert rows[1]["response_code"] == "00"
    assert set(rows[0]) >= {"merchant_id", "answered", "delivered", "upstream_stan", "batch"}


@pytest.mark.parametrize(
    "wrong",
    [
        ("--json", "--csv"),
        ("--since", "1h", "--from", "2026-01-01"),
        ("--from", "yesterday"),
        ("--state", "sent"),
        ("--state", "lost"),
        ("--undelivered", "--terminal", "T1"),
        ("--limit", "0"),
    ],
)
def test_wrong_usage(served: Gateway, wrong: tuple[str, ...]) -> None:
    result = served("transactions", "list", *wrong)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_the_history_of_one(gateway: Gateway) -> None:
    history = gateway.json("transactions", "show", 1)
    assert [step["what"] for step in history["timeline"]] == [
        "intended",
        "sent",
        "answered",
        "delivered",
        "void",
    ]
    assert [step["detail"] for step in history["timeline"]] == [
        "0200 purchase, on disk before it is sent",
        "to north under STAN 000001",
        "response code 00, approval code A1, RRN RRN000000001",
        "handed to the terminal's connection",
        "transaction 8, delivered",
    ]
    assert history["timeline"][2]["at"] == iso_time(NOW_MS - 10 * HOUR_MS + 150)
    assert history["reversal"] is None
    assert [one["transaction_id"] for one in history["follow_ups"]] == [8]
    followed = gateway.json("transactions", "show", 8)["timeline"][0]
    assert followed["detail"].endswith("follows transaction 1")


@pytest.mark.parametrize(
    ("number", "steps"),
    [
        (4, ["intended", "sent", "not answered", "reversal owed", "reversal sent", "next attempt"]),
        (5, ["intended", "sent", "given up"]),
        (
            6,
            ["intended", "sent", "not answered", "reversal owed", "reversal sent", "given up"],
        ),
        (7, ["intended", "sent", "not answered", "reversed"]),
        (10, ["intended", "planned"]),
    ],
)
def test_the_steps_of_what_did_not_go_well(gateway: Gateway, number: int, steps: list[str]) -> None:
    history = gateway.json("transactions", "show", number)
    assert [step["what"] for step in history["timeline"]] == steps


def test_a_history_as_text(gateway: Gateway) -> None:
    result = gateway("transactions", "show", 6)
    assert result.exit_code == 0
    assert "card            622848******0006\n" in result.stdout
    assert "to north, reason 98, 400 is left" in result.stdout
    assert "20 times, last under STAN 000078" in result.stdout


def test_one_that_is_not_there(gateway: Gateway) -> None:
    result = gateway("transactions", "show", 99)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "gateway: there is no transaction 99\n"


# --- reversals ----------------------------------------------------------------------------------


def test_what_is_owed_is_listed(gateway: Gateway) -> None:
    listed = gateway.json("reversals", "list")["reversals"]
    shown = [(one["transaction_id"], one["state"], one["owed"], one["attempts"]) for one in listed]
    assert shown == [
        (6, "given_up", "reversal", 20),
        (5, "given_up", "nothing", 0),
        (4, "owed", "reversal", 3),
    ]
    assert listed[0]["left_minor"] == 400
    assert listed[2]["age_s"] >= 3_600
    assert gateway.json("reversals", "list", "--upstream", "south")["reversals"] == []
    only = gateway.json("reversals", "list", "--given-up", "--limit", 1)
    assert ([one["transaction_id"] for one in only["reversals"]], only["more"]) == ([6], True)


def test_what_is_owed_as_a_table_and_as_csv(gateway: Gateway) -> None:
    result = gateway("reversals", "list")
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        "transaction",
        "6",
        "5",
        "4",
    ]
    assert "1 h" in result.stdout
    assert result.stderr == "3 open, 2 of them wait for an operator\n"
    rows = list(csv.DictReader(io.StringIO(gateway("reversals", "list", "--csv").stdout)))
    assert [row["upstream_stan"] for row in rows] == ["78", "0", "77"]


def test_what_is_owed_for_one(gateway: Gateway) -> None:
    result = gateway("reversals", "show", 4)
    assert "reversal owed" in result.stdout
    assert result.stderr.startswith("owed for 1 h")
    refused = gateway("reversals", "show", 1)
    assert refused.exit_code == 1
    assert refused.stderr == "gateway: nothing is owed for transaction 1: it is delivered\n"


def test_retrying(served: Gateway) -> None:
    result = served("reversals", "retry", 6)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "transaction 6 is sent again: reversal owed\n"
    refused = served("reversals", "retry", 1)
    assert refused.exit_code == 1
    assert "was not given up" in refused.stderr


def test_resolving(served: Gateway) -> None:
    assert served.daemon is not None
    assert served("reversals", "resolve", 5, "--yes").exit_code == 2  # without a reason
    asked = served("reversals", "resolve", 5, "--reason", "paid back by hand")
    assert asked.exit_code == 2  # nobody to be asked
    assert "--yes is needed" in asked.stderr
    assert served.json("transactions", "show", 5)["transaction"]["state"] == "given_up"
    done = served("reversals", "resolve", 5, "--reason", "paid back by hand", "--yes")
    assert done.exit_code == 0
    assert done.stderr == "transaction 5 is closed: closed\n"
    assert served.daemon.events[-1] == (
        Event.REVERSAL_DONE,
        {"transaction": 5, "resolved": "paid back by hand"},
    )


@pytest.mark.parametrize("command", [("retry", 6), ("resolve", 6, "--reason", "x", "--yes")])
def test_without_a_daemon_nothing_is_steered(command: tuple[object, ...]) -> None:
    with TemporaryDirectory(prefix="gw") as name:
        config = Path(name) / "gateway.toml"
        config.write_text(CONFIG)
        result = Gateway(config, None)("reversals", *command)
    assert result.exit_code == 1
    assert "through the running gateway" in result.stderr


def test_what_terminals_send_breaks_no_line(served: Gateway) -> None:
    assert served.daemon is not None
    odd = a_transaction(
        50, created_ms=NOW_MS, terminal_id="T\n\x1b[31m", repeat_key="odd", card_masked="*"
    )
    trio.run(served.daemon.store.intend, odd)
    result = served("transactions", "list", "--limit", 1)
    assert len(result.stdout.splitlines()) == 2
    assert "\x1b" not in result.stdout
