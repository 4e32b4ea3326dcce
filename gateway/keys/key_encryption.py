"""Key-encryption keys: what every other key is wrapped under, kept outside the store."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import KeyUnavailable
from gateway.keys.check_value import check_value
from gateway.keys.records import KeyAlgorithm, StoredKey

KEK_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_CHECK_BYTES = 5


class KeyEncryption(Protocol):
    """A key-encryption key, wherever it is: in this process, or inside a token."""

    @property
    def name(self) -> str:
        """What wrapped keys say they are wrapped under; another key has another name."""
        ...

    def wrap(self, clear: bytes, aad: bytes) -> bytes:
        """A key wrapped, and bound to `aad`; raises KeyUnavailable where the token fails."""
        ...

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """The clear key; raises KeyUnavailable where it was not wrapped by this key with `aad`."""
        ...


class AesKeyEncryption:
    """AES-256-GCM in this process (NIST SP 800-38D): nonce (12 bytes), ciphertext, tag (16).

    The nonce is random: one key-encryption key wraps far fewer than the 2**32 values that allows.
    """

    __slots__ = ("_cipher", "_name")

    def __init__(self, clear: bytes, *, source: str) -> None:
        """`clear` is 32 bytes; the name is made of `source` and a check value of the key."""
        if len(clear) != KEK_BYTES:
            raise ValueError(f"a key-encryption key has {KEK_BYTES} bytes, not {len(clear)}")
        self._cipher = AESGCM(clear)
        self._name = f"{source}-{kek_check_value(clear)}"

    @property
    def name(self) -> str:
        """The source, and the check value: `passphrase-5F1C2A90D3`."""
        return self._name

    def wrap(self, clear: bytes, aad: bytes) -> bytes:
        """The nonce, the wrapped key and its tag."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, clear, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        """The clear key; raises KeyUnavailable."""
        if len(wrapped) < _NONCE_BYTES + _TAG_BYTES:
            raise KeyUnavailable(f"a wrapped key of {len(wrapped)} bytes is none")
        try:
            return self._cipher.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], aad)
        except InvalidTag:
            raise KeyUnavailable(
                f"a key does not unwrap under {self._name}: it was changed, or is another key's"
            ) from None

    def __repr__(self) -> str:
        return f"<AesKeyEncryption {self._name}>"


class KeyWrapping:
    """Wraps keys under the key-encryption key in force, and unwraps under whichever is known.

    There are two while `gateway keys rewrap` is under way.
    """

    __slots__ = ("_by_name", "_in_force")

    def __init__(self, in_force: KeyEncryption, *others: KeyEncryption) -> None:
        self._in_force = in_force
        self._by_name = {one.name: one for one in (in_force, *others)}

    @property
    def in_force(self) -> KeyEncryption:
        """What new keys are wrapped under."""
        return self._in_force

    @property
    def names(self) -> list[str]:
        """Every key-encryption key that is known."""
        return list(self._by_name)

    def wrap(self, clear: bytes, key: StoredKey) -> StoredKey:
        """`key` with the value in it, wrapped under the key in force; raises KeyUnavailable."""
        kek = self._in_force
        return replace(key, kek=kek.name, wrapped=kek.wrap(clear, binding(key)))

    def unwrap(self, key: StoredKey) -> bytes:
        """The clear key.

        Raises KeyUnavailable where it is destroyed, is wrapped under a key-encryption key that is
        not known here, or was changed.
        """
        if not key.wrapped:
            raise KeyUnavailable(f"{key.name} is {key.state}: it has no value any more")
        kek = self._by_name.get(key.kek)
        if kek is None:
            raise KeyUnavailable(
                f"{key.name} is wrapped under {key.kek}, and known here is "
                f"{', '.join(self._by_name)}: start with the key-encryption key that wrapped it"
            )
        try:
            return kek.unwrap(key.wrapped, binding(key))
        except KeyUnavailable as error:
            raise KeyUnavailable(f"{key.name}: {error}") from None

    def rewrap(self, key: StoredKey) -> StoredKey:
        """The same key wrapped under the key-encryption key in force; raises KeyUnavailable."""
        return self.wrap(self.unwrap(key), key)

    def put_in_force(self, kek: KeyEncryption) -> None:
        """Wrap under another one from now on; those known stay known."""
        self._by_name[kek.name] = kek
        self._in_force = kek

    def drop(self, name: str) -> None:
        """Know a key-encryption key no more; the one in force stays."""
        if name != self._in_force.name:
            self._by_name.pop(name, None)

    def __repr__(self) -> str:
        return f"<KeyWrapping under {self._in_force.name}>"


def binding(key: StoredKey) -> bytes:
    """What a wrapped key is authenticated with: it cannot be given to another owner or purpose."""
    facts = [key.owner, key.purpose.value, str(key.version), key.algorithm.value]
    if not key.exportable:
        facts.append("not exportable")
    return b"\0".join(fact.encode() for fact in facts)


def kek_check_value(clear: bytes) -> str:
    """The check value of a key-encryption key: ten hex digits (ANSI X9.24-1:2017, annex A)."""
    return check_value(KeyAlgorithm.AES_256, clear, length=_CHECK_BYTES).hex().upper()
