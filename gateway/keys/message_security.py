"""What is asked of a security module about messages: MACs, PINs, data, and keys for both sides.

A caller holds wrapped keys only, and hands them in; the clear key exists inside the module.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey


class MacScheme(StrEnum):
    """How a message authentication code is computed; eight bytes of it go on the wire."""

    X9_19 = "x9.19"  # ISO 9797-1 algorithm 3, padding method 1 (ANSI X9.19, retail MAC)
    X9_19_PAD_2 = "x9.19-pad2"  # the same with padding method 2
    UNIONPAY_ECB = "unionpay-ecb"
    UNIONPAY_CBC = "unionpay-cbc"  # the left half of X9_19 as 8 ASCII digits
    CBC = "cbc"  # ISO 9797-1 algorithm 1, padding method 1
    TDES_CMAC = "tdes-cmac"  # NIST SP 800-38B
    AES_CMAC = "aes-cmac"  # NIST SP 800-38B
    SM4_CMAC = "sm4-cmac"
    UNIONPAY_SM4 = "unionpay-sm4"  # the folding of UNIONPAY_ECB over blocks of 16


class PinFormat(StrEnum):
    """The PIN block formats of ISO 9564-1."""

    ISO_0 = "0"
    ISO_1 = "1"
    ISO_3 = "3"
    ISO_4 = "4"


class KeyForm(StrEnum):
    """How a key leaves or enters under a master key."""

    ECB = "ecb"  # the bare cipher block by block, as UnionPay's DE62 has it
    CBC = "cbc"  # with an initial vector of zeros
    TR31_B = "tr31-b"
    TR31_D = "tr31-d"


class MalformedPin(Exception):
    """A PIN block does not decrypt to what its format says: 55 or 99 on the wire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinKey:
    """What a PIN block is encrypted under: a key, or with a KSN one that DUKPT derives from it."""

    key: StoredKey
    format: PinFormat
    ksn: bytes = b""  # 10 bytes: TDES DUKPT (X9.24-1); 12: AES DUKPT (X9.24-3)
    # What AES DUKPT derives; None: for format 4 a key like the base key, else TDES-2.
    working: KeyAlgorithm | None = None


class MessageSecurity(Protocol):
    """The part of a security module that messages need; each method raises KeyUnavailable where a
    key is not there, is destroyed, or does not unwrap."""

    def mac(self, key: StoredKey, scheme: MacScheme, data: bytes) -> bytes:
        """The MAC over `data` as it goes on the wire: 8 bytes (UnionPay's: 8 ASCII digits)."""
        ...

    def verify_mac(self, key: StoredKey, scheme: MacScheme, data: bytes, mac: bytes) -> bool:
        """Whether a MAC is right, compared in constant time."""
        ...

    def translate_pin(self, block: bytes, *, source: PinKey, target: PinKey, pan: str) -> bytes:
        """The same PIN under another key and format (8 bytes; ISO_4, and any under SM4: 16).

        Raises MalformedPin where the block holds no PIN of the source's format, or the KSN is none
        that a device sends. From a terminal's key to an upstream's only.
        """
        ...

    def encrypt(self, key: StoredKey, data: bytes) -> bytes:
        """Data under a data key: CBC, initial vector of zeros; whole blocks only (ValueError)."""
        ...

    def decrypt(self, key: StoredKey, data: bytes) -> bytes:
        """The data again; whole blocks only (ValueError)."""
        ...

    def generate(
        self,
        *,
        owner: str,
        purpose: KeyPurpose,
        version: int,
        algorithm: KeyAlgorithm,
        start_ms: int,
        end_ms: int = 0,
    ) -> StoredKey:
        """A new random key in state PENDING, wrapped under the key-encryption key in force."""
        ...

    def export_under(self, key: StoredKey, master: StoredKey, form: KeyForm) -> bytes:
        """A key wrapped under a master key, for the other side; never under a working key, nor one
        that is not `exportable` (KeyUnavailable)."""
        ...

    def import_under(
        self, wrapped: bytes, master: StoredKey, form: KeyForm, *, as_: StoredKey
    ) -> StoredKey:
        """The other side's key, kept as `as_` says, its check value and wrapped value filled in.

        Raises OperatorError where it does not unwrap, or has not its algorithm's length.
        """
        ...

    def check_value_of(self, key: StoredKey, length: int) -> bytes:
        """The check value that goes on the wire beside a key: 2 to 5 bytes (else ValueError)."""
        ...

    def forget(self, owner: str) -> None:
        """Drop whatever is held in memory of an owner's clear keys."""
        ...
