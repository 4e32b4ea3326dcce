"""Check values as the standards have them."""

from __future__ import annotations

import pytest

from gateway.errors import KeyUnavailable
from gateway.keys.check_value import CheckValueForm, agrees, check_value
from gateway.keys.records import KeyAlgorithm

SM4_KEY = bytes.fromhex("0123456789ABCDEFFEDCBA9876543210")


@pytest.mark.parametrize(
    ("algorithm", "key", "expected"),
    [
        # FIPS 81's and SP 800-67's well-known keys.
        (KeyAlgorithm.DES, "0123456789ABCDEF", "D5D44FF720"),
        (KeyAlgorithm.TDES_2, "0123456789ABCDEFFEDCBA9876543210", "08D7B4FB62"),
        # AES-CMAC of a block of zeros under a key of zeros.
        (KeyAlgorithm.AES_128, "00" * 16, "763CBCDE81"),
    ],
)
def test_known_answers(algorithm: KeyAlgorithm, key: str, expected: str) -> None:
    value = bytes.fromhex(key)
    for length in (2, 3, 4, 5):
        found = check_value(algorithm, value, length=length)
        assert found.hex().upper() == expected[: 2 * length]
        assert agrees(found, algorithm, value)


def test_an_aes_key_has_an_older_form_beside_the_standard_one() -> None:
    zeros = check_value(KeyAlgorithm.AES_128, bytes(16), length=4, form=CheckValueForm.ZEROS)
    assert zeros.hex() == "66e94bd4"  # FIPS 197: E(0, 0)
    assert agrees(zeros, KeyAlgorithm.AES_128, bytes(16), form=CheckValueForm.ZEROS)
    assert not agrees(zeros, KeyAlgorithm.AES_128, bytes(16))


def test_every_algorithm_has_one_that_tells_keys_apart() -> None:
    for algorithm in KeyAlgorithm:
        one = check_value(algorithm, bytes(range(algorithm.bytes)))
        other = check_value(algorithm, bytes(range(100, 100 + algorithm.bytes)))
        assert len(one) == len(other) == 3
        assert one != other


@pytest.mark.parametrize("length", [-1, 0, 1, 6, 16])
def test_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="2 to 5 bytes"):
        check_value(KeyAlgorithm.SM4, SM4_KEY, length=length)
    assert not agrees(bytes(max(0, length)), KeyAlgorithm.SM4, SM4_KEY)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(KeyUnavailable, match="8 bytes, and TDES-2 has 16"):
        check_value(KeyAlgorithm.TDES_2, bytes(8))
