"""The one place where clear keys are used: sealing what is stored, tokens of card numbers."""

from __future__ import annotations

import hashlib
import os
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import KeyUnavailable
from gateway.keys.keyring import Key, Keyring
from gateway.keys.records import KeyPurpose

_FORMAT = b"\x01"
_HEADER_BYTES = 3  # format, version of the key in two bytes
_NONCE_BYTES = 12
_TAG_BYTES = 16
_COUNT_MAX = 2**32
_TOKEN_HEX = 32  # 16 bytes


class SecurityModule(Protocol):
    """What the gateway has done with keys, without ever holding one."""

    def seal(self, plaintext: bytes, *, context: bytes) -> bytes:
        """Encrypt and authenticate; the result opens only under the same `context`."""
        ...

    def unseal(self, sealed: bytes, *, context: bytes) -> bytes:
        """The plaintext again.

        Raises KeyUnavailable where the key is not there, or the value is not what `seal` made
        under this context.
        """
        ...

    def card_token(self, pan: str) -> str:
        """What stands for a card number in look-ups: the key's version, a colon, 32 hex digits."""
        ...

    def former_card_tokens(self, pan: str) -> tuple[str, ...]:
        """The token under every version of the key but the active one: what was noted before the
        key was rotated is found by one of them."""
        ...

    def content_hash(self, data: bytes) -> str:
        """A keyed hash: the key's version, a colon, 32 hex digits."""
        ...

    def former_content_hashes(self, data: bytes) -> tuple[str, ...]:
        """The hash under every version of the key but the active one."""
        ...


class SoftwareSecurityModule:
    """The keys of a keyring, used in this process; for development, and behind the Protocol.

    A sealed value is: format (1 byte), version of the store-data key (2, big-endian), nonce (12),
    AES-256-GCM ciphertext and tag (16 longer than the plaintext). `context` is associated data.

    A nonce must not occur twice under one key. It is 8 random bytes, drawn when the module is made
    and again each time the counter is through, and a 4-byte counter. Within one prefix nonces
    differ by the counter; two prefixes collide with probability 2**-64, so that even a million
    restarts (or 4e15 sealed values) repeat none but with probability 3e-8. Twelve random bytes
    would exceed the 2**32 values that NIST SP 800-38D allows them within days. A process that
    forks must make a new module in the child.
    """

    __slots__ = (
        "_ciphers",
        "_content",
        "_count",
        "_former_contents",
        "_former_tokens",
        "_header",
        "_prefix",
        "_seal",
        "_token",
    )

    def __init__(self, keyring: Keyring) -> None:
        self._prefix = os.urandom(8)
        self._count = 0
        self.take_up(keyring)

    def take_up(self, keyring: Keyring) -> None:
        """Use the keys of this ring from now on: one was rotated, or destroyed."""
        ciphers = {_header(key): AESGCM(key.material) for key in keyring.of(KeyPurpose.STORE_DATA)}
        self._ciphers = ciphers
        self._header = _header(keyring.active(KeyPurpose.STORE_DATA))
        self._seal = ciphers[self._header].encrypt
        self._token, *self._former_tokens = _hashes(keyring, KeyPurpose.CARD_TOKEN)
        self._content, *self._former_contents = _hashes(keyring, KeyPurpose.CONTENT)

    @property
    def sealing_version(self) -> int:
        """The version of the key that new values are sealed under."""
        return int.from_bytes(self._header[1:], "big")

    def seal(self, plaintext: bytes, *, context: bytes) -> bytes:
        """Encrypt and authenticate; the result opens only under the same `context`."""
        count = self._count
        if count == _COUNT_MAX:
            self._prefix = os.urandom(8)
            count = 0
        self._count = count + 1
        nonce = self._prefix + count.to_bytes(4, "big")
        return self._header + nonce + self._seal(nonce, plaintext, context)

    def unseal(self, sealed: bytes, *, context: bytes) -> bytes:
        """The plaintext again; raises KeyUnavailable."""
        header = sealed[:_HEADER_BYTES]
        if len(sealed) < _HEADER_BYTES + _NONCE_BYTES + _TAG_BYTES or header[:1] != _FORMAT:
            raise KeyUnavailable("not a sealed value")
        cipher = self._ciphers.get(header)
        if cipher is None:
            version = int.from_bytes(header[1:], "big")
            raise KeyUnavailable(
                f"key {KeyPurpose.STORE_DATA.value}.{version} is not in the keyring"
            )
        nonce = sealed[_HEADER_BYTES : _HEADER_BYTES + _NONCE_BYTES]
        try:
            return cipher.decrypt(nonce, sealed[_HEADER_BYTES + _NONCE_BYTES :], context)
        except InvalidTag:
            raise KeyUnavailable(
                "a sealed value does not open: it was changed, or belongs elsewhere, "
                "or the keyring is another gateway's"
            ) from None

    def card_token(self, pan: str) -> str:
        """What stands for a card number in look-ups: the key's version, a colon, 32 hex digits."""
        return self._token.of(pan.encode())

    def former_card_tokens(self, pan: str) -> tuple[str, ...]:
        """The token under every version of the key but the active one."""
        former = self._former_tokens
        return tuple([hashed.of(pan.encode()) for hashed in former]) if former else ()

    def content_hash(self, data: bytes) -> str:
        """A keyed hash: the key's version, a colon, 32 hex digits."""
        return self._content.of(data)

    def former_content_hashes(self, data: bytes) -> tuple[str, ...]:
        """The hash under every version of the key but the active one."""
        former = self._former_contents
        return tuple([hashed.of(data) for hashed in former]) if former else ()

    def __repr__(self) -> str:
        return "<SoftwareSecurityModule>"


def _header(key: Key) -> bytes:
    return _FORMAT + key.version.to_bytes(2, "big")


def _hashes(keyring: Keyring, purpose: KeyPurpose) -> list[_KeyedHash]:
    """A purpose's keys ready for use: the active one, then the others, the newest first."""
    keys = sorted(keyring.of(purpose), key=lambda key: (key.active, key.version), reverse=True)
    return [_KeyedHash(key) for key in keys]


class _KeyedHash:
    """HMAC-SHA256 (RFC 2104) from its two hashes, each with its half of the key already taken in.

    That is less than half the time of `hmac`, which sets the key up anew for each value.
    """

    __slots__ = ("_inner", "_outer", "_prefix", "version")

    def __init__(self, key: Key) -> None:
        block = key.material.ljust(64, b"\0")  # SHA-256's block; the key is shorter
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))
        self._prefix = f"{key.version}:"
        self.version = key.version

    def of(self, data: bytes) -> str:
        inner = self._inner.copy()
        inner.update(data)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return self._prefix + outer.hexdigest()[:_TOKEN_HEX]

    def __repr__(self) -> str:
        return "<_KeyedHash>"
