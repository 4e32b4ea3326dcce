"""The tables of the side that asks: listeners, concentrators and the registry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.settings.schema_base import Address, Framing, Name, Path, Seconds, Table
from gateway.settings.schema_devices import HardwareSerial, Incidents


class ServerTls(Table):
    """Mutual TLS of a listener."""

    certificate: Path
    key: Path
    client_ca: Path
    crl: Path | None = None
    crl_stale_alarm_h: float = Field(default=24.0, gt=0, le=24 * 400)
    session_tickets: int = Field(default=2, ge=0, le=8)  # 0: no resumption under TLS 1.3


class Deadlines(Table):
    """How long a terminal's connection may take over each thing."""

    handshake_s: Seconds = 10.0
    first_byte_s: Seconds = 60.0
    frame_s: Seconds = 5.0  # from a frame's first byte to its last
    idle_s: Seconds = 600.0  # between frames
    send_s: Seconds = 10.0


class Http(Table):
    """What is taken on a listener whose terminals POST their frames."""

    paths: list[  # empty: any
        Annotated[
            str,
            Field(pattern=r"^/[!-~]*$", description='a path in quotes, such as "/unp/webtrans"'),
        ]
    ] = Field(default_factory=list)
    content_types: list[str] = Field(default=["x-ISO-TPDU/x-auth"], min_length=1)
    header_bytes_max: int = Field(default=8_192, ge=512, le=65_536)


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
    carriage: Literal["tcp", "http"] = "tcp"  # http: each frame is the body of a POST
    http: Http = Http()
    downloads: Literal["serve", "pass", "refuse"] = "refuse"  # of parameters and CA keys
    downloads_to: Name | None = None  # the upstream that they are passed on to
    tls: ServerTls | None = None
    networks: list[str] = Field(default_factory=list)  # CIDR ranges served; empty: any
    reuse_port: bool = False
    macs: Literal["required", "by_profile"] | None = None  # absent: plain ones require them
    hardware_serial: HardwareSerial | None = None  # where messages carry it
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
    incidents: Incidents = Incidents()
