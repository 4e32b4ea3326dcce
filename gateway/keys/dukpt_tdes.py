"""DUKPT with TDES (ANSI X9.24-1:2009): a transaction's key from a base key and a serial number."""

from __future__ import annotations

from enum import Enum

from gateway.keys.block_ciphers import encrypt_once
from gateway.keys.records import KeyAlgorithm

KSN_BYTES = 10

_COUNTER_BITS = 21
_COUNTER_MASK = (1 << _COUNTER_BITS) - 1
_ONES_MAX = 10  # a device skips counters with more, so that no key takes more than ten steps
_KEY_MASK = int.from_bytes(bytes.fromhex("C0C0C0C000000000"), "big")


class Variant(Enum):
    """What a transaction's key is changed by for a use (ANSI X9.24-1:2009, table A-1): a mask over
    each half."""

    PIN = 0x00000000000000FF
    MAC_REQUEST = 0x000000000000FF00
    MAC_RESPONSE = 0x00000000FF000000
    DATA_REQUEST = 0x0000000000FF0000
    DATA_RESPONSE = 0x000000FF00000000


def initial_key(base: bytes, ksn: bytes) -> bytes:
    """What was loaded into the device (IPEK), from a base derivation key of 16 bytes.

    Raises ValueError where the serial number has not 10 bytes (annex A.6).
    """
    register = _register(ksn) & ~_COUNTER_MASK
    # The eight leftmost bytes, with the counter's bits in them at zero.
    serial = (ksn[:2] + register.to_bytes(8, "big"))[:8]
    masked = _halves_xor(base, _KEY_MASK)
    left = encrypt_once(KeyAlgorithm.TDES_2, base, serial)
    right = encrypt_once(KeyAlgorithm.TDES_2, masked, serial)
    return left + right


def transaction_key(base: bytes, ksn: bytes, variant: Variant) -> bytes:
    """The 16 bytes of the key that a device used at a serial number's counter, for a use.

    Raises ValueError where the serial number has not 10 bytes, or a counter that no device gets to.
    """
    key = _counter_key(initial_key(base, ksn), ksn)
    changed = _halves_xor(key, variant.value)
    if variant in (Variant.DATA_REQUEST, Variant.DATA_RESPONSE):
        # A one-way step, so that a data key tells nothing of the others.
        return encrypt_once(KeyAlgorithm.TDES_2, changed, changed)
    return changed


def _counter_key(key: bytes, ksn: bytes) -> bytes:
    register = _register(ksn)
    counter = register & _COUNTER_MASK
    if not counter or counter.bit_count() > _ONES_MAX:
        raise ValueError(
            f"the KSN's counter is {counter}: no device sends a PIN at it "
            f"(it begins at 1 and has at most {_ONES_MAX} bits set)"
        )
    register ^= counter
    for bit in range(_COUNTER_BITS - 1, -1, -1):
        if counter >> bit & 1:
            register |= 1 << bit
            key = _next_key(key, register)
    return key


def _next_key(key: bytes, register: int) -> bytes:
    """The non-reversible key generation process (annex A.2)."""
    right = _one_way(key, register)
    left = _one_way(_halves_xor(key, _KEY_MASK), register)
    return left + right


def _one_way(key: bytes, register: int) -> bytes:
    right = int.from_bytes(key[8:], "big")
    block = (register ^ right).to_bytes(8, "big")
    out = encrypt_once(KeyAlgorithm.DES, key[:8], block)
    return (int.from_bytes(out, "big") ^ right).to_bytes(8, "big")


def _register(ksn: bytes) -> int:
    """The eight rightmost bytes."""
    if len(ksn) != KSN_BYTES:
        raise ValueError(f"a TDES DUKPT KSN has {KSN_BYTES} bytes, not {len(ksn)}")
    return int.from_bytes(ksn[2:], "big")


def _halves_xor(key: bytes, mask: int) -> bytes:
    both = int.from_bytes(key, "big") ^ (mask << 64 | mask)
    return both.to_bytes(16, "big")
