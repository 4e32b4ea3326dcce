"""Thresholds: what a run must come to, as `p99_ms < 50` or `ledgers == equal` (no I/O)."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gateway.settings.wording import did_you_mean

# Every figure that can be asked about, with its unit and what it counts.
FIGURES = {
    "transactions": "that customers wanted, whatever came of them",
    "rate": "transactions a second, by their intended moments",
    "approved": "transactions",
    "approved_percent": "of all transactions",
    "declined": "transactions declined by an acquirer",
    "errors": "transactions without a clean answer, outside the windows that events excuse",
    "error_percent": "errors of all transactions, in percent",
    "disturbed": "transactions without a clean answer within the windows that events excuse",
    "unanswered": "of errors and disturbed: the device waited in vain",
    "unsent": "of errors and disturbed: there was no connection",
    "faults": "of errors and disturbed: answered that there is no service (91, 96 and the like)",
    "queued": "customers who found no idle device and waited for one",
    "p50_ms": "latency from the intended moment",
    "p90_ms": "latency from the intended moment",
    "p95_ms": "latency from the intended moment",
    "p99_ms": "latency from the intended moment",
    "p999_ms": "latency from the intended moment, 99.9 %",
    "max_ms": "the longest latency",
    "connect_p99_ms": "of calls to the gateway, sign-on included",
    "back_s": "until all devices were connected again after a reconnect storm, the longest",
    "resumed_percent": "of TLS handshakes, those that resumed a session",
    "repeats": "requests sent again",
    "repeats_differing": "of them, those answered otherwise than the first time",
    "reversed": "transactions taken back by their device",
    "batches_unbalanced": "batch closes that the gateway found out of balance",
    "ledgers": "equal or different: devices, gateway and acquirers",
    "lost": "approved at an acquirer, not at the device",
    "doubled": "approved twice",
    "unexplained": "other disagreements between ledgers",
    "for_an_operator": "refunds in doubt that the gateway has handed to an operator",
    "rss_mb": "memory of the gateway, its most",
    "rss_growth_mb": "memory of the gateway, from the end of its first fifth to its end",
    "fds": "flat or growing: the gateway's file descriptors, idle, before and after",
    "fds_growth": "how many more it had, idle, after the run",
    "store_bytes_per_txn": "size of the gateway's store by its transactions",
    "cpu_us_per_txn": "processor time of the gateway for a transaction",
    "restart_s": "until a killed gateway answered again, the longest",
    "late_p99_ms": "how late the tool itself noticed its customers",
    "tool_cpu_us_per_txn": "processor time of the tool's workers for a transaction",
}
WORDS = {"ledgers": ("equal", "different"), "fds": ("flat", "growing")}

Value = float | str
Figures = Mapping[str, Value]

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_THRESHOLD = re.compile(
    r"\s*([a-z][a-z0-9_]{0,39})\s*(<=|>=|==|!=|<|>)\s*"
    r"(-?[0-9]{1,12}(?:\.[0-9]{1,6})?|[a-z]{1,20})\s*"
)


class BadThreshold(ValueError):
    """It is not one; the text says what would be."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """One figure held against one value."""

    figure: str
    sign: str
    value: Value

    def __str__(self) -> str:
        value = self.value
        if isinstance(value, float):
            value = str(int(value)) if value.is_integer() else str(value)
        return f"{self.figure} {self.sign} {value}"

    def judge(self, figures: Figures) -> Judged:
        """Whether the figures meet it; one that was not measured neither passes nor fails."""
        found = figures.get(self.figure)
        if found is None:
            return Judged(self, None, None)
        if isinstance(found, str) or isinstance(self.value, str):
            return Judged(self, found, (found == self.value) is (self.sign == "=="))
        return Judged(self, found, _COMPARE[self.sign](found, self.value))


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of a threshold; `passed` is None where its figure was not measured."""

    threshold: Threshold
    found: Value | None
    passed: bool | None

    @property
    def mark(self) -> str:
        return {True: "✓", False: "✗", None: "-"}[self.passed]

    @property
    def told(self) -> str:
        """`✓ p99_ms < 50: 12.3`."""
        if self.found is None:
            found = "not measured here"
        else:
            found = self.found if isinstance(self.found, str) else f"{self.found:,.6g}"
        return f"{self.mark} {self.threshold}: {found}"

    def to_json(self) -> dict[str, object]:
        return {"threshold": str(self.threshold), "found": self.found, "passed": self.passed}


def parse(text: str) -> Threshold:
    """The threshold that a text states: a figure, a sign and a number or word.

    Raises BadThreshold. Nothing is evaluated: figures, signs and words are closed lists.
    """
    found = _THRESHOLD.fullmatch(text)
    if found is None:
        raise BadThreshold(
            f"{text!r} is not a threshold; FIGURE SIGN VALUE would be, such as p99_ms < 50"
        )
    figure, sign, value = found.groups()
    if figure not in FIGURES:
        raise BadThreshold(f"no figure {figure!r}; {did_you_mean(figure, FIGURES, what='figure')}")
    words = WORDS.get(figure)
    if words is not None:
        if value not in words or sign not in ("==", "!="):
            raise BadThreshold(f"{text!r}: {figure} == {words[0]} would be right")
        return Threshold(figure, sign, value)
    if value[0].isalpha():
        raise BadThreshold(f"{text!r}: {figure} is a number ({FIGURES[figure]})")
    return Threshold(figure, sign, float(value))


def judged(thresholds: Sequence[Threshold], figures: Figures) -> list[Judged]:
    """What came of each."""
    return [threshold.judge(figures) for threshold in thresholds]
