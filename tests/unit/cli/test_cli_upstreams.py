"""`gateway upstreams`: what it prints and asks, and the exit status a script can go by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.main import build_app
from gateway.cli.upstreams import _wait
from tests.support.admin_thread import AdminThread, admin_thread


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


def invoke(config: Path, *arguments: str, **how: Any) -> Result:
    return CliRunner().invoke(
        build_app(), ["upstreams", *arguments, "--config", str(config)], **how
    )


def shown(config: Path, name: str = "north") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(invoke(config, "show", name, "--json").stdout)
    return found


def test_a_list_has_one_line_for_each(config: Path, daemon: AdminThread) -> None:
    result = invoke(config, "list")
    assert result.exit_code == 0, result.output
    heading, north, south = result.stdout.splitlines()
    assert heading.split()[:6] == ["upstream", "state", "since", "links", "pending", "p50"]
    assert north.split()[:2] == ["north", "up"]
    assert "1/1" in north.split()
    assert "0/5000" in north.split()
    assert north.rstrip().endswith("it has a link that may be used")
    assert south.split()[:2] == ["south", "up"]
    assert "\x1b" not in result.stdout
    found = json.loads(invoke(config, "list", "--json").stdout)
    assert [one["name"] for one in found["upstreams"]] == ["north", "south"]


def test_one_is_shown_with_its_links(config: Path, daemon: AdminThread) -> None:
    result = invoke(config, "show", "north")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("north is up for ")
    assert "links            1 of 1 up" in lines
    assert "latency          no answer yet" in lines
    assert "reversals owed   0" in lines
    assert lines[-1].split()[:3] == ["north/127.0.0.1:1/1", "ready", "up"]
    result = invoke(config, "show", "nroth")
    assert result.exit_code == 1
    assert result.stderr == "gateway: there is no upstream 'nroth'; there are: north, south\n"


def test_drained_and_taken_back(config: Path, daemon: AdminThread) -> None:
    result = invoke(config, "drain", "north", "--reason", "their maintenance")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == (
        "north is drained: nothing is pending, and its links are closed"
    )
    found = shown(config)
    assert found["state"] == "drained"
    assert found["why"].endswith(": their maintenance")
    again = invoke(config, "drain", "north")
    assert again.exit_code == 0
    assert "nothing to do: north is drained, by " in again.stderr
    refused = invoke(config, "enable", "north")
    assert refused.exit_code == 1
    assert "use `gateway upstreams resume north`" in refused.stderr
    result = invoke(config, "resume", "north", "--wait", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["state"] == "up"
    assert shown(config)["links_up"] == 1


def test_the_last_one_is_drained_only_after_asking(config: Path, daemon: AdminThread) -> None:
    assert invoke(config, "drain", "south", "--json").exit_code == 0
    result = invoke(config, "drain", "north")
    assert result.exit_code == 2
    assert "--yes is needed" in result.stderr
    assert shown(config)["control"] == "enabled"
    assert invoke(config, "drain", "north", "--yes", "--no-wait").exit_code == 0
    assert shown(config)["control"] == "drained"


@pytest.mark.parametrize("command", ["disable", "reconnect"])
def test_what_puts_requests_in_doubt_asks(config: Path, daemon: AdminThread, command: str) -> None:
    result = invoke(config, command, "north")
    assert result.exit_code == 2
    assert "comes into doubt" in " ".join(result.stderr.replace("│", "").split())
    assert shown(config)["each_link"][0]["attempts"] == 1
    result = invoke(config, command, "north", "--yes", "--reason", "stuck")
    assert result.exit_code == 0, result.output
    if command == "disable":
        assert shown(config)["state"] == "disabled"
        assert invoke(config, "enable", "north", "--wait").exit_code == 0
    else:
        assert invoke(config, command, "north", "--yes", "--wait").exit_code == 0
    assert shown(config)["state"] == "up"


def test_what_does_not_come_up_within_its_time_is_exit_status_1(
    config: Path, daemon: AdminThread
) -> None:
    assert invoke(config, "drain", "north").exit_code == 0
    daemon.acquirers["north"].refuse = True
    result = invoke(config, "resume", "north", "--wait", "--within", "0.01s")
    assert result.exit_code == 1
    assert "not up within 0.01 s" in result.stderr
    assert invoke(config, "resume", "north", "--wait", "--within", "soon").exit_code == 2


def test_without_a_daemon(config: Path) -> None:
    for arguments in (["list"], ["drain", "north"], ["disable", "north", "--yes"]):
        result = invoke(config, *arguments)
        assert result.exit_code == 1
        assert "the daemon is not running" in result.stderr


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def now_s(self) -> float:
        return self.at_s

    def sleep(self, seconds: float) -> None:
        self.at_s += seconds


def a_view(pending: int, state: str = "draining") -> dict[str, Any]:
    return {"name": "north", "state": state, "pending": pending}


def test_waiting_tells_what_is_left_until_it_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    views = iter([a_view(9), a_view(9), a_view(4), a_view(0, "drained")])
    clock = Clock()
    found = _wait(
        lambda: next(views),
        lambda one: one["state"] == "drained",
        30.0,
        sleep=clock.sleep,
        now_s=clock.now_s,
    )
    assert found["pending"] == 0
    assert capsys.readouterr().err.splitlines() == [
        "north is draining: 9 pending",
        "north is draining: 4 pending",
    ]


def test_waiting_has_an_end() -> None:
    clock = Clock()
    found = _wait(lambda: a_view(1), lambda one: False, 3.0, sleep=clock.sleep, now_s=clock.now_s)
    assert found["pending"] == 1
    assert clock.at_s == pytest.approx(3.0)


def test_a_drain_that_is_not_over_in_its_time_is_exit_status_1(
    config: Path, daemon: AdminThread
) -> None:
    daemon.pend("north")
    result = invoke(config, "drain", "north", "--within", "0.01s")
    assert result.exit_code == 1
    assert "north is draining: 1 still pending" in result.stderr
    assert "not drained within 0.01 s; it goes on" in result.stderr
    result = invoke(config, "disable", "north", "--yes")
    assert result.exit_code == 0
    assert result.stderr == "north is disabled (pending then: 1)\n"
