"""`gateway terminals`, through a running daemon and without one: the same commands, one code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli import reach
from gateway.cli.main import build_app
from tests.support.admin_thread import admin_thread
from tests.support.small_config import CONFIG

SHA = "ab" * 32


class Gateway:
    """Invokes the command line on one configuration."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.folder = config.parent

    def __call__(self, *arguments: object, input: str | None = None) -> Result:  # noqa: A002
        return CliRunner().invoke(
            build_app(),
            ["terminals", *map(str, arguments)],
            input=input,
            env={"GATEWAY_CONFIG": str(self.config)},
        )

    def json(self, *arguments: object) -> Any:
        result = self(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def refused(self, *arguments: object, input: str | None = None) -> str:  # noqa: A002
        result = self(*arguments, input=input)
        assert result.exit_code == 1, result.output
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        return result.stderr


@pytest.fixture(params=["through the daemon", "in the store"])
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    with TemporaryDirectory(prefix="gw") as name:
        config = Path(name) / "gateway.toml"
        config.write_text(CONFIG)
        if request.param == "in the store":
            yield Gateway(config)
            return
        with admin_thread(Path(name) / "admin"):
            yield Gateway(config)


def test_a_devices_life(gateway: Gateway) -> None:
    enrolled = gateway("enrol", "T1", "--merchant", "M1", "--place", "Köln [Süd]", "--sha256", SHA)
    assert enrolled.exit_code == 0, enrolled.output
    assert enrolled.stdout == ""
    assert enrolled.stderr == (
        "T1 enrolled: pending, merchant M1, profile standard, activation 1\n"
    )
    assert "T1 activated: active" in gateway("activate", "T1").stderr
    assert gateway("suspend", "T1", "--reason", "seen at the wrong till").exit_code == 0
    assert gateway.json("resume", "T1")["state"] == "active"
    assert gateway.json("bind", "T1", "--sha256", "cd" * 32)["activation"] == 2
    shown = gateway("show", "T1")
    assert "place                   Köln [Süd]\n" in shown.stdout
    assert "last seen               -\n" in shown.stdout
    assert "activation              2\n" in shown.stdout
    assert "from rule               no\n" in shown.stdout
    assert gateway.json("show", "R0000002")["from_rule"] is True


def test_enrolling_and_activating_at_once(gateway: Gateway) -> None:
    assert gateway.json("enrol", "T1", "--merchant", "M1", "--activate")["state"] == "active"


def test_refusals_are_one_line(gateway: Gateway) -> None:
    gateway("enrol", "T1", "--merchant", "M1")
    assert gateway.refused("enrol", "T1", "--merchant", "M1").startswith(
        "gateway: T1 is enrolled already"
    )
    assert gateway.refused("resume", "T1").startswith(
        "gateway: T1 is pending: it cannot resume; what can be done is: activate, "
    )
    assert "no device T9" in gateway.refused("show", "T9")
    assert "no terminal id" in gateway.refused("show", "T23456789")
    assert "no profile 'x' in the configuration; there are: standard" in gateway.refused(
        "enrol", "T2", "--merchant", "M", "--profile", "x"
    )
    assert "no SHA-256" in gateway.refused("bind", "T1", "--sha256", "12")
    assert gateway("bind", "T1").exit_code == 2


def test_lists(gateway: Gateway) -> None:
    rows = "".join(f"T{n:04},M{n}\n" for n in range(600))
    file = gateway.folder / "devices.csv"
    file.write_text("terminal_id,merchant_id\n" + rows)
    assert gateway.json("import", file) == {"added": 600, "completed": 0, "unchanged": 0}
    gateway("activate", "T0007")
    found = gateway.json("list")
    assert [device["terminal_id"] for device in found["devices"]] == [
        f"T{n:04}" for n in range(600)
    ]
    assert found["rules"] == [
        {"terminals": "R0000001-R0000003", "count": 3, "merchant_id": "*", "profile": "standard"}
    ]
    listed = gateway("list", "--state", "active")
    assert listed.stdout.splitlines()[0].split() == [
        "terminal",
        "merchant",
        "state",
        "profile",
        "last",
        "seen",
        "place",
    ]
    assert listed.stdout.splitlines()[1].split() == ["T0007", "M7", "active", "standard", "-", "-"]
    assert listed.stderr.startswith("1 devices\nand by rule: R0000001-R0000003 (3 ids")
    assert gateway.json("list", "--silent-for", "24h")["devices"] == []
    assert len(gateway.json("list", "--silent-for", "0s", "--state", "pending")["devices"]) == 599


def test_export_and_import(gateway: Gateway) -> None:
    gateway("enrol", "T1", "--merchant", "M1", "--place", 'a "b", c')
    gateway("suspend", "R0000001")
    exported = gateway("export")
    assert exported.exit_code == 0
    assert exported.stdout.splitlines()[1:] == [
        "R0000001,*,suspended,standard,,,,,,,,",
        'T1,M1,pending,standard,,,"a ""b"", c",,,,,',
    ]
    file = gateway.folder / "out.csv"
    assert gateway("export", "--out", file).stdout == ""
    assert file.read_text() == exported.stdout
    again = gateway("import", file)
    assert again.stderr == "0 devices added, 0 completed, 2 unchanged\n"
    piped = gateway("import", "-", "--merchant", "M2", "--activate", input="terminal_id\nT2\n")
    assert piped.stderr == "1 devices added, 0 completed, 0 unchanged\n"
    assert gateway.json("show", "T2")["state"] == "active"
    assert "cannot be written" in gateway.refused("export", "--out", gateway.folder / "no" / "f")


def test_what_certs_issue_writes(gateway: Gateway) -> None:
    issued = f"terminal_id,merchant_id,certificate_sha256\nT1,,{SHA}\n"
    words = gateway.refused("import", "-", input=issued)
    assert words == (
        "gateway: nothing was imported, 1 row is wrong:\n"
        "  line 2: the merchant is missing: give merchant_id, or --merchant for all\n"
    )
    assert gateway("import", "-", "--merchant", "M1", input=issued).exit_code == 0
    assert gateway.json("show", "T1")["certificate_sha256"] == SHA


def test_a_file_that_is_no_text(gateway: Gateway) -> None:
    file = gateway.folder / "bad.csv"
    file.write_bytes("terminal_id,place\nT1,Köln\n".encode("latin-1"))
    assert "line 2 is not UTF-8" in gateway.refused("import", file)
    assert gateway("import", gateway.folder / "none.csv").exit_code == 2


def test_without_a_daemon_the_configuration_must_be_right(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(CONFIG.replace('group = "all"', 'group = "none"'))
    words = Gateway(config).refused("list")
    assert words.startswith("gateway: the configuration cannot be used:\n")
    assert "none" in words


def test_the_store_is_closed_again(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(CONFIG)

    async def twice(run: reach.Run) -> list[str]:
        await run("enrol", {"terminal_id": "T1", "merchant_id": "M1"})
        page = await run("list", {})
        return [device["terminal_id"] for device in page["devices"]]

    assert reach.with_terminals(config, twice) == ["T1"]

    async def again(run: reach.Run) -> dict[str, Any]:
        return await run("show", {"terminal_id": "T1"})

    assert reach.with_terminals(config, again)["merchant_id"] == "M1"
