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
macs = "by_profile"
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


def test_a_card_number_in_a_blocklist_is_found_and_not_repeated(config: Path) -> None:
    lists = config.parent / "blocklists"
    lists.mkdir()
    (lists / "cards").write_text("# stolen\n4111111111111111\n")
    result = run("--config", str(config))
    assert result.exit_code == 1
    assert f"{lists / 'cards'}:2: " in result.output
    assert "4111111111111111" not in result.output
    (lists / "cards").write_text("# stolen\n")
    assert run("--config", str(config)).exit_code == 0


def test_operators_that_are_nobody(config: Path) -> None:
    config.write_text(
        SOUND.replace("[store]", 'admin_group = "no-such-group"\n[store]')
        + '[[operators]]\nname = "anna"\nusers = ["no-such-user", "1001"]\nroles = ["viewer"]\n'
    )
    result = run("--config", str(config))
    assert result.exit_code == 1
    assert 'no user "no-such-user"' in result.output
    assert 'no group "no-such-group"' in result.output
    assert '"1001"' not in result.output


def test_two_must_be_two(config: Path) -> None:
    one = '[[operators]]\nname = "anna"\nusers = ["0"]\nroles = ["admin"]\n'
    wanted = '[approvals]\nactions = ["terminals.resume"]\n'
    config.write_text(SOUND + one + wanted)
    assert "wants two operators, and there is one" in run("--config", str(config)).output
    config.write_text(SOUND + one + one.replace("anna", "ben") + wanted)
    assert '"0" is operator "anna" already' in run("--config", str(config)).output
    config.write_text(SOUND + one + one.replace("anna", "ben").replace('"0"', '"1"') + wanted)
    assert run("--config", str(config)).exit_code == 0
