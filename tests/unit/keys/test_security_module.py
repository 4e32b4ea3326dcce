from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import KeyUnavailable
from gateway.keys.kek_sources import PassphraseSource
from gateway.keys.keyring import Key, Keyring
from gateway.keys.own_keys import OwnKeys
from gateway.keys.records import KeyPurpose as Purpose
from gateway.keys.security_module import SecurityModule, SoftwareSecurityModule


def key(purpose: Purpose, version: int = 1, *, active: bool = True, byte: int = 0) -> Key:
    material = bytes((byte or version,)) * 32
    return Key(purpose=purpose, version=version, active=active, material=material)


def module(*store_keys: Key) -> SoftwareSecurityModule:
    return SoftwareSecurityModule(
        Keyring(
            [
                *(store_keys or (key(Purpose.STORE_DATA),)),
                key(Purpose.CARD_TOKEN, 3, byte=33),
                key(Purpose.CONTENT, 4, byte=44),
            ]
        )
    )


def test_it_is_a_security_module(tmp_path: Path) -> None:
    source = PassphraseSource(tmp_path / "passphrase", log2_n=4)
    source.create_file()
    own = OwnKeys.create(tmp_path / "k", source, now_ms=1)
    made: SecurityModule = SoftwareSecurityModule(own.keyring())
    again = SoftwareSecurityModule(OwnKeys.open(tmp_path / "k", [source]).keyring())
    assert again.unseal(made.seal(b"data", context=b"c"), context=b"c") == b"data"
    assert again.card_token("6228480000000001") == made.card_token("6228480000000001")


@given(st.binary(max_size=600), st.binary(max_size=40))
def test_what_was_sealed_opens_under_its_context_only(plaintext: bytes, context: bytes) -> None:
    security = module()
    sealed = security.seal(plaintext, context=context)
    assert security.unseal(sealed, context=context) == plaintext
    with pytest.raises(KeyUnavailable, match="does not open"):
        security.unseal(sealed, context=context + b"x")


@given(st.data())
def test_no_change_goes_unnoticed(data: st.DataObject) -> None:
    security = module()
    sealed = bytearray(security.seal(b"4111 is not stored so", context=b"c"))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(KeyUnavailable):
        security.unseal(bytes(sealed), context=b"c")


@given(st.binary(max_size=60))
def test_garbage_is_no_sealed_value(garbage: bytes) -> None:
    with pytest.raises(KeyUnavailable):
        module().unseal(garbage, context=b"")


def test_a_retired_key_opens_and_does_not_seal() -> None:
    old = key(Purpose.STORE_DATA)
    sealed = module(old).seal(b"before", context=b"c")
    retired = key(Purpose.STORE_DATA, 1, active=False)
    rotated = module(retired, key(Purpose.STORE_DATA, 2))
    assert rotated.unseal(sealed, context=b"c") == b"before"
    anew = rotated.seal(b"after", context=b"c")
    assert anew[:3] == b"\x01\x00\x02"
    with pytest.raises(KeyUnavailable, match=r"store-data\.2"):
        module(old).unseal(anew, context=b"c")


def test_no_nonce_occurs_twice_not_even_where_the_counter_ends() -> None:
    security = module()
    security._count = 2**32 - 500
    prefix = security._prefix
    nonces = {security.seal(b"", context=b"")[3:15] for _ in range(1_000)}
    assert len(nonces) == 1_000
    assert security._prefix != prefix
    assert module()._prefix != module()._prefix


@given(st.text("0123456789", min_size=12, max_size=19))
def test_a_card_token_is_hmac_sha256_cut_to_16_bytes(pan: str) -> None:
    expected = hmac.digest(b"\x21" * 32, pan.encode(), hashlib.sha256)[:16].hex()
    assert module().card_token(pan) == f"3:{expected}"


@given(st.binary(max_size=300))
def test_a_content_hash_is_hmac_sha256_under_a_key_of_its_own(data: bytes) -> None:
    expected = hmac.digest(b"\x2c" * 32, data, hashlib.sha256)[:16].hex()
    assert module().content_hash(data) == f"4:{expected}"


def test_its_repr_shows_nothing() -> None:
    assert repr(module()) == "<SoftwareSecurityModule>"
