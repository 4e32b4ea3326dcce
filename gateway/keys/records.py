"""What is known of a key without its value: whose it is, what for, which version, since when."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

GATEWAY = "gateway"  # the owner of the keys that the store's columns are kept under


class KeyPurpose(StrEnum):
    """What a key is for; it serves no other purpose than its own (ISO 11568, key separation)."""

    STORE_DATA = "store-data"
    CARD_TOKEN = "card-token"  # noqa: S105 (a name, no secret)
    CONTENT = "content"
    TERMINAL_MASTER = "terminal-master"  # TMK: wraps a terminal's working keys
    PIN = "pin"  # a terminal's working keys: PIK, MAK, TDK
    MAC = "mac"
    DATA = "data"
    BASE_DERIVATION = "base-derivation"  # BDK: a DUKPT terminal's keys come from it
    ZONE_MASTER = "zone-master"  # ZMK: wraps an upstream's working keys
    ZONE_PIN = "zone-pin"
    ZONE_MAC = "zone-mac"
    ZONE_DATA = "zone-data"


class KeyAlgorithm(StrEnum):
    """What a key is used with, and so how long it is."""

    DES = "DES"  # single length: UnionPay's old terminals have MAC keys of 8 bytes
    TDES_2 = "TDES-2"
    TDES_3 = "TDES-3"
    AES_128 = "AES-128"
    AES_192 = "AES-192"
    AES_256 = "AES-256"
    SM4 = "SM4"
    HMAC_SHA256 = "HMAC-SHA256"

    @property
    def bytes(self) -> int:
        """The length of such a key."""
        return _BYTES[self]


_BYTES = {
    KeyAlgorithm.DES: 8,
    KeyAlgorithm.TDES_2: 16,
    KeyAlgorithm.TDES_3: 24,
    KeyAlgorithm.AES_128: 16,
    KeyAlgorithm.AES_192: 24,
    KeyAlgorithm.AES_256: 32,
    KeyAlgorithm.SM4: 16,
    KeyAlgorithm.HMAC_SHA256: 32,
}


class StoredKeyState(StrEnum):
    """Where a key stands: PENDING until its first good use, RETIRING while its overlap lasts."""

    PENDING = "pending"
    ACTIVE = "active"
    RETIRING = "retiring"
    EXPIRED = "expired"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """One version of a key as it is kept: wrapped under a key-encryption key.

    What it is bound to (owner, purpose, version, algorithm) is authenticated by the wrapping: a
    row cannot be given to another owner. Destroyed, `wrapped` is empty and the rest stays.
    """

    owner: str  # "terminal:T0000001", "upstream:acquirer-a", or GATEWAY
    purpose: KeyPurpose
    version: int  # counted from 1 for each owner and purpose
    algorithm: KeyAlgorithm
    state: StoredKeyState
    start_ms: int
    end_ms: int = 0  # it does not work from then on; 0: no end
    check_value: str = ""  # hex; of the clear key, as its algorithm's standard has it
    kek: str = ""  # the name of the key-encryption key that it is wrapped under
    wrapped: bytes = field(default=b"", repr=False)
    exportable: bool = True  # False: whoever sent it, in a key block, did not let it go further

    @property
    def name(self) -> str:
        """What the key is called where people read of it: `terminal:T0000001/mac.3`."""
        return f"{self.owner}/{self.purpose.value}.{self.version}"


def terminal_owner(terminal_id: str) -> str:
    """The owner of a terminal's keys, by DE41 as it stands in the registry (padded or not)."""
    return f"terminal:{terminal_id.rstrip()}"


def upstream_owner(name: str) -> str:
    """The owner of the keys shared with an upstream."""
    return f"upstream:{name}"


def transport_owner(name: str) -> str:
    """The owner of a master key that keys travel under in bulk: a maker's, a key house's."""
    return f"transport:{name}"
