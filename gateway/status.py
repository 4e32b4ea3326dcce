"""How the node does: the answer to `gateway status`, and the gauges of the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway import __version__
from gateway.admin.api import AlarmStatus, ListenerStatus, Status, StoreStatus
from gateway.admin.key_watch import KeyWatch
from gateway.admin.upstreams import Views
from gateway.clock import iso_time
from gateway.node import Node
from gateway.settings.reload import ReloadStatus
from gateway.telemetry.alarms import ActiveAlarm
from gateway.terminals.expiries import Expiries
from gateway.upstreams.figures import STATES
from gateway.upstreams.upstream import Upstream


class StatusReport:
    """Reads the parts of a node; holds nothing of its own but when the node started."""

    def __init__(
        self,
        node: Node,
        *,
        started_ms: int,
        configuration: Callable[[], ReloadStatus],
        approvals: Callable[[], int],
        upstreams: Views,
    ) -> None:
        self._node = node
        self._started_ms = started_ms
        self._configuration = configuration
        self._approvals = approvals
        self._upstreams = upstreams

    def status(self) -> Status:
        """How the node does at this moment."""
        node = self._node
        settings = node.configuration.settings
        health = node.store.health()
        return Status(
            node=settings.node.name,
            version=__version__,
            config_version=node.configuration.version,
            configuration=self._configuration(),
            approvals_waiting=self._approvals(),
            audit_sequence=node.audit.head.seq,
            audit_sha256=node.audit.head.hash,
            started=iso_time(self._started_ms),
            uptime_s=round((node.clock.wall_ms() - self._started_ms) / 1000, 1),
            listeners=[
                ListenerStatus(
                    name=listener.settings.name,
                    address=listener.address,
                    security=listener.settings.security,
                    connections=listener.connections,
                    connections_max=listener.settings.limits.connections_max,
                )
                for listener in node.listeners
            ],
            upstreams=[self._upstreams.short(upstream) for upstream in node.pool],
            store=StoreStatus(
                kind=health.kind,
                healthy=health.healthy,
                queue_depth=health.queue_depth,
                queue_max=health.queue_max,
                last_error=health.last_error,
            ),
            under_way=node.flow.under_way,
            under_way_max=settings.limits.under_way_max,
            reversals_owed=node.reversals.open,
            reversals_given_up=node.reversals.given_up,
            alarms=[
                AlarmStatus(
                    event=alarm.name, since=iso_time(alarm.since_ms), detail=detail_of(alarm)
                )
                for alarm in node.alarms.active
            ],
        )


def detail_of(alarm: ActiveAlarm) -> str:
    """What an alarm is about: its subject, or else the line of the file that is wrong."""
    if alarm.subject:
        return alarm.subject
    file, line = alarm.fields.get("file"), alarm.fields.get("line")
    if not file:
        return ""
    return f"{file}:{line}" if line else str(file)


def register_key_gauges(node: Node, watch: KeyWatch) -> None:
    """Show how many keys there are, and which end soon."""
    gauge = node.metrics.gauge
    gauge(
        "gateway_keys",
        "Versions of keys that are kept, destroyed ones included.",
        lambda: float(len(node.keys.table)),
    )
    gauge(
        "gateway_keys_ending",
        "Keys that end within the longest of keys.warn_days, and nothing replaces them yet.",
        lambda: {(keys,): float(count) for keys, count in watch.ending.items()},
        ("keys",),
    )


def register_gauges(node: Node) -> None:
    """Show the node's own numbers among the metrics."""
    gauge = node.metrics.gauge

    def connections() -> Mapping[tuple[str, ...], float]:
        return {(one.settings.name,): float(one.connections) for one in node.listeners}

    gauge("gateway_connections", "Connections of terminals open.", connections, ("listener",))
    gauge(
        "gateway_transactions_under_way",
        "Transactions between request and answer.",
        lambda: float(node.flow.under_way),
    )
    gauge(
        "gateway_store_queue_depth",
        "Operations that wait for a commit.",
        lambda: float(node.store.health().queue_depth),
    )
    gauge(
        "gateway_store_healthy",
        "1 while the store commits what it is given.",
        lambda: float(node.store.health().healthy),
    )
    gauge(
        "gateway_reversals_owed",
        "Reversals that no upstream has acknowledged yet.",
        lambda: float(node.reversals.open),
    )
    gauge(
        "gateway_restore_gap_lines",
        "What may be of the time between a backup and its restore, and waits for an operator.",
        lambda: float(node.gaps.open),
    )
    gauge(
        "gateway_reversals_given_up",
        "Reversals handed to an operator.",
        lambda: float(node.reversals.given_up),
    )
    gauge(
        "gateway_reversal_oldest_age_seconds",
        "Age of the oldest reversal owed.",
        node.reversals.oldest_age_s,
    )


def register_upstream_gauges(node: Node) -> None:
    """Show how each upstream does, and what came of its requests.

    Labels are names of the configuration and words of closed lists.
    """

    def of_each(
        read: Callable[[Upstream], float],
    ) -> Callable[[], Mapping[tuple[str, ...], float]]:
        return lambda: {(one.name,): float(read(one)) for one in node.pool}

    def states() -> Mapping[tuple[str, ...], float]:
        return {
            (one.name, state): float(one.state == state) for one in node.pool for state in STATES
        }

    def answers() -> Mapping[tuple[str, ...], float]:
        return {
            (one.name, answer): float(count)
            for one in node.pool
            for answer, count in one.tally.by_class.items()
        }

    gauges: tuple[tuple[str, str, Callable[[Upstream], float]], ...] = (
        (
            "gateway_links_up",
            "Links to the upstream that are up.",
            lambda one: sum(link.up for link in one.links),
        ),
        (
            "gateway_upstream_pending",
            "Requests sent to the upstream and not answered yet.",
            lambda one: one.pending,
        ),
        (
            "gateway_upstream_share",
            "Share of the requests meant for the upstream that it gets; below 1 in a slow start.",
            lambda one: one.health.share,
        ),
        (
            "gateway_upstream_reversals_owed",
            "Reversals and advices that the upstream has not acknowledged yet.",
            lambda one: node.reversals.open_for(one.name),
        ),
    )
    for name, text, read in gauges:
        node.metrics.gauge(name, text, of_each(read), ("upstream",))
    counters: tuple[tuple[str, str, Callable[[Upstream], float]], ...] = (
        (
            "gateway_upstream_time_outs_total",
            "Requests that the upstream did not answer in time.",
            lambda one: one.tally.time_outs,
        ),
        (
            "gateway_upstream_suspicions_total",
            "Times that one of the upstream's links was suspected.",
            lambda one: one.links.suspicions,
        ),
        (
            "gateway_upstream_ejections_total",
            "Times that the upstream was left alone for a while.",
            lambda one: one.health.ejected,
        ),
        (
            "gateway_upstream_connection_attempts_total",
            "Connections to the upstream that were tried.",
            lambda one: one.links.attempts,
        ),
    )
    for name, text, read in counters:
        node.metrics.counter(name, text, of_each(read), ("upstream",))
    node.metrics.gauge(
        "gateway_upstream_state",
        "1 for the state that the upstream is in.",
        states,
        ("upstream", "state"),
    )
    node.metrics.counter(
        "gateway_upstream_answers_total",
        "Answers of the upstream: approved, declined, unavailable (91) or fault (96).",
        answers,
        ("upstream", "class"),
    )


def register_certificate_gauges(node: Node, expiries: Expiries) -> None:
    """Show when certificates end: each of the gateway's own, and devices' together."""
    node.metrics.gauge(
        "gateway_certificate_days_left",
        "Days to the end of a listener's certificate, an authority's, or a revocation list.",
        expiries.days_left,
        ("what", "name"),
    )
    node.metrics.gauge(
        "gateway_device_certificate_days_left",
        "Days to the end of the device's certificate that ends first; NaN: none is known.",
        expiries.device_days_left,
    )
    node.metrics.gauge(
        "gateway_device_certificates_ending",
        "Devices' certificates that end within so many days (and not within fewer); 0: ended.",
        expiries.devices_by_window,
        ("days",),
    )


def register_configuration_gauges(
    node: Node, status: Callable[[], ReloadStatus], approvals: Callable[[], int]
) -> None:
    """Show which configuration is in force, and whether the files say something else."""
    gauge = node.metrics.gauge

    def version() -> Mapping[tuple[str, ...], float]:
        return {(node.configuration.version,): 1.0}

    gauge("gateway_config_info", "1 for the configuration in force.", version, ("version",))
    gauge(
        "gateway_config_findings",
        "What stands against the files as they are now; 0: they are in force.",
        lambda: float(len(status()["refused"])),
    )
    gauge(
        "gateway_config_waits",
        "1 while an edit waits for `gateway reload --confirm`.",
        lambda: float(bool(status()["waits"])),
    )
    node.metrics.counter(
        "gateway_config_reloads_total",
        "Edits that were taken up since the start.",
        lambda: float(status()["reloads"]),
    )
    gauge(
        "gateway_approvals_waiting",
        "Operations that wait for a second operator.",
        lambda: float(approvals()),
    )
    gauge(
        "gateway_audit_sequence",
        "Number of the last record in the audit log.",
        lambda: float(node.audit.head.seq),
    )
