"""A real node: a device's life, from its enrolment to what is archived of it."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.device_node import DeviceNode, device_node, settlement, void_of
from tests.support.node import PATIENT, purchase, wait_for

CUT_WITHIN_S = 1.0  # from the command to the closed connection
A, B, C, D = "S0000001", "S0000002", "S0000003", "S0000004"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceNode]:
    folder = tmp_path_factory.mktemp("node")
    with device_node(folder, answer_s=30.0, upstream_more=PATIENT) as node:
        # Voids that name their originals otherwise than they came are not found there.
        node.switch("checks_originals=1")
        yield node


class Others:
    """Terminals that buy all the while."""

    def __init__(self, node: DeviceNode, count: int) -> None:
        self.codes: list[str] = []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._buy, args=(node, f"T000010{number}"))
            for number in range(count)
        ]

    def _buy(self, node: DeviceNode, terminal: str) -> None:
        peer = node.connect()
        stan = 0
        while not self._over.is_set():
            stan += 1
            self.codes.append(peer.ask(purchase(stan, terminal)).response_code)

    def __enter__(self) -> Others:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(20)


def test_a_devices_life(node: DeviceNode) -> None:
    node.enrol(A, activate=False)
    early = node.connect_tls(A)
    assert early.ask(purchase(1, A)).response_code == "58"
    node.command("terminals", "activate", A, "--reason", "inspected")
    sold = purchase(2, A)
    assert node.connect_tls(A).ask(sold).response_code == "00"

    # Lost under load, with a purchase of its own under way.
    node.switch("delay_ms=3000")
    busy = node.connect_tls(A)
    with Others(node, 4) as others:
        busy.send(purchase(3, A))
        # Approved there by now, and not answered yet.
        wait_for(lambda: len(node.booked(A, "purchase")) == 2, "its purchase to be booked")
        lost = threading.Thread(
            target=node.admin, args=("lost",), kwargs={"terminal_id": A, "reason": "left in a bus"}
        )
        with node.own_time() as cut_s:
            lost.start()
            assert busy.ended(10.0)
        lost.join(20)
        node.wait_for_event("undelivered", stan="000003")
        node.wait_for_event("reversal_done", terminal=A, stan="000003")
    node.switch("delay_ms=0")
    assert sum(cut_s) < CUT_WITHIN_S
    assert set(others.codes) == {"00"}
    shown = node.admin("show", terminal_id=A)
    assert (shown["state"], shown["certificate_sha256"]) == ("lost", "")

    # Whoever has it is turned away, seen, and added to the incident.
    (incident,) = node.command("terminals", "incidents", A)["incidents"]
    assert (incident["kind"], incident["reason"], incident["closed"]) == (
        "lost",
        "left in a bus",
        "",
    )
    (report,) = (node.folder / "incidents").glob("*.json")
    assert {one.stat().st_mode & 0o777 for one in report.parent.iterdir()} == {0o600}
    written = json.loads(report.read_text())
    assert not written["sightings"]
    assert {one["stan"] for one in written["transactions"]} >= {"000002"}
    assert sold.pan not in report.read_text() + report.with_suffix(".md").read_text()
    with pytest.raises((EOFError, ConnectionError, ssl.SSLError)):
        node.connect_tls(A).ask(purchase(4, A))
    assert node.command("terminals", "sightings", A)["sightings"]
    wait_for(lambda: json.loads(report.read_text())["sightings"], "the sighting in the report")
    assert "resume" not in node.refused("terminals", "resume", A).partition("is:")[2]

    # Another device goes on under its id, and undoes what it sold, at the acquirer.
    node.enrol(B, activate=False)
    made = node.command("terminals", "replace", A, B, "--yes", "--reason", "lost")
    assert (made["serves_as"], made["again"]) == (A, False)
    assert node.command("terminals", "replace", A, B, "--yes")["again"]
    heir = node.connect_tls(B)
    undone = void_of(sold, 2)
    assert heir.ask(undone).response_code == "00"
    void = node.entries()[-1]
    assert (void.kind, void.terminal_id, void.approved) == ("void", A, True)
    assert heir.ask(undone).response_code == "00"  # a repeat, not another void
    assert node.entries()[-1] == void
    # Its own STANs begin again at 1, and meet no answer of the one before.
    assert heir.ask(purchase(3, A)).response_code == "00"
    assert "has transacted" in node.refused("terminals", "replace", A, "--undo", "--yes")

    # Its end is refused while its batch is open.
    refused = node.refused("terminals", "deregister", A, "--yes")
    assert "batch 1 is open with 1 debits" in refused
    assert f"gateway terminals close-batch {A}" in refused
    assert heir.ask(settlement(5, A)).response_code in ("00", "95")
    done = node.command("terminals", "deregister", A, "--yes", "--reason", "shop closed")
    assert done["device"]["state"] == "deregistered"
    assert heir.ended(5.0)
    assert "not used again" in node.refused("terminals", "enrol", A, "--merchant", "M1")
    archived = node.command("archive", "show", A)
    assert archived["device"]["state"] == "deregistered"
    assert {one["what"] for one in archived["event"]} >= {"enrol", "activate", "lost", "replace"}
    assert {one["kind"] for one in archived["transaction"]} >= {"purchase", "void"}
    assert archived["incident"][0]["sightings"]
    told = [one["what"] for one in node.command("terminals", "history", A)["history"]]
    assert told[-1] == "enrol"
    assert told.index("deregister") < told.index("replace") < told.index("lost")
    assert node.command("archive", "verify")["faults"] == {}


def test_a_replacement_that_keeps_its_id_voids_under_the_old_one(node: DeviceNode) -> None:
    node.enrol(C, D)
    old = node.connect_tls(C)
    sold, kept = purchase(1, C), purchase(2, C, f4="000000000700")
    assert [old.ask(one).response_code for one in (sold, kept)] == ["00", "00"]
    made = node.command("terminals", "replace", C, D, "--keep-ids", "--yes")
    assert (made["serves_as"], made["batch"]) == (D, 1)
    assert old.ended(5.0)
    new = node.connect_tls(D)
    answer = new.ask(void_of(sold, 1, D))
    assert (answer.response_code, answer.terminal_id) == ("00", D)
    void = node.entries()[-1]
    assert (void.kind, void.terminal_id, void.approved) == ("void", C, True)
    assert new.ask(purchase(2, D)).response_code == "00"
    # Both devices' sales are of the batch that it closes.
    closed = new.ask(settlement(3, D))
    assert (closed.get(76), closed.get(88)) == (f"{2:010d}", f"{1_950:016d}")
    assert not node.command("terminals", "open", C)["in_the_way"]


def test_undone_before_its_first_transaction_all_is_as_before(node: DeviceNode) -> None:
    node.enrol("S0000011")
    old, sold = node.connect_tls("S0000011"), purchase(1, "S0000011")
    assert old.ask(sold).response_code == "00"
    before = node.admin("show", terminal_id="S0000011")
    node.enrol("S0000012", activate=False)
    for keep_ids in (False, True):
        node.admin("replace", terminal_id="S0000011", new_id="S0000012", keep_ids=keep_ids)
        node.admin("undo", terminal_id="S0000011")
        after = node.admin("show", terminal_id="S0000011")
        assert {**after, "last_seen": ""} == {**before, "last_seen": ""}
        assert node.admin("show", terminal_id="S0000012")["state"] == "pending"
    again = node.connect_tls("S0000011")
    assert again.ask(void_of(sold, 9)).response_code == "00"
    assert again.ask(settlement(10, "S0000011")).response_code == "00"


def test_found_again_it_wants_a_new_certificate(node: DeviceNode) -> None:
    terminal = "S0000021"
    node.enrol(terminal)
    certs = node.folder / "certs"
    assert node.connect_tls(terminal).ask(purchase(1, terminal)).response_code == "00"
    node.admin("lost", terminal_id=terminal, stolen=True)
    node.admin("found", terminal_id=terminal)
    assert "neither a certificate nor a master key" in node.refused(
        "terminals", "activate", terminal
    )
    file = str(certs / "terminals" / f"{terminal}.crt")
    assert "proves nothing since" in node.refused(
        "terminals", "bind", terminal, "--certificate", file
    )
    node.run("certs", "issue", terminal, "--ca", str(certs), "--out", str(certs / "new"))
    fresh = str(certs / "new" / f"{terminal}.crt")
    node.command("terminals", "bind", terminal, "--certificate", fresh)
    node.command("terminals", "activate", terminal)
    with pytest.raises((EOFError, ConnectionError, ssl.SSLError)):
        node.connect_tls(terminal).ask(purchase(2, terminal))
    again = node.connect_tls(terminal, certs=certs / "new")
    assert again.ask(purchase(1, terminal)).response_code == "00"
    closed = node.command("terminals", "incidents", terminal)["incidents"]
    assert [bool(one["closed"]) for one in closed] == [True]


def test_the_inventory_lists_what_was_not_inspected(node: DeviceNode, tmp_path: Path) -> None:
    node.enrol("S0000031", "S0000032", activate=False)
    node.command("terminals", "inspect", "S0000031", "--by", "Ada", "--date", "2020-02-29")
    listed = node.command("terminals", "list", "--inspection-older-than", "365")["devices"]
    assert [one["terminal_id"] for one in listed] == ["S0000031"]
    roster = tmp_path / "devices.csv"
    roster.write_text("terminal_id,inspected,inspected_by\nS0000031,2026-01-01,Bea\n")
    assert node.command("terminals", "import", str(roster))["completed"] == 1
    shown = node.admin("show", terminal_id="S0000031")
    assert (shown["inspected"], shown["inspected_by"]) == ("2026-01-01", "Bea")
