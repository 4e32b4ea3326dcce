"""From the wire in to the wire out: each rule, and the DE39 it gives, in both code sets; and
`gateway explain`, which has to say the same and name the rule."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.admin.client import AdminClient
from gateway.wire.framing import encode_frame
from gateway.wire.message import Message
from tests.support import canaries
from tests.support.node import CODEC, ROOT, SPEC, Peer, RunningNode, purchase, wait_for
from tests.support.ports import own_ports

_BURST = 150  # more than any terminal here sends, but one
_MORE = """
[rates]
device = {{ per_s = 0.001, burst = {burst} }}

[[listeners]]
name = "cups"
listen = "127.0.0.1:{port}"
security = "plain"
macs = "by_profile"
dialect = "iso87_ascii"
code_set = "unionpay"

[[profiles]]
name = "narrow"
kinds = ["purchase"]
currencies = ["978"]
amounts = [{{ currency = "978", max_minor = 2000 }}]

[[profiles]]
name = "closed"
kinds = ["purchase"]
hours = [{{ days = ["{never}"], time = "00:00-00:01" }}]

[[profiles]]
name = "ranged"
kinds = ["purchase"]
card_ranges = ["400000-499999"]

[[profiles]]
name = "once"
kinds = ["purchase"]
limits = [{{ per = "device", window = "day", count_max = 0 }}]

[[profiles]]
name = "little"
kinds = ["purchase"]
limits = [{{ per = "device", window = "day", currency = "978", amount_max_minor = 100 }}]

[[profiles]]
name = "sealed"
kinds = ["purchase"]
keys = {{ mac = "x9.19" }}

[[profiles]]
name = "unsigned"
kinds = ["purchase"]
keys = {{ sign_on = true }}

[[profiles]]
name = "pinned"
kinds = ["purchase"]
keys = {{ pin = {{ format = "0" }} }}
{ranges}
[[upstreams]]
name = "pins"
addresses = ["127.0.0.1:{acquirer}"]
dialect = "iso87_ascii"
plain = true
keys = {{ pin = "translate" }}

[[groups]]
name = "pins"
members = [{{ upstream = "pins" }}]

[[upstreams]]
name = "absent"
addresses = ["127.0.0.1:{nobody}"]
dialect = "iso87_ascii"
plain = true

[[groups]]
name = "absent"
members = [{{ upstream = "absent" }}]

"""
_RANGE = """
[[registry.ranges]]
terminals = "{first}-{last}"
merchant = "MERCHANT0000001"
profile = "{profile}"
"""
_PROFILES = (
    *("narrow", "closed", "ranged", "once", "little"),
    *("sealed", "unsigned", "pinned", "retail"),
)
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_BLOCKED_BIN, _STOLEN_BIN = "400001", "400002"
_SUSPENDED, _BLOCKED = "T0000777", "T0000778"


def of(profile: str, number: int = 1) -> str:
    """A terminal of a profile."""
    return f"T{1000 * (1 + _PROFILES.index(profile)) + number:07d}"


def card(bin_: str) -> dict[str, str]:
    return {"f2": f"{bin_}0000000000", "f35": f"{bin_}0000000000=4912", "f45": "", "f55": ""}


class TwoCodeSets(RunningNode):
    """A node with a listener more, whose terminals know UnionPay's codes."""

    cups = 0  # its port


@dataclass(frozen=True)
class Case:
    name: str
    iso: str
    unionpay: str
    message: Callable[[int], Message]
    rule: str = ""  # part of what `explain` names; "": it does not see this one
    first: Callable[[int], Message] | None = None


def _changed(terminal: str = "T0000010", **fields: str) -> Callable[[int], Message]:
    def make(stan: int) -> Message:
        message = purchase(stan, terminal, **fields)
        return message.without([number for number, value in message.fields.items() if not value])

    return make


def _echo(network_code: str) -> Callable[[int], Message]:
    def make(stan: int) -> Message:
        return Message(
            "0800", {7: "0101000000", 11: f"{stan:06d}", 41: "T0000010", 70: network_code}
        )

    return make


CASES = (
    Case("approved", "00", "00", _changed()),
    Case("unknown terminal", "58", "97", _changed("T9999999"), "registry"),
    Case("wrong merchant", "03", "03", _changed(f42="MERCHANT0000009"), "registry"),
    Case("suspended", "58", "97", _changed(_SUSPENDED), "suspended"),
    Case("blocked terminal", "58", "97", _changed(_BLOCKED), "blocklists/terminals:2"),
    Case("kind", "58", "58", _changed(f3="010000"), "gateway.toml:"),
    Case("keyed in", "58", "58", _changed(f22="011", f35="", f45="", f55=""), "gateway.toml:"),
    Case("currency", "58", "58", _changed(of("narrow"), f49="840"), "gateway.toml:"),
    Case("hours", "58", "58", _changed(of("closed")), "gateway.toml:"),
    Case("card range", "57", "57", _changed(of("ranged")), "gateway.toml:"),
    Case("blocked card", "62", "62", _changed(**card(_BLOCKED_BIN)), "blocklists/bins:1"),
    Case("stolen card", "43", "43", _changed(**card(_STOLEN_BIN)), "blocklists/bins:2"),
    Case("amount", "61", "61", _changed(of("narrow"), f4="000000002001"), "gateway.toml:"),
    Case("count", "65", "65", _changed(of("once")), "gateway.toml:"),
    Case("amount in a day", "61", "61", _changed(of("little")), "gateway.toml:"),
    Case("no transaction", "12", "12", _changed(f3="770000"), "kind"),
    Case("no amount", "13", "13", _changed(f4="000000000000"), "DE4"),
    Case("no upstream", "91", "91", _changed(f49="392")),
    Case("not supported", "40", "40", _echo("161")),
    Case("no MAC", "63", "A0", _changed(of("sealed"))),
    Case("wrong MAC", "63", "A0", _changed(of("sealed", 2), f128="0123456789ABCDEF")),
    Case("not signed on", "63", "77", _changed(of("unsigned"))),
    Case("no PIN", "55", "99", _changed(of("pinned"), f49="826")),
    Case("no key for the PIN", "96", "A7", _changed(f49="826")),
    Case(
        "repeat differs",
        "94",
        "94",
        _changed(f4="000000000777"),
        first=_changed(f4="000000000778"),
    ),
    Case(
        "no original",
        "25",
        "25",
        lambda stan: purchase(
            stan, "T0000011", f3="020000", f90=f"0200{stan + 1:06d}".ljust(42, "0")
        ).without([35, 36, 45, 48, 52, 55]),
    ),
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoCodeSets]:
    node = TwoCodeSets(tmp_path_factory.mktemp("node"), answer_s=1.0)
    try:
        node.prepare()
        node.cups, nobody = own_ports(2)
        text = node.config.read_text()
        text = text.replace(
            'kinds = ["purchase", "refund", "balance", "offline"]',
            'kinds = ["purchase", "refund", "balance", "offline", "void"]',
        ).replace(
            "[[routes]]\n",
            '[[routes]]\nname = "yen"\ncurrencies = ["392"]\ngroup = "absent"\n\n'
            '[[routes]]\nname = "pounds"\ncurrencies = ["826"]\ngroup = "pins"\n\n[[routes]]\n',
            1,
        )
        ranges = "".join(
            _RANGE.format(first=of(profile, 0), last=of(profile, 999), profile=profile)
            for profile in _PROFILES[:-1]
        )
        never = _DAYS[(datetime.now(UTC).weekday() + 3) % 7]
        more = _MORE.format(
            port=node.cups,
            nobody=nobody,
            acquirer=node.acquirer_port,
            never=never,
            burst=_BURST,
            ranges=ranges,
        )
        node.config.write_text(text + more)
        lists = node.folder / "blocklists"
        lists.mkdir()
        (lists / "terminals").write_text(f"# stolen\n{_BLOCKED} reason=stolen\n")
        (lists / "bins").write_text(f"{_BLOCKED_BIN}\n{_STOLEN_BIN} code=43\n")
        node.start_acquirer()
        node.start(links=3)
        config = str(node.config)
        for owner, purpose in (
            (f"terminal:{of('sealed')}", "mac"),
            (f"terminal:{of('sealed', 2)}", "mac"),
            (f"terminal:{of('pinned')}", "pin"),
            ("upstream:pins", "zone-pin"),
        ):
            node.run("keys", "generate", owner, purpose, "--algorithm", "TDES-2", "-c", config)
        node.run("terminals", "suspend", _SUSPENDED, "--reason", "test", "--config", config)
        yield node
    finally:
        node.close()


@pytest.fixture(params=["iso", "unionpay"])
def code_set(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def connect(node: TwoCodeSets, code_set: str) -> Peer:
    return node.connect(node.plain if code_set == "iso" else node.cups)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_rule_and_its_code(node: TwoCodeSets, code_set: str, case: Case) -> None:
    stan = 10 * CASES.index(case) + (1 if code_set == "iso" else 5_001)
    peer = connect(node, code_set)
    if case.first is not None:
        assert peer.ask(case.first(stan)).response_code == "00"
    answer = peer.ask(case.message(stan))
    assert answer.response_code == (case.iso if code_set == "iso" else case.unionpay)
    assert answer.stan == f"{stan:06d}"
    peer.close()


def test_too_many_messages_a_second_are_96(node: TwoCodeSets, code_set: str) -> None:
    terminal = "T0000020" if code_set == "iso" else "T0000021"
    peer = connect(node, code_set)
    codes = [peer.ask(purchase(number, terminal)).response_code for number in range(1, _BURST + 3)]
    assert codes == ["00"] * _BURST + ["96"] * 2
    peer.close()
    another = connect(node, code_set)
    assert another.ask(purchase(9_999, "T0000010")).response_code == "00"
    another.close()


@pytest.mark.parametrize("case", [case for case in CASES if case.rule], ids=lambda case: case.name)
def test_explain_names_the_rule(node: TwoCodeSets, code_set: str, case: Case) -> None:
    listener = "plain" if code_set == "iso" else "cups"
    message = case.message(9_000)
    # As the command asks: its start-up is another test's.
    fields = {str(number): value for number, value in message.fields.items()}
    asked = {"mti": message.mti, "fields": fields, "listener": listener, "address": ""}
    client = AdminClient(node.folder / "gateway.sock", config=node.config)
    found = client.run("explain", "message", asked)
    assert found["decision"] == "refused"
    assert found["code"] == (case.iso if code_set == "iso" else case.unionpay)
    assert case.rule in found["rule"]


def test_explain_shows_the_route_masks_the_card_and_takes_from_no_limit(node: TwoCodeSets) -> None:
    message = purchase(9_100)
    for _ in range(2):
        found = explain(node, {"fields": message.fields})
        assert (found["decision"], found["route"], found["code"]) == ("allowed", "default", "")
        assert [one["upstream"] for one in found["upstreams"]] == ["acquirer"]
        assert canaries.PAN not in json.dumps(found)
        assert canaries.PAN_HIDDEN not in json.dumps(found)
        assert {one.partition(":")[0] for one in found["unseen"]} >= {"the connection", "repeats"}
    assert explain(node, None, "--hex", CODEC.encode(message).hex())["kind"] == "purchase"
    refused = explain(node, {"fields": message.fields | {41: _BLOCKED}})
    assert refused["decision"] == "refused"
    assert "blocklists/terminals:2" in refused["rule"]
    yen = explain(node, {"fields": message.fields | {49: "392"}})
    assert (yen["route"], yen["upstreams"][0]["upstream"]) == ("yen", "absent")


def explain(node: TwoCodeSets, message: dict[str, Any] | None, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "gateway", "explain", "--json", *arguments]
    done = subprocess.run(
        [*command, "--config", str(node.config)],
        input="" if message is None else json.dumps(message),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


def test_what_is_half_a_message_is_told_so(node: TwoCodeSets, code_set: str) -> None:
    peer = connect(node, code_set)
    body = CODEC.encode(purchase(8_000))
    peer.sock.sendall(encode_frame(SPEC, body[:-1]))
    assert peer.receive().response_code == "30"
    peer.sock.sendall(encode_frame(SPEC, b"nonsense"))
    assert peer.ended(5.0)


def test_no_answer_in_time(node: TwoCodeSets, code_set: str) -> None:
    stans = itertools.count(8_150 if code_set == "iso" else 8_160)
    wait_for(
        lambda: connect(node, code_set).ask(purchase(next(stans))).response_code == "00",
        "its links to be up, which may be down since it was mute before",
    )
    node.switch("mute=true")
    try:
        answer = connect(node, code_set).ask(purchase(8_100 if code_set == "iso" else 8_101))
        assert answer.response_code == ("91" if code_set == "iso" else "98")
    finally:
        node.switch("mute=false")


def test_a_blocked_merchant(node: TwoCodeSets, code_set: str) -> None:
    file = Path(node.folder / "blocklists" / "merchants")
    file.write_text("MERCHANT0000001\n")
    node.run("reload", "--config", str(node.config))
    try:
        assert connect(node, code_set).ask(purchase(8_200)).response_code == "03"
    finally:
        file.unlink()
        node.run("reload", "--config", str(node.config))
