"""Failover measures: from what tills, store and log of one case say to its figures (no I/O)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loadtest.ledger import Outcome
from loadtest.terminal import Sale

_GRACE_S = 0.2  # of sickness: what fails later could have been spared
_WINDOW_S = 1.0
_STEP_S = 0.1
_BACK = 0.9  # of its fair share


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchases:
    """How the purchases of some time went, each counted from the moment its customer came.

    Seconds of failures are those of sickness.
    """

    transactions: int
    approved: int
    failed: int  # everything but an approval
    failed_after_200_ms: int  # of sickness
    timed_out: int  # the till stopped waiting: the worst, nobody told it anything
    unsent: int  # no line to the gateway
    declined: dict[str, int]  # clean answers, by response code
    first_failure_s: float | None
    last_failure_s: float | None
    p50_ms: float
    p99_ms: float
    max_ms: float
    refusal_p99_ms: float  # of declines alone, in sickness

    @property
    def failed_percent(self) -> float:
        return 100 * self.failed / self.transactions if self.transactions else 100.0


def purchases(
    sales: Iterable[Sale], *, from_s: float, to_s: float, sick_s: float, unsettled: int = 0
) -> Purchases:
    """The figures of those whose customers came in [from_s, to_s).

    `unsettled` are purchases of that time that have not ended even now.
    """
    counted = [sale for sale in sales if from_s <= sale.due_s < to_s]
    outcomes = Counter(sale.attempt.outcome for sale in counted)
    declined = [sale for sale in counted if sale.attempt.outcome is Outcome.DECLINED]
    failed = [sale for sale in counted if sale.attempt.outcome is not Outcome.APPROVED]
    failed_s = sorted(sale.due_s - sick_s for sale in failed)
    took_ms = sorted(1000 * (sale.told_s - sale.due_s) for sale in counted)
    refused_ms = sorted(
        1000 * (sale.told_s - sale.due_s) for sale in declined if sale.due_s >= sick_s
    )
    return Purchases(
        transactions=len(counted) + unsettled,
        approved=outcomes[Outcome.APPROVED],
        failed=len(failed) + unsettled,
        failed_after_200_ms=len(failed_s) - bisect_left(failed_s, _GRACE_S) + unsettled,
        timed_out=outcomes[Outcome.REVERSED] + unsettled,
        unsent=outcomes[Outcome.UNSENT],
        declined=dict(sorted(Counter(sale.attempt.response_code for sale in declined).items())),
        first_failure_s=round(failed_s[0], 3) if failed_s else None,
        last_failure_s=round(failed_s[-1], 3) if failed_s else None,
        p50_ms=percentile(took_ms, 50),
        p99_ms=percentile(took_ms, 99),
        max_ms=percentile(took_ms, 100),
        refusal_p99_ms=percentile(refused_ms, 99),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The least value that so many percent of them do not exceed, to 0.1; 0 of none."""
    if not ordered:
        return 0.0
    rank = max(1, -int(-len(ordered) * percent // 100))
    return round(ordered[rank - 1], 1)


class Taken(NamedTuple):
    """That an upstream was sent a request, so long after the start."""

    at_s: float
    upstream: str


def shares(
    taken: Sequence[Taken], upstream: str, *, from_s: float, to_s: float, step_s: float = 1.0
) -> list[float | None]:
    """The part of all requests that an upstream got, second by second; None: nobody got any."""
    found: list[float | None] = []
    at_s = from_s
    while at_s + step_s <= to_s + 1e-9:
        found.append(_share(taken, upstream, at_s, at_s + step_s))
        at_s += step_s
    return found


def back_after_s(
    taken: Sequence[Taken], upstream: str, *, healed_s: float, to_s: float, fair: float
) -> float | None:
    """How long after it was well an upstream had, for a second, 90 % of its fair share again.

    It is the start of that second; None: it never had.
    """
    steps = round((to_s - healed_s - _WINDOW_S) / _STEP_S)
    for step in range(steps + 1):
        at_s = healed_s + step * _STEP_S
        share = _share(taken, upstream, at_s, at_s + _WINDOW_S)
        if share is not None and share >= _BACK * fair:
            return round(at_s - healed_s, 2)
    return None


def _share(taken: Sequence[Taken], upstream: str, from_s: float, to_s: float) -> float | None:
    inside = taken[bisect_left(taken, (from_s,)) : bisect_left(taken, (to_s,))]
    if not inside:
        return None
    return round(sum(one.upstream == upstream for one in inside) / len(inside), 3)
