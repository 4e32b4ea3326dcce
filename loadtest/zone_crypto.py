"""Zone crypto: the few ciphers that simulated terminals and acquirers need, not the gateway's own.

They are written from the standards on their own, so that both sides of a test are two
implementations that have to agree.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from gateway.wire.codec import Codec
from gateway.wire.message import Message

BLOCK = 8
CHECK_BYTES = 4
_MAC_DIGITS = "0" * 16


def _cipher(key: bytes) -> Cipher[modes.ECB]:
    return Cipher(TripleDES({8: key * 3, 16: key + key[:8]}.get(len(key), key)), modes.ECB())  # noqa: S305


def encrypted(key: bytes, data: bytes) -> bytes:
    """Each block of 8 bytes under DES or TDES, on its own."""
    encryptor = _cipher(key).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def decrypted(key: bytes, data: bytes) -> bytes:
    """The blocks again."""
    decryptor = _cipher(key).decryptor()
    return decryptor.update(data) + decryptor.finalize()


def check_value(key: bytes) -> bytes:
    """The first 4 bytes of a block of zeros under the key."""
    return encrypted(key, bytes(BLOCK))[:CHECK_BYTES]


def new_key(length: int = 16) -> bytes:
    """A random key."""
    return secrets.token_bytes(length)


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _blocks(data: bytes) -> list[bytes]:
    padded = data + bytes(-len(data) % BLOCK)
    return [padded[at : at + BLOCK] for at in range(0, len(padded), BLOCK)]


def x9_19(key: bytes, data: bytes) -> bytes:
    """ISO 9797-1 algorithm 3, padding method 1, under a key of 16 bytes."""
    state = bytes(BLOCK)
    for block in _blocks(data):
        state = encrypted(key[:8], _xor(state, block))
    return encrypted(key[:8], decrypted(key[8:16], state))


def unionpay_ecb(key: bytes, data: bytes) -> bytes:
    """UnionPay's ECB MAC: folded by XOR, as 16 hexadecimal digits, the halves chained; 8 digits."""
    folded = bytes(BLOCK)
    for block in _blocks(data):
        folded = _xor(folded, block)
    digits = folded.hex().upper().encode()
    first = encrypted(key, digits[:BLOCK])
    return encrypted(key, _xor(first, digits[BLOCK:])).hex().upper().encode()[:BLOCK]


MACS = {"x9.19": x9_19, "unionpay-ecb": unionpay_ecb}


def pin_block_0(pin: str, pan: str) -> bytes:
    """A clear PIN block of ISO 9564-1 format 0."""
    return _xor(bytes.fromhex(f"0{len(pin)}{pin}".ljust(16, "F")), _card(pan))


def pin_of_block_0(block: bytes, pan: str) -> str:
    """The PIN in one; whatever stands there where it is none."""
    text = _xor(block, _card(pan)).hex()
    return text[2 : 2 + int(text[1], 16)]


def _card(pan: str) -> bytes:
    return bytes.fromhex("0000" + pan[:-1][-12:])


@dataclass(frozen=True, slots=True)
class Sealing:
    """How a message gets its MAC, and is held against it."""

    scheme: str
    key: bytes

    def body(self, codec: Codec, message: Message) -> bytes:
        """The body with DE64, or DE128 where there are fields above 64."""
        fields = {n: v for n, v in message.fields.items() if n not in (64, 128)}
        number = 128 if max(fields) > 64 else 64
        plain = codec.encode(Message(message.mti, {**fields, number: _MAC_DIGITS}))
        width = _width(codec)
        mac = MACS[self.scheme](self.key, plain[:-width])
        return plain[:-width] + (mac if width == BLOCK else mac.hex().upper().encode())

    def fits(self, codec: Codec, message: Message) -> bool:
        """Whether a received message has the right MAC."""
        if 64 not in message and 128 not in message:
            return False
        width = _width(codec)
        covered, tail = message.raw[:-width], message.raw[-width:]
        mac = MACS[self.scheme](self.key, covered)
        return tail == (mac if width == BLOCK else mac.hex().upper().encode())


def _width(codec: Codec) -> int:
    """Of a MAC on the wire: 8 bytes, or 16 digits of ASCII."""
    return BLOCK if codec.dialect.spec["64"]["data_enc"] == "b" else 2 * BLOCK
