from __future__ import annotations

import os
from dataclasses import replace

import pytest

from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys.key_encryption import AesKeyEncryption, KeyWrapping
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState
from gateway.keys.start_checks import check_found

OTHER = KeyWrapping(AesKeyEncryption(bytes(range(32)), source="passphrase"))


@pytest.fixture
def wrapping() -> KeyWrapping:
    return KeyWrapping(AesKeyEncryption(os.urandom(32), source="passphrase"))


def a_key(wrapping: KeyWrapping, clear: bytes, number: int = 1) -> StoredKey:
    key = StoredKey(
        owner=f"terminal:T{number}",
        purpose=KeyPurpose.TERMINAL_MASTER,
        version=1,
        algorithm=KeyAlgorithm.TDES_2,
        state=StoredKeyState.ACTIVE,
        start_ms=1,
    )
    return wrapping.wrap(clear, key)


@pytest.mark.parametrize(
    "key", ["0123456789ABCDEFFEDCBA9876543210", "11" * 16, "0101010101010101" + "3B61D6C79D2AC85E"]
)
def test_a_production_node_does_not_start_with_a_test_key(wrapping: KeyWrapping, key: str) -> None:
    keys = [a_key(wrapping, os.urandom(16)), a_key(wrapping, bytes.fromhex(key), 2)]
    check_found(keys, wrapping, production=False)
    with pytest.raises(OperatorError, match=r"^terminal:T2/terminal-master\.1: published") as told:
        check_found(keys, wrapping, production=True)
    assert key.lower() not in str(told.value).lower()
    destroyed = replace(keys[1], wrapped=b"", state=StoredKeyState.DESTROYED)
    check_found([keys[0], destroyed], wrapping, production=True)


def test_many_are_counted(wrapping: KeyWrapping) -> None:
    keys = [a_key(wrapping, bytes(range(16)), number) for number in range(9)]
    with pytest.raises(OperatorError, match=r"T4/terminal-master\.1 and 4 more: published"):
        check_found(keys, wrapping, production=True)


def test_keys_under_another_key_encryption_key_stop_the_start(wrapping: KeyWrapping) -> None:
    key = a_key(OTHER, os.urandom(16))
    for production in (False, True):
        with pytest.raises(OperatorError, match=f"has 1 keys under {OTHER.in_force.name}, and"):
            check_found([key], wrapping, production=production)


def test_a_changed_key_stops_a_production_start(wrapping: KeyWrapping) -> None:
    key = a_key(wrapping, os.urandom(16))
    with pytest.raises(KeyUnavailable, match="does not unwrap"):
        check_found([replace(key, owner="terminal:T9")], wrapping, production=True)
