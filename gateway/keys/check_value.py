"""Key check values: what two sides compare to see that they hold the same key."""

from __future__ import annotations

import hashlib
import hmac
from enum import StrEnum

from cryptography.hazmat.primitives.cmac import CMAC

from gateway.keys.block_ciphers import AES_FAMILY, block_bytes, encrypt_once, library_cipher
from gateway.keys.records import KeyAlgorithm

CHECK_VALUE_BYTES = 3  # what a record of a key holds
BYTES_MAX = 5


class CheckValueForm(StrEnum):
    """How the check value of an AES key is made; other keys know one form only."""

    STANDARD = "standard"  # ANSI X9.24-1:2017, annex A: AES-CMAC over a block of zeros
    ZEROS = "zeros"  # older devices: a block of zeros encrypted, as for TDES


def check_value(
    algorithm: KeyAlgorithm,
    key: bytes,
    *,
    length: int = CHECK_VALUE_BYTES,
    form: CheckValueForm = CheckValueForm.STANDARD,
) -> bytes:
    """The first `length` bytes (2 to 5) of what a key makes of a block of zeros.

    TDES, DES and SM4: the block encrypted. AES: by `form`. HMAC keys: HMAC over no data (our
    convention; nobody else has these keys). Raises ValueError for another length, and
    KeyUnavailable where the key has not its algorithm's length.
    """
    if not 2 <= length <= BYTES_MAX:
        raise ValueError(f"a check value has 2 to {BYTES_MAX} bytes, not {length}")
    if algorithm is KeyAlgorithm.HMAC_SHA256:
        return hmac.digest(key, b"", hashlib.sha256)[:length]
    if algorithm in AES_FAMILY and form is CheckValueForm.STANDARD:
        cmac = CMAC(library_cipher(algorithm, key))
        cmac.update(bytes(16))
        return cmac.finalize()[:length]
    return encrypt_once(algorithm, key, bytes(block_bytes(algorithm)))[:length]


def agrees(
    stated: bytes,
    algorithm: KeyAlgorithm,
    key: bytes,
    *,
    form: CheckValueForm = CheckValueForm.STANDARD,
) -> bool:
    """Whether a key has the stated check value of 2 to 5 bytes; compared in constant time."""
    if not 2 <= len(stated) <= BYTES_MAX:
        return False
    return hmac.compare_digest(stated, check_value(algorithm, key, length=len(stated), form=form))
