"""Stored keys and a security module over them, wrapped in a way that tests can look through."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

from gateway.errors import KeyUnavailable
from gateway.keys.message_module import HELD_MAX, SoftwareMessageSecurity
from gateway.keys.records import KeyAlgorithm, KeyPurpose, StoredKey, StoredKeyState

OWNER = "terminal:T0000001"


class PlainWrapping:
    """Wraps by putting what a key is bound to before its value; counts what it unwraps."""

    def __init__(self) -> None:
        self.unwrapped: list[str] = []

    def wrap(self, clear: bytes, key: StoredKey) -> StoredKey:
        return replace(key, kek="plain", wrapped=_bound(key) + clear)

    def unwrap(self, key: StoredKey) -> bytes:
        self.unwrapped.append(key.name)
        bound = _bound(key)
        if not key.wrapped.startswith(bound):
            raise KeyUnavailable(f"{key.name} does not unwrap")
        return key.wrapped[len(bound) :]


def software(
    *,
    wrapping: PlainWrapping | None = None,
    held_max: int = HELD_MAX,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> SoftwareMessageSecurity:
    """A software module that unwraps what `stored` has made."""
    used = wrapping or PlainWrapping()
    return SoftwareMessageSecurity(
        unwrap=used.unwrap, wrap=used.wrap, held_max=held_max, random=random
    )


def stored(
    value: bytes,
    purpose: KeyPurpose,
    algorithm: KeyAlgorithm,
    *,
    owner: str = OWNER,
    version: int = 1,
    state: StoredKeyState = StoredKeyState.ACTIVE,
) -> StoredKey:
    """A key of a known value."""
    key = record(purpose, algorithm, owner=owner, version=version, state=state)
    return PlainWrapping().wrap(value, key)


def record(
    purpose: KeyPurpose,
    algorithm: KeyAlgorithm,
    *,
    owner: str = OWNER,
    version: int = 1,
    state: StoredKeyState = StoredKeyState.PENDING,
) -> StoredKey:
    """A key whose value is still to come."""
    return StoredKey(
        owner=owner,
        purpose=purpose,
        version=version,
        algorithm=algorithm,
        state=state,
        start_ms=0,
    )


def clear(key: StoredKey) -> bytes:
    """The value of a key that `PlainWrapping` wrapped."""
    return PlainWrapping().unwrap(key)


def _bound(key: StoredKey) -> bytes:
    return f"{key.owner}|{key.purpose}|{key.version}|{key.algorithm}|".encode()
