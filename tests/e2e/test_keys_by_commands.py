"""Keys in a running gateway: entered, rotated and wrapped anew beside traffic that never fails."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.admin.client import AdminClient
from gateway.keys.block_ciphers import BlockCipher
from gateway.keys.check_value import check_value
from gateway.keys.records import KeyAlgorithm
from gateway.wire.message import APPROVAL_CODE, PAN, Message
from tests.support.node import RunningNode, purchase, running_node

TDES_2, TDES_3 = KeyAlgorithm.TDES_2, KeyAlgorithm.TDES_3
OTHER_PAN = "6228480000000019"


class Traffic(threading.Thread):
    """Purchases one after the other, until it is told to stop."""

    def __init__(self, node: RunningNode) -> None:
        super().__init__(daemon=True)
        self._peer = node.connect()
        self._told = threading.Event()
        self.codes: list[str] = []

    def run(self) -> None:
        stan = 500_000
        while not self._told.is_set():
            stan += 1
            self.codes.append(self._peer.ask(purchase(stan, "T0000002")).response_code)

    def end(self) -> list[str]:
        self._told.set()
        self.join(20)
        return self.codes


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    with running_node(tmp_path / "node") as node:
        yield node


def keys(node: RunningNode, *arguments: str, expect: int = 0) -> Any:
    out = node.run("keys", *arguments, "--json", "--config", str(node.config), expect=expect)
    return json.loads(out) if out else None


def component_files(folder: Path, clear: bytes, algorithm: KeyAlgorithm) -> tuple[list[str], ...]:
    one = os.urandom(len(clear))
    other = bytes(a ^ b for a, b in zip(one, clear, strict=True))
    options: list[str] = []
    for number, part in enumerate((one, other)):
        file = folder / f"component{number}"
        file.write_text(f"{part.hex()}\n{check_value(algorithm, part).hex()}\n")
        file.chmod(0o600)
        options += ["--component-file", str(file)]
    return options, [one.hex(), other.hex(), clear.hex()]


def name_next_key(node: RunningNode, folder: Path) -> None:
    """What the key-encryption key is to be changed to, taken up while the node runs."""
    secret = folder / "next"
    secret.write_text("a passphrase of the next key\n")
    secret.chmod(0o600)
    table = f'kek_next = {{ source = "passphrase", passphrase_file = "{secret}" }}'
    text = node.config.read_text().replace("create = true", f"create = true\n{table}")
    node.config.write_text(text)
    node.run("reload", "--config", str(node.config))


def stored(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_keys_beside_traffic(node: RunningNode, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    zone = os.urandom(24)
    options, secrets = component_files(elsewhere, zone, TDES_3)
    first = purchase(1)
    before = node.connect().ask(first)
    assert before.response_code == "00"
    traffic = Traffic(node)
    traffic.start()

    entered = keys(
        node, "import", "transport:maker", "zone-master", "--algorithm", "TDES-3", *options
    )
    assert entered["check_value"] == check_value(TDES_3, zone).hex().upper()
    cipher = BlockCipher(TDES_3, zone)
    masters = {f"T{number:07}": os.urandom(16) for number in range(300)}
    file = elsewhere / "masters.csv"
    file.write_text(
        "".join(
            f"{name},{cipher.encrypt(key).hex()},{check_value(TDES_2, key).hex()}\n"
            for name, key in masters.items()
        )
    )
    bulk = ("import-many", str(file), "--under", "transport:maker", "--algorithm", "TDES-2")
    assert keys(node, *bulk)["keys"] == 300
    assert keys(node, *bulk)["unchanged"] == 300
    assert keys(node, "rotate", "store-data")["version"] == 2
    client = AdminClient(node.folder / "gateway.sock", config=node.config)
    for own in ("card-token", "content"):
        assert client.run("keys", "rotate", {"owner": "gateway", "purpose": own})["version"] == 2
    name_next_key(node, elsewhere)
    done = keys(node, "rewrap")
    assert done["keys"] == 301
    found = keys(node, "check")
    assert found["problems"] == []
    assert found["under"] == {done["kek"]: 301 + 6}

    codes = traffic.end()
    assert set(codes) == {"00"}
    assert len(codes) > 20
    # A repeat from before the rotations finds its answer; with another card it is another request.
    repeat = node.connect()
    assert repeat.ask(first).get(APPROVAL_CODE) == before.get(APPROVAL_CODE) != ""
    other = Message(first.mti, {**first.fields, PAN: OTHER_PAN})
    assert repeat.ask(other).response_code == "94"

    keys(node, "destroy", "terminal:T0000001", "--yes")
    assert node.wait_for_event("key_destroyed")["key"] == "terminal:T0000001/terminal-master.1"
    # It starts with the next key alone.
    node.stop()
    text = node.config.read_text()
    node.config.write_text(text.replace("kek_next", "kek"))
    node.start()
    assert keys(node, "check")["problems"] == []
    assert node.connect().ask(purchase(2)).response_code == "00"

    secrets += [key.hex() for key in masters.values()]
    for name, content in stored(node.folder).items():
        for secret in secrets:
            assert bytes.fromhex(secret) not in content, name
            assert secret.encode() not in content.lower(), name


def test_a_blocked_card_stays_blocked_when_its_token_is_of_a_former_key(node: RunningNode) -> None:
    peer = node.connect()
    assert peer.ask(purchase(10)).response_code == "00"
    token = token_of(node)
    node.run(*("block", "card", token, "--reason", "test", "--yes", "--config", str(node.config)))
    assert peer.ask(purchase(11)).response_code == "62"
    keys(node, "rotate", "card-token")
    assert peer.ask(purchase(12)).response_code == "62"
    other = purchase(13)
    other = Message(other.mti, {**other.fields, PAN: OTHER_PAN})
    assert node.connect().ask(other).response_code == "00"


def token_of(node: RunningNode) -> str:
    """What a list has in place of the card of `purchase`."""
    client = AdminClient(node.folder / "gateway.sock", config=node.config)
    return str(client.run("blocklists", "token", {"card_number": purchase(1).pan})["token"])
