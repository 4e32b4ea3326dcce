"""What can be wrong with an upstream's network messages and health, each on its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings.findings import Finding, SettingsError
from gateway.settings.loader import load
from tests.unit.settings.test_route_rules import SOUND

PLACE = "#upstream\n"


def findings(folder: Path, text: str) -> list[Finding]:
    file = folder / "gateway.toml"
    assert SOUND.count(PLACE) == 1
    file.write_text(SOUND.replace(PLACE, text + "\n"), encoding="utf-8")
    try:
        return list(load(file).warnings)
    except SettingsError as error:
        return list(error.findings)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[upstreams.network]\nsign_on = true\nfields = ["41=GATEWAY1", "32=00000000001"]',
        '[upstreams.network]\nstyle = "unionpay"\nsign_on_code = "004"\nbatch = "000123"',
        "[upstreams.network]\necho = false\nprove = false",
        "[upstreams.health]\nsuspect_min_s = 0.05\neject_first_s = 5.0\neject_max_s = 5.0",
    ],
)
def test_what_is_sound(text: str, tmp_path: Path) -> None:
    assert findings(tmp_path, text) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[upstreams.network]\necho = false", "write prove = false too"),
        ("[upstreams.network]\nfields = ['11=000001']", "sets DE11"),
        ("[upstreams.network]\nfields = ['129=X']", "sets field 129"),
        ("[upstreams.network]\nfields = ['64=X']", "sets field 64"),
        ("[upstreams.network]\nfields = ['35=X']", "sets card data"),
        ("[upstreams.network]\nfields = ['41=A', '41=B']", "sets field 41 once more"),
        ("[upstreams.network]\nfields = ['DE41=A']", "NUMBER=TEXT in quotes"),
        ("[upstreams.network]\nbatch = '12'", "six digits in quotes"),
        ("[upstreams.network]\nsign_on_code = '1'", "three digits in quotes"),
        ("[upstreams.health]\neject_max_s = 0.5", "eject_max_s (0.5) is shorter than"),
        ("[upstreams.health]\nsuspect_min_s = 3.0", "suspect_max_s (2) is shorter than"),
        ("[upstreams.health]\nbad_share = 2.0", "to 1"),
    ],
)
def test_what_is_wrong(text: str, words: str, tmp_path: Path) -> None:
    found = [str(one) for one in findings(tmp_path, text) if one.severity == "error"]
    assert any(words in one for one in found), found
    line = SOUND[: SOUND.index(PLACE)].count("\n") + 2
    assert f"gateway.toml:{line}" in found[0]
