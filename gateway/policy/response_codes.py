"""Which response code (DE39) the gateway gives for each reason, in each code set."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Literal

CodeSet = Literal["iso", "unionpay"]


class Reason(StrEnum):
    """Why the gateway answers a request itself instead of an acquirer."""

    FORMAT_ERROR = "format_error"
    UNKNOWN_TERMINAL = "unknown_terminal"
    NOT_THIS_DEVICE = "not_this_device"
    WRONG_MERCHANT = "wrong_merchant"
    NOT_ACTIVE = "not_active"
    WRONG_NETWORK = "wrong_network"
    NOT_CARRIED = "not_carried"
    KIND_NOT_PERMITTED = "kind_not_permitted"
    ENTRY_MODE_NOT_PERMITTED = "entry_mode_not_permitted"
    CURRENCY_NOT_PERMITTED = "currency_not_permitted"
    OUT_OF_HOURS = "out_of_hours"
    TERMINAL_BLOCKED = "terminal_blocked"
    MERCHANT_BLOCKED = "merchant_blocked"
    NETWORK_BLOCKED = "network_blocked"
    CERTIFICATE_BLOCKED = "certificate_blocked"
    CARD_RANGE_NOT_ALLOWED = "card_range_not_allowed"
    CARD_BLOCKED = "card_blocked"
    AMOUNT_LIMIT = "amount_limit"
    COUNT_LIMIT = "count_limit"
    MAC_FAILED = "mac_failed"
    PIN_MALFORMED = "pin_malformed"
    KEY_SERVICE_FAILED = "key_service_failed"
    NOT_SIGNED_ON = "not_signed_on"
    NOT_SUPPORTED = "not_supported"
    INVALID_TRANSACTION = "invalid_transaction"
    INVALID_AMOUNT = "invalid_amount"
    REPEAT_DIFFERS = "repeat_differs"
    ALREADY_REVERSED = "already_reversed"
    ORIGINAL_NOT_FOUND = "original_not_found"
    LOST_IN_RESTORE = "lost_in_restore"  # it may be of the time since the backup
    NO_UPSTREAM = "no_upstream"
    NO_ANSWER = "no_answer"
    OVERLOAD = "overload"
    INTERNAL = "internal"


# Reason -> (ISO, UnionPay), the table "Which answer the gateway gives itself" of the domain rules.
# 41 and 43 speak of the card and are never used for a terminal.
_CODES: dict[Reason, tuple[str, str]] = {
    Reason.FORMAT_ERROR: ("30", "30"),
    Reason.UNKNOWN_TERMINAL: ("58", "97"),
    Reason.NOT_THIS_DEVICE: ("58", "97"),
    Reason.WRONG_MERCHANT: ("03", "03"),
    Reason.NOT_ACTIVE: ("58", "97"),
    Reason.WRONG_NETWORK: ("58", "97"),
    Reason.NOT_CARRIED: ("58", "97"),
    Reason.KIND_NOT_PERMITTED: ("58", "58"),
    Reason.ENTRY_MODE_NOT_PERMITTED: ("58", "58"),
    Reason.CURRENCY_NOT_PERMITTED: ("58", "58"),
    Reason.OUT_OF_HOURS: ("58", "58"),
    Reason.TERMINAL_BLOCKED: ("58", "97"),
    Reason.MERCHANT_BLOCKED: ("03", "03"),
    Reason.NETWORK_BLOCKED: ("58", "97"),
    Reason.CERTIFICATE_BLOCKED: ("58", "97"),
    Reason.CARD_RANGE_NOT_ALLOWED: ("57", "57"),
    Reason.CARD_BLOCKED: ("62", "62"),
    Reason.AMOUNT_LIMIT: ("61", "61"),
    Reason.COUNT_LIMIT: ("65", "65"),
    Reason.MAC_FAILED: ("63", "A0"),
    Reason.PIN_MALFORMED: ("55", "99"),
    Reason.KEY_SERVICE_FAILED: ("96", "A7"),
    Reason.NOT_SIGNED_ON: ("63", "77"),
    Reason.NOT_SUPPORTED: ("40", "40"),
    Reason.INVALID_TRANSACTION: ("12", "12"),
    Reason.INVALID_AMOUNT: ("13", "13"),
    Reason.REPEAT_DIFFERS: ("94", "94"),
    Reason.ALREADY_REVERSED: ("12", "12"),
    Reason.ORIGINAL_NOT_FOUND: ("25", "25"),
    Reason.LOST_IN_RESTORE: ("96", "96"),
    Reason.NO_UPSTREAM: ("91", "91"),
    Reason.NO_ANSWER: ("91", "98"),
    Reason.OVERLOAD: ("96", "96"),
    Reason.INTERNAL: ("96", "96"),
}

APPROVED = "00"

# Codes that are a plain no in ISO 8583:1987 (table A.2) and on UnionPay: no money was moved or
# held. 09 and 68 say "not yet known", and a code that stands nowhere may mean anything.
_DECLINES = frozenset(
    f"{number:02d}"
    for numbers in (
        range(1, 8),
        range(12, 16),
        range(17, 46),
        range(51, 68),
        range(75, 100),
    )
    for number in numbers
) | {"A0", "A1", "A7"}


def may_be_approved(code: str, approving: Collection[str]) -> bool:
    """Whether an acquirer's code approves, or says nothing that is known: then it may have."""
    return code in approving or code not in _DECLINES


def response_code(reason: Reason, code_set: CodeSet) -> str:
    """The DE39 that tells a terminal of this code set the reason."""
    iso, unionpay = _CODES[reason]
    return unionpay if code_set == "unionpay" else iso
