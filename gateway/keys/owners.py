"""Whose keys there are: how an owner is written, and which keys each kind of owner has."""

from __future__ import annotations

import re
from typing import Final

from gateway.errors import OperatorError
from gateway.keys.keyring import OWN_ALGORITHMS
from gateway.keys.records import GATEWAY, KeyAlgorithm, KeyPurpose

_TERMINAL: Final = re.compile(r"terminal:[!-~](?:[ -~]{0,6}[!-~])?")  # DE41: an8, not padded
_NAMED: Final = re.compile(r"(?:upstream|transport|profile):[a-z0-9][a-z0-9_.-]{0,39}")
# A working key of an upstream that serves each terminal by keys of its own.
_TERMINAL_AT: Final = re.compile(r"upstream:[a-z0-9][a-z0-9_.-]{0,39}/[!-~](?:[ -~]{0,6}[!-~])?")

_BLOCK_KEYS: Final = frozenset(KeyAlgorithm) - {KeyAlgorithm.HMAC_SHA256}
PURPOSES: Final = {
    "terminal": frozenset(
        {
            KeyPurpose.TERMINAL_MASTER,
            KeyPurpose.PIN,
            KeyPurpose.MAC,
            KeyPurpose.DATA,
            KeyPurpose.BASE_DERIVATION,
        }
    ),
    "upstream": frozenset(
        {
            KeyPurpose.ZONE_MASTER,
            KeyPurpose.ZONE_PIN,
            KeyPurpose.ZONE_MAC,
            KeyPurpose.ZONE_DATA,
            KeyPurpose.BASE_DERIVATION,
        }
    ),
    "transport": frozenset({KeyPurpose.ZONE_MASTER, KeyPurpose.BASE_DERIVATION}),
    "profile": frozenset({KeyPurpose.BASE_DERIVATION}),  # of DUKPT devices of one make
    GATEWAY: frozenset(OWN_ALGORITHMS) | {KeyPurpose.BASE_DERIVATION},
}


def check_owner(owner: str) -> str:
    """The kind of an owner: terminal, upstream, profile, transport or gateway.

    Raises OperatorError where it is none.
    """
    if owner == GATEWAY:
        return GATEWAY
    for pattern in (_TERMINAL, _NAMED, _TERMINAL_AT):
        if pattern.fullmatch(owner):
            return owner.partition(":")[0]
    raise OperatorError(
        f"{owner!r} owns no keys: write terminal:ID, upstream:NAME, profile:NAME, transport:NAME or"
        f" {GATEWAY}"
    )


def check_purpose(owner: str, purpose: KeyPurpose) -> None:
    """Raises OperatorError where such an owner has no such key."""
    kind = check_owner(owner)
    if purpose not in PURPOSES[kind]:
        raise OperatorError(
            f"{owner} has no {purpose} key: it has "
            + ", ".join(sorted(one.value for one in PURPOSES[kind]))
        )


def check_algorithm(purpose: KeyPurpose, algorithm: KeyAlgorithm) -> None:
    """Raises OperatorError where a key of that purpose is not used with an algorithm."""
    if purpose in OWN_ALGORITHMS:
        allowed = frozenset({OWN_ALGORITHMS[purpose]})
    elif purpose in _NEVER_SINGLE:
        allowed = _BLOCK_KEYS - {KeyAlgorithm.DES}
    else:
        allowed = _BLOCK_KEYS
    if algorithm not in allowed:
        raise OperatorError(
            f"a {purpose} key is not used with {algorithm}: take one of "
            + ", ".join(sorted(one.value for one in allowed))
        )


# Single DES is met in MAC and data keys of old terminals; what wraps keys or PINs is longer.
_NEVER_SINGLE: Final = frozenset(
    {
        KeyPurpose.TERMINAL_MASTER,
        KeyPurpose.ZONE_MASTER,
        KeyPurpose.BASE_DERIVATION,
        KeyPurpose.PIN,
        KeyPurpose.ZONE_PIN,
    }
)
