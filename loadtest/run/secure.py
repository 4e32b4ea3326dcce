"""Secure: where a device's own keys come in, if its profile wants MAC and PIN."""

from __future__ import annotations

from typing import Protocol

from gateway.wire.message import Message


class NotGenuine(Exception):
    """An answer's MAC or a key's check value is wrong; the text says which."""


class Secure(Protocol):
    """One device's keys; a device without them sends what it has in the clear.

    Where a device has them its messages are not patched into a template but built and sealed one
    by one, as a terminal does.
    """

    def sign_on(self, request: Message) -> Message:
        """The sign-on with what asks for working keys."""
        ...

    def signed_on(self, answer: Message) -> None:
        """Takes the working keys of the answer; raises NotGenuine."""
        ...

    def seal(self, request: Message, *, pan: str, with_pin: bool) -> bytes:
        """The body of a request with its PIN block and MAC."""
        ...

    def check(self, answer: Message) -> None:
        """Raises NotGenuine where the MAC of an answer is not right."""
        ...
