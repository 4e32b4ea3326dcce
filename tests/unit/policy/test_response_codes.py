"""The table of the gateway's own answers is whole, in both code sets."""

from __future__ import annotations

import pytest

from gateway.policy.response_codes import CodeSet, Reason, response_code

TABLE = {
    Reason.FORMAT_ERROR: ("30", "30"),
    Reason.UNKNOWN_TERMINAL: ("58", "97"),
    Reason.NOT_THIS_DEVICE: ("58", "97"),
    Reason.WRONG_MERCHANT: ("03", "03"),
    Reason.NOT_ACTIVE: ("58", "97"),
    Reason.KIND_NOT_PERMITTED: ("58", "58"),
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
    Reason.ORIGINAL_NOT_FOUND: ("25", "25"),
    Reason.NO_UPSTREAM: ("91", "91"),
    Reason.NO_ANSWER: ("91", "98"),
    Reason.OVERLOAD: ("96", "96"),
    Reason.INTERNAL: ("96", "96"),
}


@pytest.mark.parametrize(("reason", "codes"), TABLE.items())
def test_the_code_of_each_condition_in_the_rules(reason: Reason, codes: tuple[str, str]) -> None:
    assert (response_code(reason, "iso"), response_code(reason, "unionpay")) == codes


@pytest.mark.parametrize("code_set", ["iso", "unionpay"])
def test_every_reason_has_a_code_and_none_speaks_of_the_card_as_lost(code_set: CodeSet) -> None:
    codes = {response_code(reason, code_set) for reason in Reason}
    assert all(len(code) == 2 for code in codes)
    assert not codes & {"00", "41", "43"}
