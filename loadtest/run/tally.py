"""Tally: what a worker's transactions came to, second by second, as it is told and merged."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from loadtest.run.histogram import Histogram

# Answers that say that there is no service or that something is wrong, and nothing of a customer.
FAULT_CODES = frozenset(
    ("06", "12", "13", "25", "30", "40", "58", "63", "68", "77", "91", "94", "96", "97", "98", "99")
) | frozenset(("A0", "A7"))


class Ending(StrEnum):
    """How one transaction ended at its device."""

    APPROVED = "approved"
    DECLINED = "declined"
    UNANSWERED = "unanswered"
    UNSENT = "unsent"
    FAULT = "fault"
    BLOCKED = "blocked"  # of a device that was blocked on purpose


CLEAN = frozenset((Ending.APPROVED, Ending.DECLINED, Ending.BLOCKED))


class Windows:
    """Times within which failures are laid at the door of an event."""

    def __init__(self, windows: Sequence[tuple[float, float]]) -> None:
        """From and to, in seconds from the start; they may overlap."""
        self._from: list[float] = []
        self._to: list[float] = []
        for from_s, to_s in sorted(windows):
            if self._to and from_s <= self._to[-1]:
                self._to[-1] = max(self._to[-1], to_s)
            else:
                self._from.append(from_s)
                self._to.append(to_s)

    def excuse(self, from_s: float, to_s: float) -> bool:
        """Whether something that lasted from one moment to the other touches one of them."""
        last = bisect_right(self._from, to_s) - 1
        return last >= 0 and self._to[last] >= from_s


class Second:
    """The customers who came within one second of the run."""

    __slots__ = ("counts", "latency")

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.latency = Histogram()

    def add(self, other: Second) -> None:
        self.counts.update(other.counts)
        self.latency.add(other.latency)


class Tally:
    """Counts, of a worker since it last told, or of all workers together."""

    def __init__(self) -> None:
        self.seconds: dict[int, Second] = defaultdict(Second)
        self.kinds: dict[str, Histogram] = defaultdict(Histogram)
        self.codes: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.connecting = Histogram()
        self.late = Histogram()
        self.troubles: Counter[str] = Counter()
        # "12:34": that so many failed, due and told so many tenths of a second from the start.
        self.failures: Counter[str] = Counter()

    def ended(
        self,
        kind: str,
        ending: Ending,
        *,
        code: str,
        due_s: float,
        told_s: float,
        disturbed: bool,
    ) -> None:
        """One transaction; times are seconds from the start."""
        took_s = told_s - due_s
        second = self.seconds[int(due_s)]
        counts = second.counts
        counts[ending] += 1
        if ending not in CLEAN:
            counts["disturbed" if disturbed else "error"] += 1
            self.failures[f"{int(10 * due_s)}:{int(10 * told_s) + 1}"] += 1
        second.latency.record(took_s)
        self.kinds[kind].record(took_s)
        if code:
            self.codes[code] += 1

    def to_json(self) -> dict[str, Any]:
        """What was counted, for `merge`."""
        return {
            "seconds": {
                str(second): [one.counts, one.latency.to_json()]
                for second, one in self.seconds.items()
            },
            "kinds": {kind: one.to_json() for kind, one in self.kinds.items()},
            "codes": self.codes,
            "counts": self.counts,
            "troubles": self.troubles,
            "failures": self.failures,
            "connecting": self.connecting.to_json(),
            "late": self.late.to_json(),
        }

    def merge(self, told: dict[str, Any]) -> None:
        """Count what another's `to_json` told as well."""
        for second, (counts, latency) in told["seconds"].items():
            one = self.seconds[int(second)]
            one.counts.update(counts)
            one.latency.add(Histogram.of_json(latency))
        for kind, latency in told["kinds"].items():
            self.kinds[kind].add(Histogram.of_json(latency))
        self.codes.update(told["codes"])
        self.counts.update(told["counts"])
        self.troubles.update(told["troubles"])
        self.failures.update(told["failures"])
        self.connecting.add(Histogram.of_json(told["connecting"]))
        self.late.add(Histogram.of_json(told["late"]))

    def lay(self, windows: Windows) -> None:
        """Lay each failure anew at somebody's door: events may have lasted longer than planned."""
        for second in self.seconds.values():
            second.counts["error"] = second.counts["disturbed"] = 0
        for key, count in self.failures.items():
            due, told = (int(tenths) / 10 for tenths in key.split(":"))
            whose = "disturbed" if windows.excuse(due, told) else "error"
            self.seconds[int(due)].counts[whose] += count

    def whole(self) -> Second:
        """All seconds as one."""
        whole = Second()
        for second in self.seconds.values():
            whole.add(second)
        return whole
