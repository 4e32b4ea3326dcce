"""A UnionPay terminal fetches its keys from the real gateway, and hears when there are new ones."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import pytest

from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.framing import Frame, FrameReader, FramingSpec, encode_frame
from gateway.wire.message import Message
from gateway.wire.requirements import requirement_of
from tests.support.node import ROOT, RunningNode
from tests.support.ports import own_ports

SPEC = FramingSpec(tpdu=True, header_bytes=6)
CODEC = Codec(shipped_dialects()["unionpay_pos"])
TPDU, HEADER = bytes.fromhex("6000010002"), bytes.fromhex("600100310000")

_LISTENERS = """
[[listeners]]
name = "pos"
listen = "127.0.0.1:{served}"
security = "plain"
macs = "by_profile"
dialect = "unionpay_pos"
code_set = "unionpay"
framing = {{ tpdu = true, header_bytes = 6 }}
downloads = "serve"

[[listeners]]
name = "pos-passed"
listen = "127.0.0.1:{passed}"
security = "plain"
macs = "by_profile"
dialect = "unionpay_pos"
code_set = "unionpay"
framing = {{ tpdu = true, header_bytes = 6 }}
downloads = "pass"
downloads_to = "acquirer"
"""


class Centre(RunningNode):
    """A node whose terminals fetch from the files that the project shows, in its own folder."""

    def prepare(self) -> None:
        super().prepare()
        copytree(ROOT / "config" / "downloads", self.folder / "downloads")
        self.served, self.passed = own_ports(2)
        with self.config.open("a", encoding="utf-8") as config:
            config.write(_LISTENERS.format(served=self.served, passed=self.passed))


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    centre = Centre(tmp_path_factory.mktemp("centre") / "node")
    try:
        centre.prepare()
        centre.start_acquirer()
        centre.start()
        yield centre
    finally:
        centre.close()


class Terminal:
    def __init__(self, port: int, terminal_id: str = "T0000021") -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._reader = FrameReader(SPEC)
        self._id = terminal_id

    def ask(self, mti: str, code: str, data: bytes = b"") -> tuple[Message, Frame]:
        fields = {41: self._id, 42: "MERCHANT0000001", 60: f"00000001{code}"}
        if data:
            fields[62] = data.hex().upper()
        body = CODEC.encode(Message(mti, fields))
        self._sock.sendall(encode_frame(SPEC, body, TPDU, HEADER))
        while not (frames := self._reader.feed(self._sock.recv(65_536))):
            pass
        return CODEC.decode(frames[0].body), frames[0]

    def echo(self) -> int:
        """What the header of an answer asks for."""
        return requirement_of(self.ask("0820", "301")[1].header)

    def close(self) -> None:
        self._sock.close()


def fetch(terminal: Terminal, list_code: str, code: str, end: str) -> list[bytes]:
    """All records of a kind, one after the other."""
    listed = bytes.fromhex(terminal.ask("0820", list_code, b"100")[0].get(62))
    assert listed[:1] == b"1"
    names, rest = [], listed[1:]
    while rest:
        size = 23 if list_code == "372" else 3 + rest[2]
        names.append(rest[: 12 if list_code == "372" else size])
        rest = rest[size:]
    records = []
    for name in names:
        answer, _ = terminal.ask("0800", code, name)
        record = bytes.fromhex(answer.get(62))
        assert record.startswith(b"1" + name)
        records.append(record)
    ended, _ = terminal.ask("0800", end)
    assert (ended.mti, ended.response_code, 62 in ended) == ("0810", "00", False)
    return records


def test_a_terminal_fetches_all_and_comes_again_for_what_is_new(centre: Centre) -> None:
    terminal = Terminal(centre.served)
    assert terminal.echo() == 4
    assert len(fetch(terminal, "372", "370", "371")) == 1
    assert terminal.echo() == 5
    assert len(fetch(terminal, "382", "380", "381")) == 2
    assert terminal.echo() == 7
    assert bytes.fromhex(terminal.ask("0800", "390", b"000")[0].get(62)) == b"100006999999"
    terminal.ask("0800", "391")
    assert terminal.echo() == 1
    assert bytes.fromhex(terminal.ask("0800", "360")[0].get(62)).startswith(b"1260")
    terminal.ask("0800", "361")
    assert terminal.echo() == 0
    # A good edit is taken up while the gateway runs; a bad one changes nothing.
    blacklist = centre.folder / "downloads" / "blacklist.txt"
    blacklist.write_text("999999\n999998\n", encoding="utf-8")
    centre.run("reload", "--config", str(centre.config))
    assert terminal.echo() == 7
    blacklist.write_text("not a BIN\n", encoding="utf-8")
    refused = centre.run("reload", "--json", "--config", str(centre.config), expect=1)
    assert "blacklist.txt" in refused
    assert b"999998" in bytes.fromhex(terminal.ask("0800", "390", b"000")[0].get(62))
    terminal.close()


def test_what_is_passed_on_is_answered_by_the_acquirer_or_in_its_place(centre: Centre) -> None:
    terminal = Terminal(centre.passed, "T0000022")
    answer, frame = terminal.ask("0800", "370", b"x")
    # This acquirer's dialect has nothing of DE62: what it makes of it is its own.
    assert answer.mti == "0810"
    assert answer.response_code
    assert frame.tpdu == bytes.fromhex("6000020001")
    assert requirement_of(frame.header) == 0
    terminal.close()


def test_nothing_is_intended_or_owed_for_it(centre: Centre, tmp_path: Path) -> None:
    listed = centre.run("transactions", "list", "--json", "--config", str(centre.config))
    assert '"T0000022"' not in listed
    owed = centre.run("reversals", "list", "--json", "--config", str(centre.config))
    assert '"T0000022"' not in owed
