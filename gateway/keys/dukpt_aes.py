"""DUKPT with AES (ANSI X9.24-3:2017): a transaction's key from a base key and a serial number."""

from __future__ import annotations

from enum import IntEnum

from gateway.keys.block_ciphers import AES_FAMILY, encrypt_once
from gateway.keys.records import KeyAlgorithm

KSN_BYTES = 12  # initial key id (8: base key id and derivation id), counter (4)

_ID_BYTES = 8
_COUNTER_BITS = 32
_ONES_MAX = 16
_BLOCK = 16


class KeyUse(IntEnum):
    """The key usage indicator of the derivation data (6.3.2, table 3)."""

    KEY_ENCRYPTION = 0x0002
    PIN = 0x1000
    MAC_GENERATION = 0x2000
    MAC_VERIFICATION = 0x2001
    MAC_BOTH_WAYS = 0x2002
    DATA_ENCRYPTION = 0x3000
    DATA_DECRYPTION = 0x3001
    DATA_BOTH_WAYS = 0x3002
    DERIVATION = 0x8000
    INITIAL = 0x8001


# The algorithm indicator of the derivation data (6.3.2, table 4).
_INDICATOR = {
    KeyAlgorithm.TDES_2: 0x0000,
    KeyAlgorithm.TDES_3: 0x0001,
    KeyAlgorithm.AES_128: 0x0002,
    KeyAlgorithm.AES_192: 0x0003,
    KeyAlgorithm.AES_256: 0x0004,
    KeyAlgorithm.HMAC_SHA256: 0x0005,
}
WORKING = frozenset(_INDICATOR)  # what working keys can be


def initial_key(algorithm: KeyAlgorithm, base: bytes, initial_id: bytes) -> bytes:
    """What was loaded into the device, from a base derivation key and the device's 8-byte id.

    It is as long as the base key. Raises ValueError where the id has another length or the base
    key is no AES key.
    """
    if algorithm not in AES_FAMILY:
        raise ValueError(f"AES DUKPT starts from an AES key, not {algorithm.value}")
    if len(initial_id) != _ID_BYTES:
        raise ValueError(f"an AES DUKPT key id has {_ID_BYTES} bytes, not {len(initial_id)}")
    return _derive(algorithm, base, KeyUse.INITIAL, algorithm, initial_id)


def derivation_key(algorithm: KeyAlgorithm, base: bytes, ksn: bytes) -> bytes:
    """The intermediate key of a serial number's counter, as long as the base key.

    Raises ValueError where the serial number has not 12 bytes, or a counter that no device gets to.
    """
    if len(ksn) != KSN_BYTES:
        raise ValueError(f"an AES DUKPT KSN has {KSN_BYTES} bytes, not {len(ksn)}")
    counter = int.from_bytes(ksn[_ID_BYTES:], "big")
    if not counter or counter.bit_count() > _ONES_MAX:
        raise ValueError(
            f"the KSN's counter is {counter}: no device sends anything at it "
            f"(it begins at 1 and has at most {_ONES_MAX} bits set)"
        )
    key = initial_key(algorithm, base, ksn[:_ID_BYTES])
    device_id = ksn[4:_ID_BYTES]
    reached = 0
    for bit in range(_COUNTER_BITS - 1, -1, -1):
        if counter >> bit & 1:
            reached |= 1 << bit
            context = device_id + reached.to_bytes(4, "big")
            key = _derive(algorithm, key, KeyUse.DERIVATION, algorithm, context)
    return key


def transaction_key(
    algorithm: KeyAlgorithm, base: bytes, ksn: bytes, use: KeyUse, working: KeyAlgorithm
) -> bytes:
    """The key of algorithm `working` that a device used at a serial number's counter, for a use.

    Raises ValueError as `derivation_key` does, and where the working key would be stronger than
    what it comes from.
    """
    if working not in WORKING:
        raise ValueError(f"AES DUKPT derives no {working.value} keys")
    if working in AES_FAMILY and working.bytes > algorithm.bytes:
        raise ValueError(f"a {working.value} key does not come from one of {algorithm.value}")
    key = derivation_key(algorithm, base, ksn)
    return _derive(algorithm, key, use, working, ksn[4:])


def _derive(
    algorithm: KeyAlgorithm, key: bytes, use: KeyUse, to: KeyAlgorithm, context: bytes
) -> bytes:
    """Derive Key (6.3.1): as many enciphered blocks of derivation data as the new key takes."""
    length = to.bytes
    data = b"".join(
        bytes((1, number))
        + use.to_bytes(2, "big")
        + _INDICATOR[to].to_bytes(2, "big")
        + (8 * length).to_bytes(2, "big")
        + context
        for number in range(1, -(-length // _BLOCK) + 1)
    )
    return encrypt_once(algorithm, key, data)[:length]
