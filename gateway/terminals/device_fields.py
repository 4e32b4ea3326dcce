"""What may stand in each field of a device, and the form in which it is kept."""

from __future__ import annotations

import datetime

from gateway.errors import OperatorError
from gateway.terminals.identity import ANY_MERCHANT, parse_networks
from gateway.wire.id_patterns import MERCHANT_ID_CHARS_MAX, TERMINAL_ID_CHARS, padded

TEXT_CHARS_MAX = 100
_SHA256_HEX_CHARS = 64


def terminal_id(text: str) -> str:
    """A terminal id in its kept form: padded with blanks to the eight characters of DE41.

    The padded form is what a message carries, so the registry answers without touching it; people
    write the id without its blanks, everywhere. Raises OperatorError for what is no terminal id.
    """
    trimmed = text.rstrip(" ")
    if not trimmed or trimmed[0] == " " or len(trimmed) > TERMINAL_ID_CHARS or not _plain(trimmed):
        raise OperatorError(
            f"{text!r} is no terminal id: 1 to 8 printable ASCII characters, no blank in front"
        )
    return padded(trimmed)


def merchant_id(text: str, *, any_allowed: bool = False) -> str:
    """A merchant id without the blanks that pad DE42; raises OperatorError for what is none."""
    trimmed = text.strip(" ")
    if trimmed == ANY_MERCHANT:
        if any_allowed:
            return trimmed
        raise OperatorError('merchant "*" (any) is for registry rules only: name the merchant')
    if not trimmed or len(trimmed) > MERCHANT_ID_CHARS_MAX or not _plain(trimmed):
        raise OperatorError(f"{text!r} is no merchant id: 1 to 15 printable ASCII characters")
    return trimmed


def certificate_sha256(text: str) -> str:
    """A certificate's SHA-256 in lower-case hex; colons, as openssl prints them, may be in it."""
    trimmed = text.strip().replace(":", "").lower()
    if not trimmed:
        return ""
    if len(trimmed) != _SHA256_HEX_CHARS or not set(trimmed) <= set("0123456789abcdef"):
        raise OperatorError(f"{text!r} is no SHA-256: 64 hex digits of the certificate's DER")
    return trimmed


def networks(text: str) -> str:
    """CIDR ranges separated by one blank each; raises OperatorError for what is none."""
    try:
        return " ".join(str(network) for network in parse_networks(text))
    except ValueError as error:
        raise OperatorError(f"{text!r}: {error}") from None


def date(text: str) -> str:
    """A day as YYYY-MM-DD; raises OperatorError for what is none."""
    try:
        return datetime.date.fromisoformat(text.strip()).isoformat()
    except ValueError:
        raise OperatorError(f"{text!r} is no date: write it as 2026-11-21") from None


def label(name: str, text: str) -> str:
    """A serial number, model or place: one printable line; raises OperatorError for others."""
    trimmed = text.strip()
    if len(trimmed) > TEXT_CHARS_MAX or not trimmed.isprintable():
        raise OperatorError(f"{name} {trimmed[:20]!r}…: at most 100 printable characters")
    return trimmed


def _plain(text: str) -> bool:
    return text.isascii() and text.isprintable()
