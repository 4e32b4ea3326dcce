"""A node is backed up under load, dies, and goes on elsewhere from its backup."""

from __future__ import annotations

import gzip
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from shutil import copy
from typing import Any

import pytest

from gateway.wire.message import Message
from tests.support.canaries import search, search_files
from tests.support.node import PATIENT, RunningNode, purchase, running_node, wait_for


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    with running_node(tmp_path / "node", answer_s=30.0, upstream_more=PATIENT) as running:
        yield running


def test_a_node_goes_on_elsewhere_from_a_backup(node: RunningNode, tmp_path: Path) -> None:
    shop = node.connect()
    known = purchase(1, "T0000101")
    first = shop.ask(known)
    assert first.response_code == "00"
    file = tmp_path / "backup.tar.gz"

    # One purchase is under way at the backup: its answer is never known.
    node.switch("mute=true")
    received = node.received()
    node.connect().send(purchase(1, "T0000301"))
    node.wait_until_received(received + 1)
    node.switch("mute=false")
    with load(node) as served:
        wait_for(lambda: len(served) > 20, "some purchases before the backup")
        before = len(served)
        view = command(node, "backup", str(file))
        wait_for(lambda: len(served) > before + 20, "some purchases after the backup")
    assert set(served) == {"00"}
    assert view["open_intents"] >= 1
    assert view["transactions"] > 0
    assert file.stat().st_mode & 0o777 == 0o600
    # What the backup does not know: a sale of the gap, approved.
    lost = purchase(2, "T0000101")
    assert shop.ask(lost).response_code == "00"
    node.kill()

    assert_nothing_secret(node, file)
    node.run("backup", "verify", str(file))
    elsewhere = tmp_path / "elsewhere"
    dry = json.loads(node.run("restore", str(file), "--to", str(elsewhere), "--dry-run", "--json"))
    assert not elsewhere.exists()
    assert dry["open_intents"] == view["open_intents"]
    done = json.loads(node.run("restore", str(file), "--to", str(elsewhere), "--yes", "--json"))
    assert done["under_way"] == done["reversals_marked"] == view["open_intents"]
    # It does so once: a live store is not overwritten.
    node.run("restore", str(file), "--to", str(elsewhere), "--yes", expect=1)

    with going_on(node, elsewhere) as new:
        # What was owed is delivered beside the new traffic.
        new.wait_for_event("reversal_done", count=view["open_intents"])
        shop = new.connect()
        again = shop.ask(known.changed({}, mti="0201"))
        assert (again.response_code, again.rrn) == (first.response_code, first.rrn)
        assert again.get(38) == first.get(38)
        assert shop.ask(lost.changed({}, mti="0201")).response_code == "96"
        taken_back = reversal_of(lost)
        assert shop.ask(taken_back).response_code == "96"
        assert shop.ask(taken_back).response_code == "96"
        assert shop.ask(purchase(3, "T0000101")).response_code == "00"
        assert_stans_ahead(new, done["stans"]["acquirer"])

        lines = {one["what"]: one for one in command(new, "restore", "gap", "list")["lines"]}
        assert set(lines) == {"under_way", "repeat", "reversal"}
        assert (lines["reversal"]["stan"], lines["reversal"]["count"]) == ("000002", 2)
        number = str(lines["reversal"]["number"])
        settled = ("--reason", "reversed by hand", "--yes")
        assert command(new, "restore", "gap", "resolve", number, *settled)["state"] == "resolved"
        assert shop.ask(taken_back).response_code == "00"

        new.run("audit", "verify", "--config", str(new.config))
        actions = [
            (one["action"], one["outcome"])
            for one in command(new, "audit", "list", "--limit", "1000")["records"]
        ]
        assert ("restore", "begun") in actions
        assert ("restore", "done") in actions
        assert ("restore.resolve", "done") in actions
        # A backup of what was restored is one as well.
        command(new, "backup", str(tmp_path / "second.tar.gz"))
    assert search_files(elsewhere) == []


def test_a_backup_without_a_daemon_and_to_standard_output(
    node: RunningNode, tmp_path: Path
) -> None:
    assert node.connect().ask(purchase(1)).response_code == "00"
    assert node.stop() == 0
    view = command(node, "backup", str(tmp_path / "still.tar.gz"))
    assert (view["transactions"], view["open_intents"]) == (1, 0)
    node.run("backup", str(tmp_path / "still.tar.gz"), "--config", str(node.config), expect=1)
    # In place: where the configuration that is there says.
    for name in ("gateway.db", "keyring.json"):
        (node.folder / name).rename(tmp_path / name)
    node.run("restore", str(tmp_path / "still.tar.gz"), "--config", str(node.config), "--yes")
    node.start()
    assert node.connect().ask(purchase(2)).response_code == "00"


# --- the pieces -----------------------------------------------------------------------------------


def command(node: RunningNode, *arguments: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        node.run(*arguments, "--json", "--config", str(node.config))
    )
    return answer


@contextmanager
def load(node: RunningNode) -> Iterator[list[str]]:
    """Purchases, one after the other, as long as the block runs; yields their answers' codes."""
    codes: list[str] = []
    over = threading.Event()
    peer = node.connect()

    def run() -> None:
        stan = 0
        while not over.is_set():
            stan += 1
            codes.append(peer.ask(purchase(stan, "T0000202")).response_code)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield codes
    finally:
        over.set()
        thread.join()


@contextmanager
def going_on(node: RunningNode, folder: Path) -> Iterator[RunningNode]:
    """A gateway on what was restored, with the same acquirer; what a backup never holds is brought
    from where it is kept."""
    copy(node.folder / "certs" / "server.key", folder / "certs" / "server.key")
    for secret in node.folder.glob("*.passphrase"):
        copy(secret, folder / secret.name)
    new = RunningNode(folder)
    new.plain, new.tls, new.mall, new.metrics = node.plain, node.tls, node.mall, node.metrics
    new.acquirer_folder = node.acquirer_folder
    try:
        new.start()
        yield new
        assert new.stop() == 0
    finally:
        new.close()


def reversal_of(request: Message) -> Message:
    kept = {
        n: v for n, v in request.fields.items() if n in (2, 3, 4, 7, 12, 13, 22, 25, 41, 42, 49)
    }
    original = f"0200{request.stan}{request.get(7)}".ljust(42, "0")
    return Message("0400", kept | {11: "000900", 39: "68", 90: original})


def assert_stans_ahead(node: RunningNode, highest: int) -> None:
    with closing(sqlite3.connect(node.folder / "gateway.db")) as database:
        [(newest,)] = database.execute(
            "SELECT upstream_stan FROM transactions ORDER BY transaction_id DESC LIMIT 1"
        )
    assert newest > highest + 50_000 - 1_000


def assert_nothing_secret(node: RunningNode, file: Path) -> None:
    content = gzip.decompress(file.read_bytes())
    assert search("the backup", content) == []
    assert b"PRIVATE KEY" not in content
    for secret in node.folder.glob("*.passphrase"):
        assert secret.read_bytes().strip() not in content
