"""May this request go on? The checks, in a fixed order, and their answer."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.policy.permissions import Permissions
from gateway.policy.response_codes import Reason
from gateway.wire.message import ADVICE_KINDS, STAN, Kind, Message

# Kinds whose DE4 may be zero or absent.
_NO_AMOUNT_NEEDED = frozenset((Kind.BALANCE,))


@dataclass(frozen=True, slots=True)
class Allowed:
    """The request may be forwarded."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The request is answered with `reason`; `rule` names what decided."""

    reason: Reason
    rule: str


Decision = Allowed | Refused
ALLOWED = Allowed()


class Policy:
    """Everything that decides on a financial request, under one version of the configuration."""

    def __init__(self, *, permissions: Permissions, version: str) -> None:
        self._permissions = permissions
        self.version = version

    def decide(self, message: Message, kind: Kind, profile: str) -> Decision:
        """Whether a financial request of a device with this profile may go on."""
        if kind is Kind.UNKNOWN:
            return Refused(Reason.INVALID_TRANSACTION, "kind")
        if not message.fields.get(STAN, "").isdigit():
            return Refused(Reason.FORMAT_ERROR, "DE11")
        if not message.amount_minor and kind not in _NO_AMOUNT_NEEDED:
            return Refused(Reason.INVALID_AMOUNT, "DE4")
        # An advice reports what was done: refusing it would not undo it.
        if kind not in ADVICE_KINDS and not self._permissions.allow(profile, kind):
            return Refused(Reason.KIND_NOT_PERMITTED, f"profiles.{profile}")
        return ALLOWED

    def keeps_advices(self, profile: str) -> bool:
        """Whether advices of these devices are answered 00 and sent later, if no upstream takes
        them now."""
        return self._permissions.keeps_advices(profile)
