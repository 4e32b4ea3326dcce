"""`gateway routes`: which upstream a request would go to, from the file and from the daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.main import build_app
from gateway.live import prepare
from gateway.settings.reload import read_whole
from tests.support.admin_thread import admin_thread
from tests.support.small_config import CONFIG

TABLE = """
[[routes]]
name = "wallets"
entry_modes = ["qr"]
bins = ["25-30"]
group = "wallets"

[[routes]]
name = "evenings"
bins = ["62"]
hours = [{ days = ["sat"], time = "19:00-23:00" }]
time_zone = "Asia/Shanghai"
amount_minor_max = 50_000
group = "both"

[[routes]]
name = "everything"
group = "all"

[[groups]]
name = "wallets"
members = [{ upstream = "wallet" }]

[[groups]]
name = "both"
strategy = "weighted"
members = [{ upstream = "north", weight = 1 }, { upstream = "south", weight = 3 }]

[[upstreams]]
name = "south"
addresses = ["127.0.0.1:9102"]
dialect = "iso87_ascii"
plain = true
merchants = ["M2*"]

[[upstreams]]
name = "wallet"
addresses = ["127.0.0.1:9103"]
dialect = "iso87_ascii"
plain = true
knows_terminals = "one_by_one"
terminals_file = "wallet.csv"

[upstreams.fields]
require = [48]
"""
SATURDAY = "2026-11-21T12:00"  # 20:00 in Shanghai


class Gateway:
    def __init__(self, config: Path) -> None:
        self.config = config

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(
            build_app(), ["routes", *arguments], env={"GATEWAY_CONFIG": str(self.config)}
        )

    def explained(self, *arguments: str, status: int = 0) -> Any:
        result = self("explain", *arguments, "--json")
        assert result.exit_code == status, result.output
        return json.loads(result.stdout)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with TemporaryDirectory(prefix="gw") as name:
        config = Path(name) / "gateway.toml"
        before, found, _ = CONFIG.partition("[[routes]]")
        assert found
        config.write_text(before + TABLE)
        (Path(name) / "wallet.csv").write_text(
            "terminal_id,upstream_terminal_id,upstream_merchant_id\nR0000001,W0000001,WM1\n"
        )
        yield Gateway(config)


def test_the_route_the_upstreams_and_why(gateway: Gateway) -> None:
    found = gateway.explained(
        *("--terminal", "R1", "--merchant", "M2", "--card-bin", "621700", "--amount", "100.00"),
        *("--currency", "156", "--entry-mode", "chip", "--at", SATURDAY),
    )
    assert (found["route"], found["group"], found["strategy"]) == ("evenings", "both", "weighted")
    assert found["request"]["amount_minor"] == 10_000
    assert [step["why"] for step in found["routes"]] == [
        "it takes entry by qr, and this is by chip",
        "",
        "it fits too, but evenings comes first",
    ]
    assert [(one["upstream"], one["candidate"]) for one in found["upstreams"]] == [
        ("south", True),
        ("north", True),
    ]
    assert found["note"] == "no daemon runs on this file: how the upstreams do is not known"
    assert found["upstreams"][0]["state"] is None


def test_time_amount_and_boarding(gateway: Gateway) -> None:
    sale = ("--terminal", "R1", "--card-bin", "621700", "--amount", "100")
    assert gateway.explained(*sale, "--at", "2026-11-21T10:59")["route"] == "everything"
    assert gateway.explained(*sale, "--at", "2026-11-21T11:00")["route"] == "evenings"
    much = gateway.explained(*sale[:-1], "500.01", "--at", SATURDAY)
    assert much["routes"][1]["why"] == "amount 50001 (minor units) is over 50000"
    other = gateway.explained(*sale, "--merchant", "M1", "--at", SATURDAY)
    assert [(one["upstream"], one["why"]) for one in other["upstreams"]] == [
        ("north", ""),
        ("south", "merchant M1 is not boarded there"),
    ]


def test_under_which_name_a_terminal_goes(gateway: Gateway) -> None:
    code = ("--card-bin", "2850", "--entry-mode", "qr")
    [wallet] = gateway.explained("--terminal", "R0000001", *code)["upstreams"]
    assert (wallet["terminal_id"], wallet["merchant_id"]) == ("W0000001", "WM1")
    assert wallet["requires"] == [48]
    refused = gateway.explained("--terminal", "R0000002", *code, status=1)
    assert refused["taken"] is False
    assert refused["upstreams"][0]["why"] == "terminal R0000002 is not in its terminals_file"


def test_in_words(gateway: Gateway) -> None:
    result = gateway("explain", "--terminal", "R2", "--card-bin", "2850", "--entry-mode", "qr")
    assert result.exit_code == 1
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "wallets yes the first that fits" in lines
    assert "route wallets, group wallets (priority)" in lines
    assert "- wallet 1 ? ? terminal R2 is not in its terminals_file" in lines
    assert lines[-1] == "none of them would take it: the terminal is told 91"
    assert result.stderr == "no daemon runs on this file: how the upstreams do is not known\n"


def test_a_void_follows_its_original(gateway: Gateway) -> None:
    result = gateway("explain", "--terminal", "R1", "--kind", "void")
    assert "a void goes to the upstream that got its original" in " ".join(result.stderr.split())
    assert gateway.explained("--terminal", "R1", "--kind", "void")["follows_original"] is True
    assert gateway.explained("--terminal", "R1")["follows_original"] is False


def test_how_the_upstreams_do_is_asked_of_the_daemon(gateway: Gateway) -> None:
    sale = ("--terminal", "R0000001", "--merchant", "M2", "--card-bin", "62", "--at", SATURDAY)
    with admin_thread(gateway.config.parent / "admin") as daemon:
        found = gateway.explained(*sale, "--amount", "1")
        assert [(one["upstream"], one["state"]) for one in found["upstreams"]] == [
            ("south", "up"),
            ("north", "up"),
        ]
        assert found["daemon_version"] == "c0ffee"
        assert "the routes shown are the file's" in found["note"]
        (blocklists := gateway.config.parent / "blocklists").mkdir()
        (blocklists / "bins").write_text("622848\n")
        whole = read_whole(gateway.config, prepare)
        daemon.status["config_version"] = whole.prepared.configuration.version
        assert gateway.explained(*sale)["note"] == ""
        for upstream in daemon.status["upstreams"]:
            upstream["state"] = "down"
            upstream["why"] = "3 time-outs in a row"
        words = gateway("explain", *sale, "--amount", "1")
        assert "down" in words.stdout
        assert "3 time-outs in a row" in words.stdout
        assert gateway.explained(*sale, "--amount", "1", status=1)["taken"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--card-bin", "4111111111111111"], "a whole card number does not belong"),
        (["--card-bin", "62x"], "the first digits"),
        (["--amount", "ten"], "is no amount"),
        (["--amount", "1.001"], "with 2 decimals at most"),
        (["--amount", "1.5", "--currency", "392"], "with 0 decimals at most"),
        (["--currency", "cny"], "is no currency"),
        (["--at", "soon"], "is no time"),
        (["--kind", "gift"], "gift"),
        (["--entry-mode", "smell"], "smell"),
    ],
)
def test_wrong_usage(gateway: Gateway, arguments: list[str], words: str) -> None:
    result = gateway("explain", "--terminal", "R1", *arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.replace("│", " ").split())


def test_a_configuration_that_cannot_be_used(gateway: Gateway) -> None:
    gateway.config.write_text(gateway.config.read_text().replace('"both"', '"bth"', 1))
    result = gateway("explain", "--terminal", "R1")
    assert result.exit_code == 1
    assert 'no group is named "bth"' in result.stderr


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [("100", "", 10_000), ("0.01", "978", 1), ("150", "392", 150), ("1.234", "048", 1_234)],
)
def test_amounts_are_in_the_units_of_their_currency(
    gateway: Gateway, amount: str, currency: str, minor: int
) -> None:
    found = gateway.explained("--terminal", "R1", "--amount", amount, "--currency", currency)
    assert found["request"]["amount_minor"] == minor


def test_the_list(gateway: Gateway) -> None:
    result = gateway("list", "--json")
    assert result.exit_code == 0
    routes = json.loads(result.stdout)["routes"]
    assert [one["route"] for one in routes] == ["wallets", "evenings", "everything"]
    assert routes[1]["fits"] == {
        "bins": "62",
        "amount_minor_max": "50000",
        "hours": "sat 19:00-23:00 (Asia/Shanghai)",
    }
    lines = [" ".join(line.split()) for line in gateway("list").stdout.splitlines()]
    assert lines[0] == "route group strategy upstreams fits"
    assert lines[1] == "wallets wallets priority wallet bins: 25-30; entry_modes: qr"
    assert lines[2].startswith("evenings both weighted north x1, south x3 bins: 62; amount")
    assert lines[3] == "everything all priority north everything"
