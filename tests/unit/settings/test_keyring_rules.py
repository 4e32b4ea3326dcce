from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings.loader import read
from tests.support.small_config import CONFIG

KEYS = '[keys]\nkeyring = "keyring.json"\n'


def findings(folder: Path, keys: str, *, production: bool = False) -> list[str]:
    file = folder / "gateway.toml"
    text = CONFIG.replace(KEYS, KEYS + keys)
    if production:
        text = text.replace("[node]", "[node]\nproduction = true")
        text = text.replace('macs = "by_profile"\n', "")
    file.write_text(text)
    found = read(file).findings.in_order()
    return [str(one) for one in found if one.path.startswith("keys")]


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ('kek = { source = "moon" }', '"passphrase", "components"'),
        ('kek = { source = "components", passphrase_file = "p" }', "is not used: source is"),
        ('kek = { source = "components", component_files = ["a"] }', "names one file"),
        ('kek = { source = "pkcs11", token_label = "t" }', "pkcs11_module must be written"),
        ('kek = { source = "passphrase", scrypt_log2_n = 30 }', "scrypt_log2_n"),
        ('kek_next = { source = "passphrase", pin_file = "p" }', "is not used"),
    ],
)
def test_a_source_has_what_it_needs_and_nothing_else(
    tmp_path: Path, keys: str, reason: str
) -> None:
    found = findings(tmp_path, keys)
    assert any(reason in one for one in found), found


@pytest.mark.parametrize(
    "keys",
    [
        "",
        'kek = { source = "passphrase", passphrase_file = "p", scrypt_log2_n = 18 }',
        'kek = { source = "components" }',
        'kek = { source = "components", component_files = ["a", "b"] }',
        'kek = {source="pkcs11", token_label="t", key_label="k", pin_file="p", pkcs11_module="m"}',
    ],
)
def test_what_is_right(tmp_path: Path, keys: str) -> None:
    assert findings(tmp_path, keys) == []


def test_what_production_asks_for(tmp_path: Path) -> None:
    found = findings(tmp_path, "create = true", production=True)
    assert any("does not make its own keyring" in one for one in found)
    assert any("write a [keys.kek] table" in one for one in found)
    assert findings(tmp_path, 'kek = { source = "components" }', production=True) == []
