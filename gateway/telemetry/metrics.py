"""Metrics: counted in plain dicts on the main path, and put into Prometheus' form when scraped."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway.telemetry.events import HOT, Event

BUCKETS_S = (
    *(0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.2, 0.3, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 60.0),
)

# DE39: two digits in ISO 8583:1987; A0 to A9 and the letters below in UnionPay's and Visa's sets.
KNOWN_RESPONSE_CODES = frozenset(
    (
        *(f"{number:02d}" for number in range(100)),
        *(f"A{number}" for number in range(10)),
        *("N0", "N3", "N4", "N7", "P5", "P6", "Q1", "R0", "R1", "R3"),
    )
)

SERIES_MAX = 1_000  # of one metric; what comes after is counted under "other"
OTHER = "other"
NO_ANSWER = "none"

_Key = TypeVar("_Key", str, tuple[str, str, str])
Reading = float | Mapping[tuple[str, ...], float]


class Histogram:
    """Durations counted by bucket."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.total_s += seconds

    def cumulated(self) -> list[tuple[str, float]]:
        """Each bucket's upper bound as text with the count up to it, as the exposition wants it."""
        buckets: list[tuple[str, float]] = []
        running = 0
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), tuple(self.counts), strict=True):
            running += count
            buckets.append((bound, running))
        return buckets


@dataclass(frozen=True, slots=True)
class _Read:
    """A metric whose value somebody else knows."""

    name: str
    text: str
    read: Callable[[], Reading]
    labels: tuple[str, ...]
    is_counter: bool


class _One(Collector):
    """A registry of one metric, already collected."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> tuple[Metric]:
        return (self._family,)


class Metrics:
    """All counters of a node; to count is a few dict operations."""

    def __init__(self) -> None:
        self._transactions: dict[tuple[str, str, str], int] = {}
        self._whole: dict[str, Histogram] = {}
        self._upstreams: dict[str, Histogram] = {}
        self._commit = Histogram()
        self._committed_operations = 0
        self._refused: dict[str, int] = {}
        self._events: dict[Event, int] = {event: 0 for event in Event if event not in HOT}
        self._reads: dict[str, _Read] = {}
        self._reads_failed = 0
        self._process = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._process)
        GCCollector(registry=self._process)

    # --- counting -----------------------------------------------------------------------------

    def transaction(self, *, kind: str, response_code: str, upstream: str, seconds: float) -> None:
        """Count a finished transaction by what the terminal was told; `upstream` "" for none."""
        key = (kind, response_code, upstream)
        try:
            whole = self._whole[kind]
            self._transactions[key] += 1
        except KeyError:
            self._first(key, seconds)
        else:
            whole.observe(seconds)

    def _first(self, key: tuple[str, str, str], seconds: float) -> None:
        kind, response_code, upstream = (str(part) for part in key)
        if response_code not in KNOWN_RESPONSE_CODES:
            # Any text may stand in a peer's DE39; each would be a series of its own.
            response_code = OTHER if response_code else NO_ANSWER
        _add(self._transactions, (kind, response_code, upstream), (OTHER, OTHER, OTHER))
        _histogram(self._whole, kind).observe(seconds)

    def upstream_answer(self, *, upstream: str, seconds: float) -> None:
        """Count an answer of an upstream and the time from sending to it."""
        try:
            self._upstreams[upstream].observe(seconds)
        except KeyError:
            _histogram(self._upstreams, upstream).observe(seconds)

    def store_commit(self, seconds: float, operations: int) -> None:
        """Count a commit of the store, how long it took and how many operations it held."""
        self._commit.observe(seconds)
        self._committed_operations += operations

    def refused(self, reason: str) -> None:
        """Count a request that the gateway itself refused."""
        _add(self._refused, str(reason), OTHER)

    def count_event(self, event: Event, _: Mapping[str, object] | None = None, /) -> None:
        """Count an event; fits `EventLog.subscribe`."""
        self._events[event] = self._events.get(event, 0) + 1

    # --- what others know ---------------------------------------------------------------------

    def gauge(
        self, name: str, text: str, read: Callable[[], Reading], labels: tuple[str, ...] = ()
    ) -> None:
        """Show what `read` returns at each scrape: a number, or one by tuple of label values.

        Raises ValueError where the name is taken or does not begin with `gateway_`.
        """
        self._register(_Read(name, text, read, labels, is_counter=False))

    def counter(
        self, name: str, text: str, read: Callable[[], Reading], labels: tuple[str, ...] = ()
    ) -> None:
        """Like `gauge`, for what only grows; the name ends in `_total`."""
        if not name.endswith("_total"):
            raise ValueError(f"{name}: a counter's name ends in _total")
        self._register(_Read(name, text, read, labels, is_counter=True))

    def _register(self, read: _Read) -> None:
        if not read.name.startswith("gateway_"):
            raise ValueError(f"{read.name}: the name of a metric begins with gateway_")
        if read.name in self._reads:
            raise ValueError(f"{read.name}: there is a metric of this name")
        self._reads[read.name] = read

    # --- showing ------------------------------------------------------------------------------

    def exposition(self) -> bytes:
        """Everything counted so far, in Prometheus' text format."""
        return b"".join((*self.parts(), self.process_part()))

    def parts(self) -> Iterator[bytes]:
        """The exposition of what the gateway counts, metric by metric.

        Called where the loop runs, and best with a checkpoint between two parts: a line takes
        some 5 us, which for all of them together would be felt by every transaction.
        """
        for family in self._families():
            yield generate_latest(_One(family))

    def process_part(self) -> bytes:
        """The exposition of CPU, memory, file descriptors and garbage collection.

        Best called in a thread: the kernel lists every open descriptor for it.
        """
        return generate_latest(self._process)

    def _families(self) -> Iterator[Metric]:
        yield from self._collect_transactions()
        yield _histogram_family(
            "gateway_upstream_seconds",
            "Time from sending a request to an upstream to its answer.",
            "upstream",
            self._upstreams,
        )
        commits = HistogramMetricFamily(
            "gateway_store_commit_seconds", "Time that a commit of the store took."
        )
        commits.add_metric([], self._commit.cumulated(), self._commit.total_s)
        yield commits
        yield CounterMetricFamily(
            "gateway_store_operations",
            "Operations made durable by the store.",
            value=self._committed_operations,
        )
        refused = CounterMetricFamily(
            "gateway_refused", "Requests that the gateway refused, by reason.", labels=["reason"]
        )
        for reason, count in list(self._refused.items()):
            refused.add_metric([reason], count)
        yield refused
        events = CounterMetricFamily(
            "gateway_events", "Events by name, whether they were logged or not.", labels=["event"]
        )
        for event, count in list(self._events.items()):
            events.add_metric([event.value], count)
        yield events
        yield from self._collect_reads()

    def _collect_transactions(self) -> Iterator[Metric]:
        transactions = CounterMetricFamily(
            "gateway_transactions",
            "Transactions by kind, DE39 of the answer and upstream.",
            labels=["kind", "response_code", "upstream"],
        )
        for key, count in list(self._transactions.items()):
            transactions.add_metric([str(part) for part in key], count)
        yield transactions
        yield _histogram_family(
            "gateway_transaction_seconds",
            "Time from a request's last byte to its answer handed over.",
            "kind",
            self._whole,
        )

    def _collect_reads(self) -> Iterator[Metric]:
        for read in list(self._reads.values()):
            family: CounterMetricFamily | GaugeMetricFamily
            if read.is_counter:
                family = CounterMetricFamily(read.name, read.text, labels=read.labels)
            else:
                family = GaugeMetricFamily(read.name, read.text, labels=read.labels)
            try:
                reading = read.read()
                if isinstance(reading, Mapping):
                    for values, value in list(reading.items())[:SERIES_MAX]:
                        family.add_metric([str(text) for text in values], float(value))
                else:
                    family.add_metric([], float(reading))
            except Exception:
                # One part that cannot say its number must not hide all the others.
                self._reads_failed += 1
                continue
            yield family
        yield CounterMetricFamily(
            "gateway_metrics_reads_failed",
            "Metrics left out of a scrape because reading them failed.",
            value=self._reads_failed,
        )


def _add(counts: dict[_Key, int], key: _Key, other: _Key) -> None:
    if key not in counts and len(counts) >= SERIES_MAX:
        key = other
    counts[key] = counts.get(key, 0) + 1


def _histogram(histograms: dict[str, Histogram], label: str) -> Histogram:
    if label not in histograms and len(histograms) >= SERIES_MAX:
        label = OTHER
    return histograms.setdefault(str(label), Histogram())


def _histogram_family(
    name: str, text: str, label: str, histograms: dict[str, Histogram]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=[label])
    for value, histogram in list(histograms.items()):
        family.add_metric([value], histogram.cumulated(), histogram.total_s)
    return family
