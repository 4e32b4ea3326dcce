"""Requests: the messages that a simulated terminal sends."""

from __future__ import annotations

from gateway.clock import utc
from gateway.wire.message import (
    AMOUNT,
    CONDITION_CODE,
    CURRENCY,
    ENTRY_MODE,
    EXPIRY,
    LOCAL_DATE,
    LOCAL_TIME,
    MERCHANT_ID,
    NETWORK_CODE,
    ORIGINAL_DATA,
    PAN,
    PROCESSING_CODE,
    RESPONSE_CODE,
    STAN,
    TERMINAL_ID,
    TRANSMISSION_TIME,
    Message,
    repeat_mti,
)
from loadtest.cards import Basket
from loadtest.host import REFERENCE
from loadtest.ledger import Attempt

_PURCHASE = "0200"
_REVERSAL = "0400"
_CHIP_WITHOUT_PIN = "052"
_NO_ANSWER_IN_TIME = "98"


def transmission_time(wall_ms: int) -> str:
    """DE7: month, day, hour, minute, second."""
    return utc(wall_ms).strftime("%m%d%H%M%S")


def sign_on(*, terminal_id: str, merchant_id: str, stan: str, wall_ms: int) -> Message:
    return Message(
        "0800",
        {
            TRANSMISSION_TIME: transmission_time(wall_ms),
            STAN: stan,
            TERMINAL_ID: terminal_id,
            MERCHANT_ID: merchant_id,
            NETWORK_CODE: "001",
        },
    )


def purchase(attempt: Attempt, basket: Basket) -> Message:
    return Message(
        _PURCHASE,
        {
            **_card_and_amount(attempt, basket),
            TRANSMISSION_TIME: attempt.transmitted,
            ENTRY_MODE: _CHIP_WITHOUT_PIN,
            REFERENCE: attempt.reference,
        },
    )


def repeated(request: Message) -> Message:
    """The same request again, openly marked as a repeat."""
    return request.changed({}, mti=repeat_mti(request.mti))


def reversal(attempt: Attempt, basket: Basket, *, wall_ms: int) -> Message:
    """The reversal of an attempt, marked as a repeat once it was sent before.

    It bears the original's DE11, as terminals do, and names it in DE90 too: MTI, STAN, DE7, and
    DE32 and DE33 as zeros.
    """
    message = Message(
        _REVERSAL,
        {
            **_card_and_amount(attempt, basket),
            TRANSMISSION_TIME: transmission_time(wall_ms),
            RESPONSE_CODE: _NO_ANSWER_IN_TIME,
            ORIGINAL_DATA: f"{_PURCHASE}{attempt.stan}{attempt.transmitted}{'0' * 22}",
        },
    )
    return repeated(message) if attempt.reversals_sent else message


def _card_and_amount(attempt: Attempt, basket: Basket) -> dict[int, str]:
    return {
        PAN: basket.pan,
        PROCESSING_CODE: "000000",
        AMOUNT: f"{attempt.amount_minor:012d}",
        STAN: attempt.stan,
        LOCAL_TIME: attempt.transmitted[4:],
        LOCAL_DATE: attempt.transmitted[:4],
        EXPIRY: basket.expiry,
        CONDITION_CODE: "00",
        TERMINAL_ID: attempt.terminal_id,
        MERCHANT_ID: attempt.merchant_id,
        CURRENCY: attempt.currency,
    }
