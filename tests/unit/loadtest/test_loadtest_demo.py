"""The demo passes only if something was bought, all agree and every process ended well."""

import pytest

from loadtest.demo import DemoResult
from loadtest.reconcile import Disagreement, Fault, Reconciliation

FAULT = Disagreement(
    Fault.UNEXPLAINED, "T0000001-0000000001", "amount_minor is 2, 1 at the terminal"
)


@pytest.mark.parametrize(
    ("reconciliation", "statuses", "passed"),
    [
        (Reconciliation(sent=2, approved=1, declined=1), {"gateway": 0, "a": 0}, True),
        (Reconciliation(sent=2, approved=1), {"gateway": 0}, True),  # an error, and reversed
        (Reconciliation(), {"gateway": 0}, False),
        (Reconciliation(sent=1, declined=1), {"gateway": 0}, False),
        (Reconciliation(sent=1, approved=1), {"gateway": 0, "a": -9}, False),
        (Reconciliation(sent=1, approved=1, disagreements=[FAULT]), {"gateway": 0}, False),
    ],
)
def test_passed(reconciliation: Reconciliation, statuses: dict[str, int], passed: bool) -> None:
    assert DemoResult(reconciliation, statuses).passed is passed
