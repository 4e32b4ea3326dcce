"""Card data is nowhere at rest: sent along every path, and then looked for in all that is kept."""

from __future__ import annotations

import json
import resource
import socket
import sqlite3
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.wire.message import ORIGINAL_DATA
from tests.support import canaries
from tests.support.canaries import EXPIRY, PAN, PAN_MASKED, search, search_files
from tests.support.hostile import framed
from tests.support.node import CODEC, RunningNode, purchase, running_node

TPDU = bytes(5)
UPSTREAM_BYTES_MAX = 1_000  # over it, a purchase is too long for the acquirer's dialect


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    upstream = (
        f"framing = {{ frame_bytes_max = {UPSTREAM_BYTES_MAX} }}\n"
        # Never suspected: each request is sent, and its time-out waited for.
        "health = { suspect_min_s = 60.0, suspect_unknown_s = 60.0, suspect_max_s = 60.0,"
        " timeouts_max = 1000 }"
    )
    with running_node(tmp_path / "node", answer_s=1.0, upstream_more=upstream) as running:
        yield running


def test_card_data_is_nowhere_to_be_found(node: RunningNode) -> None:
    answered(node)
    told = [*refused(node), *not_understood(node)]
    undone(node)
    # While it runs, with all that is in the write-ahead log and not yet in the database.
    told.append(scraped(node))
    assert_nowhere(node, told)

    killed_under_way(node)
    told += outputs(node)
    assert_nowhere(node, told)

    assert node.stop() == 0
    assert_nowhere(node, told)
    assert_expiry_nowhere(node)
    # It was not for want of traffic.
    shown = [event for event in node.events() if event["event"] == "transaction"]
    assert {event["code"] for event in shown} >= {"00", "51", "91"}
    assert {event["card"] for event in shown} >= {PAN_MASKED}


# --- the paths ----------------------------------------------------------------------------------


def answered(node: RunningNode) -> None:
    """Approved, declined by the acquirer, repeated, repeated with other content, unheard."""
    plain, tls, mall = node.connect(), node.connect_tls("T0000002"), node.connect(node.mall)
    request = purchase(1, terminal="T0000101")
    assert plain.ask(request).response_code == "00"
    assert plain.ask(request).response_code == "00"
    assert plain.ask(request.changed({}, mti="0201")).response_code == "00"
    assert plain.ask(request.changed({4: "000000000999"})).response_code == "94"
    assert tls.ask(purchase(2, terminal="T0000002")).response_code == "00"
    mall.send(purchase(3, terminal="T0000003"), TPDU)
    assert mall.receive().response_code == "00"
    # The card number from track 2 alone, and from nowhere but the chip.
    assert plain.ask(purchase(4, "T0000101").without([2, 45, 36])).response_code == "00"
    assert plain.ask(purchase(5, "T0000101").without([2, 35, 36, 45])).response_code == "00"
    node.switch("response_code=51")
    assert plain.ask(purchase(6, terminal="T0000101")).response_code == "51"
    assert plain.ask(purchase(7, terminal="T0000101", f3="310000")).response_code == "51"
    node.switch("response_code=")
    node.switch("delay_ms=100")
    plain.send(purchase(8, terminal="T0000101"))
    plain.close()
    node.wait_for_event("undelivered", stan="000008")
    node.switch("delay_ms=0")


def refused(node: RunningNode) -> list[str]:
    """By the policy, by the identity, by the acquirer's dialect."""
    tls = node.connect_tls("T0000002")
    answers = [
        tls.ask(purchase(20, terminal="T0000002", f3="010000")),
        tls.ask(purchase(21, terminal="T0000002", f4="000000000000")),
        tls.ask(purchase(22, terminal="T0000002", f42="MERCHANT0000002")),
        tls.ask(purchase(23, terminal="T0000001")),
        tls.ask(purchase(24, terminal="T9999999")),
        tls.ask(purchase(25, terminal="T0000002").changed({70: "161"}, mti="0800")),
        # Too long for the acquirer.
        tls.ask(purchase(26, terminal="T0000002", f63="X" * 999)),
    ]
    codes = [answer.response_code for answer in answers]
    assert codes == ["58", "13", "03", "58", "58", "40", "91"]
    tls.close()
    return [json.dumps(answer.fields) for answer in answers]


def not_understood(node: RunningNode) -> list[str]:
    """Card data where none belongs, and purchases with some of them missing."""
    body = CODEC.encode(purchase(40, terminal="T0000140"))
    packed = bytes.fromhex(PAN + "F")
    for data in (
        framed(PAN.encode()),
        framed(b"0200" + packed * 3),
        framed(PAN.encode() + body),
        framed(b"0210" + body[4:]),
        b"\xff\xff" + body,
        body,
        f"GET /?card={PAN}&track={canaries.TRACK_2} HTTP/1.1\r\n\r\n".encode(),
        framed(body)[:-50],
    ):
        for port in (node.plain, node.tls, node.mall):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65_536):
                    pass
    answers = []
    spoilt = [body + b"more", body[:-30], body[:22] + b"25" + PAN.encode() + body[22:]]
    # One byte less each time: what belongs to one field is read as another.
    spoilt += [body[:cut] + body[cut + 1 :] for cut in range(20, 120)]
    for one in spoilt:
        peer = node.connect()
        peer.sock.sendall(framed(one))
        try:
            answers.append(peer.receive())
        except (EOFError, ConnectionError):
            continue
        finally:
            peer.close()
    assert [answer.response_code for answer in answers].count("30") > 50
    node.wait_for_event("message_rejected", count=50)
    return [json.dumps(answer.fields) for answer in answers]


def undone(node: RunningNode) -> None:
    """Reversed by the terminal; in doubt and then reversed, repeated or given up; uploaded."""
    peer = node.connect()
    request = purchase(60, terminal="T0000160")
    assert peer.ask(request).response_code == "00"
    original = f"0200{request.stan}{request.get(7)}".ljust(42, "0")
    reversal = request.changed({11: "000061", 39: "06", ORIGINAL_DATA: original}, mti="0400")
    assert peer.ask(reversal).response_code == "00"
    node.wait_for_event("reversal_done")
    node.switch("mute=true")
    assert peer.ask(purchase(62, terminal="T0000160")).response_code == "91"
    assert peer.ask(purchase(63, terminal="T0000160", f3="200000")).response_code == "91"
    peer.ask(purchase(64, terminal="T0000160").changed({}, mti="0220"))
    node.wait_for_event("reversal_owed", count=3)
    assert_nowhere(node, [])  # What is owed is kept, and sealed.
    node.switch("mute=false")
    node.wait_for_event("reversal_done", count=3)
    for stan, mti in ((65, "0320"), (66, "0500")):
        answer = peer.ask(purchase(stan, terminal="T0000160").changed({}, mti=mti))
        assert answer.response_code in ("00", "95")  # with or without a difference in its totals
    peer.close()


def killed_under_way(node: RunningNode) -> None:
    """Killed with a request unanswered, and started again."""
    node.switch("mute=true")
    before = node.received()
    request = purchase(80, terminal="T0000180")
    node.connect().send(request)
    node.wait_until_received(before + 1)
    node.kill()
    assert_nowhere(node, [])
    node.switch("mute=false")
    node.start()
    node.wait_for_event("recovery_done", reversals=1)
    node.wait_for_event("reversal_done")
    assert node.connect().ask(request).response_code == "91"


def outputs(node: RunningNode) -> list[str]:
    """What it tells operators."""
    assert node.gateway is not None
    assert resource.prlimit(node.gateway.pid, resource.RLIMIT_CORE) == (0, 0)
    config = ("--config", str(node.config))
    return [
        scraped(node),
        node.run("status", *config),
        node.run("status", "--json", *config),
        node.run("terminals", "list", *config),
        node.run("terminals", "list", "--json", *config),
        node.run("check", *config),
    ]


def scraped(node: RunningNode) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{node.metrics}/metrics", timeout=5) as response:
        metrics: str = response.read().decode()
    assert "gateway_transactions_total" in metrics
    return metrics


# --- the search ---------------------------------------------------------------------------------


def assert_nowhere(node: RunningNode, told: list[str]) -> None:
    assert search_files(node.folder) == []
    for number, text in enumerate(told):
        assert search(f"output {number}", text.encode()) == []


def assert_expiry_nowhere(node: RunningNode) -> None:
    """Four digits occur by accident, but not as the whole of a value."""
    for event in node.events():
        assert EXPIRY not in map(str, event.values())
    for (table,) in rows(node, "SELECT name FROM sqlite_master WHERE type = 'table'"):
        for row in rows(node, f'SELECT * FROM "{table}"'):  # noqa: S608 # its own table names
            for value in map(str, row):
                assert value != EXPIRY
                assert f'"{EXPIRY}"' not in value


def rows(node: RunningNode, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(node.folder / "gateway.db")) as database:
        return list(database.execute(query))


def test_the_search_can_find_what_is_there(tmp_path: Path) -> None:
    assert search_files(tmp_path) == []
    planted = {
        "text": f"x{PAN}y".encode(),
        "log": json.dumps({"card": PAN}).encode(),
        "packed": b"\x5a\x0a" + bytes.fromhex(PAN + "F"),
        "packed, shifted": bytes.fromhex("0" + PAN),
        "base64": b64encode(b"from " + PAN.encode() + b" to"),
        "base64 of packed": b64encode(bytes.fromhex("5F" + PAN + "F")),
        "chip": bytes.fromhex(canaries.CHIP_DATA),
        "chip in hex": canaries.CHIP_DATA.lower().encode(),
        "PIN block": bytes.fromhex(canaries.PIN_BLOCK),
        "PIN block in base64": b64encode(b"12" + bytes.fromhex(canaries.PIN_BLOCK) + b"3"),
        "CVV": canaries.CVV.encode(),
        "tracks": f"{canaries.TRACK_1}{canaries.TRACK_2}{canaries.TRACK_3}".encode(),
        "track 2 packed": bytes.fromhex(canaries.TRACK_2.replace("=", "D") + "F"),
    }
    for name, data in planted.items():
        hidden = tmp_path / "deep" / ".hidden"
        hidden.parent.mkdir(exist_ok=True)
        hidden.write_bytes(bytes(1000) + data + bytes(1000))
        found = search_files(tmp_path)
        assert found, name
        assert {sighting.place for sighting in found} == {"deep/.hidden"}
        hidden.unlink()
    with closing(sqlite3.connect(tmp_path / "kept.db")) as database:
        database.execute("CREATE TABLE cards (number TEXT)")
        database.execute("INSERT INTO cards VALUES (?)", (PAN,))
        database.commit()
    assert {sighting.place for sighting in search_files(tmp_path)} == {"kept.db"}


def test_every_secret_is_found_in_every_form(tmp_path: Path) -> None:
    for secret, value in canaries.SECRETS.items():
        for form, needle in canaries.forms(value):
            found = search("here", b"before" + needle + b"after")
            assert canaries.Sighting("here", secret, form) in found


def test_what_may_be_shown_is_not_taken_for_a_secret() -> None:
    assert search("here", PAN_MASKED.encode()) == []
    assert search("here", f"{PAN[:6]} {PAN[-4:]} {EXPIRY}".encode()) == []
