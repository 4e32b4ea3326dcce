"""A security module that seals reversibly and hashes plainly, for tests that look inside."""

from __future__ import annotations

import hashlib

from gateway.errors import KeyUnavailable


class PlainSecurity:
    """Seals by putting the context before the text, so that a wrong context is noticed."""

    def __init__(self) -> None:
        self.failing = False

    def seal(self, plaintext: bytes, *, context: bytes) -> bytes:
        if self.failing:
            raise KeyUnavailable("the key was told to fail")
        return context + b"|" + plaintext

    def unseal(self, sealed: bytes, *, context: bytes) -> bytes:
        found, _, plaintext = sealed.partition(b"|")
        if found != context:
            raise KeyUnavailable("sealed under another context")
        return plaintext

    def card_token(self, pan: str) -> str:
        return "1:" + hashlib.sha256(pan.encode()).hexdigest()[:32]

    def former_card_tokens(self, pan: str) -> tuple[str, ...]:
        return ()

    def former_content_hashes(self, data: bytes) -> tuple[str, ...]:
        return ()

    def content_hash(self, data: bytes) -> str:
        return "1:" + hashlib.sha256(data).hexdigest()[:32]
