"""Acquirer keys: a simulated acquirer's side of MACs, PINs and the change of zone keys."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from gateway.wire.codec import Codec
from gateway.wire.framing import Frame, answering_tpdu, encode_frame
from gateway.wire.message import NETWORK_CODE, PIN_BLOCK, RESPONSE_CODE, Message
from loadtest.wire import Wire
from loadtest.zone_crypto import (
    Sealing,
    check_value,
    decrypted,
    encrypted,
    new_key,
    pin_of_block_0,
)

WRONG_MAC, WRONG_PIN = "63", "55"
_KEY_CHANGE = "161"
_KEYS_FIELD = 48
_KEPT = 4  # each of two links may bring a change at the same time, and old ones are in use yet


@dataclass(slots=True)
class AcquirerKeys:
    """The zone master key, and the working keys that were agreed on last, and before that.

    Its own MACs are under new keys once the gateway has used them. Every customer's PIN is `pin`.
    `spoil_macs` has it write wrong MACs into its answers.
    """

    master: bytes  # ZMK
    pin: str = "1234"
    scheme: str = "x9.19"
    pin_keys: list[bytes] = field(default_factory=list)  # the newest first
    mac_keys: list[bytes] = field(default_factory=list)
    mac_in_use: bytes = b""
    spoil_macs: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def load(cls, path: Path) -> AcquirerKeys:
        """From a JSON file: {"zmk": 32 hex digits, "pin": "1234"}."""
        text = json.loads(path.read_text(encoding="ascii"))
        return cls(bytes.fromhex(text["zmk"]), pin=str(text.get("pin", "1234")))

    def change(self) -> bytes:
        """New keys from now on, as they travel: each under the ZMK, and its check value."""
        made = new_key(), new_key()
        for kept, key in zip((self.pin_keys, self.mac_keys), made, strict=True):
            kept.insert(0, key)
            del kept[_KEPT:]
        self.counts["key_changes"] += 1
        return b"".join(encrypted(self.master, key) + check_value(key) for key in made)

    def refusal(self, request: Message, codec: Codec) -> str:
        """The code that a request is refused with for its MAC or its PIN; nothing where both are
        right, or there is no PIN."""
        fitting = [key for key in self.mac_keys if Sealing(self.scheme, key).fits(codec, request)]
        if not fitting:
            self.counts["macs_wrong"] += 1
            return WRONG_MAC
        if fitting[0] is self.mac_keys[0] or self.mac_in_use not in self.mac_keys:
            self.mac_in_use = fitting[0]
        self.counts["macs_right"] += 1
        block = request.get(PIN_BLOCK)
        if not block:
            return ""
        found = {
            pin_of_block_0(decrypted(key, bytes.fromhex(block)), request.pan)
            for key in self.pin_keys
        }
        right = self.pin in found
        self.counts["pins_right" if right else "pins_wrong"] += 1
        return "" if right else WRONG_PIN

    def with_keys(self, request: Message, answer: Message) -> Message:
        """The answer to a network message, with new keys where it asks for some."""
        if request.get(NETWORK_CODE) != _KEY_CHANGE or answer.get(RESPONSE_CODE) != "00":
            return answer
        return answer.changed({_KEYS_FIELD: self.change().hex().upper()})

    def body(self, codec: Codec, message: Message) -> bytes:
        """A message's body, with its MAC where it is a financial one."""
        if message.mti[1:2] == "8" or not self.mac_keys:
            return codec.encode(message)
        key = new_key() if self.spoil_macs else self.mac_in_use or self.mac_keys[0]
        return Sealing(self.scheme, key).body(codec, message)


@dataclass(frozen=True, slots=True)
class AcquirerWire(Wire):
    """An acquirer's wire, with MACs under the keys agreed on."""

    keys: AcquirerKeys | None = None

    def pack(self, message: Message, to: Frame | None = None) -> bytes:
        """The message as one frame, with its MAC."""
        tpdu, header = self.tpdu, self.header
        if to is not None:
            tpdu, header = answering_tpdu(to.tpdu), to.header
        keys = self.keys
        body = self.codec.encode(message) if keys is None else keys.body(self.codec, message)
        return encode_frame(self.framing, body, tpdu, header)
