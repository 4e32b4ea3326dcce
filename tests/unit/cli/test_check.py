"""`gateway check` as a command: what it prints, and how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from gateway.cli.check import check

SOUND = """\
[node]
admin_socket = "gateway.sock"
[store]
path = "gateway.db"
[keys]
keyring = "keyring.json"
create = true
[registry]
default_profile = "retail"
[[profiles]]
name = "retail"
kinds = ["purchase"]
[[listeners]]
name = "shops"
listen = "127.0.0.1:1"
security = "plain"
dialect = "iso87_ascii"
[[upstreams]]
name = "bank"
addresses = ["127.0.0.1:8101"]
dialect = "iso87_ascii"
plain = true
[[groups]]
name = "main"
members = [{ upstream = "bank" }]
[[routes]]
name = "all"
group = "main"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "gateway.toml"
    file.write_text(SOUND)
    return file


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(check)
    return CliRunner().invoke(app, arguments)


def test_warnings_alone_are_no_failure(config: Path) -> None:
    result = run("--config", str(config))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{config}:16: listeners[0].security: identity on this listener")
    assert all(line.endswith(" [warning]") for line in lines)
    assert "can be used: 0 errors, 2 warnings, version " in result.stderr


def test_errors_are_one_a_line_without_colour(config: Path) -> None:
    config.write_text(SOUND.replace("[store]", "drian_s = 1\n[store]").replace("kind", "kimd"))
    result = run("--config", str(config))
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert f"{config}:3: node.drian_s: unknown key in node; did you mean drain_s?" in lines
    assert "\x1b" not in result.stdout
    assert "cannot be used: 3 errors, 2 warnings" in result.stderr


def test_json(config: Path) -> None:
    answer = json.loads(run("--config", str(config), "--json").stdout)
    assert answer["ok"] is True
    assert len(answer["version"]) == 12
    assert {finding["severity"] for finding in answer["findings"]} == {"warning"}
    config.write_text("[node")
    result = run("--config", str(config), "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["ok"] is False
    assert set(answer["findings"][0]) == {"file", "line", "path", "problem", "remedy", "severity"}


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_a_file_that_is_none_is_wrong_usage(name: str, tmp_path: Path) -> None:
    result = run("--config", str(tmp_path / name))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "name one with --config FILE" in result.stderr


def test_an_unknown_option_is_wrong_usage() -> None:
    assert run("--confg", "x").exit_code == 2
