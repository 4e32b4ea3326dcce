"""PIN keys inside a PKCS#11 token: their values never come into this process."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import Final

from pkcs11 import KeyType, Mechanism

from gateway.errors import KeyUnavailable
from gateway.keys.block_ciphers import block_bytes
from gateway.keys.hsm import TokenKeyEncryption, is_kept_inside
from gateway.keys.key_encryption import KeyWrapping, binding
from gateway.keys.records import KeyAlgorithm, StoredKey

_TYPES: Final = {
    KeyAlgorithm.TDES_2: (KeyType.DES2, Mechanism.DES3_ECB),
    KeyAlgorithm.TDES_3: (KeyType.DES3, Mechanism.DES3_ECB),
    KeyAlgorithm.AES_128: (KeyType.AES, Mechanism.AES_ECB),
    KeyAlgorithm.AES_192: (KeyType.AES, Mechanism.AES_ECB),
    KeyAlgorithm.AES_256: (KeyType.AES, Mechanism.AES_ECB),
}


class TokenPinCiphers:
    """PIN keys inside the token, for translation; see `message_module.PinCiphers`.

    The keys' values never are in this process. PINs are: PKCS#11 knows no translation, so that a
    block is decrypted by one call and encrypted by another, and is clear between them. An HSM with
    a command of its own for it (and a certificate that says so) is what PCI PIN asks for.
    """

    __slots__ = ("_held", "_held_max", "_wrapping")

    def __init__(self, wrapping: KeyWrapping, *, held_max: int) -> None:
        # The key in force may become a token's, or stop being one, while keys are wrapped anew.
        self._wrapping = wrapping
        self._held: OrderedDict[bytes, TokenCipher] = OrderedDict()
        self._held_max = held_max

    def of(self, key: StoredKey) -> TokenCipher | None:
        """A key's cipher; None where it is used here: wrapped under another key, or of an algorithm
        that tokens do not have (SM4) or have given up (DES).

        Raises KeyUnavailable where it does not unwrap.
        """
        kek = self._wrapping.in_force
        if not isinstance(kek, TokenKeyEncryption) or key.kek != kek.name:
            return None
        if key.algorithm not in _TYPES or not is_kept_inside(key.wrapped):
            return None
        cipher = self._held.get(key.wrapped)
        if cipher is not None and cipher.serves(key):
            self._held.move_to_end(key.wrapped)
            return cipher
        cipher = self._held[key.wrapped] = TokenCipher(kek, key)
        if len(self._held) > self._held_max:
            self._held.popitem(last=False)[1].close()
        return cipher

    def forget(self, owner: str) -> None:
        """Destroy an owner's keys inside the token; the wrapped ones are not its business."""
        for name in [name for name, cipher in self._held.items() if cipher.key.owner == owner]:
            self._held.pop(name).close()

    def __repr__(self) -> str:
        return f"<TokenPinCiphers, {len(self._held)} keys inside>"


class TokenCipher:
    """One key's cipher inside the token, block by block; see `pin_block.PinCipher`."""

    __slots__ = ("_generation", "_kek", "_mechanism", "_object", "algorithm", "block_bytes", "key")

    def __init__(self, kek: TokenKeyEncryption, key: StoredKey) -> None:
        key_type, self._mechanism = _TYPES[key.algorithm]
        self.key = key
        self.algorithm = key.algorithm
        self.block_bytes = block_bytes(key.algorithm)
        self._kek = kek
        self._object = kek.unwrap_inside(key.wrapped, binding(key), key_type)
        self._generation = kek.session.generation

    def serves(self, key: StoredKey) -> bool:
        """Whether it is that key's, and its session lasts."""
        return (
            self._generation == self._kek.session.generation
            and self._kek.session.is_open
            and binding(key) == binding(self.key)
        )

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """Each block by itself; raises KeyUnavailable where the token fails."""
        return self._kek.session.ask(
            lambda _: bytes(self._object.encrypt(bytes(data), mechanism=self._mechanism))
        )

    def decrypt_into(self, data: bytes | bytearray | memoryview, out: bytearray) -> None:
        """Each block by itself again, to the start of `out`."""
        # What the token's library gives back is a copy that cannot be wiped.
        clear = self._kek.session.ask(
            lambda _: self._object.decrypt(bytes(data), mechanism=self._mechanism)
        )
        out[: len(clear)] = clear

    def close(self) -> None:
        """Destroy the key inside the token, where its session lasts."""
        session = self._kek.session
        if self._generation == session.generation and session.is_open:
            # A token that fails at it loses its session, and with that the key.
            with suppress(KeyUnavailable):
                session.ask(lambda _: self._object.destroy())

    def __repr__(self) -> str:
        return f"<TokenCipher {self.key.name}>"
