"""The types of the configuration: what may be written in a gateway's TOML file, and its bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.wire.entry_mode import EntryMode
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
TimeOfDay = Annotated[
    str,
    Field(
        pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$",
        description='a time of day in quotes, such as "04:30"',
    ),
]
TimeZone = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}$",
        description='a name of the time zone database, such as "Europe/Paris"',
    ),
]
Currency = Annotated[
    str,
    Field(
        pattern=r"^[0-9A-Z]{3}$",
        description='a currency as DE49 has it, in quotes, such as "156"',
    ),
]
Hours = Annotated[
    str,
    Field(
        pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$",
        description='a time of day from and until, such as "08:00-22:00" or "22:00-06:00"',
    ),
]
AmountMinor = Annotated[int, Field(ge=0, le=999_999_999_999)]  # DE4 has 12 digits
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
KindName = Annotated[Kind, Field(strict=False)]  # written as text, read as a Kind
EntryModeName = Annotated[EntryMode, Field(strict=False)]
# Beside an upstream's field rules they are keys, which TOML has as text.
FieldNumber = Annotated[int, Field(strict=False, ge=2, le=128)]
CodeRange = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{1,19}(-[0-9]{1,19})?$",
        description='the first digits of card numbers or codes, such as "6217", or a range of'
        ' them, such as "622126-622925"',
    ),
]
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
    """TLS towards an upstream; where the acquirer calls us, it is the client, and proves itself."""

    ca: Path
    server_name: str  # in the acquirer's certificate
    pins_sha256: list[  # its certificate must be one of these; empty: any of the ca with the name
        Annotated[
            str,
            Field(
                pattern=r"^[0-9a-fA-F]{64}$",
                description="a certificate's SHA-256 fingerprint: 64 hex digits in quotes",
            ),
        ]
    ] = Field(default_factory=list)
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


class OpeningHours(Table):
    """When requests are taken, on the clock of the time zone.

    What runs past midnight belongs to the day it began on: "18:00-02:00" on "fri" ends on Saturday.
    """

    days: list[Weekday] = Field(
        default=["mon", "tue", "wed", "thu", "fri", "sat", "sun"], min_length=1
    )
    time: Hours


class AmountBounds(Table):
    """What one request may come to in a currency."""

    currency: Currency
    min_minor: AmountMinor = 1
    max_minor: AmountMinor


class Limit(Table):
    """At most so much in a window of time, for each device, merchant or card.

    Windows are those of the clock: a minute, an hour, a business day. What was declined, not sent,
    reversed or voided does not count.
    """

    per: Literal["device", "merchant", "card"]
    window: Literal["minute", "hour", "day"]
    kinds: list[KindName] = Field(  # what counts, and is refused when it is used up
        default=[Kind.PURCHASE, Kind.CASH, Kind.CASHBACK, Kind.PREAUTHORISATION], min_length=1
    )
    currency: Currency | None = None  # only requests in it count; needed with amount_max_minor
    amount_max_minor: AmountMinor | None = None  # over it: 61
    count_max: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None  # over it: 65


class Rules(Table):
    """What a profile and a merchant have in common."""

    currencies: list[Currency] = Field(default_factory=list)  # empty: any
    card_ranges: list[CodeRange] = Field(default_factory=list)  # empty: any
    amounts: list[AmountBounds] = Field(default_factory=list)  # empty: any; else of its currency
    time_zone: TimeZone = "UTC"  # of the hours and of the business day
    day_starts: TimeOfDay = "00:00"  # when the business day of the limits begins
    hours: list[OpeningHours] = Field(default_factory=list)  # empty: always
    limits: list[Limit] = Field(default_factory=list)


class Profile(Rules):
    """What a device may do; what is not named in a list is refused."""

    name: Name
    kinds: list[KindName] = Field(min_length=1)
    entry_modes: list[EntryModeName] = Field(  # of DE22; keying a card number in must be named
        default=[mode for mode in EntryMode if mode is not EntryMode.MANUAL], min_length=1
    )
    offline_advices: bool = True  # false: reports of offline sales (0220) are refused
    keeps_advices: bool = False  # advices are answered 00 and sent later if no upstream is there


class Merchant(Rules):
    """What narrows the profiles of a merchant's devices; it never allows what a profile does not.

    All tables that fit a merchant hold at once.
    """

    ids: list[str] = Field(min_length=1)  # merchant ids (DE42), or how they begin and *: "8981*"
    kinds: list[KindName] = Field(default_factory=list)  # empty: those of the profile
    entry_modes: list[EntryModeName] = Field(default_factory=list)  # empty: those of the profile
    offline_advices: bool = True


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
    sightings_max: int = Field(default=50, ge=1, le=1_000)  # kept of one blocked device
    sighted_max: int = Field(default=1_000, ge=1, le=100_000)  # devices and addresses they are of


class Backoff(Table):
    """Waits between attempts: each twice the last, with full jitter, up to the bound."""

    first_s: Seconds = 0.2
    max_s: Seconds = 5.0


class Network(Table):
    """The 0800s that the gateway starts on an upstream's links."""

    style: Literal["iso", "unionpay"] = "iso"  # iso: DE70 says what for; unionpay: DE60
    # A link signs on before its first request, and off after its last; where the upstream knows
    # its terminals one by one, each of them does so before its first request.
    sign_on: bool = False
    sign_on_code: Annotated[
        str, Field(pattern=r"^[0-9]{3}$", description="three digits in quotes")
    ] = "001"  # DE70, or the end of DE60 (003 and 004 ask for double-length keys)
    echo: bool = True  # the host answers echoes: a silent link is asked with one
    prove: bool = True  # an echo is answered before a link gets its first request
    sign_on_s: Seconds = 5.0  # how long an answer to sign-on, keys or the first echo may take
    batch: Annotated[str, Field(pattern=r"^[0-9]{6}$", description="six digits in quotes")] = (
        "000001"  # in DE60 of the unionpay style
    )
    fields: list[
        Annotated[
            str,
            Field(
                pattern=r"^[1-9][0-9]{0,2}=[ -~]*$",
                description='NUMBER=TEXT in quotes, such as "41=GATEWAY1"',
            ),
        ]
    ] = Field(default_factory=list)  # set in each of them, besides what the style sets


class Health(Table):
    """When an upstream, or one of its links, gets no new requests, and for how long."""

    suspect_min_s: Seconds = 0.06  # a link silent for less than this is never suspected
    suspect_factor: float = Field(default=3.0, ge=1, le=100)  # times the usual p99 latency
    suspect_unknown_s: Seconds = 1.0  # in its place, at least, until enough answers are known
    answers_known_min: int = Field(default=50, ge=1, le=10_000)  # that many are enough
    suspect_max_s: Seconds = 2.0  # down after so long without a real answer, whatever it echoes
    overdue_share: float = Field(default=0.2, gt=0, le=1)  # unanswered among all: also suspected
    overdue_min: int = Field(default=10, ge=1, le=10_000)  # and at least so many
    echo_s: Seconds = 0.3  # how long a suspected link's echo may take, if usual echoes are fast
    echo_idle_s: Seconds = 30.0  # a link that heard nothing for so long is asked with an echo
    timeouts_max: int = Field(default=3, ge=1, le=10_000)  # so many in a row, and it is down
    answers_s: Seconds = 10.0  # the window that bad answers (91, 96) are counted in
    answers_min: int = Field(default=20, ge=1, le=100_000)  # fewer in the window say nothing
    bad_share: float = Field(default=0.5, gt=0, le=1)  # of bad answers: it is down
    issuers_min: int = Field(default=3, ge=1, le=1_000)  # 91s of fewer BINs are the banks' own
    eject_first_s: Seconds = 1.0  # how long it is left alone, twice as long each time
    eject_max_s: Seconds = 60.0  # up to this; up for so long, it starts over
    slow_start_s: Seconds = 10.0  # from a tenth of its share to the whole


class FieldRules(Table):
    """How messages to this upstream differ from what its terminals send; answers are put back."""

    drop: list[FieldNumber] = Field(default_factory=list)  # not sent to it
    set: dict[FieldNumber, str] = Field(default_factory=dict)  # always sent, with this value
    map: dict[FieldNumber, dict[str, str]] = Field(default_factory=dict)  # value -> value, "*": any
    require: list[FieldNumber] = Field(default_factory=list)  # without them: the next upstream


class Upstream(Table):
    """An acquirer's host: its addresses and how it is spoken to."""

    name: Name
    addresses: list[Address] = Field(default_factory=list)  # of the host
    listen: Address | None = None  # in place of addresses, where the acquirer calls us
    callers: list[str] = Field(default_factory=list)  # CIDR ranges it may call from; empty: any
    links: int = Field(default=1, ge=1, le=64)  # connections to each address, or calls taken
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
    pending_max: int = Field(default=5_000, ge=1, le=1_000_000)  # on all links; then: the next
    rrn: Literal["pass", "issue"] = "pass"
    answer_s_by_kind: dict[KindName, Seconds] = Field(default_factory=dict)
    reversal_mti: Literal["0400", "0420"] = "0420"
    reversal_original: Literal["de90", "de56", "de61"] = "de90"  # names it: 1987, 1993, UnionPay
    reversal_reason: str = Field(default="68", pattern=r"^[0-9A-Z]{2}$")  # DE39: no answer in time
    reversals_under_way_max: int = Field(default=8, ge=1, le=1_000)
    reversal_attempts_max: int = Field(default=20, ge=1, le=10_000)
    # On UnionPay: 00, 11, 16, A2, A4, A5, A6.
    approving_codes: list[str] = Field(default=["00", "08", "10", "11", "16"])
    backoff: Backoff = Backoff()
    reversal_backoff: Backoff = Backoff(first_s=0.5, max_s=60.0)
    network: Network = Network()
    health: Health = Health()
    user_timeout_s: Seconds = 10.0
    keepalive_idle_s: Annotated[int, Field(ge=1, le=86_400)] = 30
    merchants: list[str] = Field(default_factory=list)  # boarded: ids, prefixes ending in *
    knows_terminals: Literal["as_one_host", "one_by_one"] = "as_one_host"
    terminal_id: str = Field(  # DE41 of every message; empty: the terminal's own
        default="",
        pattern=r"^[ -~]{0,8}$",
        description="up to 8 characters, in quotes",
    )
    merchant_id: str = Field(  # DE42 of every message; empty: the terminal's own
        default="",
        pattern=r"^[ -~]{0,15}$",
        description="up to 15 characters, in quotes",
    )
    terminals_file: Path | None = None  # CSV, where it knows them one by one
    terminals_max: int = Field(default=100_000, ge=1, le=10_000_000)  # rows of that file
    fields: FieldRules = FieldRules()


class Member(Table):
    upstream: Name
    weight: int = Field(default=1, ge=1, le=1_000)


class Group(Table):
    """Upstreams that stand in for each other."""

    name: Name
    strategy: Literal["priority", "weighted", "least_pending"] = "priority"
    members: list[Member] = Field(min_length=1)


class TerminalGroup(Table):
    """Terminals that routes name together."""

    name: Name
    terminals: list[str] = Field(min_length=1)  # ids, prefixes ending in *, ranges A-B


class Route(Table):
    """The first route that fits names the group that a request goes to.

    It fits where each of its conditions does; one that is absent or empty fits anything.
    """

    name: Name
    kinds: list[KindName] = Field(default_factory=list)
    bins: list[CodeRange] = Field(default_factory=list)  # of cards, or of a wallet's codes
    entry_modes: list[EntryModeName] = Field(default_factory=list)
    currencies: list[Currency] = Field(default_factory=list)
    amount_minor_min: AmountMinor | None = None  # as DE4 has it; both ends belong to it
    amount_minor_max: AmountMinor | None = None
    merchants: list[str] = Field(default_factory=list)  # ids, prefixes ending in *
    terminal_groups: list[Name] = Field(default_factory=list)
    hours: list[OpeningHours] = Field(default_factory=list)
    time_zone: TimeZone = "UTC"  # of the hours
    group: Name


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
    counters_max: int = Field(default=1_000_000, ge=100, le=100_000_000)  # of limits; over it: 96
    takings_max: int = Field(  # older ones can no longer be given back to a limit
        default=200_000, ge=100, le=100_000_000
    )


class Blocklists(Table):
    """Plain files that are looked at whenever they are edited: terminals, cards, bins, merchants,
    networks and certificates, one entry a line."""

    folder: Path = "blocklists"  # a list without a file in it is empty
    entries_max: int = Field(default=5_000_000, ge=1, le=50_000_000)  # of one list
    time_zone: TimeZone = "UTC"  # an entry with until= holds to the end of that day


class Reload(Table):
    """How edits of these files are taken up while the gateway runs."""

    watch: bool = True  # false: only SIGHUP and `gateway reload` do it
    look_s: Seconds = 2.0  # how often contents are compared, beside the kernel's word
    settle_s: Seconds = 0.1  # an edit is taken up when so long nothing else changed


class Audit(Table):
    """The record of who did what: each entry is bound to the one before it by its hash."""

    folder: Path | None = None  # default: audit, beside the store
    file_bytes_max: int = Field(default=16_777_216, ge=65_536, le=1_073_741_824)  # then the next
    files_kept: int = Field(default=500, ge=2, le=100_000)  # then the oldest is deleted
    waiting_max: int = Field(default=1_000, ge=10, le=100_000)  # records not on disk yet


class Operator(Table):
    """Somebody who may give orders at the admin socket, known by the operating system's user."""

    name: Name
    users: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)  # names or numbers
    roles: list[Literal["viewer", "operator", "keys", "admin"]] = Field(min_length=1)


class Approvals(Table):
    """What is done only once a second operator has said yes (`gateway approve`)."""

    actions: list[
        Literal[
            "terminals.activate",
            "terminals.resume",
            "terminals.bind",
            "terminals.import",
            "reversals.retry",
            "reversals.resolve",
            "config.confirm",
            "blocklists.unblock",
            "upstreams.drain",
            "upstreams.resume",
            "upstreams.disable",
            "upstreams.enable",
            "upstreams.reconnect",
        ]
    ] = Field(default_factory=list)
    expires_h: float = Field(default=24.0, gt=0, le=24 * 31)
    pending_max: int = Field(default=100, ge=1, le=10_000)


class Rate(Table):
    """A bucket that holds `burst` messages and fills at `per_s`; what finds it empty gets 96."""

    per_s: Annotated[float, Field(gt=0, le=1_000_000)]
    burst: int = Field(ge=1, le=1_000_000)


class Rates(Table):
    """How many messages are taken a second, before anything else is asked of them."""

    device: Rate | None = None
    address: Rate | None = None
    listener: Rate | None = None
    keys_max: int = Field(default=100_000, ge=100, le=10_000_000)  # devices counted; addresses too


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
    audit: Audit = Audit()
    blocklists: Blocklists = Blocklists()
    reload: Reload = Reload()
    operators: list[Operator] = Field(default_factory=list)
    approvals: Approvals = Approvals()
