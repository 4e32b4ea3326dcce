"""The keys shared with one upstream: MACs on its links, PINs and data, and how keys change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from gateway.clock import Clock
from gateway.errors import KeyUnavailable, OperatorError, ParseError, StoreError
from gateway.keys.key_life import succession
from gateway.keys.key_table import KeyTable
from gateway.keys.message_security import (
    KeyForm,
    MacScheme,
    MalformedPin,
    MessageSecurity,
    PinFormat,
    PinKey,
)
from gateway.keys.records import (
    KeyAlgorithm,
    KeyPurpose,
    StoredKey,
    StoredKeyState,
    upstream_owner,
)
from gateway.settings.schema_keys_use import KeyExchange
from gateway.settings.schema_upstreams import Upstream as UpstreamSettings
from gateway.telemetry.events import Emit, Event
from gateway.wire.codec import Codec
from gateway.wire.data_blocks import track_block, whole_decrypted, whole_encrypted
from gateway.wire.macs import MacPlace
from gateway.wire.message import PIN_BLOCK, RESPONSE_CODE, Message
from gateway.wire.working_keys import (
    CarriedKey,
    as_bytes,
    is_binary,
    unpacked,
    unpacked_blocks,
)

_NETWORK = "8"  # the second digit of a network message's MTI
_CHANGE_S = 2.0  # answers are held back so long at most while new keys are made durable
_SHARED_S = 5.0  # links that come up together agree on keys once
_SECURITY_CONTROL, _PIN_CAPTURE = 53, 26
_PIN_DIGITS_MAX = "12"
# DE53 as UnionPay has it: PIN format (2: with the card number), cipher, and what else is encrypted.
_UNIONPAY_FORMATS = {"0": "2", "1": "1", "3": "2", "4": "2"}
_UNIONPAY_CIPHERS = {KeyAlgorithm.DES: "0", KeyAlgorithm.SM4: "3"}
_UNIONPAY_CIPHER = "6"  # double length
_BLOCK_BYTES = {KeyAlgorithm.DES: 8, KeyAlgorithm.TDES_2: 8, KeyAlgorithm.TDES_3: 8}

# Makes keys durable, and then known; raises StoreError.
KeepKeys = Callable[[Sequence[StoredKey]], Awaitable[None]]
# Asks the acquirer for keys; None: no answer in time.
AskForKeys = Callable[[], Awaitable[Message | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMeans:
    """What all upstreams' keys are kept and used with."""

    table: KeyTable
    security: MessageSecurity
    keep: KeepKeys
    clock: Clock
    emit: Emit


class ZoneKeys:
    """What one upstream's settings make of the keys that are shared with it.

    Where they come with each terminal's sign-on, they are the terminal's own towards this upstream:
    the owner is `upstream:NAME/TERMINAL`, by the terminal id that the upstream knows.
    """

    def __init__(self, settings: UpstreamSettings, codec: Codec, means: KeyMeans) -> None:
        self._name = settings.name
        self._owner = upstream_owner(settings.name)
        self._settings = settings.keys
        self._exchange = settings.keys.exchange
        self._codec = codec
        self._place = MacPlace(codec)
        self._table = means.table
        self._security = means.security
        self._keep = means.keep
        self._clock = means.clock
        self._emit = means.emit
        self._scheme = None if settings.keys.mac is None else MacScheme(settings.keys.mac)
        self._agreeing = trio.Lock()
        self._agreed_s = -_SHARED_S
        self.changing: trio.Event | None = None  # set once keys that have come are kept
        self.makes_macs = self._scheme is not None
        self.encrypts = bool(settings.keys.data_fields)
        self.by_terminal = self._exchange is not None and self._exchange.by_terminal
        self.takes_keys = self._exchange is not None and not self.by_terminal
        self.agrees_at_start = (
            self._exchange is not None and self._exchange.at_start and not self.by_terminal
        )

    def _owner_of(self, terminal_id: str) -> str:
        return f"{self._owner}/{terminal_id.rstrip()}" if self.by_terminal else self._owner

    def lacking(self, message: Message) -> str:
        """Which key a request cannot go without, and what to do about it; "" where all are there.

        Keys of a terminal's own come with its sign-on, which sending the request begins with.
        """
        if self.by_terminal:
            return ""
        try:
            if self._scheme is not None and self._has_mac(message):
                self._table.current(self._owner, KeyPurpose.ZONE_MAC, self._clock.wall_ms())
            if self.encrypts and any(n in message.fields for n in self._settings.data_fields):
                self._table.current(self._owner, KeyPurpose.ZONE_DATA, self._clock.wall_ms())
        except KeyUnavailable as error:
            return str(error)
        return ""

    # --- MACs -------------------------------------------------------------------------------------

    def _has_mac(self, message: Message) -> bool:
        return message.mti[1:2] != _NETWORK or self._settings.mac_network

    def body(self, message: Message) -> bytes:
        """A message's body, with its MAC where it has one. Raises EncodeError, KeyUnavailable."""
        if self._scheme is None or not self._has_mac(message):
            return self._codec.encode(message)
        owner = self._owner_of(message.terminal_id)
        key = self._table.current(owner, KeyPurpose.ZONE_MAC, self._clock.wall_ms())
        return self._place.sealed(message, partial(self._security.mac, key, self._scheme))

    def trusts(self, message: Message) -> bool:
        """Whether a message that came has the MAC that it should have."""
        if self._scheme is None or not self._has_mac(message):
            return True
        covered = self._place.covered(message)
        if covered is None:
            return False
        owner = self._owner_of(message.terminal_id)
        for key in self._table.usable(owner, KeyPurpose.ZONE_MAC, self._clock.wall_ms()):
            try:
                if self._security.verify_mac(key, self._scheme, *covered):
                    return True
            except KeyUnavailable:
                continue
        return False

    # --- PINs -------------------------------------------------------------------------------------

    def with_pin(self, message: Message, pins: Sequence[PinKey], pan: str) -> Message:
        """The message with its PIN block under this upstream's key, or as it came where that is
        what the settings say; `pins` are what it may be under.

        Raises MalformedPin, and KeyUnavailable where it cannot be handed on.
        """
        settings = self._settings
        if settings.pin == "pass_through":
            return message
        if settings.pin == "refuse":
            raise KeyUnavailable(
                f'upstream {self._name} takes no PIN: keys.pin is "refuse", and not "translate"'
            )
        if not pins:
            raise KeyUnavailable("the terminal's PIN is under no key that its profile knows")
        owner = self._owner_of(message.terminal_id)
        key = self._table.current(owner, KeyPurpose.ZONE_PIN, self._clock.wall_ms())
        target = PinKey(key=key, format=PinFormat(settings.pin_format))
        try:
            block = bytes.fromhex(message.fields[PIN_BLOCK])
        except ValueError:
            raise MalformedPin("DE52 is not hexadecimal") from None
        fields = dict(message.fields)
        if pins[0].ksn:
            # It names a key that only the terminal's side knows.
            ksn = pins[0].ksn.hex().upper()
            fields = {n: text for n, text in fields.items() if text.strip().upper() != ksn}
        fields[PIN_BLOCK] = self._translated(block, pins, target, pan).hex().upper()
        self._describe(fields, key)
        return Message(message.mti, fields, pads=message.pads)

    def _translated(self, block: bytes, pins: Sequence[PinKey], target: PinKey, pan: str) -> bytes:
        """Under the first of the terminal's keys that it is a PIN block under.

        In format 1 one block in 640 is a PIN block under a wrong key as well. Where it is one under
        two keys nothing says which PIN was entered, and no wrong one is to count at the issuer.
        """
        found: bytes | None = None
        failed: MalformedPin | None = None
        for source in pins:
            try:
                block_sent = self._security.translate_pin(
                    block, source=source, target=target, pan=pan
                )
            except MalformedPin as error:
                failed = error
                continue
            if source.format is not PinFormat.ISO_1:
                return block_sent
            if found is not None:
                raise MalformedPin("the PIN block holds a PIN under two of the terminal's keys")
            found = block_sent
        if found is None:
            raise failed or MalformedPin("there is no key that it could be under")
        return found

    def _describe(self, fields: dict[int, str], key: StoredKey) -> None:
        """Say in DE53 and DE26 what the block is by now."""
        style = self._settings.security_control
        if style == "drop":
            fields.pop(_SECURITY_CONTROL, None)
        elif style == "unionpay":
            form = _UNIONPAY_FORMATS[self._settings.pin_format]
            cipher = _UNIONPAY_CIPHERS.get(key.algorithm, _UNIONPAY_CIPHER)
            tracks = "1" if self.encrypts else "0"
            fields[_SECURITY_CONTROL] = f"{form}{cipher}{tracks}".ljust(16, "0")
            fields.setdefault(_PIN_CAPTURE, _PIN_DIGITS_MAX)

    # --- data -------------------------------------------------------------------------------------

    def encrypted(self, message: Message) -> Message:
        """The message with the fields of the settings under the data key; raises KeyUnavailable."""
        numbers = [n for n in self._settings.data_fields if n in message.fields]
        if not numbers:
            return message
        owner = self._owner_of(message.terminal_id)
        key = self._table.current(owner, KeyPurpose.ZONE_DATA, self._clock.wall_ms())
        encrypt = partial(self._security.encrypt, key)
        fields = dict(message.fields)
        try:
            for number in numbers:
                if self._settings.data_form == "unionpay":
                    fields[number] = track_block(fields[number], encrypt)
                else:
                    fields[number] = whole_encrypted(
                        fields[number],
                        encrypt,
                        block_bytes=_BLOCK_BYTES.get(key.algorithm, 16),
                        binary=is_binary(self._codec.dialect, number),
                    )
        except ValueError:
            raise KeyUnavailable(f"DE{number} cannot be encrypted: it is no track") from None
        return Message(message.mti, fields, pads=message.pads)

    def decrypted(self, answer: Message, *, clear: Message, sent: Message) -> Message:
        """The answer in the clear: what echoes the request is as that had it, what else is
        encrypted is decrypted, or left out where it cannot be."""
        fields = dict(answer.fields)
        for number in self._settings.data_fields:
            value = fields.get(number)
            if value is None:
                continue
            if value == sent.fields.get(number):
                fields[number] = clear.fields[number]
                continue
            try:
                fields[number] = self._opened(answer, number, value)
            except (ValueError, KeyUnavailable):
                del fields[number]
        return Message(answer.mti, fields, answer.raw, answer.pads)

    def _opened(self, answer: Message, number: int, value: str) -> str:
        owner = self._owner_of(answer.terminal_id)
        key = self._table.current(owner, KeyPurpose.ZONE_DATA, self._clock.wall_ms())
        decrypt = partial(self._security.decrypt, key)
        if self._settings.data_form == "unionpay":
            return track_block(value, decrypt)
        binary = is_binary(self._codec.dialect, number)
        return whole_decrypted(value, decrypt, binary=binary)

    # --- keys that come ---------------------------------------------------------------------------

    async def agree(self, ask: AskForKeys) -> bool:
        """Ask for new keys and keep them; whether there are some. Links that come up at the same
        time share one agreement."""
        asked_s = trio.current_time()
        async with self._agreeing:
            if self._agreed_s > asked_s - _SHARED_S:
                return True
            answer = await ask()
            try:
                if answer is None:
                    return self._refused("no answer to the request for keys")
                if answer.get(RESPONSE_CODE) != "00":
                    return self._refused(f"code {answer.response_code}")
                if not await self.take(answer):
                    return False
            finally:
                self._changed()
            self._agreed_s = trio.current_time()
            return True

    def came(self) -> None:
        """Keys have come: what the acquirer says next may be under them, and waits until they are
        kept."""
        if self.changing is None:
            self.changing = trio.Event()

    async def settled(self) -> None:
        """Return once keys that have come are kept, or were waited for long enough."""
        if self.changing is not None:
            with trio.move_on_after(_CHANGE_S) as waiting:
                await self.changing.wait()
            if waiting.cancelled_caught:
                self._changed()

    def _changed(self) -> None:
        if self.changing is not None:
            self.changing.set()
            self.changing = None

    def brings_keys(self, message: Message) -> bool:
        """Whether there are keys in the acquirer's own request for a change of keys."""
        return self._exchange is not None and self._exchange.field in message.fields

    async def take(self, message: Message, terminal_id: str = "") -> bool:
        """Keep the keys in a message, of one terminal where it is said which; those before work on
        for the overlap. Whether all were taken."""
        exchange = self._exchange
        if exchange is None:
            return False
        owner = self._owner_of(terminal_id) if terminal_id else self._owner
        try:
            keys = self._read(message, owner, exchange)
            now_ms, overlap_ms = self._clock.wall_ms(), round(exchange.overlap_s * 1000)
            rows: list[StoredKey] = []
            for key in keys:
                known = self._table.versions(owner, key.purpose)
                rows += succession(key, known, now_ms=now_ms, overlap_ms=overlap_ms)
            await self._keep(rows)
        except (KeyUnavailable, OperatorError, ParseError, StoreError) as error:
            return self._refused(str(error))
        finally:
            self._changed()
        self._emit(Event.KEYS_AGREED, upstream=self._name, keys=" ".join(key.name for key in keys))
        return True

    def without_keys(self, message: Message) -> Message:
        """A message less its keys, for what is made of it."""
        return message if self._exchange is None else message.without((self._exchange.field,))

    def _refused(self, reason: str) -> bool:
        self._emit(Event.KEYS_REFUSED, upstream=self._name, reason=reason)
        return False

    def _read(self, message: Message, owner: str, exchange: KeyExchange) -> list[StoredKey]:
        now_ms = self._clock.wall_ms()
        form = KeyForm(exchange.form)
        wanted = [self._record(owner, purpose, exchange, now_ms) for purpose in exchange.purposes]
        self._table.check_room(len(wanted))
        masters = self._table.usable(owner, KeyPurpose.ZONE_MASTER, now_ms)
        if not masters:
            masters = [self._table.current(self._owner, KeyPurpose.ZONE_MASTER, now_ms)]
        value = message.get(exchange.field)
        data = as_bytes(value, self._codec.dialect, exchange.field)
        if form in (KeyForm.TR31_B, KeyForm.TR31_D):
            carried = unpacked_blocks(data, len(wanted))
        else:
            carried = unpacked(data, [record.algorithm.bytes for record in wanted])
        return [
            self._imported(one, masters[0], form, record)
            for one, record in zip(carried, wanted, strict=True)
        ]

    def _record(self, owner: str, purpose: str, exchange: KeyExchange, now_ms: int) -> StoredKey:
        what = KeyPurpose(purpose)
        mac = exchange.mac_algorithm if what is KeyPurpose.ZONE_MAC else None
        return StoredKey(
            owner=owner,
            purpose=what,
            version=self._table.next_version(owner, what),
            algorithm=KeyAlgorithm(mac or exchange.algorithm),
            state=StoredKeyState.PENDING,
            start_ms=now_ms,
        )

    def _imported(
        self, carried: CarriedKey, master: StoredKey, form: KeyForm, record: StoredKey
    ) -> StoredKey:
        key = self._security.import_under(carried.wrapped, master, form, as_=record)
        stated = carried.check_value
        if stated and self._security.check_value_of(key, len(stated)) != stated:
            raise OperatorError(
                f"{key.name}: the check value that came with it is another key's; compare the zone"
                " master key's check value with the acquirer"
            )
        return key
