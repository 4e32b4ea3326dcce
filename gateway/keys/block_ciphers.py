"""The block ciphers of keys: each key's algorithm as the library knows it, prepared once."""

from __future__ import annotations

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES, SM4
from cryptography.hazmat.primitives.ciphers.modes import CBC, ECB

from gateway.errors import KeyUnavailable
from gateway.keys.records import KeyAlgorithm

DES_FAMILY = frozenset({KeyAlgorithm.DES, KeyAlgorithm.TDES_2, KeyAlgorithm.TDES_3})
AES_FAMILY = frozenset({KeyAlgorithm.AES_128, KeyAlgorithm.AES_192, KeyAlgorithm.AES_256})


def block_bytes(algorithm: KeyAlgorithm) -> int:
    """The length of the cipher's block: 8 for DES and TDES, else 16."""
    return 8 if algorithm in DES_FAMILY else 16


def library_cipher(algorithm: KeyAlgorithm, key: bytes) -> BlockCipherAlgorithm:
    """A key as the library takes it.

    Single DES is TDES with the same key three times, and a double-length key's third part is its
    first (NIST SP 800-67, keying options 3 and 2). Raises KeyUnavailable where the key has not its
    algorithm's length, or its algorithm is no block cipher.
    """
    if len(key) != algorithm.bytes:
        raise KeyUnavailable(
            f"the key has {len(key)} bytes, and {algorithm.value} has {algorithm.bytes}"
        )
    match algorithm:
        case KeyAlgorithm.DES:
            return TripleDES(key * 3)
        case KeyAlgorithm.TDES_2:
            return TripleDES(key + key[:8])
        case KeyAlgorithm.TDES_3:
            return TripleDES(key)
        case KeyAlgorithm.SM4:
            return SM4(key)
        case KeyAlgorithm.HMAC_SHA256:
            raise KeyUnavailable("an HMAC key encrypts nothing")
        case _:
            return AES(key)


def encrypt_once(algorithm: KeyAlgorithm, key: bytes, data: bytes) -> bytes:
    """Whole blocks, each by itself, under a key that is used this once; see `BlockCipher`."""
    ecb = Cipher(library_cipher(algorithm, key), ECB())  # noqa: S305 (single blocks)
    return ecb.encryptor().update(data)


class BlockCipher:
    """One key's cipher, ready for many uses: ECB, and CBC with an initial vector.

    The contexts behind ECB hold no state between whole blocks, so they are made once; `CBC` makes
    one for each call. Not for use by two threads at once. Methods raise ValueError for data that
    is not whole blocks.
    """

    __slots__ = ("_cipher", "_decrypt", "_decrypt_into", "_encrypt", "algorithm", "block_bytes")

    def __init__(self, algorithm: KeyAlgorithm, key: bytes) -> None:
        self.algorithm = algorithm
        self.block_bytes = block_bytes(algorithm)
        self._cipher = library_cipher(algorithm, key)
        ecb = Cipher(self._cipher, ECB())  # noqa: S305 (single blocks)
        self._encrypt = ecb.encryptor().update
        decryptor = ecb.decryptor()
        self._decrypt = decryptor.update
        self._decrypt_into = decryptor.update_into

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """Each block by itself (ECB)."""
        self._check(data)
        return self._encrypt(data)

    def decrypt(self, data: bytes) -> bytes:
        """Each block by itself again."""
        self._check(data)
        return self._decrypt(data)

    def decrypt_into(self, data: bytes | bytearray | memoryview, out: bytearray) -> None:
        """Each block by itself again, to the start of `out`, which a caller can wipe: it is at
        least one block longer than the data."""
        self._check(data)
        self._decrypt_into(data, out)

    def encrypt_cbc(self, data: bytes, *, iv: bytes = b"") -> bytes:
        """Chained, from `iv` (one block; zeros where it is empty)."""
        self._check(data)
        chain = CBC(iv or bytes(self.block_bytes))
        return Cipher(self._cipher, chain).encryptor().update(data)

    def decrypt_cbc(self, data: bytes, *, iv: bytes = b"") -> bytes:
        """Chained data again."""
        self._check(data)
        chain = CBC(iv or bytes(self.block_bytes))
        return Cipher(self._cipher, chain).decryptor().update(data)

    def _check(self, data: bytes | bytearray | memoryview) -> None:
        # A rest would stay in the library's context, and come out with the next caller's data.
        if len(data) % self.block_bytes:
            raise ValueError(f"{len(data)} bytes are not whole blocks of {self.block_bytes}")

    def __repr__(self) -> str:
        return f"<BlockCipher {self.algorithm.value}>"
