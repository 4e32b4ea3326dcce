"""Everything one process is made of, once it is built."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.clock import Clock
from gateway.keys.holdings import KeyHoldings
from gateway.policy.limits import Limits
from gateway.policy.rates import Rates
from gateway.settings.loader import Configuration
from gateway.store.store import Store
from gateway.telemetry.alarms import Alarms
from gateway.telemetry.audit import AuditLog
from gateway.telemetry.log import EventLog
from gateway.telemetry.metrics import Metrics
from gateway.terminals.concentrators import Concentrators
from gateway.terminals.cutting import Cutting
from gateway.terminals.device_life import DeviceLife
from gateway.terminals.downloads import Downloads
from gateway.terminals.gate import Gate
from gateway.terminals.guarding import Guard
from gateway.terminals.listener import Listener
from gateway.terminals.registry import Registry
from gateway.terminals.rejected_frames import RejectedFrames
from gateway.terminals.sightings import Sightings
from gateway.transactions.delivery import Delivery
from gateway.transactions.flow import Flow
from gateway.transactions.gaps import Gaps
from gateway.transactions.records import Records
from gateway.transactions.reversals import Reversals
from gateway.upstreams.pool import Pool
from gateway.wire.tls import ServerTls


@dataclass(slots=True)
class Node:
    """The parts of one node; `daemon.py` makes them and wires them together."""

    configuration: Configuration
    log: EventLog
    clock: Clock
    store: Store
    metrics: Metrics
    alarms: Alarms
    audit: AuditLog
    registry: Registry
    pool: Pool
    records: Records
    reversals: Reversals
    delivery: Delivery
    flow: Flow
    limits: Limits
    rates: Rates
    listeners: list[Listener]
    tls: dict[str, ServerTls]
    concentrators: Concentrators
    sightings: Sightings
    gate: Gate
    guard: Guard
    cutting: Cutting
    life: DeviceLife
    rejected_frames: RejectedFrames
    downloads: Downloads
    gaps: Gaps
    keys: KeyHoldings
