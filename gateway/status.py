"""How the node does: the answer to `gateway status`, and the gauges of the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway import __version__
from gateway.admin.api import AlarmStatus, ListenerStatus, Status, StoreStatus, UpstreamStatus
from gateway.clock import iso_time
from gateway.node import Node
from gateway.settings.reload import ReloadStatus


class StatusReport:
    """Reads the parts of a node; holds nothing of its own but when the node started."""

    def __init__(
        self,
        node: Node,
        *,
        started_ms: int,
        configuration: Callable[[], ReloadStatus],
        approvals: Callable[[], int],
    ) -> None:
        self._node = node
        self._started_ms = started_ms
        self._configuration = configuration
        self._approvals = approvals

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
            upstreams=[
                UpstreamStatus(
                    name=upstream.name,
                    state="up" if upstream.links_up else "down",
                    links_up=upstream.links_up,
                    links=upstream.links_total,
                    pending=upstream.pending,
                )
                for upstream in (one.status() for one in node.pool)
            ],
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
                AlarmStatus(event=alarm.name, since=iso_time(alarm.since_ms), detail=alarm.subject)
                for alarm in node.alarms.active
            ],
        )


def register_gauges(node: Node) -> None:
    """Show the node's own numbers among the metrics."""
    gauge = node.metrics.gauge

    def connections() -> Mapping[tuple[str, ...], float]:
        return {(one.settings.name,): float(one.connections) for one in node.listeners}

    def links_up() -> Mapping[tuple[str, ...], float]:
        return {(one.name,): float(one.status().links_up) for one in node.pool}

    def pending() -> Mapping[tuple[str, ...], float]:
        return {(one.name,): float(one.pending) for one in node.pool}

    gauge("gateway_connections", "Connections of terminals open.", connections, ("listener",))
    gauge("gateway_links_up", "Links to the upstream that are up.", links_up, ("upstream",))
    gauge(
        "gateway_upstream_pending",
        "Requests sent to the upstream and not answered yet.",
        pending,
        ("upstream",),
    )
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
        "gateway_reversals_given_up",
        "Reversals handed to an operator.",
        lambda: float(node.reversals.given_up),
    )
    gauge(
        "gateway_reversal_oldest_age_seconds",
        "Age of the oldest reversal owed.",
        node.reversals.oldest_age_s,
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
