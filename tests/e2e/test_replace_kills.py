"""SIGKILL at random points of a replacement leaves either before or after; `make replace-kills`
does it fifty times."""

from __future__ import annotations

from pathlib import Path

from tests.support.device_node import device_node
from tests.support.replace_kills import run

POINTS = 4


def test_a_kill_leaves_before_or_after(tmp_path: Path) -> None:
    with device_node(tmp_path / "node") as node:
        node.switch("checks_originals=1")
        assert run(node, POINTS, seed=8583).total() == POINTS
