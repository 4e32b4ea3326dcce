"""Keys on the wire, end to end: sign-on, MACs, PINs and data between simulated terminals and an
acquirer whose crypto is their own."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.framing import Frame, FramingSpec
from gateway.wire.message import Message
from gateway.wire.requirements import requirement_of
from loadtest.terminal_keys import KeyedWire, TerminalKeys
from loadtest.wire import MessageReader
from loadtest.zone_crypto import check_value, encrypted
from tests.support import canaries
from tests.support.node import RunningNode, wait_for
from tests.support.ports import own_ports

_MERCHANT = "MERCHANT0000001"
_PIN = "1234"
_TILLS = 20
_SALES = 25
_ROTATE_AFTER = 10
_HEADER = bytes.fromhex("602200000000")
_TPDU = bytes.fromhex("6000010002")
_SIGN_ON_AGAIN = 3
_MORE = """
[lockout]
bad_macs_per_connection_max = 3
bad_macs_per_address_max = 6
sign_ons_max = 1000

[[listeners]]
name = "cups"
listen = "127.0.0.1:{cups}"
security = "plain"
dialect = "unionpay_pos"
code_set = "unionpay"
framing = {{ tpdu = true, header_bytes = 6 }}

[[profiles]]
name = "keyed"
kinds = ["purchase"]

[profiles.keys]
sign_on = true
mac = "unionpay-ecb"
data = {{ fields = [35, 36] }}
pin = {{ format = "0" }}

[profiles.keys.working]
purposes = ["pin", "mac", "data"]
rotate_after_count = {rotate_after}
overlap_s = 60.0

[[registry.ranges]]
terminals = "K0000001-K0000099"
merchant = "{merchant}"
profile = "keyed"
"""
_UPSTREAM = """
[upstreams.keys]
mac = "x9.19"
bad_mac_reason = "A0"
pin = "translate"
exchange = { purposes = ["zone-pin", "zone-mac"], field = 48, overlap_s = 60.0 }
"""


class KeyedNode(RunningNode):
    """A node whose terminals and acquirer have keys."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, answer_s=8.0)
        self.cups = 0
        self.masters: dict[str, bytes] = {}
        self.zone_master = secrets.token_bytes(16)

    def configure(self) -> None:
        self.prepare()
        (self.cups,) = own_ports(1)
        text = self.config.read_text()
        before = 'keys = { pin = "pass_through" }\n'
        assert before in text
        text = text.replace(before, _UPSTREAM)
        more = _MORE.format(cups=self.cups, merchant=_MERCHANT, rotate_after=_ROTATE_AFTER)
        self.config.write_text(text + more)
        file = self.acquirer_folder / "keys.json"
        file.write_text(json.dumps({"zmk": self.zone_master.hex(), "pin": _PIN}))

    def acquirer_options(self) -> list[str]:
        return ["--keys", str(self.acquirer_folder / "keys.json")]

    def enter_keys(self) -> None:
        """A transport key by two components; under it the zone master key and the terminals'."""
        halves = [secrets.token_bytes(16) for _ in range(2)]
        transport = bytes(a ^ b for a, b in zip(*halves, strict=True))
        config = ("--config", str(self.config))
        components: list[str] = []
        for number, half in enumerate(halves):
            file = self.folder.parent / f"component-{number}"
            file.touch(mode=0o600)
            file.write_text(f"{half.hex().upper()}\n{check_value(half)[:3].hex().upper()}\n")
            components += ["--component-file", str(file)]
        algorithm = ("--algorithm", "TDES-2")
        self.run(
            *("keys", "import", "transport:hand", "zone-master", *algorithm),
            *("--components", "2", *components, *config),
        )
        self.run(
            *("keys", "import", "upstream:acquirer", "zone-master", *algorithm),
            *("--under", "transport:hand"),
            *("--wrapped", encrypted(transport, self.zone_master).hex().upper()),
            *("--check-value", check_value(self.zone_master)[:3].hex().upper(), *config),
        )
        rows = ["terminal_id,key,check_value"]
        for number in range(1, _TILLS + 10):
            master = self.masters[f"K{number:07d}"] = secrets.token_bytes(16)
            wrapped = encrypted(transport, master).hex().upper()
            rows.append(f"K{number:07d},{wrapped},{check_value(master)[:3].hex().upper()}")
        file = self.folder.parent / "masters.csv"
        file.write_text("\n".join(rows) + "\n")
        self.run("keys", "import-many", str(file), *algorithm, "--under", "transport:hand", *config)

    def till(self, number: int) -> Till:
        terminal = f"K{number:07d}" if number > 0 else f"T{-number:07d}"
        return Till(terminal, self.masters.get(terminal, bytes(16)), self.cups)


class Till:
    """A UnionPay terminal: one line, one question at a time."""

    def __init__(self, terminal_id: str, master: bytes, port: int) -> None:
        self.terminal_id = terminal_id
        self.keys = TerminalKeys(master, "unionpay-ecb")
        self.codec = Codec(shipped_dialects()["unionpay_pos"])
        framing = FramingSpec(tpdu=True, header_bytes=6)
        self.wire = KeyedWire(self.codec, framing, _TPDU, _HEADER, self.keys)
        self._port = port
        self._stan = int(terminal_id[1:]) * 1000
        self.stream: trio.SocketStream | None = None
        self._reader: MessageReader | None = None

    async def close(self) -> None:
        if self.stream is not None:
            await self.stream.aclose()

    async def open(self) -> Till:
        await self.close()
        self.stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        self._reader = MessageReader(self.stream, self.wire)
        return self

    async def ask(self, message: Message, frame: bytes | None = None) -> tuple[Message, int]:
        """The answer, and what its header tells the terminal to do next."""
        assert self.stream is not None
        assert self._reader is not None
        with trio.fail_after(30):
            await self.stream.send_all(frame or self.wire.pack(message))
            framed = await self._reader.next_framed()
        assert framed is not None, "the gateway hung up"
        answer, got = framed
        return answer, _requirement(got)

    async def sign_on(self, code: str = "004", *, stan: int = 0) -> Message:
        answer, _ = await self.ask(
            Message(
                "0800",
                {
                    11: f"{stan or self.stan():06d}",
                    41: self.terminal_id,
                    42: _MERCHANT,
                    60: f"00000001{code}",
                    63: "01 ",
                },
            )
        )
        if answer.response_code == "00":
            self.keys.take(bytes.fromhex(answer.get(62)))
        return answer

    def stan(self) -> int:
        self._stan += 1
        return self._stan

    def purchase(self, *, pin: str = _PIN, pan: str = canaries.PAN) -> Message:
        plain = Message(
            "0200",
            {
                3: "000000",
                4: "000000001250",
                11: f"{self.stan():06d}",
                22: "051",
                25: "00",
                26: "12",
                35: f"{pan}D49122010000000000000"[:37],
                41: self.terminal_id,
                42: _MERCHANT,
                49: "156",
                60: "22000001",
                64: "0" * 16,
            },
        )
        clear = plain.without((64,))
        return self.keys.with_track(self.keys.with_pin(clear, pin)) if pin else clear


def _requirement(frame: Frame) -> int:
    return requirement_of(frame.header)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedNode]:
    node = KeyedNode(tmp_path_factory.mktemp("node"))
    try:
        node.configure()
        node.start_acquirer(*node.acquirer_options())
        node.start(links=0)
        node.enter_keys()
        node.wait_for_event("link_up", count=2)
        yield node
    finally:
        node.close()


Tills = Callable[[int], Awaitable["Till"]]


@pytest.fixture
async def tills(node: KeyedNode) -> AsyncIterator[Tills]:
    """Makes tills with a line, which is closed in the end."""
    made: list[Till] = []

    async def connected(number: int) -> Till:
        made.append(await node.till(number).open())
        return made[-1]

    yield connected
    for till in made:
        await till.close()


def counts(node: KeyedNode) -> dict[str, int]:
    return dict(node.switch()["counts"])


async def test_a_purchase_with_pin_mac_and_an_encrypted_track(
    node: KeyedNode, tills: Tills
) -> None:
    before = counts(node)
    till = await tills(1)
    signed_on = await till.sign_on()
    assert signed_on.response_code == "00"
    assert len(signed_on.get(62)) == 120
    answer, requirement = await till.ask(till.purchase())
    assert (answer.response_code, requirement) == ("00", 0)
    assert till.wire.trusts(answer)
    after = counts(node)
    assert after["pins_right"] == before.get("pins_right", 0) + 1
    assert after.get("pins_wrong", 0) == after.get("macs_wrong", 0) == 0
    node.wait_for_event("keys_proven", key="terminal:K0000001/mac.1")
    wrong, _ = await till.ask(till.purchase(pin="4321"))
    assert wrong.response_code == "55"
    assert till.wire.trusts(wrong)


async def test_a_sign_on_that_is_repeated_gets_the_same_keys(node: KeyedNode, tills: Tills) -> None:
    till = await tills(2)
    first = await till.sign_on(stan=777_001)
    again = await till.sign_on(stan=777_001)
    assert first.get(62) == again.get(62)
    other = await till.sign_on("003", stan=777_002)
    assert len(other.get(62)) == 80


async def test_keys_last_over_connections_and_old_ones_until_new_ones_are_used(
    node: KeyedNode, tills: Tills
) -> None:
    till = await tills(3)
    await till.sign_on()
    assert (await till.ask(till.purchase()))[0].response_code == "00"
    stranger = await tills(3)  # whoever signs on in its name ends nothing of it
    assert (await stranger.sign_on()).response_code == "00"
    again = await till.open()
    answer, _ = await again.ask(again.purchase())
    assert answer.response_code == "00"
    assert again.wire.trusts(answer)


async def test_who_is_not_signed_on_is_told_to(node: KeyedNode, tills: Tills) -> None:
    till = await tills(4)
    answer, requirement = await till.ask(till.purchase(pin=""))
    assert (answer.response_code, requirement) == ("77", _SIGN_ON_AGAIN)


async def test_without_a_master_key_there_is_no_sign_on(node: KeyedNode, tills: Tills) -> None:
    till = await tills(90)
    assert (await till.sign_on()).response_code == "A7"
    event = node.wait_for_event("sign_on_refused", terminal="K0000090")
    assert "terminal-master" in event["reason"]


async def test_a_wrong_mac_ends_the_connection_and_not_the_device(
    node: KeyedNode, tills: Tills
) -> None:
    till = await tills(5)
    await till.sign_on()
    assert (await till.ask(till.purchase()))[0].response_code == "00"
    received = node.received()
    for _ in range(3):
        frame = bytearray(till.wire.pack(till.purchase()))
        frame[-1] ^= 1
        answer, requirement = await till.ask(Message("0200", {}), bytes(frame))
        assert (answer.response_code, requirement) == ("A0", _SIGN_ON_AGAIN)
        assert till.wire.trusts(answer)
    assert till.stream is not None
    # It is closed by now, or closes on this: a line with unread bytes on it ends by a reset.
    with trio.fail_after(20), suppress(trio.BrokenResourceError):
        await till.stream.send_all(till.wire.pack(till.purchase()))
        assert await till.stream.receive_some() == b""
    assert node.received() == received
    node.wait_for_event("mac_failed", count=3, terminal="K0000005", address="127.0.0.1")
    await till.open()  # the device itself goes on
    assert (await till.ask(till.purchase()))[0].response_code == "00"


async def test_a_plain_listener_takes_no_payment_without_a_mac(
    node: KeyedNode, tills: Tills
) -> None:
    till = await tills(-7)  # whose profile has none
    answer, _ = await till.ask(till.purchase(pin=""))
    assert answer.response_code == "A0"
    node.wait_for_event("identity_refused", terminal="T0000007", rule="listeners.cups.macs")


async def test_an_answer_with_a_wrong_mac_is_not_believed(node: KeyedNode, tills: Tills) -> None:
    till = await tills(6)
    await till.sign_on()
    assert (await till.ask(till.purchase()))[0].response_code == "00"
    node.switch("spoil_macs=true")
    try:
        answer, _ = await till.ask(till.purchase())
    finally:
        node.switch("spoil_macs=false")
    assert answer.response_code == "98"
    assert till.wire.trusts(answer)
    node.wait_for_event("reversal_owed", reason="A0")
    node.wait_for_event("reversal_done", terminal="K0000006")


async def test_keys_rotate_under_load_without_one_failed_transaction(
    node: KeyedNode, tills: Tills
) -> None:
    """Every till changes its keys several times, and so does the acquirer, in both ways."""
    before = counts(node)
    codes: list[str] = []
    trusted: list[bool] = []
    sign_ons: list[int] = []

    async def shop(number: int) -> None:
        till = await tills(number)
        assert (await till.sign_on()).response_code == "00"
        for _ in range(_SALES):
            answer, requirement = await till.ask(till.purchase())
            codes.append(answer.response_code)
            trusted.append(till.wire.trusts(answer))
            if requirement == _SIGN_ON_AGAIN:
                assert (await till.sign_on()).response_code == "00"
        sign_ons.append(till.keys.sign_ons)

    async with trio.open_nursery() as nursery:
        for number in range(8, 8 + _TILLS):
            nursery.start_soon(shop, number)
        for start in ("new_keys", "key_change", "new_keys"):
            await trio.sleep(0.3)
            await trio.to_thread.run_sync(node.switch, f"start={start}")
    assert codes == ["00"] * (_TILLS * _SALES)
    assert all(trusted)
    assert min(sign_ons) >= _SALES // _ROTATE_AFTER
    after = counts(node)
    assert after["pins_right"] - before.get("pins_right", 0) == _TILLS * _SALES
    wait_for(lambda: counts(node)["key_changes"] > before["key_changes"], "a change of keys")
    wait_for(
        lambda: len([e for e in node.events_of_this_run() if e["event"] == "keys_agreed"]) >= 4,
        "keys of the acquirer's own accord",
    )


def test_no_key_and_no_pin_block_is_on_disk(node: KeyedNode) -> None:
    """Runs last: whatever the tests before it sent."""
    assert node.stop() == 0
    looked_for = [node.zone_master, *node.masters.values()]
    wanted = looked_for + [key.hex().encode() for key in looked_for]
    wanted += [key.hex().upper().encode() for key in looked_for]
    wanted += [canaries.PAN.encode(), b"2600000000000000", b"2610000000000000"]
    for path in node.folder.rglob("*"):
        if path.is_file() and not path.is_socket():
            content = path.read_bytes()
            for value in wanted:
                assert value not in content, path
