"""Message authentication codes: each scheme as a function of the message, its key prepared once."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import xor
from struct import unpack

from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.cmac import CMAC

from gateway.errors import KeyUnavailable
from gateway.keys.block_ciphers import AES_FAMILY, DES_FAMILY, BlockCipher, library_cipher
from gateway.keys.message_security import MacScheme
from gateway.keys.records import KeyAlgorithm

WIRE_BYTES = 8  # the length of DE64 and DE128

_DES_BLOCK = 8

MacFunction = Callable[[bytes], bytes]

_RETAIL = frozenset({KeyAlgorithm.DES, KeyAlgorithm.TDES_2})
_SM4 = frozenset({KeyAlgorithm.SM4})

# Which keys a scheme works with: a longer key than the standard's would be cut silently.
ALGORITHMS: dict[MacScheme, frozenset[KeyAlgorithm]] = {
    MacScheme.X9_19: _RETAIL,
    MacScheme.X9_19_PAD_2: _RETAIL,
    MacScheme.UNIONPAY_ECB: _RETAIL,
    MacScheme.UNIONPAY_CBC: _RETAIL,
    MacScheme.CBC: DES_FAMILY | AES_FAMILY | _SM4,
    MacScheme.TDES_CMAC: frozenset({KeyAlgorithm.TDES_2, KeyAlgorithm.TDES_3}),
    MacScheme.AES_CMAC: AES_FAMILY,
    MacScheme.SM4_CMAC: _SM4,
    MacScheme.UNIONPAY_SM4: _SM4,
}

_CMAC_POLYNOMIAL = {8: 0x1B, 16: 0x87}  # NIST SP 800-38B, 5.3


def mac_function(scheme: MacScheme, algorithm: KeyAlgorithm, key: bytes) -> MacFunction:
    """The scheme under a key: from a message to its whole MAC.

    A whole MAC is one block of the cipher, or for UnionPay's schemes 8 ASCII digits; the wire
    carries its first WIRE_BYTES. A single-length key makes X9.19 what X9.9 was (algorithm 1),
    since the last block's decryption and encryption cancel out. Raises KeyUnavailable where the
    scheme does not work with such a key.
    """
    if algorithm not in ALGORITHMS[scheme]:
        allowed = ", ".join(sorted(each.value for each in ALGORITHMS[scheme]))
        raise KeyUnavailable(
            f"MAC scheme {scheme.value} works with {allowed}, and the key is {algorithm.value}"
        )
    match scheme:
        case MacScheme.X9_19:
            return _padded_1(_retail(algorithm, key), 8)
        case MacScheme.X9_19_PAD_2:
            return _padded_2(_retail(algorithm, key), 8)
        case MacScheme.UNIONPAY_CBC:
            return _as_digits(_padded_1(_retail(algorithm, key), 8))
        case MacScheme.CBC:
            cipher = library_cipher(algorithm, key)
            return _padded_1(_cbc(cipher), cipher.block_size // 8)
        case MacScheme.UNIONPAY_ECB:
            return _folded_8(BlockCipher(algorithm, key))
        case MacScheme.UNIONPAY_SM4:
            return _folded_16(BlockCipher(algorithm, key))
        case MacScheme.TDES_CMAC | MacScheme.AES_CMAC | MacScheme.SM4_CMAC:
            return _cmac(library_cipher(algorithm, key))


def _cmac(cipher: BlockCipherAlgorithm) -> MacFunction:
    """CMAC (NIST SP 800-38B), which is ISO 9797-1 algorithm 5."""
    keyed = CMAC(cipher)

    def compute(data: bytes) -> bytes:
        mac = keyed.copy()
        mac.update(data)
        return mac.finalize()

    return compute


def _cbc(cipher: BlockCipherAlgorithm) -> MacFunction:
    """ISO 9797-1 algorithm 1 over whole blocks, at least one.

    CMAC is this with a subkey added to the last block; added beforehand as well, it cancels out.
    What that is for: a keyed CMAC is copied in a sixth of the time that a new CBC context takes,
    and a CBC context used again would carry the end of one message into the next.
    """
    size = cipher.block_size // 8
    keyed = CMAC(cipher)
    subkey = _first_subkey(cipher)

    def compute(blocks: bytes) -> bytes:
        last = int.from_bytes(blocks[-size:], "big") ^ subkey
        mac = keyed.copy()
        mac.update(blocks[:-size] + last.to_bytes(size, "big"))
        return mac.finalize()

    return compute


def _first_subkey(cipher: BlockCipherAlgorithm) -> int:
    """K1 of NIST SP 800-38B, 6.1."""
    size = cipher.block_size // 8
    encryptor = Cipher(cipher, ECB()).encryptor()  # noqa: S305 (a single block)
    doubled = int.from_bytes(encryptor.update(bytes(size)), "big") << 1
    if doubled >> cipher.block_size:
        doubled ^= _CMAC_POLYNOMIAL[size]
    return doubled & ((1 << cipher.block_size) - 1)


def _retail(algorithm: KeyAlgorithm, key: bytes) -> MacFunction:
    """ISO 9797-1 algorithm 3 over whole blocks, at least one: single DES, and TDES at the end."""
    # TDES of the last block begins with the single encryption that algorithm 1 would end with.
    chained = _cbc(library_cipher(KeyAlgorithm.DES, key[:8]))
    final = BlockCipher(algorithm, key)

    def compute(blocks: bytes) -> bytes:
        if len(blocks) == _DES_BLOCK:
            return final.encrypt(blocks)
        state = int.from_bytes(chained(blocks[:-8]), "big")
        last = state ^ int.from_bytes(blocks[-8:], "big")
        return final.encrypt(last.to_bytes(8, "big"))

    return compute


def _folded_8(cipher: BlockCipher) -> MacFunction:
    """UnionPay's "ECB MAC": 8 ASCII digits."""
    encrypt = cipher.encrypt

    def compute(data: bytes) -> bytes:
        words = unpack(f">{(len(data) + 7) // 8}Q", data + bytes(-len(data) % 8))
        digits = b"%016X" % reduce(xor, words, 0)
        first = int.from_bytes(encrypt(digits[:8]), "big")
        second = first ^ int.from_bytes(digits[8:], "big")
        return encrypt(second.to_bytes(8, "big")).hex().upper()[:8].encode()

    return compute


def _folded_16(cipher: BlockCipher) -> MacFunction:
    """The same over blocks of 16, as UnionPay has it for SM4: 8 ASCII digits."""
    encrypt = cipher.encrypt

    def compute(data: bytes) -> bytes:
        words = unpack(f">{(len(data) + 15) // 16 * 2}Q", data + bytes(-len(data) % 16))
        digits = b"%016X%016X" % (reduce(xor, words[::2], 0), reduce(xor, words[1::2], 0))
        first = int.from_bytes(encrypt(digits[:16]), "big")
        second = first ^ int.from_bytes(digits[16:], "big")
        return encrypt(second.to_bytes(16, "big")).hex().upper()[:8].encode()

    return compute


def _padded_1(over_blocks: MacFunction, size: int) -> MacFunction:
    """Zeros up to whole blocks, for no data one block of them (ISO 9797-1, 6.3.2)."""

    def compute(data: bytes) -> bytes:
        return over_blocks(data + bytes(-len(data) % size) if data else bytes(size))

    return compute


def _padded_2(over_blocks: MacFunction, size: int) -> MacFunction:
    """One bit, then zeros up to whole blocks (ISO 9797-1, 6.3.3)."""

    def compute(data: bytes) -> bytes:
        return over_blocks(data + b"\x80" + bytes(-(len(data) + 1) % size))

    return compute


def _as_digits(mac: MacFunction) -> MacFunction:
    """The left half of a MAC as 8 ASCII digits."""

    def compute(data: bytes) -> bytes:
        return mac(data)[:4].hex().upper().encode()

    return compute
