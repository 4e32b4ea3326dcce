"""The example of `gateway inspect` in docs/dialects.md prints what stands there."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from gateway.cli.main import build_app

PAGE = Path(__file__).parents[3] / "docs" / "dialects.md"
PROMPT = "$ gateway "


def test_the_example_that_is_there_to_be_pasted() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(PROMPT))
    shown = lines[start + 1 : lines.index("```", start)]
    result = CliRunner().invoke(build_app(), lines[start].removeprefix(PROMPT).split())
    assert result.exit_code == 0, result.output
    assert [line.rstrip() for line in result.stdout.splitlines()] == shown
