"""Terminal keys: what a simulated terminal does with its master key and the keys of its sign-on."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.wire.framing import Frame, answering_tpdu, encode_frame
from gateway.wire.message import PIN_BLOCK, RESPONSE_CODE, Message
from loadtest.wire import Wire
from loadtest.zone_crypto import (
    BLOCK,
    CHECK_BYTES,
    Sealing,
    check_value,
    decrypted,
    encrypted,
    pin_block_0,
)

_TRACK_2, _SECURITY_CONTROL = 35, 53
_PIN_WITH_CARD_DOUBLE = "2600000000000000"  # DE53: format with the card, double length
_PIN_AND_TRACK = "2610000000000000"


class BadKeys(Exception):
    """What came in the answer to a sign-on are not keys under this terminal's master key."""


@dataclass(slots=True)
class TerminalKeys:
    """The keys of one terminal, in the clear: it is a simulated one."""

    master: bytes  # TMK
    scheme: str = "x9.19"
    pin_key: bytes = b""
    mac_key: bytes = b""
    data_key: bytes = b""
    sign_ons: int = 0

    def take(self, field: bytes) -> None:
        """Take over the keys of a sign-on's answer: PIK, MAK and TDK, each with 4 bytes of its
        check value (24, 40 or 60 bytes in all; 56 and 84 occur). Raises BadKeys."""
        length, count = {24: (8, 2), 40: (16, 2), 60: (16, 3), 56: (24, 2), 84: (24, 3)}.get(
            len(field), (0, 0)
        )
        if not count:
            raise BadKeys(f"{len(field)} bytes hold no keys")
        found = []
        for index in range(count):
            part = field[index * (length + CHECK_BYTES) :][: length + CHECK_BYTES]
            key = decrypted(self.master, part[:length])
            if check_value(key) != part[length:]:
                raise BadKeys(f"key {index + 1} has another check value")
            found.append(key)
        self.pin_key, self.mac_key, self.data_key = (*found, b"")[:3]
        self.sign_ons += 1

    @property
    def sealing(self) -> Sealing:
        return Sealing(self.scheme, self.mac_key)

    def with_pin(self, request: Message, pin: str) -> Message:
        """The request with its PIN, format 0."""
        block = encrypted(self.pin_key, pin_block_0(pin, request.pan))
        changes = {PIN_BLOCK: block.hex().upper()}
        if _SECURITY_CONTROL not in request:
            changes[_SECURITY_CONTROL] = _PIN_WITH_CARD_DOUBLE
        return request.changed(changes)

    def with_track(self, request: Message) -> Message:
        """The request with the last whole block before the end of track 2 encrypted."""
        track = request.fields[_TRACK_2].replace("=", "D")
        end = len(track) + len(track) % 2 - 2
        block = encrypted(self.data_key, bytes.fromhex(track[end - 2 * BLOCK : end]))
        track = track[: end - 2 * BLOCK] + block.hex().upper() + track[end:]
        return request.changed({_TRACK_2: track, _SECURITY_CONTROL: _PIN_AND_TRACK})


@dataclass(frozen=True, slots=True)
class KeyedWire(Wire):
    """A wire whose financial messages have MACs; `keys` may have none yet, and then none has."""

    keys: TerminalKeys | None = None

    def pack(self, message: Message, to: Frame | None = None) -> bytes:
        """The message as one frame, with its MAC."""
        tpdu, header = self.tpdu, self.header
        if to is not None:
            tpdu, header = answering_tpdu(to.tpdu), to.header
        keys = self.keys
        if keys is None or not keys.mac_key or message.mti[1:2] == "8":
            body = self.codec.encode(message)
        else:
            body = keys.sealing.body(self.codec, message)
        return encode_frame(self.framing, body, tpdu, header)

    def trusts(self, answer: Message) -> bool:
        """Whether an answer has the MAC that it should have."""
        return self.keys is not None and self.keys.sealing.fits(self.codec, answer)


def is_approved(answer: Message) -> bool:
    return answer.get(RESPONSE_CODE) == "00"
