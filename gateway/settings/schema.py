"""The types of the configuration: what may be written in a gateway's TOML file, and its bounds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.settings.schema_backup import Backup, Restore, Sealing
from gateway.settings.schema_base import Address, Days, Name, Path, Seconds, Table
from gateway.settings.schema_certificates import Certificates
from gateway.settings.schema_downloads import Downloads
from gateway.settings.schema_keys import Keys
from gateway.settings.schema_keys_use import Lockout
from gateway.settings.schema_operators import Approvals, Audit, Operator
from gateway.settings.schema_policy import Blocklists, Merchant, Profile, Rates
from gateway.settings.schema_terminals import Concentrator, Listener, RegistrySettings
from gateway.settings.schema_upstreams import Group, Route, TerminalGroup, Upstream


class Node(Table):
    """The process itself."""

    name: Name = "gateway"
    admin_socket: Path
    admin_group: str | None = None  # the operating system's group that may open it beside our user
    production: bool = False  # refuses what is for development only
    drain_s: Seconds = 10.0  # how long a stop waits for what is under way
    connections_max: int = Field(default=20_000, ge=1, le=1_000_000)
    watch_s: Seconds = 2.0  # how often certificates and revocation lists are looked at
    registry_flush_s: Seconds = 10.0  # how often "last seen" goes to the store


class StoreSettings(Table):
    """Where what must survive is kept."""

    kind: Literal["sqlite"] = "sqlite"
    path: Path
    queue_max: int = Field(default=10_000, ge=10, le=1_000_000)
    batch_max: int = Field(default=256, ge=1, le=4_096)  # operations to one commit


class Log(Table):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"  # auto: console on a terminal
    file: Path | None = None  # default: standard error
    queue_lines_max: int = Field(default=50_000, ge=100, le=10_000_000)


class Metrics(Table):
    listen: Address | None = None  # loopback; None: no metrics are served


class Alarms(Table):
    """A command that is run with each alarm's event, as JSON, on its standard input."""

    command: list[str] = Field(default_factory=list)
    timeout_s: Seconds = 10.0
    running_max: int = Field(default=4, ge=1, le=100)
    repeat_s: Seconds = 60.0  # the same alarm is not raised again within this time
    certificate_days: int = Field(default=30, ge=1, le=825)


class Repeats(Table):
    window_h: float = Field(  # a batch and STAN (DE60.2, DE11) stand for one request so long
        default=24.0, gt=0, le=24 * 31
    )
    original_days: int = Field(default=30, ge=1, le=400)  # how old a void's or refund's may be
    undelivered_grace_s: Seconds = 60.0  # then an approval nobody got is reversed
    tombstones_max: int = Field(default=100_000, ge=1, le=10_000_000)
    refusals_remembered_max: int = Field(
        default=50_000, ge=1, le=10_000_000
    )  # 91 and 96, in memory


class Retention(Table):
    """How long things are kept; whatever is open (owed, given up, not settled) stays for ever."""

    enabled: bool = True
    transactions_days: Days = 90  # whole days in UTC; then they go to the archive
    open_batches_days: Days = 400  # an open batch keeps its transactions no longer than this
    uploads_days: Days = 90
    tombstones_days: Days = 31
    batches_days: Days = 400
    device_history_days: Days = 3_650  # who did what to a device; of one with an open incident: all
    archive: bool = True  # false: what is deleted is gone
    archive_folder: Path | None = None  # default: archive, beside the store
    every_s: Seconds = 3_600.0  # how often is looked for what came to its end
    step_rows: int = Field(default=250, ge=1, le=10_000)  # deleted in one commit
    pause_ms: int = Field(default=50, ge=0, le=60_000)  # between two of them


class Limits(Table):
    under_way_max: int = Field(default=5_000, ge=1, le=1_000_000)  # transactions; over it: 96
    # Requests of which nothing was sent may move to another upstream: so many each second, and
    # this share of all besides. What is over that is answered 91.
    moves_per_s: float = Field(default=10.0, ge=0, le=100_000)
    moves_share: float = Field(default=0.2, ge=0, le=1)
    rejected_frames_max: int = Field(  # kept, masked, in memory: `gateway errors show`
        default=100, ge=0, le=10_000
    )
    counters_max: int = Field(default=1_000_000, ge=100, le=100_000_000)  # of limits; over it: 96
    takings_max: int = Field(  # older ones can no longer be given back to a limit
        default=200_000, ge=100, le=100_000_000
    )


class Reload(Table):
    """How edits of these files are taken up while the gateway runs."""

    watch: bool = True  # false: only SIGHUP and `gateway reload` do it
    look_s: Seconds = 2.0  # how often contents are compared, beside the kernel's word
    settle_s: Seconds = 0.1  # an edit is taken up when so long nothing else changed


class Settings(Table):
    """A whole configuration file."""

    node: Node
    store: StoreSettings
    keys: Keys
    registry: RegistrySettings
    listeners: list[Listener] = Field(min_length=1)
    upstreams: list[Upstream] = Field(min_length=1)
    groups: list[Group] = Field(min_length=1)
    routes: list[Route] = Field(min_length=1)
    profiles: list[Profile] = Field(min_length=1)
    merchants: list[Merchant] = Field(default_factory=list)
    concentrators: list[Concentrator] = Field(default_factory=list)
    terminal_groups: list[TerminalGroup] = Field(default_factory=list)
    dialects: list[Path] = Field(default_factory=list)  # files beside those shipped
    log: Log = Log()
    metrics: Metrics = Metrics()
    alarms: Alarms = Alarms()
    repeats: Repeats = Repeats()
    retention: Retention = Retention()
    limits: Limits = Limits()
    rates: Rates = Rates()
    lockout: Lockout = Lockout()
    audit: Audit = Audit()
    blocklists: Blocklists = Blocklists()
    reload: Reload = Reload()
    downloads: Downloads = Downloads()
    operators: list[Operator] = Field(default_factory=list)
    approvals: Approvals = Approvals()
    backup: Backup = Backup()
    restore: Restore = Restore()
    sealing: Sealing = Sealing()
    certificates: Certificates = Certificates()
