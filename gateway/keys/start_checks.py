"""What a start refuses of the keys it finds: what nobody can unwrap, and what everybody knows."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.errors import OperatorError
from gateway.keys.key_encryption import AesKeyEncryption, KeyWrapping
from gateway.keys.records import StoredKey
from gateway.keys.weak_keys import is_known, weakness

_SHOWN = 5


def check_found(keys: Iterable[StoredKey], wrapping: KeyWrapping, *, production: bool) -> None:
    """Raises OperatorError where keys are under a key-encryption key that is not there, and in
    production where one is a published test key or a weak one; KeyUnavailable where one does not
    unwrap.

    A key inside a token is not taken out to be looked at: it was when it was entered, and
    `gateway keys check` does it. Some 10 µs a key: call it in a thread.
    """
    known = set(wrapping.names)
    elsewhere: dict[str, int] = {}
    refused: list[str] = []
    look = production and isinstance(wrapping.in_force, AesKeyEncryption)
    for key in keys:
        if not key.wrapped:
            continue
        if key.kek not in known:
            elsewhere[key.kek] = elsewhere.get(key.kek, 0) + 1
        elif look:
            clear = wrapping.unwrap(key)
            if is_known(clear) or weakness(key.algorithm, clear):
                refused.append(key.name)
    if elsewhere:
        counts = ", ".join(f"{count} keys under {kek}" for kek, count in elsewhere.items())
        raise OperatorError(
            f"the store has {counts}, and known is {', '.join(sorted(known))}: name the other in"
            " [keys.kek_next] (or [keys.kek]), and let `gateway keys rewrap` finish"
        )
    if refused:
        more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        raise OperatorError(
            f"{', '.join(refused[:_SHOWN])}{more}: published test keys or weak ones, with which a"
            " production node does not start: enter others, or destroy them"
            " (`gateway keys destroy`, with production = false)"
        )
