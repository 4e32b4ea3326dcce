"""Failover result: what one case came to, and whether that is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from loadtest.failover_cases import Target
from loadtest.failover_measures import Purchases


@dataclass(slots=True, kw_only=True)
class CaseResult:
    """What one case came to; printed as JSON. Seconds are those of sickness, or of health again."""

    case: str
    available: bool = True
    note: str = ""
    sick: str = ""
    purchases: Purchases | None = None
    afterwards: Purchases | None = None  # while the sick one was well again
    attempts: int = (
        0  # to connect to the sick one, from the first sickness on, by the gateway's log
    )
    attempts_per_s: float = 0.0
    accepted: int | None = None  # of them, by the acquirer's own count
    suspicions: int = 0
    suspected_after_s: float | None = None
    wrongly_suspected: int = 0  # how often one that was well was
    share_by_second: list[float | None] = field(default_factory=list)  # of the sick one, all along
    share_when_back: list[float | None] = field(default_factory=list)
    back_after_s: float | None = None  # 90 % of its fair share again
    events: dict[str, int] = field(default_factory=dict)
    first_events: list[dict[str, Any]] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    unexplained: int = 0
    reversals_open: int = 0
    converged_s: float = 0.0
    lag_p99_ms: float = 0.0  # of this tool: how late it noticed customers
    lag_max_ms: float = 0.0
    queued: int = 0  # customers who found no idle till
    processors: dict[str, float] = field(default_factory=dict)  # who used how many percent of all
    missed: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.missed

    def figure(self, name: str) -> float:
        """A figure by the name that targets use; raises KeyError for one that there is not."""
        if hasattr(self, name):
            return float(getattr(self, name) or 0)
        if self.purchases is not None and hasattr(self.purchases, name):
            return float(getattr(self.purchases, name) or 0)
        raise KeyError(name)

    def judge(self, targets: Sequence[Target]) -> None:
        """Writes down each target that was missed."""
        self.missed = [
            f"{target.figure} {self.figure(target.figure):g}, at most {target.most:g}"
            for target in targets
            if self.figure(target.figure) > target.most
        ]

    def summary(self) -> dict[str, Any]:
        return {"passed": self.passed} | asdict(self)


def told(result: CaseResult) -> str:
    """One line about a case."""
    bought = result.purchases
    if bought is None:
        return f"{result.case}: not available: {result.note}"
    back = "never" if result.back_after_s is None else f"after {result.back_after_s:g} s"
    verdict = "passed" if result.passed else f"MISSED: {'; '.join(result.missed)}"
    return (
        f"{result.case}: {bought.failed} of {bought.transactions:,} failed"
        f" ({bought.timed_out} without an answer, {bought.failed_after_200_ms} after 200 ms),"
        f" p99 {bought.p99_ms:g} ms, max {bought.max_ms:g} ms, refused within"
        f" {bought.refusal_p99_ms:g} ms; {result.attempts} connection attempts; back {back};"
        f" tool's lag p99 {result.lag_p99_ms:g} ms, max {result.lag_max_ms:g} ms; processors"
        f" {', '.join(f'{who} {used:g} %' for who, used in result.processors.items())}; {verdict}"
        f"{f' ({result.note})' if result.note else ''}"
    )
