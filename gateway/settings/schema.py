"""The types of the configuration: what may be written in a gateway's TOML file, and its bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.wire.message import Kind

# The descriptions are what `gateway check` tells people to write.
Name = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$",
        description='a name in quotes: up to 40 of a-z, 0-9, "_", "." and "-", the first no sign',
    ),
]
Address = Annotated[
    str,
    Field(
        pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}$",
        description='HOST:PORT in quotes, such as "127.0.0.1:8443" or "[::1]:8443"',
    ),
]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Days = Annotated[int, Field(ge=1, le=4_000)]
KindName = Annotated[Kind, Field(strict=False)]  # written as text, read as a Kind
# Relative to the folder of the file it stands in.
Path = Annotated[
    str,
    Field(min_length=1, pattern=r"^[^\x00]*$", description="the path of a file, in quotes"),
]


class Table(BaseModel):
    """A TOML table: nothing unknown in it, nothing converted, nothing changed later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Node(Table):
    """The process itself."""

    name: Name = "gateway"
    admin_socket: Path
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


class Keys(Table):
    """The keys that the store's columns are encrypted and hashed under."""

    keyring: Path
    create: bool = False  # make the keyring where it is absent (development)


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


class Framing(Table):
    """How messages are cut from a stream."""

    length: Literal["binary2", "ascii4", "bcd2"] = "binary2"
    length_includes_itself: bool = False
    tpdu: bool = False  # 5 bytes; answered with source and destination swapped
    header_bytes: int = Field(default=0, ge=0, le=64)  # after the TPDU; sent back as it came
    frame_bytes_max: int = Field(default=4_096, ge=32, le=65_535)


class ServerTls(Table):
    """Mutual TLS of a listener."""

    certificate: Path
    key: Path
    client_ca: Path
    crl: Path | None = None
    crl_stale_alarm_h: float = Field(default=24.0, gt=0, le=24 * 400)
    session_tickets: int = Field(default=2, ge=0, le=8)  # 0: no resumption under TLS 1.3


class ClientTls(Table):
    """TLS towards an upstream."""

    ca: Path
    server_name: str
    certificate: Path | None = None
    key: Path | None = None


class Deadlines(Table):
    """How long a terminal's connection may take over each thing."""

    handshake_s: Seconds = 10.0
    first_byte_s: Seconds = 60.0
    frame_s: Seconds = 5.0  # from a frame's first byte to its last
    idle_s: Seconds = 600.0  # between frames
    send_s: Seconds = 10.0


class ListenerLimits(Table):
    connections_max: int = Field(default=10_000, ge=1, le=1_000_000)
    connections_per_address_max: int = Field(default=10_000, ge=1, le=1_000_000)
    backlog: int = Field(default=1_024, ge=1, le=65_535)
    requests_per_connection_max: int = Field(default=64, ge=1, le=10_000)  # concentrators
    sessions_per_connection_max: int = Field(default=10_000, ge=1, le=1_000_000)  # concentrators


class Listener(Table):
    """One address that terminals connect to."""

    name: Name
    listen: Address
    security: Literal["mutual-tls", "plain"]
    carries: Literal["terminal", "concentrator"] = "terminal"
    dialect: Name
    code_set: Literal["iso", "unionpay"] = "iso"
    framing: Framing = Framing()
    tls: ServerTls | None = None
    networks: list[str] = Field(default_factory=list)  # CIDR ranges served; empty: any
    reuse_port: bool = False
    user_timeout_s: Seconds = 30.0  # TCP_USER_TIMEOUT
    keepalive_idle_s: Annotated[int, Field(ge=1, le=86_400)] = 60
    deadlines: Deadlines = Deadlines()
    limits: ListenerLimits = ListenerLimits()


class Concentrator(Table):
    """A device that carries many terminals over one connection."""

    name: Name
    certificate_name: str = ""  # subject common name of its certificate (mutual TLS)
    networks: list[str] = Field(default_factory=list)  # where it calls from (plain)
    terminals: list[str] = Field(min_length=1)  # ids, prefixes ending in *, ranges A-B


class Profile(Table):
    """What a device may do."""

    name: Name
    kinds: list[KindName] = Field(min_length=1)
    keeps_advices: bool = False  # advices are answered 00 and sent later if no upstream is there


class DeviceRange(Table):
    """A rule in place of a row each: every id of the range is an active device.

    Such a device is known by the common name of its certificate alone.
    """

    terminals: str = Field(
        pattern=r"^[ -~]{8}-[ -~]{8}$",
        description='two terminal ids of 8 characters, such as "T0000001-T0000999"',
    )
    merchant: str = "*"
    profile: Name


class RegistrySettings(Table):
    ranges: list[DeviceRange] = Field(default_factory=list)
    default_profile: Name


class Backoff(Table):
    """Waits between attempts: each twice the last, with full jitter, up to the bound."""

    first_s: Seconds = 0.2
    max_s: Seconds = 5.0


class Upstream(Table):
    """An acquirer's host: its addresses and how it is spoken to."""

    name: Name
    addresses: list[Address] = Field(min_length=1)
    links: int = Field(default=1, ge=1, le=64)  # connections to each address
    dialect: Name
    framing: Framing = Framing()
    tpdu: str = Field(  # where framing has one
        default="6000000000",
        pattern=r"^[0-9A-Fa-f]{10}$",
        description='the 5 bytes of the TPDU as hex digits, such as "6000010000"',
    )
    header: str = Field(  # framing.header_bytes long
        default="",
        pattern=r"^([0-9A-Fa-f]{2})*$",
        description='the bytes of the header as hex digits, such as "600100310000"',
    )
    tls: ClientTls | None = None
    plain: bool = False  # says openly that there is no TLS
    connect_s: Seconds = 5.0
    answer_s: Seconds = 25.0  # after this a request is in doubt
    late_max_s: Seconds = 120.0  # how long a late answer may still come
    send_s: Seconds = 5.0
    pending_per_link_max: int = Field(default=1_000, ge=1, le=100_000)
    rrn: Literal["pass", "issue"] = "pass"
    answer_s_by_kind: dict[KindName, Seconds] = Field(default_factory=dict)
    reversal_mti: Literal["0400", "0420"] = "0420"
    reversal_reason: str = Field(default="68", pattern=r"^[0-9A-Z]{2}$")  # DE39: no answer in time
    reversals_under_way_max: int = Field(default=8, ge=1, le=1_000)
    reversal_attempts_max: int = Field(default=20, ge=1, le=10_000)
    approving_codes: list[str] = Field(default=["00", "08", "10", "11", "16"])
    backoff: Backoff = Backoff()
    reversal_backoff: Backoff = Backoff(first_s=0.5, max_s=60.0)
    user_timeout_s: Seconds = 10.0
    keepalive_idle_s: Annotated[int, Field(ge=1, le=86_400)] = 30


class Member(Table):
    upstream: Name
    weight: int = Field(default=1, ge=1, le=1_000)


class Group(Table):
    """Upstreams that stand in for each other."""

    name: Name
    strategy: Literal["priority", "weighted"] = "priority"
    members: list[Member] = Field(min_length=1)


class Route(Table):
    """The first route that fits names the group that a request goes to."""

    name: Name
    kinds: list[KindName] = Field(default_factory=list)  # empty: any
    group: Name


class Repeats(Table):
    window_h: float = Field(default=24.0, gt=0, le=24 * 31)
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
    archive: bool = True  # false: what is deleted is gone
    archive_folder: Path | None = None  # default: archive, beside the store
    every_s: Seconds = 3_600.0  # how often is looked for what came to its end
    step_rows: int = Field(default=250, ge=1, le=10_000)  # deleted in one commit
    pause_ms: int = Field(default=50, ge=0, le=60_000)  # between two of them


class Limits(Table):
    under_way_max: int = Field(default=5_000, ge=1, le=1_000_000)  # transactions; over it: 96


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
    concentrators: list[Concentrator] = Field(default_factory=list)
    dialects: list[Path] = Field(default_factory=list)  # files beside those shipped
    log: Log = Log()
    metrics: Metrics = Metrics()
    alarms: Alarms = Alarms()
    repeats: Repeats = Repeats()
    retention: Retention = Retention()
    limits: Limits = Limits()
