"""MACs against the vectors of their standards, and against a plain writing-down of each scheme."""

from __future__ import annotations

import pytest

from gateway.errors import KeyUnavailable
from gateway.keys.block_ciphers import BlockCipher
from gateway.keys.mac import ALGORITHMS, mac_function
from gateway.keys.message_security import MacScheme
from gateway.keys.records import KeyAlgorithm

# NIST SP 800-38B, appendix D: one message, of which each example takes a beginning.
MESSAGE = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
AES_128 = "2b7e151628aed2a6abf7158809cf4f3c"
AES_192 = "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b"
AES_256 = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
TDES_3 = "8aa83bf8cbda10620bc1bf19fbb6cd58bc313d4a371ca8b5"

CMACS = [
    (KeyAlgorithm.AES_128, AES_128, 0, "bb1d6929e95937287fa37d129b756746"),
    (KeyAlgorithm.AES_128, AES_128, 16, "070a16b46b4d4144f79bdd9dd04a287c"),
    (KeyAlgorithm.AES_128, AES_128, 40, "dfa66747de9ae63030ca32611497c827"),
    (KeyAlgorithm.AES_128, AES_128, 64, "51f0bebf7e3b9d92fc49741779363cfe"),
    (KeyAlgorithm.AES_192, AES_192, 40, "8a1de5be2eb31aad089a82e6ee908b0e"),
    (KeyAlgorithm.AES_256, AES_256, 40, "aaf3d8f1de5640c232f5b169b9c911e6"),
    (KeyAlgorithm.TDES_3, TDES_3, 0, "b7a688e122ffaf95"),
    (KeyAlgorithm.TDES_3, TDES_3, 8, "8e8f293136283797"),
    (KeyAlgorithm.TDES_3, TDES_3, 20, "743ddbe0ce2dc2ed"),
    (KeyAlgorithm.TDES_3, TDES_3, 32, "33e6b1092400eae5"),
]
# ISO/IEC 9797-1:1999, annex B, whose key for algorithm 3 is this.
ISO_9797 = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")


@pytest.mark.parametrize(("algorithm", "key", "length", "expected"), CMACS)
def test_cmac_of_the_standards_examples(
    algorithm: KeyAlgorithm, key: str, length: int, expected: str
) -> None:
    scheme = MacScheme.TDES_CMAC if algorithm is KeyAlgorithm.TDES_3 else MacScheme.AES_CMAC
    compute = mac_function(scheme, algorithm, bytes.fromhex(key))
    for _ in range(2):  # one message leaves nothing behind for the next
        assert compute(MESSAGE[:length]).hex() == expected


@pytest.mark.parametrize(
    ("text", "padding_1", "padding_2"),
    [
        (b"Now is the time for all ", "A1C72E74EA3FA9B6", "E9086230CA3BE796"),
        (b"Now is the time for it", "2E2B1428CC78254F", "5A692CE64F404145"),
    ],
)
def test_retail_macs_of_iso_9797(text: bytes, padding_1: str, padding_2: str) -> None:
    for scheme, expected in (
        (MacScheme.X9_19, padding_1),
        (MacScheme.X9_19_PAD_2, padding_2),
    ):
        compute = mac_function(scheme, KeyAlgorithm.TDES_2, ISO_9797)
        assert [compute(text).hex().upper() for _ in range(2)] == [expected] * 2


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 15, 16, 17, 24, 150, 1000])
@pytest.mark.parametrize(
    ("scheme", "algorithm"),
    [(scheme, algorithm) for scheme in MacScheme for algorithm in sorted(ALGORITHMS[scheme])],
)
def test_is_what_the_scheme_written_down_block_by_block_gives(
    scheme: MacScheme, algorithm: KeyAlgorithm, length: int
) -> None:
    key = bytes(range(1, algorithm.bytes + 1))
    data = (MESSAGE * 16)[:length]
    compute = mac_function(scheme, algorithm, key)
    expected = plain(scheme, algorithm, key, data)
    assert compute(data) == expected
    compute(b"something else")
    assert compute(data) == expected


def plain(scheme: MacScheme, algorithm: KeyAlgorithm, key: bytes, data: bytes) -> bytes:
    cipher = BlockCipher(algorithm, key)
    size = cipher.block_bytes
    match scheme:
        case MacScheme.X9_19:
            return retail(algorithm, key, padded(data, 8))
        case MacScheme.X9_19_PAD_2:
            return retail(algorithm, key, padded(data + b"\x80", 8))
        case MacScheme.UNIONPAY_CBC:
            return retail(algorithm, key, padded(data, 8))[:4].hex().upper().encode()
        case MacScheme.CBC:
            return chain(cipher, padded(data, size))
        case MacScheme.UNIONPAY_ECB | MacScheme.UNIONPAY_SM4:
            folded = bytes(size)
            for block in blocks(padded(data, size), size):
                folded = xor(folded, block)
            digits = folded.hex().upper().encode()
            once = cipher.encrypt(digits[:size])
            return cipher.encrypt(xor(once, digits[size:])).hex().upper()[:8].encode()
        case _:
            # NIST SP 800-38B, 6.1 and 6.2, with the subkeys as polynomials.
            polynomial = 0x1B if size == 8 else 0x87
            zero = int.from_bytes(cipher.encrypt(bytes(size)), "big")
            keys = []
            for _ in range(2):
                top = zero >> (8 * size - 1)
                zero = (zero << 1 & (1 << 8 * size) - 1) ^ top * polynomial
                keys.append(zero.to_bytes(size, "big"))
            if data and len(data) % size == 0:
                return chain(cipher, data[:-size] + xor(data[-size:], keys[0]))
            whole = padded(data + b"\x80", size)
            return chain(cipher, whole[:-size] + xor(whole[-size:], keys[1]))


def chain(cipher: BlockCipher, data: bytes) -> bytes:
    state = bytes(cipher.block_bytes)
    for block in blocks(data, cipher.block_bytes):
        state = cipher.encrypt(xor(state, block))
    return state


def retail(algorithm: KeyAlgorithm, key: bytes, data: bytes) -> bytes:
    left = BlockCipher(KeyAlgorithm.DES, key[:8])
    right = BlockCipher(KeyAlgorithm.DES, key[8:] if algorithm is not KeyAlgorithm.DES else key)
    return left.encrypt(right.decrypt(chain(left, data)))


def padded(data: bytes, size: int) -> bytes:
    return data.ljust(max(size, -(-len(data) // size) * size), b"\0")


def blocks(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("scheme", MacScheme)
def test_a_key_of_another_kind_is_refused_and_named(scheme: MacScheme) -> None:
    for algorithm in set(KeyAlgorithm) - ALGORITHMS[scheme]:
        with pytest.raises(KeyUnavailable) as caught:
            mac_function(scheme, algorithm, bytes(algorithm.bytes))
        assert scheme.value in str(caught.value)
        assert algorithm.value in str(caught.value)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(KeyUnavailable, match="has 15 bytes, and AES-128 has 16"):
        mac_function(MacScheme.AES_CMAC, KeyAlgorithm.AES_128, bytes(15))
