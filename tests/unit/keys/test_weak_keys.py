from __future__ import annotations

import os

import pytest

from gateway.keys.records import KeyAlgorithm
from gateway.keys.weak_keys import is_known, weakness

GOOD = bytes.fromhex("3B61D6C79D2AC85E16A89DF7254C8FB3")


@pytest.mark.parametrize(
    ("algorithm", "key", "reason"),
    [
        (KeyAlgorithm.DES, "0101010101010101", "weak key of DES"),
        (KeyAlgorithm.DES, "0000000000000001", "weak key of DES"),  # parity does not count
        (KeyAlgorithm.DES, "FFFFFFFFFFFFFFFF", "weak key of DES"),
        (KeyAlgorithm.DES, "01FE01FE01FE01FE", "weak key of DES"),
        (KeyAlgorithm.TDES_2, GOOD[:8].hex() + "1F1F1F1F0E0E0E0E", "weak key of DES"),
        (KeyAlgorithm.TDES_2, GOOD[:8].hex() * 2, "single DES"),
        (KeyAlgorithm.TDES_3, GOOD.hex() + GOOD[8:].hex(), "single DES"),
        (KeyAlgorithm.AES_128, "00" * 16, "all zeros"),
    ],
)
def test_weak_keys(algorithm: KeyAlgorithm, key: str, reason: str) -> None:
    assert reason in weakness(algorithm, bytes.fromhex(key))


def test_good_keys() -> None:
    assert weakness(KeyAlgorithm.TDES_2, GOOD) == ""
    assert weakness(KeyAlgorithm.TDES_3, GOOD + GOOD[:8]) == ""
    assert weakness(KeyAlgorithm.AES_128, GOOD[:8] * 2) == ""
    assert not is_known(GOOD)
    for _ in range(200):
        assert not is_known(os.urandom(16))


@pytest.mark.parametrize(
    "key",
    [
        "11" * 16,
        "0123456789ABCDEFFEDCBA9876543210",
        "0123456789ABCDEFFEDCBA9876543211",  # with a parity bit of its own
        "000102030405060708090A0B0C0D0E0F",
        "404142434445464748494A4B4C4D4E4F",
        "2B7E151628AED2A6ABF7158809CF4F3C",
        "DD7515F2BFC17F85CE48F3CA25CB21F6",
    ],
)
def test_keys_that_everybody_knows(key: str) -> None:
    assert is_known(bytes.fromhex(key))
