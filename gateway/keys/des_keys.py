"""What is particular to DES keys: the parity of their bytes, and the few that are weak."""

from __future__ import annotations

# NIST SP 800-67 (withdrawn), revision 2, 3.3.2: under the first four, encrypting twice is no
# encryption; of the others, in pairs, one decrypts what the other encrypted.
_WEAK = frozenset(
    bytes.fromhex(key)
    for key in [
        "0101010101010101",
        "FEFEFEFEFEFEFEFE",
        "E0E0E0E0F1F1F1F1",
        "1F1F1F1F0E0E0E0E",
        "01FE01FE01FE01FE",
        "FE01FE01FE01FE01",
        "1FE01FE00EF10EF1",
        "E01FE01FF10EF10E",
        "01E001E001F101F1",
        "E001E001F101F101",
        "1FFE1FFE0EFE0EFE",
        "FE1FFE1FFE0EFE0E",
        "011F011F010E010E",
        "1F011F010E010E01",
        "E0FEE0FEF1FEF1FE",
        "FEE0FEE0FEF1FEF1",
    ]
)


def with_odd_parity(key: bytes) -> bytes:
    """A DES or TDES key whose bytes each have an odd number of bits set; DES ignores the lowest."""
    return bytes(byte & 0xFE | (byte >> 1).bit_count() & 1 ^ 1 for byte in key)


def is_weak(key: bytes) -> bool:
    """Whether any of the DES keys that a DES or TDES key consists of is weak or semi-weak."""
    odd = with_odd_parity(key)
    return any(odd[at : at + 8] in _WEAK for at in range(0, len(odd), 8))
