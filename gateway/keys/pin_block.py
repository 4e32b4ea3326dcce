"""PIN blocks of ISO 9564-1: read strictly, written, and enciphered; the PIN itself only in between.

A PIN is a `bytearray` with a digit in each byte, so that it can be wiped. What wiping is worth in
Python: the buffers of this module hold no PIN afterwards, and no immutable copy was made. It does
not reach what the cipher library or the allocator had in registers and buffers of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from gateway.errors import KeyUnavailable
from gateway.keys.block_ciphers import AES_FAMILY, DES_FAMILY
from gateway.keys.message_security import MalformedPin, PinFormat
from gateway.keys.records import KeyAlgorithm

Random = Callable[[int], bytes]


class PinCipher(Protocol):
    """What enciphers PIN blocks: a `BlockCipher`, or a key that is somewhere else."""

    @property
    def algorithm(self) -> KeyAlgorithm:
        """What the key is used with."""
        ...

    @property
    def block_bytes(self) -> int:
        """The length of its block."""
        ...

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """Each block by itself."""
        ...

    def decrypt_into(self, data: bytes | bytearray | memoryview, out: bytearray) -> None:
        """Each block by itself again, to the start of `out`, which is longer by a block."""
        ...


PIN_DIGITS_MIN = 4
PIN_DIGITS_MAX = 12
_PAN_DIGITS_MAX = 19

_CONTROL = {PinFormat.ISO_0: 0, PinFormat.ISO_1: 1, PinFormat.ISO_3: 3, PinFormat.ISO_4: 4}
# What may follow the PIN; in format 4 up to the 16th nibble, and random bits behind it.
_FILL = {
    PinFormat.ISO_0: frozenset({0xF}),
    PinFormat.ISO_1: frozenset(range(16)),
    PinFormat.ISO_3: frozenset(range(0xA, 0x10)),
    PinFormat.ISO_4: frozenset({0xA}),
}
_ISO_4_NIBBLES = 16
_BINDS_PAN = frozenset({PinFormat.ISO_0, PinFormat.ISO_3, PinFormat.ISO_4})


def carries(algorithm: KeyAlgorithm, pin_format: PinFormat) -> bool:
    """Whether blocks of a format are enciphered under such a key.

    Formats 0, 1 and 3 fill a block of DES or TDES, format 4 one of AES (ISO 9564-1:2017, 9.3 and
    9.4). SM4 carries them all: format 4 as AES does, and the others in the 16 bytes that UnionPay
    gives them (`encipher`).
    """
    if algorithm is KeyAlgorithm.SM4:
        return True
    return algorithm in (AES_FAMILY if pin_format is PinFormat.ISO_4 else DES_FAMILY)


def permitted(source: PinFormat, target: PinFormat) -> bool:
    """Whether ISO 9564-1 lets a PIN change from a format to another: what is bound to a card
    number does not become format 1, which is not."""
    return target is not PinFormat.ISO_1 or source is PinFormat.ISO_1


def wipe(buffer: bytearray) -> None:
    """Zeros over all of a buffer, in place."""
    buffer[:] = bytes(len(buffer))


@contextmanager
def deciphered(
    cipher: PinCipher, block: bytes, *, pin_format: PinFormat, pan: str
) -> Iterator[bytearray]:
    """The PIN in a block, wiped when the context ends.

    Raises MalformedPin where the block has another length, the card number does not suit, or what
    comes out is no PIN of the format. Which of its parts was wrong is not said: it would answer
    questions about PINs. KeyUnavailable where such a key does not carry the format.
    """
    _check_pairing(cipher, pin_format)
    size = cipher.block_bytes
    if len(block) != size:
        raise MalformedPin(
            f"the PIN block has {len(block)} bytes, and format {pin_format.value} under "
            f"{cipher.algorithm.value} has {size}"
        )
    buffers = [bytearray(2 * size) for _ in range(3)]
    clear, again, nibbles = buffers
    pin = bytearray()
    try:
        cipher.decrypt_into(block, clear)
        if pin_format in _BINDS_PAN:
            _xor(clear, _pan_field(pan, pin_format, size))
        if pin_format is PinFormat.ISO_4:
            with memoryview(clear) as view:
                cipher.decrypt_into(view[:size], again)
            clear, again = again, clear
        for i in range(size):
            nibbles[2 * i] = clear[i] >> 4
            nibbles[2 * i + 1] = clear[i] & 0xF
        if not _is_pin(nibbles, pin_format):
            raise MalformedPin(
                f"the PIN block holds no PIN of format {pin_format.value}: it is under another "
                "key, of another format or card number, or damaged"
            )
        with memoryview(nibbles) as view:  # a slice of the buffer itself would be a copy of it
            pin.extend(view[2 : 2 + view[1]])
        yield pin
    finally:
        wipe(pin)
        for buffer in buffers:
            wipe(buffer)


def encipher(
    cipher: PinCipher, pin: bytearray, *, pin_format: PinFormat, pan: str, random: Random
) -> bytes:
    """A PIN as an enciphered block of the cipher's size.

    Under SM4, formats 0, 1 and 3 are as wide as its block, as UnionPay has format 0: the same
    fields, the PIN's filled up to 16 bytes, the card number's 12 digits right-aligned.
    Raises MalformedPin where the PIN has not 4 to 12 digits or the card number does not suit, and
    KeyUnavailable where such a key does not carry the format.
    """
    _check_pairing(cipher, pin_format)
    if not PIN_DIGITS_MIN <= len(pin) <= PIN_DIGITS_MAX or max(pin) > 9:
        raise MalformedPin(f"a PIN has {PIN_DIGITS_MIN} to {PIN_DIGITS_MAX} digits")
    size = cipher.block_bytes
    buffers = nibbles, clear, once = (
        bytearray(_fill(pin_format, 2 * size, random)),
        bytearray(size),
        bytearray(size),
    )
    try:
        nibbles[0] = _CONTROL[pin_format]
        nibbles[1] = len(pin)
        nibbles[2 : 2 + len(pin)] = pin
        for i in range(size):
            clear[i] = nibbles[2 * i] << 4 | nibbles[2 * i + 1]
        if pin_format is PinFormat.ISO_4:
            once[:] = cipher.encrypt(clear)
            _xor(once, _pan_field(pan, pin_format, size))
            return cipher.encrypt(once)
        if pin_format in _BINDS_PAN:
            _xor(clear, _pan_field(pan, pin_format, size))
        return cipher.encrypt(clear)
    finally:
        for buffer in buffers:
            wipe(buffer)


def _check_pairing(cipher: PinCipher, pin_format: PinFormat) -> None:
    if not carries(cipher.algorithm, pin_format):
        raise KeyUnavailable(
            f"a {cipher.algorithm.value} key does not carry PIN blocks of format "
            f"{pin_format.value}: formats 0, 1 and 3 want TDES or SM4, format 4 AES or SM4"
        )


def _is_pin(nibbles: bytearray, pin_format: PinFormat) -> bool:
    length = nibbles[1]
    if nibbles[0] != _CONTROL[pin_format] or not PIN_DIGITS_MIN <= length <= PIN_DIGITS_MAX:
        return False
    end = _ISO_4_NIBBLES if pin_format is PinFormat.ISO_4 else len(nibbles)
    fill = _FILL[pin_format]
    with memoryview(nibbles) as view:
        return max(view[2 : 2 + length]) <= 9 and fill.issuperset(view[2 + length : end])


def _fill(pin_format: PinFormat, nibbles: int, random: Random) -> bytes:
    """A block's worth of what follows the PIN in a format, a nibble in each byte."""
    match pin_format:
        case PinFormat.ISO_0:
            return b"\x0f" * nibbles
        case PinFormat.ISO_1:
            return bytes(byte & 0xF for byte in random(nibbles))
        case PinFormat.ISO_3:
            found = b""
            while len(found) < nibbles:
                # Six values out of 256 come out evenly only below 252.
                found += bytes(0xA + byte % 6 for byte in random(nibbles) if byte < 252)
            return found[:nibbles]
        case PinFormat.ISO_4:
            behind = random(nibbles - _ISO_4_NIBBLES)
            return b"\x0a" * _ISO_4_NIBBLES + bytes(byte & 0xF for byte in behind)


def _pan_field(pan: str, pin_format: PinFormat, size: int) -> bytes:
    """The card number's part of a block (ISO 9564-1:2017, 9.3.2 and 9.4.3)."""
    if not pan.isascii() or not pan.isdecimal() or len(pan) > _PAN_DIGITS_MAX:
        raise MalformedPin(
            f"format {pin_format.value} binds the PIN to a card number, and the message's has not "
            f"1 to {_PAN_DIGITS_MAX} digits"
        )
    if pin_format is PinFormat.ISO_4:
        digits = pan.rjust(12, "0")
        return bytes.fromhex(f"{len(digits) - 12}{digits}".ljust(32, "0"))
    # The twelve rightmost, less the check digit.
    return bytes.fromhex(pan[-13:-1].rjust(2 * size, "0"))


def _xor(buffer: bytearray, other: bytes) -> None:
    for i, byte in enumerate(other):
        buffer[i] ^= byte
