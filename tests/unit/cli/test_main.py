"""The command line as a whole: help, version, exit statuses, and what it does not load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gateway import __version__
from gateway.cli import output
from gateway.cli.main import _COMMANDS, build_app

ROOT = Path(__file__).parents[3]


def gateway(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "gateway", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_names_every_command_and_loads_none() -> None:
    result = CliRunner().invoke(build_app(), ["--help"])
    assert result.exit_code == 0
    for name, command in _COMMANDS.items():
        assert name in result.stdout
        assert command.help in result.stdout
    code = (
        "import sys; sys.argv = ['gateway', '--help']\n"
        "from gateway.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'trio', 'pydantic', 'cryptography', 'apsw', 'hypercorn', 'starlette'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr


@pytest.mark.parametrize("name", ["status", "terminals"])
def test_each_command_has_help(name: str) -> None:
    result = CliRunner().invoke(build_app(), [name, "--help"])
    assert result.exit_code == 0
    assert "--help" in result.stdout


def test_version() -> None:
    done = gateway("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"gateway {__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("dance",),
        ("--dance",),
        ("status", "--dance"),
        ("status", "--config", "no-such-file.toml"),
        ("terminals",),
        ("terminals", "show"),
        ("terminals", "list", "--silent-for", "soon"),
        ("terminals", "list", "--state", "dancing"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text('[node]\nadmin_socket = "admin"\n')
    result = CliRunner().invoke(build_app(), arguments, env={"GATEWAY_CONFIG": str(config)})
    assert result.exit_code == 2, result.output


def test_failure_exits_with_1_and_one_line(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text('[node]\nadmin_socket = "admin"\n')
    done = gateway("status", GATEWAY_CONFIG=str(config))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gateway: the daemon is not running")
    assert done.stderr.count("\n") == 1


def test_no_colours_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert output.words().is_terminal
    assert not output.words().no_color
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.words().no_color
    assert output.data().no_color


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45s", 45),
        ("30m", 1_800),
        ("24h", 86_400),
        ("7d", 604_800),
        ("1h30m", 5_400),
        ("1.5h", 5_400),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert output.duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "24", "h", "1x", "1h 30m x", "-1h", "1e3s"])
def test_no_durations(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no duration"):
        output.duration_s(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (61, "1 min 1 s"), (3_600, "1 h"), (93_784, "1 d 2 h"), (700_000, "8 d 2 h")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert output.duration_words(seconds) == words
