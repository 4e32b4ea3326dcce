"""Keys shared with an upstream: MACs, PINs, data, and how they are agreed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.errors import AnswerNotBelieved, KeyUnavailable, StoreError
from gateway.keys.key_table import KeyTable
from gateway.keys.message_security import MalformedPin, PinFormat, PinKey
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState
from gateway.settings.schema_keys_use import KeyExchange, UpstreamKeys
from gateway.settings.schema_upstreams import Network
from gateway.telemetry.events import Event
from gateway.upstreams.upstream import Means, Upstream
from gateway.upstreams.zone_keys import KeyMeans, ZoneKeys
from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.message import Kind, Message
from loadtest.acquirer_keys import AcquirerKeys
from loadtest.zone_crypto import (
    Sealing,
    decrypted,
    encrypted,
    new_key,
    pin_block_0,
    pin_of_block_0,
)
from tests.support.acquirer import FakeAcquirer, approve, with_code
from tests.support.message_keys import software, stored
from tests.support.rig import PAN, START_MS, purchase, upstream_settings

OWNER = "upstream:north"
CODEC = Codec(shipped_dialects()["iso87_ascii"])
EXCHANGE = KeyExchange(purposes=["zone-pin", "zone-mac"], overlap_s=60.0)


@dataclass
class Rig:
    """The gateway's side of an upstream's keys, and an acquirer with a crypto of its own."""

    keys: UpstreamKeys
    settings: dict[str, Any] = field(default_factory=dict)
    failing: bool = False
    events: list[tuple[Event, dict[str, object]]] = field(default_factory=list)
    kept: list[StoredKey] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.crypto = software()
        self.table = KeyTable(keys_max=100)
        self.acquirer = AcquirerKeys(new_key())
        self.put(self.acquirer.master, KeyPurpose.ZONE_MASTER)
        means = KeyMeans(
            table=self.table,
            security=self.crypto,
            keep=self.keep,
            clock=VirtualClock(START_MS),
            emit=lambda event, /, **fields: self.events.append((event, fields)),
        )
        settings = upstream_settings("north", keys=self.keys, **self.settings)
        self.zone = ZoneKeys(settings, CODEC, means)

    def put(self, value: bytes, purpose: KeyPurpose, owner: str = OWNER) -> StoredKey:
        key = stored(value, purpose, KeyAlgorithm.TDES_2, owner=owner)
        self.table.install(key)
        return key

    async def keep(self, rows: Sequence[StoredKey]) -> None:
        if self.failing:
            raise StoreError("told to fail")
        self.kept += rows
        self.table.install(*rows)

    def states(self, purpose: KeyPurpose) -> list[StoredKeyState]:
        return [key.state for key in self.table.versions(OWNER, purpose)]

    def answer(self, field_value: str, code: str = "00") -> Message:
        return Message("0810", {11: "000001", 39: code, 48: field_value, 70: "161"})

    def terminal_pin(self, pin: str = "1234") -> tuple[Message, PinKey]:
        """A purchase with a PIN under a key of its terminal."""
        value = new_key()
        key = stored(value, KeyPurpose.PIN, KeyAlgorithm.TDES_2)
        block = encrypted(value, pin_block_0(pin, PAN)).hex().upper()
        return purchase(1, {52: block}), PinKey(key=key, format=PinFormat.ISO_0)


def received(body: bytes) -> Message:
    return CODEC.decode(body)


async def test_keys_are_agreed_on_and_old_ones_overlap() -> None:
    rig = Rig(UpstreamKeys(mac="x9.19", exchange=EXCHANGE))

    async def ask() -> Message | None:
        return rig.answer(rig.acquirer.change().hex().upper())

    assert await rig.zone.agree(ask)
    assert rig.states(KeyPurpose.ZONE_MAC) == [StoredKeyState.ACTIVE]
    before = rig.acquirer.mac_keys[0]
    assert await rig.zone.take(rig.answer(rig.acquirer.change().hex().upper()))
    assert rig.states(KeyPurpose.ZONE_MAC) == [StoredKeyState.ACTIVE, StoredKeyState.RETIRING]
    for key in (rig.acquirer.mac_keys[0], before):
        assert rig.zone.trusts(received(Sealing("x9.19", key).body(CODEC, purchase())))
    assert rig.acquirer.refusal(received(rig.zone.body(purchase().without((52,)))), CODEC) == ""
    assert [event for event, _ in rig.events] == [Event.KEYS_AGREED] * 2


async def test_links_that_come_up_together_agree_once() -> None:
    rig = Rig(UpstreamKeys(mac="x9.19", exchange=EXCHANGE))
    asked: list[int] = []

    async def ask() -> Message | None:
        asked.append(1)
        await trio.lowlevel.checkpoint()
        return rig.answer(rig.acquirer.change().hex().upper())

    agreed: list[bool] = []

    async def link() -> None:
        agreed.append(await rig.zone.agree(ask))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(link)
    assert (agreed, len(asked)) == ([True] * 4, 1)


@pytest.mark.parametrize(
    ("field_value", "code", "why"),
    [
        ("", "00", "0 bytes where 2 keys take 40"),
        ("00" * 40, "00", "check value"),
        ("zz", "00", "not hexadecimal"),
        ("00" * 40, "96", "code 96"),
    ],
)
async def test_keys_that_are_none_are_refused_and_told(
    field_value: str, code: str, why: str
) -> None:
    rig = Rig(UpstreamKeys(mac="x9.19", exchange=EXCHANGE))

    async def ask() -> Message | None:
        return rig.answer(field_value, code)

    assert not await rig.zone.agree(ask)
    assert rig.events[-1][0] is Event.KEYS_REFUSED
    assert why in str(rig.events[-1][1]["reason"])
    assert rig.kept == []


async def test_keys_that_could_not_be_kept_are_not_used() -> None:
    rig = Rig(UpstreamKeys(mac="x9.19", exchange=EXCHANGE), failing=True)
    assert not await rig.zone.take(rig.answer(rig.acquirer.change().hex().upper()))
    assert rig.states(KeyPurpose.ZONE_MAC) == []
    with pytest.raises(KeyUnavailable, match="no zone-mac key"):
        rig.zone.body(purchase())


async def test_each_terminal_has_keys_of_its_own_where_its_sign_on_brings_them() -> None:
    exchange = EXCHANGE.model_copy(update={"by_terminal": True})
    more = {"knows_terminals": "one_by_one", "network": Network(sign_on=True)}
    rig = Rig(UpstreamKeys(mac="x9.19", exchange=exchange), settings=more)
    assert not rig.zone.agrees_at_start
    answer = rig.answer(rig.acquirer.change().hex().upper())
    assert await rig.zone.take(answer, "T0000001")
    owners = {key.owner for key in rig.kept}
    assert owners == {"upstream:north/T0000001"}
    assert rig.acquirer.refusal(received(rig.zone.body(purchase().without((52,)))), CODEC) == ""
    with pytest.raises(KeyUnavailable):
        rig.zone.body(purchase(1, {41: "T0000002"}))


async def test_answers_with_no_mac_or_a_wrong_one_are_not_trusted() -> None:
    rig = Rig(UpstreamKeys(mac="unionpay-ecb"))
    key = rig.put(new_key(), KeyPurpose.ZONE_MAC)
    body = rig.zone.body(purchase())
    assert rig.zone.trusts(received(body))
    assert not rig.zone.trusts(received(CODEC.encode(purchase())))
    assert not rig.zone.trusts(received(body[:-1] + b"0"))
    echo = Message("0810", {11: "000001", 39: "00", 70: "301"})
    assert rig.zone.trusts(received(CODEC.encode(echo)))
    rig.zone = ZoneKeys(
        upstream_settings("north", keys=UpstreamKeys(mac="unionpay-ecb", mac_network=True)),
        CODEC,
        KeyMeans(
            table=rig.table,
            security=rig.crypto,
            keep=rig.keep,
            clock=VirtualClock(START_MS),
            emit=lambda event, /, **fields: None,
        ),
    )
    assert not rig.zone.trusts(received(CODEC.encode(echo)))
    assert rig.zone.trusts(received(rig.zone.body(echo)))
    rig.table.destroyed(key.owner, at_ms=START_MS)
    assert not rig.zone.trusts(received(body))


async def test_a_pin_is_translated_for_the_upstream() -> None:
    rig = Rig(UpstreamKeys(pin="translate", security_control="unionpay"))
    zone = new_key()
    rig.put(zone, KeyPurpose.ZONE_PIN)
    message, source = rig.terminal_pin()
    sent = rig.zone.with_pin(message, [source], PAN)
    block = bytes.fromhex(sent.get(52))
    assert pin_of_block_0(decrypted(zone, block), PAN) == "1234"
    assert sent.get(52) != message.get(52)
    assert (sent.get(53), sent.get(26)) == ("2600000000000000", "12")


async def test_the_terminals_other_keys_are_tried_too() -> None:
    rig = Rig(UpstreamKeys(pin="translate", security_control="drop"))
    zone = new_key()
    rig.put(zone, KeyPurpose.ZONE_PIN)
    message, source = rig.terminal_pin()
    _, other = rig.terminal_pin()
    sent = rig.zone.with_pin(message.changed({53: "2600000000000000"}), [other, source], PAN)
    assert pin_of_block_0(decrypted(zone, bytes.fromhex(sent.get(52))), PAN) == "1234"
    assert 53 not in sent
    with pytest.raises(MalformedPin):
        rig.zone.with_pin(message, [other], PAN)


async def test_a_pin_block_that_opens_under_two_keys_tells_no_pin() -> None:
    """Of format 1, which no card number is bound to: about one block in 640."""
    rig = Rig(UpstreamKeys(pin="translate"))
    zone_value = new_key()
    zone = rig.put(zone_value, KeyPurpose.ZONE_PIN)
    values = [bytes([number]) * 8 + bytes([number + 2]) * 8 for number in (0x13, 0x25)]
    old, new = (
        PinKey(
            key=stored(value, KeyPurpose.PIN, KeyAlgorithm.TDES_2, version=version),
            format=PinFormat.ISO_1,
        )
        for version, value in enumerate(values, start=1)
    )
    target = PinKey(key=zone, format=PinFormat.ISO_0)

    def opens(block: bytes, source: PinKey) -> bool:
        try:
            rig.crypto.translate_pin(block, source=source, target=target, pan=PAN)
        except MalformedPin:
            return False
        return True

    blocks = [encrypted(values[0], bytes.fromhex(f"141234{fill:010X}")) for fill in range(5_000)]
    ambiguous = [block for block in blocks if opens(block, new)]
    assert 1 <= len(ambiguous) < 50
    message = purchase(1, {52: ambiguous[0].hex().upper()})
    for pins in ([new, old], [old, new]):
        with pytest.raises(MalformedPin, match="two of the terminal's keys"):
            rig.zone.with_pin(message, pins, PAN)
    clear = next(block for block in blocks if block not in ambiguous)
    sent = rig.zone.with_pin(purchase(1, {52: clear.hex().upper()}), [new, old], PAN)
    assert pin_of_block_0(decrypted(zone_value, bytes.fromhex(sent.get(52))), PAN) == "1234"


async def test_a_dukpt_pin_is_translated_and_its_ksn_stays_here() -> None:
    """ANSI X9.24-1:2009, annex A.4: the PIN is 1234."""
    rig = Rig(UpstreamKeys(pin="translate"))
    zone = new_key()
    rig.put(zone, KeyPurpose.ZONE_PIN)
    base = stored(
        bytes.fromhex("0123456789ABCDEFFEDCBA9876543210"),
        KeyPurpose.BASE_DERIVATION,
        KeyAlgorithm.TDES_2,
    )
    ksn = "FFFF9876543210E00001"
    source = PinKey(key=base, format=PinFormat.ISO_0, ksn=bytes.fromhex(ksn))
    pan = "4012345678909"
    message = purchase(1, {2: pan, 52: "1B9C1845EB993A7A", 62: ksn})
    sent = rig.zone.with_pin(message, [source], pan)
    assert pin_of_block_0(decrypted(zone, bytes.fromhex(sent.get(52))), pan) == "1234"
    assert 62 not in sent
    passed = Rig(UpstreamKeys(pin="pass_through")).zone.with_pin(message, [source], pan)
    assert passed.get(62) == ksn


async def test_a_pin_goes_under_no_key_that_the_upstream_cannot_know() -> None:
    message, source = Rig(UpstreamKeys()).terminal_pin()
    with pytest.raises(KeyUnavailable, match="takes no PIN"):
        Rig(UpstreamKeys()).zone.with_pin(message, [source], PAN)
    with pytest.raises(KeyUnavailable, match="no key that its profile knows"):
        Rig(UpstreamKeys(pin="translate")).zone.with_pin(message, [], PAN)
    with pytest.raises(KeyUnavailable, match="no zone-pin key"):
        Rig(UpstreamKeys(pin="translate")).zone.with_pin(message, [source], PAN)
    passed = Rig(UpstreamKeys(pin="pass_through")).zone.with_pin(message, [], PAN)
    assert passed is message


async def test_tracks_are_encrypted_and_what_is_echoed_is_clear_again() -> None:
    rig = Rig(UpstreamKeys(data_fields=[35]))
    value = new_key()
    rig.put(value, KeyPurpose.ZONE_DATA)
    clear = purchase(1, {35: f"{PAN}=49121010000"})
    sent = rig.zone.encrypted(clear)
    track = sent.get(35)
    assert track != clear.get(35).replace("=", "D")
    end = len(track) + len(track) % 2 - 2
    block = decrypted(value, bytes.fromhex(track[end - 16 : end])).hex().upper()
    assert track[: end - 16] + block + track[end:] == clear.get(35).replace("=", "D")
    answer = Message("0210", {35: track, 39: "00"})
    assert rig.zone.decrypted(answer, clear=clear, sent=sent).get(35) == clear.get(35)


async def test_whole_fields_are_encrypted_and_their_answers_decrypted() -> None:
    rig = Rig(UpstreamKeys(data_fields=[2, 55], data_form="whole"))
    rig.put(new_key(), KeyPurpose.ZONE_DATA)
    sent = rig.zone.encrypted(purchase(1, {55: "9F2608AABB"}))
    assert PAN not in (sent.get(2), sent.get(55))
    other = rig.zone.encrypted(Message("0200", {2: "6217000000000000003"}))
    answered = rig.zone.decrypted(
        Message("0210", {2: other.get(2), 55: "00", 39: "00"}), clear=purchase(), sent=sent
    )
    assert answered.get(2) == "6217000000000000003"
    assert 55 not in answered  # under no key that is known


async def test_what_is_not_there_is_not_encrypted() -> None:
    rig = Rig(UpstreamKeys(data_fields=[36]))
    message = purchase()
    assert rig.zone.encrypted(message) is message


async def test_a_terminals_first_request_waits_for_the_keys_of_its_sign_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """On links that live: the acquirer changes keys by itself too, and spoils one MAC."""
    exchange = EXCHANGE.model_copy(update={"by_terminal": True})
    rig = Rig(UpstreamKeys(mac="x9.19", exchange=exchange))
    theirs = rig.acquirer
    asked: list[str] = []

    def script(request: Message) -> Message:
        asked.append(request.mti)
        if request.mti == "0800":
            return request.changed({39: "00", 48: theirs.change().hex().upper()}, mti="0810")
        refusal = theirs.refusal(request, CODEC)
        answer = with_code(refusal)(request) if refusal else approve(request)
        return CODEC.decode(theirs.body(CODEC, answer.without((64, 128))))

    acquirer = FakeAcquirer(script)
    settings = upstream_settings(
        "north",
        knows_terminals="one_by_one",
        terminals_file="t.csv",
        network=Network(sign_on=True, echo=False, prove=False),
        keys=rig.keys,
    )
    clock = VirtualClock(START_MS)

    def emit(event: Event, /, **fields: object) -> None:
        rig.events.append((event, fields))

    async def reserve(upstream: str, first: int, now_ms: int) -> None:
        await trio.lowlevel.checkpoint()

    upstream = Upstream(
        Means(settings=settings, codec=CODEC),
        clock=clock,
        emit=emit,
        random=lambda: 0.5,
        reserve_stans=reserve,
        on_answered=lambda name, seconds: None,
        connect_with=acquirer.connect_with,
        keys=KeyMeans(table=rig.table, security=rig.crypto, keep=rig.keep, clock=clock, emit=emit),
    )
    message = purchase().without((52,))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acquirer.run)
        await nursery.start(upstream.run)
        await upstream.until_ready()
        answer = await upstream.ask(message, transaction_id=1, kind=Kind.PURCHASE)
        assert (answer.response_code, asked) == ("00", ["0800", "0200"])
        assert {key.owner for key in rig.kept} == {"upstream:north/T0000001"}
        theirs.spoil_macs = True
        with pytest.raises(AnswerNotBelieved):
            await upstream.ask(message, transaction_id=2, kind=Kind.PURCHASE)
        assert rig.events[-1][0] is Event.MAC_FAILED
        nursery.cancel_scope.cancel()
