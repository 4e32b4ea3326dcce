"""What a key may be used for: key separation as tables, and the functions that hold to them."""

from __future__ import annotations

from gateway.errors import KeyUnavailable
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState

MASTERS = frozenset({KeyPurpose.TERMINAL_MASTER, KeyPurpose.ZONE_MASTER})
MAC_KEYS = frozenset({KeyPurpose.MAC, KeyPurpose.ZONE_MAC})
DATA_KEYS = frozenset({KeyPurpose.DATA, KeyPurpose.ZONE_DATA})
# A PIN comes in from a terminal and goes out to an upstream, never the other way: a module that
# translated from a zone key would open every PIN that went out.
PIN_SOURCES = frozenset({KeyPurpose.PIN, KeyPurpose.BASE_DERIVATION})
PIN_TARGETS = frozenset({KeyPurpose.ZONE_PIN, KeyPurpose.BASE_DERIVATION})
WORKING_KEYS = frozenset({KeyPurpose.PIN, KeyPurpose.ZONE_PIN}) | MAC_KEYS | DATA_KEYS

# What a master key carries.
WRAPS = {
    KeyPurpose.TERMINAL_MASTER: frozenset(
        {KeyPurpose.TERMINAL_MASTER, KeyPurpose.PIN, KeyPurpose.MAC, KeyPurpose.DATA}
    ),
    KeyPurpose.ZONE_MASTER: frozenset(
        {
            KeyPurpose.ZONE_MASTER,
            KeyPurpose.ZONE_PIN,
            KeyPurpose.ZONE_MAC,
            KeyPurpose.ZONE_DATA,
            KeyPurpose.TERMINAL_MASTER,
            KeyPurpose.BASE_DERIVATION,
        }
    ),
}

# NIST SP 800-57 part 1, table 2; two-key TDES by its bound of 2**80 with few known texts.
STRENGTH_BITS = {
    KeyAlgorithm.DES: 56,
    KeyAlgorithm.TDES_2: 80,
    KeyAlgorithm.TDES_3: 112,
    KeyAlgorithm.AES_128: 128,
    KeyAlgorithm.SM4: 128,
    KeyAlgorithm.AES_192: 192,
    KeyAlgorithm.AES_256: 256,
    KeyAlgorithm.HMAC_SHA256: 256,
}

_DEAD = frozenset({StoredKeyState.EXPIRED, StoredKeyState.DESTROYED})


def check_use(key: StoredKey, purposes: frozenset[KeyPurpose], use: str) -> None:
    """Raises KeyUnavailable where a key is destroyed or expired, or is for something else.

    Times are the caller's to check (`key_life.check_usable`): nothing here has a clock.
    """
    if key.state in _DEAD:
        raise KeyUnavailable(f"{key.name} is {key.state.value}: it is not used any more")
    if key.purpose not in purposes:
        raise KeyUnavailable(f"{key.name} is a {key.purpose.value} key: it does not {use}")


def check_wrapping(key: StoredKey, master: StoredKey) -> None:
    """Raises KeyUnavailable unless `master` may carry `key`, which goes out or comes in.

    A master is alive and above the key: a terminal's master carries that terminal's working keys
    and its next master, a zone master an upstream's working keys and, as a transport key, masters
    and base derivation keys of others. It is at least as strong as what it carries
    (ISO 11568:2023, key hierarchy; PCI PIN requirement 10).
    """
    check_use(master, MASTERS, "wrap keys")
    if key.state in _DEAD:
        raise KeyUnavailable(f"{key.name} is {key.state.value}: it is not handed out any more")
    if key.purpose not in WRAPS[master.purpose]:
        raise KeyUnavailable(
            f"{key.name} is a {key.purpose.value} key: {master.name} does not carry such keys"
        )
    # What an upstream has for one terminal belongs to the upstream too.
    own = key.owner == master.owner or key.owner.startswith(f"{master.owner}/")
    if key.purpose in WORKING_KEYS and not own:
        raise KeyUnavailable(f"{key.name} is not handed out under another's master, {master.name}")
    if STRENGTH_BITS[master.algorithm] < STRENGTH_BITS[key.algorithm]:
        raise KeyUnavailable(
            f"{master.name} ({master.algorithm.value}) is weaker than {key.name} "
            f"({key.algorithm.value}): it would be the key's strength from then on"
        )
