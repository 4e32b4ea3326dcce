"""`gateway status`: what it prints, and the exit status a script can go by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.main import build_app
from gateway.cli.status import notices_of, problems_of
from tests.support.admin_thread import AdminThread, a_status, admin_thread


@pytest.fixture
def config() -> Iterator[Path]:
    with TemporaryDirectory(prefix="gw") as name:
        file = Path(name) / "gateway.toml"
        file.write_text('[node]\nadmin_socket = "run/admin"\n')
        yield file


@pytest.fixture
def daemon(config: Path) -> Iterator[AdminThread]:
    with admin_thread(config.parent / "run" / "admin") as running:
        yield running


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(build_app(), ["status", *map(str, arguments)])


def test_all_is_well(config: Path, daemon: AdminThread) -> None:
    result = invoke("--config", config)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == (
        "till-side: version 0.1.0, configuration c0ffee, up 1 d 2 h "
        "(since 2026-01-01T00:00:00.000Z)"
    )
    rows = [line.split() for line in lines]
    assert ["tls", "127.0.0.1:9443", "mutual-tls", "3", "100"] in rows
    assert ["north", "up", "2/2", "1", "2026-01-01T00:00:02.000Z"] in [row[:5] for row in rows]
    assert "store         sqlite, healthy, 4 of 1000 queued" in lines
    assert "transactions  5 of 5000 under way" in lines
    assert "reversals     6 owed, 0 given up" in lines
    assert lines[-1].endswith("certificate_expiring [red]server.crt[/red] ends in 9 days")


def test_json(config: Path, daemon: AdminThread) -> None:
    result = invoke("--json", "--config", config)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"running": True, "problems": [], **a_status()}


def test_something_is_wrong(config: Path, daemon: AdminThread) -> None:
    daemon.status["upstreams"][0] |= {"state": "down", "links_up": 0, "why": "Connection refused"}
    daemon.status["store"] |= {"healthy": False, "last_error": "disk full"}
    result = invoke("--config", config)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "upstream north is down since 2026-01-01T00:00:02.000Z (1 pending): Connection refused",
        "the store fails: disk full",
    ]
    assert json.loads(invoke("--json", "-c", config).stdout)["problems"] == (
        result.stderr.splitlines()
    )


@pytest.mark.parametrize(
    ("states", "problems", "notices"),
    [
        (("up", "up"), [], []),
        (("suspect", "up"), [], ["north is suspect"]),
        (("down", "probing"), ["north is down"], ["south is probing"]),
        (("up", "drained"), [], ["south is drained"]),
        (("draining", "disabled"), ["no upstream"], ["north is draining", "south is disabled"]),
        (("down", "disabled"), ["north is down", "no upstream"], ["south is disabled"]),
    ],
)
def test_what_counts_as_wrong_and_what_is_only_to_be_known(
    states: tuple[str, ...], problems: list[str], notices: list[str]
) -> None:
    status = a_status()
    for upstream, state in zip(status["upstreams"], states, strict=True):
        upstream["state"] = state
    found = [line.removeprefix("upstream ") for line in problems_of(status)]
    assert [line[: len(start)] for line, start in zip(found, problems, strict=True)] == problems
    found = [line.removeprefix("upstream ") for line in notices_of(status)]
    assert [line[: len(start)] for line, start in zip(found, notices, strict=True)] == notices


def test_what_an_operator_has_set_is_said_and_is_no_fault(
    config: Path, daemon: AdminThread
) -> None:
    daemon.status["upstreams"][0] |= {
        "state": "drained",
        "control": "drained",
        "pending": 0,
        "why": "by alice: their maintenance",
    }
    result = invoke("--config", config)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "upstream north is drained since 2026-01-01T00:00:02.000Z: by alice: their maintenance"
    ]


def test_no_daemon(config: Path) -> None:
    result = invoke("--config", config)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"gateway: the daemon is not running: no socket at {config.parent / 'run' / 'admin'}; "
        f"start it with `gateway run --config {config}`\n"
    )
    result = invoke("--json", "--config", config)
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["running"] is False
    assert "not running" in answer["problems"][0]


def test_a_daemon_can_be_asked_while_its_next_configuration_is_wrong(
    config: Path, daemon: AdminThread
) -> None:
    config.write_text('[node]\nadmin_socket = "run/admin"\nnonsense = 1\n[listeners]\n')
    assert invoke("--config", config).exit_code == 0


@pytest.mark.parametrize("text", ["", "[node]\nadmin_socket = 3\n", "node = 1", "[[[", "[node]\n"])
def test_a_configuration_that_names_no_socket(config: Path, text: str) -> None:
    config.write_text(text)
    result = invoke("--config", config)
    assert result.exit_code == 1
    assert result.stderr.startswith("gateway: the configuration cannot be used:\n")
    assert f"{config}:" in result.stderr
    assert "Traceback" not in result.output


def test_a_daemon_that_fails(config: Path, daemon: AdminThread) -> None:
    daemon.status = {"bad": object()}  # type: ignore[typeddict-item, typeddict-unknown-key]
    result = invoke("--config", config)
    assert result.exit_code == 1
    told = "gateway: the daemon failed at this: admin_failed in its log says where\n"
    assert result.stderr == told
