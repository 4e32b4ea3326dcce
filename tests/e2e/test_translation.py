"""UnionPay terminals at acquirers that speak other dialects, on the wire, with real processes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.framing import FrameReader, FramingSpec, encode_frame
from gateway.wire.message import Message
from tests.support import canaries
from tests.support.node import ROOT, RunningNode, _connects, wait_for
from tests.support.ports import own_ports

DIALECTS = ("iso87_ascii", "iso87_ebcdic", "iso93_bcd")
NAMING = {"iso93_bcd": "de56", "unionpay_pos": "de61"}  # else de90
SHIPPED = shipped_dialects()
POS = Codec(SHIPPED["unionpay_pos"])
POS_FRAME = FramingSpec(tpdu=True, header_bytes=6)
TPDU, HEADER = bytes.fromhex("6000060000"), bytes.fromhex("600100310000")

_CONFIGURATION = """
[node]
name = "translating"
admin_socket = "gateway.sock"
watch_s = 0.2

[store]
path = "gateway.db"

[keys]
keyring = "keyring.json"
create = true

[log]
level = "debug"
format = "json"
file = "gateway.log"

[metrics]
listen = "127.0.0.1:{metrics}"

[[profiles]]
name = "retail"
kinds = ["purchase", "void", "refund", "balance", "preauthorisation", "completion"]

[registry]
default_profile = "retail"

[[registry.ranges]]
terminals = "T0000001-T0000099"
merchant = "MERCHANT0000001"
profile = "retail"

[[listeners]]
name = "shops"
listen = "127.0.0.1:{plain}"
security = "plain"
dialect = "unionpay_pos"
code_set = "unionpay"
macs = "by_profile"
framing = {{ tpdu = true, header_bytes = 6 }}

[[listeners]]
name = "elsewhere"
listen = "127.0.0.1:{tls}"
security = "plain"
dialect = "iso93_ascii"
macs = "by_profile"
"""

_UPSTREAM = """
[[upstreams]]
name = "{name}"
addresses = ["127.0.0.1:{port}"]
dialect = "{name}"
plain = true
answer_s = 1.0
late_max_s = 30.0
reversal_original = "{naming}"
reversal_mti = "{reversal}"
network = {{ style = "{style}" }}
reversal_backoff = {{ first_s = 0.2, max_s = 1.0 }}

[[groups]]
name = "{name}"
members = [{{ upstream = "{name}" }}]

[[terminal_groups]]
name = "{name}"
terminals = ["T000000{number}"]

[[routes]]
name = "{name}"
terminal_groups = ["{name}"]
group = "{name}"
"""


class Bank:
    """An acquirer's process, and what is in its ledger."""

    def __init__(self, folder: Path, dialect: str, port: int) -> None:
        folder.mkdir()
        self.folder, self.port = folder, port
        with (folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "loadtest", "acquirer", "--dialect", dialect),
                    *("--listen", f"127.0.0.1:{port}", "--ledger", str(folder / "ledger.db")),
                    *("--control", str(folder / "sock")),
                ],
                cwd=ROOT,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )

    def entries(self) -> list[sqlite3.Row]:
        with sqlite3.connect(self.folder / "ledger.db") as ledger:
            ledger.row_factory = sqlite3.Row
            return ledger.execute("SELECT * FROM entries ORDER BY entry_id").fetchall()


class Node(RunningNode):
    """A gateway whose terminals speak UnionPay, with an acquirer for each dialect."""

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.acquirer_folder.mkdir(exist_ok=True)
        text = _CONFIGURATION.format(metrics=self.metrics, plain=self.plain, tls=self.tls)
        self.banks = {}
        spoken = (*DIALECTS, "unionpay_pos")
        for number, (dialect, port) in enumerate(
            zip(spoken, own_ports(len(spoken)), strict=True), 1
        ):
            naming = NAMING.get(dialect, "de90")
            style, reversal = ("unionpay", "0400") if naming == "de61" else ("iso", "0420")
            text += _UPSTREAM.format(
                name=dialect,
                port=port,
                naming=naming,
                number=number,
                style=style,
                reversal=reversal,
            )
            self.banks[dialect] = Bank(self.acquirer_folder / dialect, dialect, port)
        self.config.write_text(text)
        for bank in self.banks.values():
            wait_for(lambda port=bank.port: _connects(port), "an acquirer to listen")

    def tell(self, dialect: str, *switches: str) -> None:
        """Change how an acquirer behaves."""
        folder, self.acquirer_folder = self.acquirer_folder, self.banks[dialect].folder
        try:
            self.switch(*switches)
        finally:
            self.acquirer_folder = folder

    def close(self) -> None:
        super().close()
        for bank in self.banks.values():
            bank.process.kill()
            bank.process.wait(10)


class Terminal:
    """A UnionPay POS terminal on a connection of its own."""

    def __init__(self, node: Node, dialect: str, *, pad: str = "0") -> None:
        self.id = f"T000000{DIALECTS.index(dialect) + 1}"
        self.sock = node.connect().sock
        self._reader = FrameReader(POS_FRAME)
        self._pads = dict.fromkeys((2, 22, 35, 60), pad) if pad != "0" else {}

    def ask(self, mti: str, stan: int, fields: dict[int, str]) -> Message:
        now = time.gmtime()
        own = {
            2: canaries.PAN,
            4: "000000001250",
            11: f"{stan:06d}",
            12: time.strftime("%H%M%S", now),
            13: time.strftime("%m%d", now),
            14: canaries.EXPIRY,
            22: "051",
            35: canaries.TRACK_2.replace("=", "D"),
            41: self.id,
            42: "MERCHANT0000001",
            49: "156",
            55: canaries.CHIP_DATA,
        }
        if mti == "0400":
            del own[35]
        if mti == "0500":
            own = {number: own[number] for number in (11, 41, 42, 49)}
        message = Message(mti, own | fields, pads=self._pads)
        body = POS.encode(message)
        self.sock.sendall(encode_frame(POS_FRAME, body, TPDU, HEADER))
        while not (frames := self._reader.feed(self.sock.recv(65_536))):
            pass
        self.body = frames[0].body
        return POS.decode(frames[0].body)


PURCHASE = {3: "000000", 25: "00", 60: "22000001000"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    running = Node(tmp_path_factory.mktemp("gw"))
    try:
        running.prepare()
        running.start(links=len(DIALECTS) + 1)
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_purchase_its_void_and_a_refund(node: Node, dialect: str) -> None:
    terminal = Terminal(node, dialect)
    bank = node.banks[dialect]
    bought = terminal.ask("0200", 1, PURCHASE)
    assert (bought.mti, bought.response_code) == ("0210", "00")
    assert (bought.stan, bought.get(4), bought.get(49)) == ("000001", "000000001250", "156")
    assert bought.rrn
    assert bought.get(38)
    assert (bought.get(25), bought.get(60)) == ("00", "22000001000")
    assert 7 not in bought  # its dialect has none
    entry = bank.entries()[-1]
    assert (entry["mti"], entry["kind"], entry["amount_minor"]) == ("0200", "purchase", 1250)
    assert entry["transmitted"]
    named = {61: "000001000001" + bought.get(13, time.strftime("%m%d", time.gmtime()))}
    more = {37: bought.rrn, 38: bought.get(38)}
    voided = terminal.ask("0200", 2, {3: "200000", 25: "00", 60: "23000001000", **named, **more})
    assert (voided.mti, voided.response_code, voided.get(3)) == ("0210", "00", "200000")
    entry = bank.entries()[-1]
    assert (entry["mti"], entry["kind"]) == ("0200", "void")
    # Another one, and money back for it.
    again = terminal.ask("0200", 3, PURCHASE)
    named = {61: "000001000003" + time.strftime("%m%d", time.gmtime()), 37: again.rrn}
    refunded = terminal.ask("0220", 4, {3: "200000", 25: "00", 60: "25000001000", **named})
    assert (refunded.mti, refunded.response_code) == ("0230", "00")
    assert bank.entries()[-1]["kind"] == "refund"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_in_doubt_is_reversed_as_that_acquirer_has_it(node: Node, dialect: str) -> None:
    terminal = Terminal(node, dialect)
    bank = node.banks[dialect]
    node.tell(dialect, "drop=1")
    unanswered = terminal.ask("0200", 11, PURCHASE)
    assert unanswered.response_code == "98"
    node.tell(dialect, "drop=0")
    wait_for(lambda: bank.entries()[-1]["reversed_ms"], "the reversal to be taken")
    entry = bank.entries()[-1]
    assert (entry["kind"], entry["reversed_amount_minor"]) == ("purchase", 1250)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_terminal_s_own_reversal(node: Node, dialect: str) -> None:
    terminal = Terminal(node, dialect)
    bank = node.banks[dialect]
    assert terminal.ask("0200", 21, PURCHASE).response_code == "00"
    count = len(bank.entries())
    taken = terminal.ask("0400", 21, {**PURCHASE, 39: "98", 61: "000001000021"})
    assert (taken.mti, taken.response_code) == ("0410", "00")
    wait_for(lambda: bank.entries()[-1]["reversed_ms"], "the reversal to be taken")
    assert len(bank.entries()) == count


def test_a_preauthorisation_and_what_completes_it(node: Node) -> None:
    for dialect in ("iso87_ascii", "iso93_bcd"):
        terminal, bank = Terminal(node, dialect), node.banks[dialect]
        held = terminal.ask("0100", 31, {3: "030000", 25: "06", 60: "10000001000"})
        assert (held.mti, held.response_code, held.get(3)) == ("0110", "00", "030000")
        assert bank.entries()[-1]["kind"] == "preauthorisation"
        named = {61: "000001000031" + time.strftime("%m%d", time.gmtime()), 38: held.get(38)}
        done = terminal.ask("0200", 32, {3: "000000", 25: "06", 60: "20000001000", **named})
        assert done.response_code == "00"
        assert bank.entries()[-1]["kind"] == "completion"


def test_a_batch_is_closed_in_the_terminal_s_own_terms(node: Node) -> None:
    terminal = Terminal(node, "iso87_ebcdic")
    totals = "000000009999003" + "000000000000000"
    closed = terminal.ask("0500", 71, {48: totals + "0", 60: "00000001201"})
    assert (closed.mti, closed.response_code) == ("0510", "00")
    assert closed.get(48) == totals + "2"  # not what was sold


def test_a_terminal_of_1993_at_an_acquirer_of_unionpay(node: Node) -> None:
    bank = node.banks["unionpay_pos"]
    wire = Codec(SHIPPED["iso93_ascii"])
    sock = node.connect(node.tls).sock
    reader = FrameReader(FramingSpec())

    def ask(mti: str, stan: int, fields: dict[int, str]) -> Message:
        own = {
            2: canaries.PAN,
            4: "000000001250",
            11: f"{stan:06d}",
            12: time.strftime("%y%m%d%H%M%S", time.gmtime()),
            14: canaries.EXPIRY,
            22: "51010151114C",
            35: canaries.TRACK_2,
            41: "T0000004",
            42: "MERCHANT0000001",
            49: "978",
        }
        body = wire.encode(Message(mti, own | fields))
        sock.sendall(encode_frame(FramingSpec(), body))
        while not (frames := reader.feed(sock.recv(65_536))):
            pass
        return wire.decode(frames[0].body)

    bought = ask("1200", 61, {3: "000000", 24: "200"})
    assert (bought.mti, bought.get(39), bought.get(22)) == ("1210", "000", "")
    assert len(bought.get(12)) == 12
    assert bank.entries()[-1]["kind"] == "purchase"
    named = "1200000061" + time.strftime("%y%m%d", time.gmtime()) + "00000000"
    voided = ask("1200", 62, {3: "020000", 24: "200", 37: bought.rrn, 56: named})
    assert (voided.mti, voided.get(39), voided.get(3)) == ("1210", "000", "020000")
    entry = bank.entries()[-1]
    assert (entry["mti"], entry["kind"]) == ("0200", "void")
    node.tell("unionpay_pos", "response_code=51")
    assert ask("1200", 63, {3: "000000", 24: "200"}).get(39) == "116"
    node.tell("unionpay_pos", "response_code=00", "drop=1")
    assert ask("1200", 64, {3: "000000", 24: "200"}).get(39) in ("912", "911")
    node.tell("unionpay_pos", "drop=0")
    wait_for(lambda: bank.entries()[-1]["reversed_ms"], "the reversal to be taken")
    assert ask("1200", 65, {3: "000000", 24: "200", 4: "0" * 12}).get(39) == "110"
    echo = ask("1800", 66, {24: "831"})
    assert (echo.mti, echo.get(39), echo.get(24)) == ("1810", "000", "831")


def test_pads_come_back_as_the_terminal_writes_them(node: Node) -> None:
    for stan, pad in ((41, "0"), (42, "F")):
        terminal = Terminal(node, "iso87_ascii", pad=pad)
        answer = terminal.ask("0200", stan, PURCHASE)
        assert answer.response_code == "00"
        refused = terminal.ask("0200", stan + 10, {**PURCHASE, 4: "000000000000"})
        assert refused.response_code == "13"
        # DE60 has eleven digits: the half byte after them is the terminal's own.
        assert dict(refused.pads) == ({60: "F"} if pad == "F" else {})


def test_a_text_without_a_character_there_is_refused_by_name(node: Node) -> None:
    terminal = Terminal(node, "iso87_ascii")
    answer = terminal.ask("0200", 81, {**PURCHASE, 43: "商店".ljust(38)})
    assert answer.response_code == "91"
    event = node.wait_for_event("request_refused", stan="000081")
    assert "DE43: character 1 (U+5546) is not in ascii" in event["rule"]


def test_nothing_of_a_card_is_at_rest(node: Node) -> None:
    assert canaries.search_files(node.folder) == []
