"""The tables of the side that answers: upstreams, their groups, and routes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.settings.schema_base import (
    Address,
    AmountMinor,
    Backoff,
    CodeRange,
    Currency,
    EntryModeName,
    FieldNumber,
    Framing,
    KindName,
    Name,
    OpeningHours,
    Path,
    Seconds,
    Table,
    TimeZone,
)
from gateway.settings.schema_keys_use import UpstreamKeys

MessageType = Annotated[
    str,
    Field(
        pattern=r"^0[12][02]0$",
        description='the type of a financial request in quotes, such as "0100" or "0220"',
    ),
]


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
    copy_from: dict[FieldNumber, FieldNumber] = Field(default_factory=dict)  # filled from another
    require: list[FieldNumber] = Field(default_factory=list)  # without them: the next upstream
    time_zone: TimeZone | None = None  # of the DE12 and DE13 that requests without them get
    codes: dict[str, str] = Field(default_factory=dict)  # DE39 of its answers, as terminals hear it
    # The type of a request, by kind, where it wants another than its dialect's.
    message_types: dict[KindName, MessageType] = Field(default_factory=dict)


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
    keys: UpstreamKeys = UpstreamKeys()


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
