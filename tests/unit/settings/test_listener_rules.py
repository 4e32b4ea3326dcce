"""What can be wrong with a listener's carriage, framing and downloads, each on its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings.findings import Finding, SettingsError
from gateway.settings.loader import load
from tests.support.small_config import CONFIG

PLACE = 'macs = "by_profile"\ndialect = "iso87_ascii"\n'
UNIONPAY = 'dialect = "unionpay_pos"\n'


def findings(folder: Path, text: str, dialect: str = 'dialect = "iso87_ascii"\n') -> list[Finding]:
    """What is found with these lines in the table of the listener."""
    file = folder / "gateway.toml"
    assert CONFIG.count(PLACE) == 1
    own = 'macs = "by_profile"\n' + dialect + text + "\n"
    file.write_text(CONFIG.replace(PLACE, own), encoding="utf-8")
    try:
        return list(load(file).warnings)
    except SettingsError as error:
        return list(error.findings)


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ('framing = { length = "binary4", frame_bytes_max = 65535 }', ""),
        ('framing = { length = "stx_bcd2" }', ""),
        ("framing = { header_bytes = 22, header_counts_itself = true }", ""),
        ('carriage = "http"', ""),
        ('carriage = "http"\nhttp = { paths = ["/unp"] }\nframing = { length = "none" }', ""),
        ('downloads = "refuse"', ""),
        ('downloads = "pass"\ndownloads_to = "north"', ""),
        ('downloads = "serve"', UNIONPAY),
    ],
)
def test_what_is_sound_on_a_listener(text: str, dialect: str, tmp_path: Path) -> None:
    found = findings(tmp_path, text, *([dialect] if dialect else []))
    assert [one for one in found if one.severity == "error"] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('framing = { length = "stx_etx", length_includes_itself = true }', "has no meaning"),
        ('framing = { length = "stx_bcd2", frame_bytes_max = 10000 }', "10000 is more than"),
        ("framing = { header_counts_itself = true }", "there is no header"),
        ('framing = { length = "none" }', "cannot be cut without"),
        ('http = { paths = ["/unp"] }', "carriage is tcp"),
        ('carriage = "http"\nhttp = { paths = ["unp"] }', "a path in quotes"),
        ('carriage = "http"\nhttp = { header_bytes_max = 10 }', "512"),
        ('downloads = "pass"', "does not say to whom"),
        ('downloads = "pass"\ndownloads_to = "south"', "no upstream is named"),
        ('downloads = "refuse"\ndownloads_to = "north"', "has no meaning"),
        ('downloads = "serve"', "no DE62 of raw bytes"),
    ],
)
def test_what_is_wrong_on_a_listener(text: str, words: str, tmp_path: Path) -> None:
    errors = [one for one in findings(tmp_path, text) if one.severity == "error"]
    assert len(errors) == 1, errors
    assert words in str(errors[0])
    assert errors[0].line > 20


def test_an_upstreams_stream_needs_lengths(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(CONFIG.replace("plain = true", 'plain = true\nframing = { length = "none" }'))
    with pytest.raises(SettingsError, match="cannot be cut without"):
        load(file)
