"""The checks of a financial request, in their order."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.policy.decide import Allowed, Policy, Refused, Subject
from gateway.policy.permissions import Permissions
from gateway.policy.response_codes import Reason
from gateway.settings.schema_policy import Profile
from gateway.wire.message import Kind, Message

POLICY = Policy(
    permissions=Permissions([Profile(name="retail", kinds=[Kind.PURCHASE, Kind.BALANCE])]),
    version="v1",
)
GOOD = Message("0200", {3: "000000", 4: "000000000100", 11: "000001", 22: "051"})


def subject(message: Message, kind: Kind, profile: str = "retail", **known: Any) -> Subject:
    values = {"transaction_id": 1, "wall_ms": 0, "card_token": ""} | known
    return Subject(message, kind, profile=profile, **values)


def reason(message: Message, kind: Kind, profile: str = "retail") -> Reason | None:
    decision = POLICY.decide(subject(message, kind, profile))
    return decision.reason if isinstance(decision, Refused) else None


def test_what_the_profile_names_is_allowed_under_a_version() -> None:
    assert POLICY.decide(subject(GOOD, Kind.PURCHASE)) == Allowed("v1", taken=False)


@pytest.mark.parametrize(
    ("message", "kind", "expected"),
    [
        (GOOD, Kind.UNKNOWN, Reason.INVALID_TRANSACTION),
        (GOOD, Kind.REFUND, Reason.KIND_NOT_PERMITTED),
        (GOOD.changed({11: "12345X"}), Kind.PURCHASE, Reason.FORMAT_ERROR),
        (GOOD.without([11]), Kind.PURCHASE, Reason.FORMAT_ERROR),
        (GOOD.changed({4: "000000000000"}), Kind.PURCHASE, Reason.INVALID_AMOUNT),
        (GOOD.changed({4: "00000000010X"}), Kind.PURCHASE, Reason.INVALID_AMOUNT),
        (GOOD.without([4]), Kind.PURCHASE, Reason.INVALID_AMOUNT),
        (GOOD.without([4]), Kind.BALANCE, None),
    ],
)
def test_each_check_refuses_with_its_reason(
    message: Message, kind: Kind, expected: Reason | None
) -> None:
    assert reason(message, kind) is expected


def test_a_profile_that_is_not_there_allows_nothing() -> None:
    assert reason(GOOD, Kind.PURCHASE, "gone") is Reason.KIND_NOT_PERMITTED
