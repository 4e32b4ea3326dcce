"""Keyring: the gateway's own keys in the clear, as the security module needs them in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys.records import KeyAlgorithm, KeyPurpose

KEY_BYTES: Final = 32
VERSION_MAX: Final = 65_535  # a sealed value names its key's version in two bytes

# What the store's columns are kept under, and what is used with each of them.
OWN_ALGORITHMS: Final = {
    KeyPurpose.STORE_DATA: KeyAlgorithm.AES_256,
    KeyPurpose.CARD_TOKEN: KeyAlgorithm.HMAC_SHA256,
    KeyPurpose.CONTENT: KeyAlgorithm.HMAC_SHA256,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One version of a key; its repr does not show the material.

    The active one makes new values; the others only read, or compare with, what they made.
    """

    purpose: KeyPurpose
    version: int
    active: bool
    material: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """What the key is called where people read of it: `store-data.1`."""
        return f"{self.purpose.value}.{self.version}"


class Keyring:
    """The keys of one gateway; exactly one of each purpose is active."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[Key]) -> None:
        """Raises OperatorError where a purpose lacks its one active key, or a name occurs twice."""
        self._keys: dict[tuple[KeyPurpose, int], Key] = {}
        for key in keys:
            if (key.purpose, key.version) in self._keys:
                raise OperatorError(f"keyring: {key.name} occurs twice")
            if len(key.material) != KEY_BYTES:
                raise OperatorError(f"keyring: {key.name} is not {KEY_BYTES} bytes long")
            self._keys[key.purpose, key.version] = key
        for purpose in OWN_ALGORITHMS:
            active = [key for key in self.of(purpose) if key.active]
            if len(active) != 1:
                raise OperatorError(
                    f"keyring: {len(active)} active keys for {purpose.value}, and it takes one"
                )

    def active(self, purpose: KeyPurpose) -> Key:
        """The key that new values of a purpose are made under."""
        return next(key for key in self.of(purpose) if key.active)

    def get(self, purpose: KeyPurpose, version: int) -> Key:
        """One version of a purpose's key; raises KeyUnavailable where it is not in the ring."""
        try:
            return self._keys[purpose, version]
        except KeyError:
            raise KeyUnavailable(f"key {purpose.value}.{version} is not in the keyring") from None

    def of(self, purpose: KeyPurpose) -> list[Key]:
        """Every version of a purpose's key, the oldest first."""
        keys = [key for key in self._keys.values() if key.purpose is purpose]
        return sorted(keys, key=lambda key: key.version)

    def __repr__(self) -> str:
        return f"<Keyring {' '.join(key.name for key in self._keys.values())}>"
