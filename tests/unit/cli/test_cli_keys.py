"""`gateway keys` where no daemon runs: over the keyring and the store themselves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio
from typer.testing import CliRunner, Result

from gateway.cli import key_prompts
from gateway.cli.main import build_app
from gateway.errors import OperatorError
from gateway.keys.check_value import check_value
from gateway.keys.key_encryption import kek_check_value
from gateway.keys.records import KeyAlgorithm
from gateway.store.sqlite import SqliteStore
from gateway.store.store import PutUpload
from tests.support.small_config import CONFIG

MAKER = ("transport:maker", "zone-master", "--algorithm", "TDES-3")
MASTER = ("terminal:T0000001", "terminal-master", "--algorithm", "TDES-2")


class Keys:
    """Invokes `gateway keys` on one configuration."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.folder = config.parent

    def __call__(self, *arguments: object) -> Result:
        return CliRunner().invoke(
            build_app(),
            ["keys", *map(str, arguments)],
            env={"GATEWAY_CONFIG": str(self.config), "NO_COLOR": "1"},
        )

    def json(self, *arguments: object) -> Any:
        result = self(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def refused(self, *arguments: object, status: int = 1) -> str:
        result = self(*arguments)
        assert result.exit_code == status, result.output
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        return " ".join(result.stderr.split())


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    config = tmp_path / "gateway.toml"
    config.write_text(CONFIG)
    found = Keys(config)
    made = found("init", "--make-passphrase")
    assert made.exit_code == 0, made.output
    return found


def component(folder: Path, name: str, clear: bytes, algorithm: KeyAlgorithm) -> Path:
    file = folder / name
    file.write_text(f"{clear.hex()}\n{check_value(algorithm, clear).hex()}\n")
    file.chmod(0o600)
    return file


def entered(keys: Keys) -> dict[str, Any]:
    files = [
        component(keys.folder, name, os.urandom(24), KeyAlgorithm.TDES_3) for name in ("a", "b")
    ]
    options = [option for file in files for option in ("--component-file", file)]
    found = keys.json("import", *MAKER, *options)
    assert isinstance(found, dict)
    return found


def test_a_keyring_is_made_once(keys: Keys) -> None:
    assert "exists already" in keys.refused("init")
    listed = keys.json("list")["keys"]
    assert [key["key"] for key in listed] == [
        "gateway/card-token.1",
        "gateway/content.1",
        "gateway/store-data.1",
    ]
    (keys.folder / "keyring.json").unlink()
    assert "no keyring there; `gateway keys init` makes one" in keys.refused("list")


def test_a_key_is_entered_handed_on_and_destroyed(keys: Keys) -> None:
    assert entered(keys)["works"]
    made = keys.json("generate", *MASTER)
    left = keys("export", *MASTER[:2], "--under", "transport:maker")
    assert left.stdout.startswith("B0")
    assert made["check_value"] in left.stderr
    assert "the other side" not in left.stdout
    waiting = keys.json("rotate", *MASTER[:2])
    assert waiting["state"] == "pending"
    assert keys.json("activate", *MASTER[:2], 2)["works"]
    assert keys.json("rollback", *MASTER[:2])["version"] == 1
    assert "takes --yes" in keys.refused("destroy", "terminal:T0000001", status=2)
    gone = keys.json("destroy", "terminal:T0000001", "--yes", "--reason", "lost")
    assert len(gone["destroyed"]) == 2
    found = keys("check")
    assert found.exit_code == 0
    assert "0 with a problem" in found.stderr
    audit = (keys.folder / "var" / "audit").rglob("*")
    written = b"".join(file.read_bytes() for file in audit if file.is_file())
    assert b"keys.component" in written
    for name in ("a", "b"):
        secret = (keys.folder / name).read_text().split()[0]
        assert secret.encode() not in written


def test_keys_of_many(keys: Keys) -> None:
    entered(keys)
    file = keys.folder / "many.csv"
    file.write_text("T1,abcdef,000000\nT2,zz,000000\n")
    told = keys.refused("import-many", file, "--under", "transport:maker", "--algorithm", "TDES-2")
    assert "nothing was kept: line 2: the key is not hex digits" in told


def test_what_is_asked_wrongly(keys: Keys) -> None:
    assert "not both" in keys.refused("import", *MASTER, status=2)
    assert "say under whose master key" in keys.refused(
        "import", *MASTER, "--wrapped", "ab", status=2
    )
    assert "components are entered at a terminal" in keys.refused(
        "import", *MASTER, "--components", 2
    )
    assert "alone stand only store-data" in keys.refused("rotate", "mac", status=2)
    assert "owns no keys" in keys.refused("list", "nobody")


def test_own_keys_and_the_key_that_wraps_them(keys: Keys) -> None:
    assert keys.json("rotate", "card-token")["version"] == 2
    assert "there is no [keys.kek_next]" in keys.refused("rewrap")
    secret = keys.folder / "next"
    secret.write_text("the passphrase that is next\n")
    secret.chmod(0o600)
    table = 'kek_next = { source = "passphrase", passphrase_file = "next", scrypt_log2_n = 14 }'
    keyring = 'keyring = "keyring.json"\n'
    keys.config.write_text(CONFIG.replace(keyring, keyring + table + "\n"))
    done = keys.json("rewrap")
    assert done["kek"] != done["former"]
    assert keys.json("check")["under"] == {done["kek"]: 4}


def test_components_are_asked_for_without_echo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [os.urandom(32), os.urandom(32)]
    unseen = iter(["typo", parts[0].hex(), parts[1].hex()])
    checks = iter(["000000", *(kek_check_value(part) for part in parts)])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _: next(unseen))
    monkeypatch.setattr("builtins.input", lambda _: next(checks))
    found = key_prompts.ask_kek("keys.kek")
    assert [one.clear for one in found] == parts
    told = capsys.readouterr()
    assert "component 1: not hex digits" in told.err
    for part in parts:
        assert part.hex() not in told.err + told.out
    unseen = iter(["typo"] * 3)
    checks = iter(["000000"] * 3)
    with pytest.raises(OperatorError, match="component 1: not hex digits"):
        key_prompts.ask_kek("keys.kek")


def test_a_list_says_how_much_is_under_each_version_of_the_stores_key(keys: Keys) -> None:
    assert "no value in the store is sealed" in keys("list", "--values").stderr
    keys.json("rotate", "store-data")

    async def fill() -> None:
        path = keys.folder / "var/gateway.db"
        store = await SqliteStore.open(path, queue_max=10, batch_max=10, emit=lambda *_, **__: None)
        for number, version in enumerate((1, 1, 2)):
            value = b"\1" + version.to_bytes(2, "big") + bytes(40)
            await store.commit(PutUpload("T0000001", 7, f"{number:06d}", 5, value))
        await store.aclose()

    trio.run(fill)
    assert keys.json("list", "--values")["values"] == {"1": 2, "2": 1}
    assert "values" not in keys.json("list")
    told = " ".join(keys("list", "gateway", "--values").stderr.split())
    assert "2 values in the store are under gateway/store-data.1" in told
    refused = keys.refused("destroy", "gateway", "store-data", "--version", 1, "--yes")
    assert "2 values in the store are under store-data.1" in refused
