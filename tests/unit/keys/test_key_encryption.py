from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import KeyUnavailable
from gateway.keys.key_encryption import (
    AesKeyEncryption,
    KeyEncryption,
    KeyWrapping,
    binding,
    kek_check_value,
)
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState

KEY = StoredKey(
    owner="terminal:T1",
    purpose=KeyPurpose.MAC,
    version=1,
    algorithm=KeyAlgorithm.TDES_2,
    state=StoredKeyState.ACTIVE,
    start_ms=0,
)
CLEAR = bytes(range(16))


def a_kek(number: int) -> AesKeyEncryption:
    return AesKeyEncryption(bytes([number]) * 32, source="passphrase")


def test_a_key_comes_back() -> None:
    wrapping = KeyWrapping(a_kek(1))
    wrapped = wrapping.wrap(CLEAR, KEY)
    assert wrapping.unwrap(wrapped) == CLEAR
    assert wrapped.kek == a_kek(1).name
    assert CLEAR not in wrapped.wrapped
    assert wrapping.wrap(CLEAR, KEY).wrapped != wrapped.wrapped  # another nonce


@pytest.mark.parametrize(
    "changes",
    [
        {"owner": "terminal:T2"},
        {"purpose": KeyPurpose.PIN},
        {"version": 2},
        {"algorithm": KeyAlgorithm.SM4},
        {"exportable": False},
    ],
)
def test_a_wrapped_key_cannot_become_another(changes: dict[str, object]) -> None:
    wrapping = KeyWrapping(a_kek(1))
    other = replace(wrapping.wrap(CLEAR, KEY), **changes)  # type: ignore[arg-type]
    with pytest.raises(KeyUnavailable, match="does not unwrap under passphrase-"):
        wrapping.unwrap(other)


def test_what_a_key_is_bound_to_cannot_be_read_two_ways() -> None:
    one = replace(KEY, owner="a", purpose=KeyPurpose.MAC)
    assert binding(one) != binding(replace(one, owner="a\0mac"))
    assert len({binding(replace(KEY, version=v)) for v in (1, 11, 111)}) == 3


def test_a_change_of_any_byte_is_seen() -> None:
    wrapping = KeyWrapping(a_kek(1))
    wrapped = wrapping.wrap(CLEAR, KEY)
    for place in range(len(wrapped.wrapped)):
        spoiled = bytearray(wrapped.wrapped)
        spoiled[place] ^= 1
        with pytest.raises(KeyUnavailable):
            wrapping.unwrap(replace(wrapped, wrapped=bytes(spoiled)))
    with pytest.raises(KeyUnavailable, match="of 5 bytes is none"):
        wrapping.unwrap(replace(wrapped, wrapped=b"short"))


def test_both_key_encryption_keys_are_known_meanwhile() -> None:
    wrapping = KeyWrapping(a_kek(1))
    before = wrapping.wrap(CLEAR, KEY)
    wrapping.put_in_force(a_kek(2))
    assert wrapping.in_force.name == a_kek(2).name
    after = wrapping.rewrap(before)
    assert after.kek == a_kek(2).name
    assert wrapping.unwrap(before) == wrapping.unwrap(after) == CLEAR
    wrapping.drop(a_kek(2).name)  # not the one in force
    wrapping.drop(a_kek(1).name)
    assert wrapping.names == [a_kek(2).name]
    with pytest.raises(KeyUnavailable, match=f"is wrapped under {a_kek(1).name}, and known"):
        wrapping.unwrap(before)


def test_a_destroyed_key_has_no_value() -> None:
    with pytest.raises(KeyUnavailable, match=r"mac\.1 is destroyed: it has no value"):
        KeyWrapping(a_kek(1)).unwrap(replace(KEY, state=StoredKeyState.DESTROYED))


def test_no_text_holds_a_key() -> None:
    kek: KeyEncryption = a_kek(0xA5)
    for text in (repr(kek), str(kek), repr(KeyWrapping(kek))):
        assert "a5a5" not in text.lower()
        assert "\\xa5" not in text
    assert kek.name == f"passphrase-{kek_check_value(bytes([0xA5]) * 32)}"


def test_a_key_encryption_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 16"):
        AesKeyEncryption(bytes(16), source="components")
