"""What is wrong with the settings of keys in messages, and what is told about it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from gateway.keys.mac import ALGORITHMS
from gateway.keys.message_security import KeyForm, MacScheme, PinFormat
from gateway.keys.records import KeyAlgorithm
from gateway.settings import key_rules
from gateway.settings.loader import read
from gateway.settings.schema_keys_use import (
    KeyAlgorithmName,
    KeyFormName,
    MacSchemeName,
    PinFormatName,
)
from tests.support.small_config import CONFIG


def findings(folder: Path, *, profile: str = "", upstream: str = "", text: str = CONFIG) -> str:
    text = text.replace('kinds = ["purchase"]\n', f'kinds = ["purchase"]\n{profile}\n')
    text = text.replace("plain = true\n", f"plain = true\n{upstream}\n")
    file = folder / "gateway.toml"
    file.write_text(text)
    return "\n".join(str(one) for one in read(file).findings.in_order())


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ('[profiles.keys]\nmac = "aes-cmac"\nworking = {}', "is not made with TDES-2 keys"),
        ('[profiles.keys]\nmac = "x9.19"\nworking = { purposes = ["pin"] }', 'add "mac"'),
        ('[profiles.keys]\nworking = { purposes = ["pin", "pin"] }', "a purpose twice"),
        ('[profiles.keys]\nworking = { form = "tr31-b", algorithm = "AES-128" }', "carries no AES"),
        ("[profiles.keys]\nworking = { rotate_after_h = 0.1 }", "as long as new ones"),
        ("[profiles.keys]\nworking = {}\ndata = {}", 'add "data"'),
        ("[profiles.keys]\ndata = { fields = [45] }", "is no track"),
        ('[profiles.keys]\ndata = { fields = [4], form = "whole" }', "nothing that is encrypted"),
        ('[profiles.keys]\nworking = {}\npin = { format = "4" }', "format 4 goes with AES"),
        ('[profiles.keys]\nmac_exempt = ["settlement"]', "no MAC is asked for"),
        ('[profiles.keys]\nmac = "x9.9"', 'write one of "x9.19"'),
    ],
)
def test_what_is_wrong_with_a_profile(tmp_path: Path, profile: str, words: str) -> None:
    assert words in findings(tmp_path, profile=profile)


@pytest.mark.parametrize(
    ("upstream", "words"),
    [
        ("keys = { mac_network = true }", "there is no MAC to put into them"),
        ('keys = { pin_format = "3" }', "no PIN is translated"),
        ('keys = { pin = "translate", pin_format = "4" }', "makes PIN blocks of 16 bytes"),
        ("keys = { data_fields = [55] }", "is no track"),
        ('keys = { mac = "aes-cmac", exchange = {} }', "is not made with TDES-2 keys"),
        ("keys = { exchange = { by_terminal = true } }", "the upstream knows no terminals"),
        (
            'keys = { mac = "x9.19", exchange = { purposes = ["zone-pin"] } }',
            "brings no zone-mac key",
        ),
    ],
)
def test_what_is_wrong_with_an_upstream(tmp_path: Path, upstream: str, words: str) -> None:
    assert words in findings(tmp_path, upstream=upstream)


def test_a_plain_listener_wants_macs_unless_it_says_openly_that_it_does_not(
    tmp_path: Path,
) -> None:
    silent = CONFIG.replace('macs = "by_profile"\n', "")
    assert "every financial message needs a MAC here" in findings(tmp_path, text=silent)
    assert findings(tmp_path, text=silent, profile='keys = { mac = "x9.19" }') == ""
    assert findings(tmp_path) == ""
    production = CONFIG.replace("[node]\n", "[node]\nproduction = true\n")
    assert "in any terminal's name" in findings(tmp_path, text=production)


def test_names_are_those_of_the_security_module() -> None:
    assert set(get_args(MacSchemeName)) == {one.value for one in MacScheme}
    assert set(get_args(PinFormatName)) == {one.value for one in PinFormat}
    assert set(get_args(KeyFormName)) == {one.value for one in KeyForm}
    block_keys = {one.value for one in KeyAlgorithm} - {"HMAC-SHA256"}
    assert set(get_args(KeyAlgorithmName)) == block_keys
    for scheme, algorithms in ALGORITHMS.items():
        known = key_rules._MAC_ALGORITHMS[scheme.value]
        assert known == {one.value for one in algorithms}
