"""Keyed hashes of one thing under several versions of their key, and what two say of each other."""

from __future__ import annotations

from collections.abc import Iterable


def differ(one: Iterable[str], other: Iterable[str]) -> bool:
    """Whether the hashes of two things show that they are different.

    Each is given by its hashes (`version:digits`) under every version of the key that is known of
    it. Only those under the same version say anything; where there are none such, nothing does.
    """
    by_version = dict(_split(hashed) for hashed in other)
    for version, digits in map(_split, one):
        known = by_version.get(version)
        if known is not None:
            return known != digits
    return False


def _split(hashed: str) -> tuple[str, str]:
    version, _, digits = hashed.partition(":")
    return version, digits
