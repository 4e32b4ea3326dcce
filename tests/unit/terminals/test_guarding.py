"""What keys ask of a terminal's message, and what they do to its answer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio
import trio.testing

from gateway.keys.key_table import KeyTable
from gateway.keys.message_security import KeyForm, PinFormat
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState
from gateway.policy.response_codes import Reason
from gateway.settings.schema_keys_use import (
    Lockout as LockoutSettings,
)
from gateway.settings.schema_keys_use import (
    ProfileKeys,
    TerminalData,
    TerminalPin,
    WorkingKeys,
)
from gateway.settings.schema_policy import Profile
from gateway.settings.schema_terminals import Listener
from gateway.store.store import Operation
from gateway.telemetry.events import Event
from gateway.terminals.guarding import Checked, Guard, ListenerGuard
from gateway.terminals.identity import Caller, ConcentratorRule
from gateway.terminals.key_service import KeyService
from gateway.terminals.lockout import LockedOut, Lockout
from gateway.terminals.session import Session
from gateway.wire.codec import Codec
from gateway.wire.dialect import shipped_dialects
from gateway.wire.id_patterns import TerminalSet
from gateway.wire.message import Kind, Message, kind_of
from gateway.wire.working_keys import unpacked_blocks
from loadtest.terminal_keys import TerminalKeys
from loadtest.zone_crypto import new_key
from tests.support.fake_store import FakeStore
from tests.support.message_keys import software, stored
from tests.support.rig import DEVICE, PAN, START_MS, purchase

OWNER = "terminal:T0000001"
MASTER = new_key()
WORKING = WorkingKeys(purposes=["pin", "mac", "data"], rotate_after_h=1.0, overlap_s=60.0)
CODEC = Codec(shipped_dialects()["iso87_ascii"])


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def advance(self, seconds: float) -> None:
        self.now_s += seconds

    def wall_ms(self) -> int:
        return START_MS + round(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s


@dataclass
class Rig:
    """A guard of one listener over a store in memory, and a terminal with a crypto of its own."""

    keys: ProfileKeys
    security: str = "mutual-tls"
    macs: Any = None
    with_master: bool = True
    batch: int = 1
    events: list[tuple[Event, dict[str, object]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = Hands()
        self.store = FakeStore()
        self.table = KeyTable(keys_max=1_000)
        if self.with_master:
            self.table.install(
                stored(MASTER, KeyPurpose.TERMINAL_MASTER, KeyAlgorithm.TDES_2, owner=OWNER)
            )
        self.crypto = software()
        self.lockout = Lockout(LockoutSettings())
        self.service = KeyService(
            table=self.table,
            security=self.crypto,
            store=self.store,
            clock=self.clock,
            emit=self.emit,
            devices_max=10,
        )
        self.shared = Guard(
            table=self.table,
            security=self.crypto,
            service=self.service,
            lockout=self.lockout,
            clock=self.clock,
            emit=self.emit,
            batch_number=lambda _: self.batch,
        )
        self.shared.use(
            [Profile(name="retail", kinds=[Kind.PURCHASE], keys=self.keys)], LockoutSettings()
        )
        listener = Listener(
            name="shops",
            listen="127.0.0.1:1",
            security=self.security,  # type: ignore[arg-type]
            dialect="iso87_ascii",
            macs=self.macs,
        )
        self.guard: ListenerGuard = self.shared.of(listener, CODEC)
        caller = Caller(listener="shops", address="10.0.0.1", security="plain")
        self.session = Session(caller)
        self.terminal = TerminalKeys(MASTER)
        self.stan = 0
        self.store_is_slow = False

    def emit(self, event: Event, /, **fields: object) -> None:
        self.events.append((event, fields))

    def told(self, event: Event) -> int:
        return [name for name, _ in self.events].count(event)

    async def check(self, message: Message, *, sealed: bool = True) -> Checked:
        body = CODEC.encode(message)
        if sealed:
            body = self.terminal.sealing.body(CODEC, message)
        got = CODEC.decode(body)
        return await self.guard.check(got, kind_of(got), DEVICE, self.session, "10.0.0.1")

    async def sign_on(self, *, stan: int = 0, code: str = "001") -> Checked:
        self.stan += 1
        fields = {7: "1121120000", 11: f"{stan or self.stan:06d}", 41: "T0000001", 70: code}
        checked = await self.check(Message("0800", fields), sealed=False)
        if checked.reply is not None and not self.keys.working.form.startswith("tr31"):  # type: ignore[union-attr]
            working = self.keys.working
            assert working is not None
            self.terminal.take(bytes.fromhex(checked.reply.get(working.field)))
        return checked

    def of(self, purpose: KeyPurpose) -> list[StoredKeyState]:
        return [key.state for key in self.table.versions(OWNER, purpose)]


def asked(**changes: Any) -> Rig:
    return Rig(ProfileKeys(mac="x9.19", working=WORKING, **changes))


async def test_nothing_is_asked_where_no_profile_asks() -> None:
    rig = Rig(ProfileKeys())
    assert not rig.guard.active
    assert not Rig(ProfileKeys(), security="plain", macs="by_profile").guard.active
    assert Rig(ProfileKeys(), security="plain").guard.active


async def test_keys_are_pending_until_a_good_mac_and_then_the_old_ones_retire() -> None:
    rig = asked()
    assert (await rig.sign_on()).refused is None
    assert rig.of(KeyPurpose.MAC) == [StoredKeyState.PENDING]
    checked = await rig.check(purchase())
    assert checked.refused is None
    assert checked.withheld is None
    for purpose in (KeyPurpose.PIN, KeyPurpose.MAC, KeyPurpose.DATA):
        assert rig.of(purpose) == [StoredKeyState.ACTIVE]
    rig.clock.advance(1.0)
    old = rig.terminal.mac_key
    await rig.sign_on()
    new, rig.terminal.mac_key = rig.terminal.mac_key, old
    assert (await rig.check(purchase(2))).refused is None
    assert rig.of(KeyPurpose.MAC) == [StoredKeyState.PENDING, StoredKeyState.ACTIVE]
    rig.terminal.mac_key = new
    assert (await rig.check(purchase(3))).refused is None
    assert rig.of(KeyPurpose.MAC) == [StoredKeyState.ACTIVE, StoredKeyState.RETIRING]
    rig.terminal.mac_key = old  # a repeat that was on its way
    assert (await rig.check(purchase(4))).refused is None
    rig.clock.advance(61.0)
    assert (await rig.check(purchase(5))).refused is Reason.MAC_FAILED
    assert set(rig.store.kept_keys) == {
        (OWNER, purpose, version)
        for purpose in (KeyPurpose.PIN, KeyPurpose.MAC, KeyPurpose.DATA)
        for version in (1, 2)
    }


async def test_answers_are_sealed_under_the_key_that_was_used() -> None:
    rig = asked()
    await rig.sign_on()
    checked = await rig.check(purchase())
    body = rig.guard.body(Message("0210", {11: "000001", 39: "00"}), checked)
    assert rig.terminal.sealing.fits(CODEC, CODEC.decode(body))


async def test_keys_in_the_store_are_there_before_the_answer_and_none_without_it() -> None:
    rig = asked()
    rig.store.failing = True
    assert (await rig.sign_on()).refused is Reason.INTERNAL
    assert rig.of(KeyPurpose.MAC) == []
    assert rig.told(Event.SIGN_ON_REFUSED) == 1


async def test_a_store_that_fails_at_the_first_use_refuses_nobody() -> None:
    rig = asked()
    await rig.sign_on()
    rig.store.failing = True
    assert (await rig.check(purchase())).refused is None
    assert rig.of(KeyPurpose.MAC) == [StoredKeyState.PENDING]
    rig.store.failing = False
    assert (await rig.check(purchase(2))).refused is None
    assert rig.of(KeyPurpose.MAC) == [StoredKeyState.ACTIVE]


async def test_a_repeated_sign_on_gets_the_same_keys_for_a_time() -> None:
    rig = asked()
    first = await rig.sign_on(stan=7)
    again = await rig.sign_on(stan=7)
    assert first.reply == again.reply
    rig.clock.advance(121.0)
    assert (await rig.sign_on(stan=7)).reply != first.reply


async def test_many_sign_ons_leave_few_keys_and_end_nobodys() -> None:
    rig = asked()
    await rig.sign_on()
    await rig.check(purchase())
    kept = rig.terminal.mac_key
    for _ in range(30):
        rig.clock.advance(20.0)
        await rig.sign_on()
    pending = rig.of(KeyPurpose.MAC).count(StoredKeyState.PENDING)
    assert pending == 4
    assert len(rig.of(KeyPurpose.MAC)) < 13
    rig.terminal.mac_key = kept
    assert (await rig.check(purchase(2))).refused is None


async def test_a_sign_on_and_a_first_use_at_once_leave_a_key_in_force() -> None:
    rig = asked()
    await rig.sign_on()
    await rig.check(purchase())
    handed_out = []
    for _ in range(4):
        rig.clock.advance(20.0)
        await rig.sign_on()
        handed_out.append(rig.terminal.mac_key)
    commit, written = rig.store.commit, trio.Event()

    async def slow(*operations: Operation) -> None:
        if not rig.store_is_slow:
            await commit(*operations)
            return
        rig.store_is_slow = False
        await written.wait()
        await commit(*operations)

    rig.store.commit, rig.store_is_slow = slow, True  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        rig.clock.advance(20.0)
        nursery.start_soon(rig.sign_on)  # ends the oldest of those that wait
        await trio.testing.wait_all_tasks_blocked()
        rig.terminal.mac_key = handed_out[0]
        nursery.start_soon(rig.check, purchase(2))
        await trio.testing.wait_all_tasks_blocked()
        written.set()
    assert rig.of(KeyPurpose.MAC).count(StoredKeyState.ACTIVE) == 1


async def test_sign_ons_of_a_device_are_limited() -> None:
    rig = asked()
    refused = [(await rig.sign_on()).refused for _ in range(12)]
    assert refused == [None] * 10 + [Reason.OVERLOAD] * 2


async def test_without_a_master_key_a_sign_on_is_refused() -> None:
    rig = Rig(ProfileKeys(mac="x9.19", working=WORKING), with_master=False)
    assert (await rig.sign_on()).refused is Reason.KEY_SERVICE_FAILED


async def test_key_blocks_under_an_aes_master() -> None:
    working = WorkingKeys(purposes=["mac"], algorithm="AES-128", form="tr31-d", field=48)
    rig = Rig(ProfileKeys(mac="aes-cmac", working=working))
    master = stored(new_key(), KeyPurpose.TERMINAL_MASTER, KeyAlgorithm.AES_128, owner=OWNER)
    rig.table.install(master)
    checked = await rig.sign_on(code="161")
    assert checked.reply is not None
    (block,) = unpacked_blocks(checked.reply.get(48).encode(), 1)
    key = rig.crypto.import_under(
        block.wrapped, master, KeyForm.TR31_D, as_=rig.table.versions(OWNER, KeyPurpose.MAC)[0]
    )
    assert key.check_value == rig.table.versions(OWNER, KeyPurpose.MAC)[0].check_value


@pytest.mark.parametrize("sealed", [False, True])
async def test_a_wrong_or_missing_mac_counts_against_connection_and_address(sealed: bool) -> None:
    rig = asked()
    await rig.sign_on()
    await rig.check(purchase())
    good, rig.terminal.mac_key = rig.terminal.mac_key, new_key()
    for number in range(5):
        checked = await rig.check(purchase(10 + number), sealed=sealed)
        assert (checked.refused, checked.requirement) == (Reason.MAC_FAILED, 3)
    assert rig.told(Event.MAC_FAILED) == 5
    rig.terminal.mac_key = good
    with pytest.raises(LockedOut, match="5 wrong MACs"):
        await rig.check(purchase(20))
    rig.session = Session(rig.session.caller)
    assert (await rig.check(purchase(21))).refused is None  # the device on another connection


async def test_a_concentrators_line_stays_whatever_macs_one_of_its_terminals_sends() -> None:
    rig = asked()
    await rig.sign_on()
    good, rig.terminal.mac_key = rig.terminal.mac_key, new_key()
    rule = ConcentratorRule("c1", TerminalSet.parse(["T*"]))
    caller = Caller(listener="shops", address="10.0.0.1", security="plain", concentrator=rule)
    rig.session = Session(caller)
    for number in range(60):
        assert (await rig.check(purchase(10 + number))).refused is Reason.MAC_FAILED
    assert rig.told(Event.MAC_FAILED) == 60
    assert not rig.lockout.locked("10.0.0.1", rig.clock.monotonic_s())
    rig.terminal.mac_key = good
    assert (await rig.check(purchase(90))).refused is None


async def test_who_only_writes_a_shops_number_does_not_sign_it_off() -> None:
    plain = Rig(asked(sign_on=True).keys, security="plain")
    await plain.sign_on()
    off = Message("0800", {7: "1121120000", 11: "000009", 41: "T0000001", 70: "002"})
    assert (await plain.check(off, sealed=False)).refused is None
    assert (await plain.check(purchase(2))).withheld is None
    good, plain.terminal.mac_key = plain.terminal.mac_key, new_key()
    await plain.check(off)
    plain.terminal.mac_key = good
    assert (await plain.check(purchase(3))).withheld is None
    await plain.check(off)
    withheld = (await plain.check(purchase(4))).withheld
    assert withheld is not None
    assert withheld.reason is Reason.NOT_SIGNED_ON


async def test_a_reversal_needs_its_mac_and_no_session() -> None:
    rig = asked(sign_on=True)
    await rig.sign_on()
    reversal = Message("0400", purchase().fields | {39: "98"})
    assert (await rig.check(reversal)).refused is None
    off = {7: "1121120000", 11: "000009", 41: "T0000001", 70: "002"}
    await rig.check(Message("0800", off), sealed=False)
    assert (await rig.check(reversal)).withheld is None
    withheld = (await rig.check(purchase(2))).withheld
    assert withheld is not None
    assert withheld.reason is Reason.NOT_SIGNED_ON
    assert (await rig.check(Message("0400", reversal.fields), sealed=False)).refused is (
        Reason.MAC_FAILED
    )


async def test_a_repeat_of_one_who_is_not_signed_on_is_left_to_the_flow() -> None:
    rig = Rig(ProfileKeys(sign_on=True))
    repeat = Message("0201", purchase().fields)
    checked = await rig.check(repeat, sealed=False)
    assert checked.refused is None
    assert checked.withheld is not None
    await rig.check(Message("0800", {11: "000001", 41: "T0000001", 70: "001"}), sealed=False)
    rig.session = Session(rig.session.caller)  # over connections
    assert (await rig.check(purchase(), sealed=False)).withheld is None


async def test_a_batch_that_differs_is_withheld_where_it_is_checked() -> None:
    rig = Rig(ProfileKeys(batch_checked=True))
    for batch, fits in (("000001", True), ("000002", False)):
        message = purchase(1, {60: f"22{batch}"})
        assert ((await rig.check(message, sealed=False)).withheld is None) is fits


async def test_old_keys_ask_for_new_ones_and_then_stop() -> None:
    rig = asked()
    await rig.sign_on()
    assert (await rig.check(purchase())).requirement == 0
    rig.clock.advance(3_601.0)
    checked = await rig.check(purchase(2))
    assert (checked.requirement, checked.withheld) == (3, None)
    rig.clock.advance(60.0)
    assert (await rig.check(purchase(3))).refused is Reason.NOT_SIGNED_ON


async def test_keys_that_were_used_often_are_due_too() -> None:
    working = WORKING.model_copy(update={"rotate_after_count": 3})
    rig = Rig(ProfileKeys(mac="x9.19", working=working))
    await rig.sign_on()
    told = [(await rig.check(purchase(number))).requirement for number in range(1, 5)]
    assert told == [0, 0, 3, 3]
    rig.clock.advance(61.0)
    checked = await rig.check(purchase(6))
    assert checked.withheld is not None
    await rig.sign_on()
    assert (await rig.check(purchase(7))).requirement == 0


async def test_pins_come_with_the_keys_they_may_be_under() -> None:
    rig = asked(pin=TerminalPin(format="0", required_for=[Kind.PURCHASE]))
    await rig.sign_on()
    message = purchase(1, {52: "0123456789ABCDEF"})
    (pin,) = (await rig.check(message)).pins
    assert (pin.key.purpose, pin.format, pin.ksn) == (KeyPurpose.PIN, PinFormat.ISO_0, b"")
    withheld = (await rig.check(purchase(2).without((52,)))).withheld
    assert withheld is not None
    assert withheld.reason is Reason.PIN_MALFORMED


@pytest.mark.parametrize("owner", [OWNER, "profile:retail", "gateway"])
async def test_dukpt_takes_its_ksn_and_a_base_key_of_the_nearest_owner(owner: str) -> None:
    rig = Rig(ProfileKeys(pin=TerminalPin(key="dukpt", ksn_field=62)))
    message = purchase(1, {52: "0123456789ABCDEF", 62: "FFFF9876543210E00001"})
    assert (await rig.check(message, sealed=False)).refused is Reason.KEY_SERVICE_FAILED
    base = stored(new_key(), KeyPurpose.BASE_DERIVATION, KeyAlgorithm.TDES_2, owner=owner)
    rig.table.install(base)
    checked = await rig.check(message, sealed=False)
    (pin,) = checked.pins
    assert (pin.key.owner, pin.ksn.hex().upper()) == (owner, "FFFF9876543210E00001")
    checked = await rig.check(message.without((62,)), sealed=False)
    assert checked.withheld is not None
    assert checked.withheld.reason is Reason.PIN_MALFORMED


async def test_a_ksn_that_goes_back_is_told() -> None:
    rig = Rig(ProfileKeys(pin=TerminalPin(key="dukpt", ksn_field=62)))
    base = stored(
        new_key(), KeyPurpose.BASE_DERIVATION, KeyAlgorithm.TDES_2, owner="profile:retail"
    )
    rig.table.install(base)

    async def told(ksn: str, stan: int, mti: str = "0200") -> int:
        message = purchase(stan, {52: "0123456789ABCDEF", 62: ksn}, mti=mti)
        assert (await rig.check(message, sealed=False)).pins
        return rig.told(Event.KSN_WENT_BACK)

    assert await told("FFFF9876543210E00001", 1) == 0
    assert await told("FFFF9876543210E00001", 1) == 0  # the same again
    assert await told("FFFF9876543210E00007", 2) == 0
    assert await told("FFFF9876543210E00001", 1, "0201") == 0  # a repeat bears what it bore
    assert await told("FFFF9876543211000003", 3) == 0  # another device's
    assert await told("0000000000000000FFFFFFF7", 3) == 0  # AES DUKPT counts in 32 bits
    assert await told("0000000000000000FFFFFFF6", 4) == 1
    assert await told("FFFF9876543210E00007", 4) == 2  # a recorded block in a new purchase
    assert await told("FFFF9876543210E00006", 5) == 3
    name, fields = rig.events[-1]
    assert (name, fields["counter"], fields["highest"]) == (Event.KSN_WENT_BACK, 6, 7)
    rig.shared.counters.devices_max = 2
    assert await told("FFFF9876543310E00001", 6) == 3
    assert len(rig.shared.counters) == 2


async def test_tracks_are_decrypted_where_de53_says_so() -> None:
    rig = asked(data=TerminalData())
    await rig.sign_on()
    clear = purchase(1, {35: f"{PAN}D49121010000"}).without((2,))
    hidden = rig.terminal.with_track(clear)
    assert hidden.pan != PAN
    checked = await rig.check(hidden)
    assert checked.message.pan == PAN
    assert checked.message.get(53)[2] == "0"
    assert (await rig.check(clear)).message.get(35) == clear.get(35)


async def test_a_reversal_is_taken_though_its_track_cannot_be_read() -> None:
    rig = Rig(ProfileKeys(data=TerminalData()))
    rig.terminal.data_key = new_key()
    sale = rig.terminal.with_track(purchase(1, {35: f"{PAN}D49121010000"}))
    assert (await rig.check(sale, sealed=False)).refused is Reason.KEY_SERVICE_FAILED
    reversal = Message("0400", sale.fields | {39: "98"})
    assert (await rig.check(reversal, sealed=False)).refused is None


async def test_data_that_cannot_be_decrypted_is_a_format_error() -> None:
    rig = asked(data=TerminalData(fields=[45], form="whole", always=True))
    await rig.sign_on()
    checked = await rig.check(purchase(1, {45: "00" * 16}))
    assert checked.withheld is not None
    assert checked.withheld.reason is Reason.FORMAT_ERROR


async def test_a_plain_listener_refuses_devices_whose_profile_has_no_mac() -> None:
    rig = Rig(ProfileKeys(), security="plain")
    checked = await rig.check(purchase(), sealed=False)
    assert (checked.refused, checked.rule) == (Reason.MAC_FAILED, "listeners.shops.macs")
    assert rig.session.bad_macs == 0


async def test_a_destroyed_key_seals_and_verifies_nothing() -> None:
    rig = asked()
    await rig.sign_on()
    checked = await rig.check(purchase())
    rig.table.destroyed(OWNER, at_ms=rig.clock.wall_ms())
    assert (await rig.check(purchase(2))).refused is Reason.NOT_SIGNED_ON
    key: StoredKey | None = checked.key
    assert key is not None


async def test_a_key_that_does_not_unwrap_hides_none_that_does() -> None:
    rig = asked()
    await rig.sign_on()
    (good,) = rig.table.versions(OWNER, KeyPurpose.MAC)
    rig.table.install(replace(good, version=good.version + 1, wrapped=b"\0" * len(good.wrapped)))
    assert (await rig.check(purchase())).refused is None
    # Where none is right, the broken one may have been it: that is no wrong MAC.
    rig.terminal.mac_key = new_key()
    checked = await rig.check(purchase(2))
    assert checked.refused is Reason.KEY_SERVICE_FAILED
    assert rig.session.bad_macs == 0
