"""One device from the shop's order to its archive, with a certificate, keys, PINs and MACs."""

from __future__ import annotations

import json
import secrets
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.framing import FrameReader, FramingSpec
from gateway.wire.message import Message
from gateway.wire.requirements import requirement_of
from loadtest.terminal_keys import KeyedWire, TerminalKeys
from loadtest.zone_crypto import check_value, encrypted
from tests.support import canaries
from tests.support.device_node import MERCHANT, DeviceNode
from tests.support.node import PATIENT, Peer, wait_for
from tests.support.ports import own_ports

OLD, NEW = "S0000001", "S0000002"
PIN = "1234"
ROTATE_AFTER = 10
SIGN_ON_AGAIN = 3
FRAMING = FramingSpec(tpdu=True, header_bytes=6)
POS = Codec(shipped_dialects()["unionpay_pos"])
LISTENER = """
[[listeners]]
name = "cups"
listen = "127.0.0.1:{port}"
security = "mutual-tls"
dialect = "unionpay_pos"
code_set = "unionpay"
framing = {{ tpdu = true, header_bytes = 6 }}

[listeners.tls]
certificate = "certs/server.crt"
key = "certs/server.key"
client_ca = "certs/ca.crt"
crl = "certs/ca.crl"

[[profiles]]
name = "keyed"
kinds = ["purchase", "void"]

[profiles.keys]
sign_on = true
mac = "unionpay-ecb"
data = {{ fields = [35, 36] }}
pin = {{ format = "0" }}

[profiles.keys.working]
purposes = ["pin", "mac", "data"]
rotate_after_count = {rotate_after}
overlap_s = 60.0
"""
UPSTREAM_KEYS = f"""{PATIENT}

[upstreams.keys]
mac = "x9.19"
pin = "translate"
exchange = {{ purposes = ["zone-pin", "zone-mac"], field = 48, overlap_s = 60.0 }}
"""


class StoryNode(DeviceNode):
    """A node whose devices have certificates and keys, and whose acquirer has keys too."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, answer_s=30.0)
        self.shops_port = self.tls
        (self.cups,) = own_ports(1)
        self.masters: dict[str, bytes] = {}
        self.zone_master = secrets.token_bytes(16)

    def prepare(self) -> None:
        super().prepare()
        text = self.config.read_text()
        before = 'keys = { pin = "pass_through" }\n'
        assert before in text
        more = LISTENER.format(port=self.cups, rotate_after=ROTATE_AFTER)
        self.config.write_text(text.replace(before, UPSTREAM_KEYS) + more)
        keys = json.dumps({"zmk": self.zone_master.hex(), "pin": PIN})
        (self.acquirer_folder / "keys.json").write_text(keys)

    def import_master(self, owner: str, purpose: str, value: bytes, *, transport: bytes) -> None:
        self.run(
            *("keys", "import", owner, purpose, "--algorithm", "TDES-2"),
            *("--under", "transport:hand", "--wrapped", encrypted(transport, value).hex().upper()),
            *("--check-value", check_value(value)[:3].hex().upper(), "--config", str(self.config)),
        )

    def enter_transport_key(self) -> bytes:
        """Two people's components; returns what they make."""
        halves = [secrets.token_bytes(16) for _ in range(2)]
        components: list[str] = []
        for number, half in enumerate(halves):
            file = self.folder.parent / f"component-{number}"
            file.touch(mode=0o600)
            file.write_text(f"{half.hex().upper()}\n{check_value(half)[:3].hex().upper()}\n")
            components += ["--component-file", str(file)]
        self.run(
            *("keys", "import", "transport:hand", "zone-master", "--algorithm", "TDES-2"),
            *("--components", "2", *components, "--config", str(self.config)),
        )
        return bytes(a ^ b for a, b in zip(*halves, strict=True))

    def till(self, certificate: str, terminal: str) -> Till:
        """A device on the line; its certificate may be another's id than it speaks under."""
        self.tls = self.cups
        try:
            return Till(self.connect_tls(certificate), terminal, self.masters[certificate])
        finally:
            self.tls = self.shops_port


class Till:
    """A UnionPay terminal with keys, over mutual TLS."""

    def __init__(self, peer: Peer, terminal: str, master: bytes) -> None:
        self.peer = peer
        self.terminal = terminal
        self.keys = TerminalKeys(master, "unionpay-ecb")
        tpdu, header = bytes.fromhex("6000010002"), bytes.fromhex("602200000000")
        self.wire = KeyedWire(POS, FRAMING, tpdu, header, self.keys)
        self.requirement = 0
        self._reader = FrameReader(FRAMING)
        self._stan = 0

    def stan(self) -> str:
        self._stan += 1
        return f"{self._stan:06d}"

    def send(self, message: Message) -> None:
        self.peer.sock.sendall(self.wire.pack(message))

    def ask(self, message: Message) -> Message:
        self.send(message)
        while True:
            data = self.peer.sock.recv(65_536)
            assert data, "the gateway hung up"
            for frame in self._reader.feed(data):
                self.requirement = requirement_of(frame.header)
                answer = POS.decode(frame.body)
                assert answer.mti[1] == "8" or self.wire.trusts(answer), "its MAC is wrong"
                return answer

    def sign_on(self) -> None:
        fields = {11: self.stan(), 41: self.terminal, 42: MERCHANT, 60: "00000001004", 63: "01 "}
        answer = self.ask(Message("0800", fields))
        assert answer.response_code == "00"
        self.keys.take(bytes.fromhex(answer.get(62)))

    def purchase(self) -> Message:
        track = f"{canaries.PAN}D49122010000000000000"[:37]
        plain = self._financial("22", {35: track, 26: "12"})
        return self.keys.with_track(self.keys.with_pin(plain, PIN))

    def void_of(self, sale: Message) -> Message:
        return self._financial("23", {3: "200000", 2: canaries.PAN, 61: f"000001{sale.stan}"})

    def _financial(self, kind: str, fields: dict[int, str]) -> Message:
        common = {
            3: "000000",
            4: "000000001250",
            11: self.stan(),
            22: "051",
            25: "00",
            41: self.terminal,
            42: MERCHANT,
            49: "156",
            60: f"{kind}000001",
        }
        return Message("0200", common | fields)

    def settlement(self, debits: int, minor: int) -> Message:
        totals = f"{minor:012d}{debits:03d}{0:012d}{0:03d}" * 2 + "0"
        fields = {11: self.stan(), 41: self.terminal, 42: MERCHANT, 48: totals, 49: "156"}
        return Message("0500", fields | {60: "00000001201", 63: "01 "})


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoryNode]:
    node = StoryNode(tmp_path_factory.mktemp("node"))
    try:
        node.prepare()
        node.start_acquirer("--keys", str(node.acquirer_folder / "keys.json"))
        node.start(links=0)
        transport = node.enter_transport_key()
        node.import_master(
            "upstream:acquirer", "zone-master", node.zone_master, transport=transport
        )
        for terminal in (OLD, NEW):
            node.enrol(terminal, activate=False, profile="keyed")
            node.masters[terminal] = secrets.token_bytes(16)
            master = node.masters[terminal]
            owner = f"terminal:{terminal}"
            node.import_master(owner, "terminal-master", master, transport=transport)
        node.wait_for_event("link_up", count=2)
        node.switch("checks_originals=1")
        yield node
    finally:
        node.close()


def test_from_the_order_to_the_archive(node: StoryNode) -> None:
    node.command("terminals", "activate", OLD, "--reason", "installed")
    till = node.till(OLD, OLD)
    till.sign_on()
    sold = till.purchase()
    assert till.ask(sold).response_code == "00"

    # Its keys rotate while it sells.
    told = 0
    for _ in range(2 * ROTATE_AFTER):
        assert till.ask(till.purchase()).response_code == "00"
        if till.requirement == SIGN_ON_AGAIN:
            told += 1
            till.sign_on()
    assert told >= 1

    # Lost with a sale under way: cut off, undone, its keys gone.
    node.switch("delay_ms=3000")
    before = len(node.booked(OLD, "purchase"))
    under_way = till.purchase()
    till.send(under_way)
    wait_for(lambda: len(node.booked(OLD, "purchase")) == before + 1, "the sale to be booked")
    node.admin("lost", terminal_id=OLD, reason="left in a taxi")
    assert till.peer.ended(10.0)
    node.wait_for_event("reversal_done", terminal=OLD, stan=under_way.stan)
    node.switch("delay_ms=0")
    keys = node.command("keys", "list", f"terminal:{OLD}")["keys"]
    assert {one["state"] for one in keys} == {"destroyed"}
    with pytest.raises((AssertionError, ConnectionError, ssl.SSLError)):
        node.till(OLD, OLD).sign_on()
    assert node.command("terminals", "sightings", OLD)["sightings"]

    # Another takes over its id with a certificate and keys of its own, and voids what it sold.
    node.command("terminals", "replace", OLD, NEW, "--yes", "--reason", "lost")
    heir = node.till(NEW, OLD)
    heir.sign_on()
    assert heir.ask(heir.void_of(sold)).response_code == "00"
    void = node.entries()[-1]
    assert (void.kind, void.terminal_id, void.approved) == ("void", OLD, True)

    refused = node.refused("terminals", "deregister", OLD, "--yes")
    assert "batch 1 is open" in refused
    assert heir.ask(heir.settlement(2 * ROTATE_AFTER, 2 * ROTATE_AFTER * 1250)).mti == "0510"
    done = node.command("terminals", "deregister", OLD, "--yes", "--reason", "shop closed")
    assert done["device"]["state"] == "deregistered"
    assert node.command("archive", "show", OLD)["device"]["state"] == "deregistered"
    assert node.command("audit", "verify")


def test_nothing_of_it_is_on_disk_in_the_clear(node: StoryNode) -> None:
    """Runs last: whatever the test before it sent."""
    assert node.stop() == 0
    keys = [node.zone_master, *node.masters.values()]
    wanted = [*keys, *(key.hex().encode() for key in keys)]
    wanted += [key.hex().upper().encode() for key in keys]
    wanted.append(canaries.PAN.encode())
    for path in node.folder.rglob("*"):
        if path.is_file() and not path.is_socket():
            content = path.read_bytes()
            for value in wanted:
                assert value not in content, path
