"""What was counted is what Prometheus reads, and no peer can make the series many."""

from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.telemetry import metrics as metrics_module
from gateway.telemetry.events import Event
from gateway.telemetry.metrics import BUCKETS_S, Metrics
from gateway.wire.message import Kind

SERIES_MAX = 20
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(metrics: Metrics) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def test_transactions_by_kind_code_and_upstream() -> None:
    metrics = Metrics()
    for seconds in (0.0004, 0.0005, 0.0006, 61.0):
        metrics.transaction(
            kind=Kind.PURCHASE, response_code="00", upstream="acquirer-a", seconds=seconds
        )
    metrics.transaction(kind=Kind.VOID, response_code="", upstream="", seconds=1.0)
    samples = scraped(metrics)
    name = "gateway_transactions_total"
    labels = (("kind", "purchase"), ("response_code", "00"), ("upstream", "acquirer-a"))
    assert samples[name, labels] == 4
    labels = (("kind", "void"), ("response_code", "none"), ("upstream", ""))
    assert samples[name, labels] == 1
    name = "gateway_transaction_seconds"
    purchase = ("kind", "purchase")
    assert samples[f"{name}_bucket", (purchase, ("le", "0.0005"))] == 2
    assert samples[f"{name}_bucket", (purchase, ("le", "0.001"))] == 3
    assert samples[f"{name}_bucket", (purchase, ("le", "60.0"))] == 3
    assert samples[f"{name}_bucket", (purchase, ("le", "+Inf"))] == 4
    assert samples[f"{name}_count", (purchase,)] == 4
    assert samples[f"{name}_sum", (purchase,)] == pytest.approx(61.0015)


def test_buckets_rise() -> None:
    assert list(BUCKETS_S) == sorted(set(BUCKETS_S))
    assert (BUCKETS_S[0], BUCKETS_S[-1]) == (0.0005, 60.0)


def test_a_peer_cannot_make_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "SERIES_MAX", SERIES_MAX)
    metrics = Metrics()
    for number in range(SERIES_MAX + 100):
        metrics.transaction(kind=Kind.ECHO, response_code=f"\n{number}", upstream="a", seconds=0.1)
        metrics.transaction(kind=f"k{number}", response_code="00", upstream="a", seconds=0.1)
        metrics.refused(f"r{number}")
        metrics.upstream_answer(upstream=f"u{number}", seconds=0.1)
    samples = scraped(metrics)
    for name in (
        "gateway_transactions_total",
        "gateway_transaction_seconds_count",
        "gateway_refused_total",
        "gateway_upstream_seconds_count",
    ):
        assert len([1 for found, _ in samples if found == name]) <= SERIES_MAX + 1
        total = sum(value for (found, _), value in samples.items() if found == name)
        assert total == (SERIES_MAX + 100) * (2 if "transaction" in name else 1)
    labels = (("kind", "echo"), ("response_code", "other"), ("upstream", "a"))
    assert samples["gateway_transactions_total", labels] == SERIES_MAX + 100


def test_store_refusals_and_events() -> None:
    metrics = Metrics()
    metrics.store_commit(0.0007, 50)
    metrics.store_commit(0.0007, 25)
    metrics.refused("amount")
    metrics.count_event(Event.LINK_UP, {"upstream": "a"})
    metrics.count_event(Event.LINK_UP)
    samples = scraped(metrics)
    assert samples["gateway_store_commit_seconds_count", ()] == 2
    assert samples["gateway_store_operations_total", ()] == 75
    assert samples["gateway_refused_total", (("reason", "amount"),)] == 1
    assert samples["gateway_events_total", (("event", "link_up"),)] == 2
    # Those that never happened are there too, so that a rate can be taken from the first on.
    assert samples["gateway_events_total", (("event", "upstream_down"),)] == 0
    assert ("gateway_events_total", (("event", "transaction"),)) not in samples


def test_what_others_know() -> None:
    def fail() -> float:
        raise RuntimeError

    def links() -> Mapping[tuple[str, ...], float]:
        return {("acquirer-a", "up"): 2, ('q"\n', "down"): 0}

    metrics = Metrics()
    metrics.gauge("gateway_connections", "Open connections.", lambda: 5)
    metrics.gauge("gateway_links", "Links by state.", links, ("upstream", "state"))
    metrics.gauge("gateway_broken", "Cannot be read.", fail)
    metrics.counter("gateway_accepted_total", "Accepted.", lambda: 7)
    samples = scraped(metrics)
    assert samples["gateway_connections", ()] == 5
    assert samples["gateway_links", (("state", "up"), ("upstream", "acquirer-a"))] == 2
    assert samples["gateway_links", (("state", "down"), ("upstream", 'q"\n'))] == 0
    assert samples["gateway_accepted_total", ()] == 7
    assert samples["gateway_metrics_reads_failed_total", ()] == 1
    assert ("gateway_broken", ()) not in samples


def test_names_are_checked() -> None:
    metrics = Metrics()
    metrics.gauge("gateway_x", "x", lambda: 1)
    with pytest.raises(ValueError, match="there is a metric"):
        metrics.gauge("gateway_x", "x", lambda: 1)
    with pytest.raises(ValueError, match="begins with"):
        metrics.gauge("x", "x", lambda: 1)
    with pytest.raises(ValueError, match="ends in"):
        metrics.counter("gateway_y", "x", lambda: 1)


def test_the_process_is_measured() -> None:
    samples = scraped(Metrics())
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"):
        assert samples[name, ()] > 0
    assert ("python_gc_collections_total", (("generation", "2"),)) in samples
