"""May this request go on? The checks, in a fixed order, and their answer.

The order: the form of the message; blocked terminal, merchant, network, certificate; kind; entry
mode; currency; hours; card range; blocked card, blocked BIN; amount; limits. So the limits, which
are the one check that changes something, are only taken from by what nothing else stands against.

An offline advice reports what was done: only its form and whether its device may work offline are
looked at. Repeats and reversals never come here.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.policy.blocklists import EMPTY, Blocklists, Hit
from gateway.policy.limits import LimitRule, Limits, Looking, Use
from gateway.policy.permissions import Permissions, Rules
from gateway.policy.response_codes import Reason
from gateway.wire.entry_mode import entry_mode
from gateway.wire.message import (
    ADVICE_KINDS,
    AMOUNT,
    CURRENCY,
    MERCHANT_ID,
    STAN,
    TERMINAL_ID,
    VOID_KINDS,
    Kind,
    Message,
)

# Kinds whose DE4 may be zero or absent.
_NO_AMOUNT_NEEDED = frozenset((Kind.BALANCE,))


class Subject:
    """What is decided on: a financial request, and what is known of its sender."""

    __slots__ = (
        "address",
        "card_token",
        "certificate_serial",
        "certificate_sha256",
        "former_cards",
        "kind",
        "message",
        "profile",
        "transaction_id",
        "wall_ms",
    )

    def __init__(
        self,
        message: Message,
        kind: Kind,
        *,
        profile: str,
        transaction_id: int,
        wall_ms: int,
        card_token: str,
        former_cards: tuple[str, ...] = (),
        certificate_sha256: str = "",
        certificate_serial: int = 0,
        address: str = "",
    ) -> None:
        """`card_token` is the security module's, "" where the message names no card;
        `former_cards` are those under former versions of its key.

        What is not known of certificate and address ("" and 0) is held against no list: the
        listener has asked for both when the connection came.
        """
        self.message = message
        self.kind = kind
        self.profile = profile
        self.transaction_id = transaction_id
        self.wall_ms = wall_ms
        self.card_token = card_token
        self.former_cards = former_cards
        self.certificate_sha256 = certificate_sha256
        self.certificate_serial = certificate_serial
        self.address = address


@dataclass(frozen=True, slots=True)
class Allowed:
    """The request may be forwarded; `taken`: limits were taken from, and may have to be given
    back."""

    version: str  # of the configuration that decided
    taken: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The request is answered with `reason`; `rule` names what decided, with its file and line.

    `code` is the DE39 that the rule itself asks for; "": the one of the reason.
    """

    reason: Reason
    rule: str
    code: str = ""


Decision = Allowed | Refused


class Policy:
    """Everything that decides on a financial request, under one version of the configuration.

    The counters of the limits are the node's: each version goes on with those of the one before.
    """

    def __init__(
        self,
        *,
        permissions: Permissions,
        version: str,
        blocklists: Blocklists = EMPTY,
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._permissions = permissions
        self.blocklists = blocklists
        self.version = version
        self._allowed = Allowed(version)
        self._allowed_and_taken = Allowed(version, taken=True)
        self._lists_senders = any(
            (
                blocklists.terminals,
                blocklists.merchants,
                blocklists.networks,
                blocklists.certificates,
            )
        )
        self._lists_cards = bool(blocklists.cards or blocklists.bins)

    def decide(self, subject: Subject) -> Decision:
        """Whether a request may go on. Where it may, its limits are taken from."""
        kind, message = subject.kind, subject.message
        fields = message.fields
        text = fields.get(AMOUNT, "")
        amount_minor = int(text) if text.isascii() and text.isdigit() else 0
        if kind is Kind.UNKNOWN:
            return Refused(Reason.INVALID_TRANSACTION, "kind")
        if not fields.get(STAN, "").isdigit():
            return Refused(Reason.FORMAT_ERROR, "DE11")
        if not amount_minor and kind not in _NO_AMOUNT_NEEDED:
            return Refused(Reason.INVALID_AMOUNT, "DE4")
        rules = self._permissions.of(subject.profile, fields.get(MERCHANT_ID, ""))
        if kind in ADVICE_KINDS:
            return self._advice(kind, rules)
        if self._lists_senders:
            refused = self._blocked_sender(subject)
            if refused is not None:
                return refused
        if rules is None:
            return Refused(Reason.KIND_NOT_PERMITTED, f"profiles.{subject.profile}")
        currency = fields.get(CURRENCY, "")
        refused = self._not_permitted(rules, subject, currency)
        if refused is None and self._lists_cards:
            refused = self._blocked_card(subject)
        if refused is None and rules.amounts and kind not in VOID_KINDS:
            refused = _out_of_bounds(rules, kind, currency, amount_minor)
        if refused is not None:
            return refused
        limits = rules.limits(kind)
        return self._limited(limits, subject, currency, amount_minor) if limits else self._allowed

    def looking(self) -> Policy:
        """One that decides the same and takes from no limit, to tell people how it would be."""
        return Policy(
            permissions=self._permissions,
            version=self.version,
            blocklists=self.blocklists,
            limits=Looking(self._limits),
        )

    def give_back(self, transaction_id: int, *, left_minor: int = -1) -> None:
        """Undo what a transaction took of limits; once, and without effect for any other."""
        self._limits.give_back(transaction_id, left_minor=left_minor)

    def voided(self, original_id: int, *, by: int) -> None:
        """Undo what a transaction took of limits, unless the void of it is undone itself."""
        self._limits.voided(original_id, by=by)

    def keeps_advices(self, profile: str) -> bool:
        """Whether advices of these devices are answered 00 and sent later, if no upstream takes
        them now."""
        return self._permissions.keeps_advices(profile)

    # --- limits over a restart ----------------------------------------------------------------

    def limits_since_ms(self, now_ms: int) -> int | None:
        """From when on transactions are to be counted again after a start; None: there are no
        limits."""
        limits = self._permissions.limits()
        return self._limits.oldest_ms(limits, now_ms) if limits else None

    def count_again(
        self, use: Use, *, profile: str, kind: Kind, taken_ms: int, now_ms: int
    ) -> None:
        """Count a transaction that was taken before the start, by the rules that hold now."""
        _, merchant_id, _ = use.subjects
        rules = self._permissions.of(profile, merchant_id)
        if rules is not None:
            self._limits.restore(rules.limits(kind), use, taken_ms=taken_ms, now_ms=now_ms)

    # --- the checks, in their order -------------------------------------------------------------

    def _advice(self, kind: Kind, rules: Rules | None) -> Decision:
        # It was done: refusing the report of it would not undo it.
        if kind is Kind.OFFLINE and rules is not None and not rules.offline_advices:
            return Refused(Reason.KIND_NOT_PERMITTED, rules.against_offline())
        return self._allowed

    def _blocked_sender(self, subject: Subject) -> Refused | None:
        lists, now_ms, fields = self.blocklists, subject.wall_ms, subject.message.fields
        hit = lists.terminal(fields.get(TERMINAL_ID, ""), now_ms)
        if hit is not None:
            return Refused(Reason.TERMINAL_BLOCKED, hit.rule)
        hit = lists.merchant(fields.get(MERCHANT_ID, ""), now_ms)
        if hit is not None:
            return Refused(Reason.MERCHANT_BLOCKED, hit.rule)
        hit = lists.network(subject.address, now_ms) if subject.address else None
        if hit is not None:
            return Refused(Reason.NETWORK_BLOCKED, hit.rule)
        hit = lists.certificate(
            sha256=subject.certificate_sha256, serial=subject.certificate_serial, now_ms=now_ms
        )
        return None if hit is None else Refused(Reason.CERTIFICATE_BLOCKED, hit.rule)

    @staticmethod
    def _not_permitted(rules: Rules, subject: Subject, currency: str) -> Refused | None:
        """By kind, entry mode, currency, hours and card range.

        What all grants allow is looked up at once; only for a refusal it is asked which of them
        stands against it.
        """
        kind = subject.kind
        if kind not in rules.kinds:
            return Refused(Reason.KIND_NOT_PERMITTED, rules.against_kind(kind))
        if rules.entry_modes is not None:
            mode = entry_mode(subject.message)
            if mode not in rules.entry_modes:
                return Refused(Reason.ENTRY_MODE_NOT_PERMITTED, rules.against_entry_mode(mode))
        if rules.currencies is not None and currency not in rules.currencies:
            return Refused(Reason.CURRENCY_NOT_PERMITTED, rules.against_currency(currency))
        if rules.hours:
            rule = rules.against_hour(subject.wall_ms)
            if rule:
                return Refused(Reason.OUT_OF_HOURS, rule)
        if rules.cards:
            rule = rules.against_card(subject.message.pan)
            if rule:
                return Refused(Reason.CARD_RANGE_NOT_ALLOWED, rule)
        return None

    def _blocked_card(self, subject: Subject) -> Refused | None:
        hit: Hit | None = None
        if self.blocklists.cards is not None and subject.card_token:
            hit = self.blocklists.cards.find(subject.card_token, subject.wall_ms)
            for token in subject.former_cards:
                hit = hit or self.blocklists.cards.find(token, subject.wall_ms)
        if hit is None and self.blocklists.bins is not None:
            hit = self.blocklists.bins.find(subject.message.pan, subject.wall_ms)
        return None if hit is None else Refused(Reason.CARD_BLOCKED, hit.rule, hit.code)

    def _limited(
        self, limits: tuple[LimitRule, ...], subject: Subject, currency: str, amount_minor: int
    ) -> Decision:
        fields = subject.message.fields
        over = self._limits.take(
            limits,
            Use(
                subject.transaction_id,
                (fields.get(TERMINAL_ID, ""), fields.get(MERCHANT_ID, ""), subject.card_token),
                currency,
                amount_minor,
                subject.former_cards,
            ),
            now_ms=subject.wall_ms,
        )
        return self._allowed_and_taken if over is None else Refused(over.reason, over.rule)


def _out_of_bounds(rules: Rules, kind: Kind, currency: str, amount_minor: int) -> Refused | None:
    if kind in _NO_AMOUNT_NEEDED and not amount_minor:
        return None
    rule, too_high = rules.against_amount(currency, amount_minor)
    if not rule:
        return None
    return Refused(Reason.AMOUNT_LIMIT if too_high else Reason.INVALID_AMOUNT, rule)
