"""The admin API as types: what can be asked of a running gateway, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol, TypedDict

from pydantic import BaseModel, ConfigDict, Field

from gateway.errors import OperatorError
from gateway.store.store import Device, DeviceState
from gateway.telemetry.events import Emit

if TYPE_CHECKING:
    from gateway.admin.access import Caller, Peer
    from gateway.admin.desk import Desk
    from gateway.settings.reload import ReloadStatus

PAGE_DEVICES_MAX = 250  # an answer fits the socket's buffer: nobody who stops reading holds us up
BODY_BYTES_MAX = 64 * 1024 * 1024  # of a request: an import of some hundred thousand devices

Progress = Callable[[int, int], None]


class BadArguments(OperatorError):
    """A request's body is not what the operation takes."""


# --- status -----------------------------------------------------------------------------------


class ListenerStatus(TypedDict):
    name: str
    address: str
    security: str  # mutual-tls or plain
    connections: int
    connections_max: int


class UpstreamStatus(TypedDict):
    name: str
    state: (
        str  # up, suspect, down, probing; draining, drained, disabled where an operator has said so
    )
    control: str  # what an operator wants: enabled, drained or disabled
    since: str  # ISO 8601, UTC
    why: str
    links_up: int
    links: int
    pending: int  # requests sent and not answered yet
    pending_max: int


class StoreStatus(TypedDict):
    kind: str
    healthy: bool
    queue_depth: int
    queue_max: int
    last_error: str


class AlarmStatus(TypedDict):
    event: str
    since: str  # ISO 8601, UTC
    detail: str  # what it is about: an upstream, a file and its line; "" for the node


class Status(TypedDict):
    """How a node does, at one moment."""

    node: str
    version: str
    config_version: str
    configuration: ReloadStatus
    approvals_waiting: int  # operations that a second operator has to approve
    audit_sequence: int  # the last record, and its hash: kept elsewhere, an anchor
    audit_sha256: str
    started: str  # ISO 8601, UTC
    uptime_s: float
    listeners: list[ListenerStatus]
    upstreams: list[UpstreamStatus]
    store: StoreStatus
    under_way: int  # transactions
    under_way_max: int
    reversals_owed: int
    reversals_given_up: int  # handed to an operator
    alarms: list[AlarmStatus]


# --- terminals --------------------------------------------------------------------------------


class DeviceView(TypedDict):
    """A device as commands show it; times are ISO 8601 in UTC, "" for never."""

    terminal_id: str  # without the blanks that pad it
    merchant_id: str
    state: str
    profile: str
    activation: int
    certificate_sha256: str
    old_certificate_sha256: str  # the one before it, while both work
    old_until: str
    serial: str
    model: str
    place: str
    networks: str
    enrolled: str
    last_seen: str
    from_rule: bool  # stands in no row: a registry rule of the configuration names it
    group: str
    inspected: str  # YYYY-MM-DD
    inspected_by: str
    state_reason: str
    state_since: str
    until: str  # when a suspension ends by itself
    keys_of: str  # the terminal id that its keys came with, where it is another
    inherits: str  # the terminal ids and activations it goes on for


class RuleView(TypedDict):
    terminals: str
    count: int
    merchant_id: str
    profile: str


class Page(TypedDict):
    """Some devices in the order of their ids; `next` is the last one's id where more follow."""

    devices: list[DeviceView]
    rules: list[RuleView]  # on the first page
    next: str


class ImportView(TypedDict):
    added: int
    completed: int
    unchanged: int


class Arguments(BaseModel):
    """What an operation takes, as a JSON object; nothing unknown in it, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class EnrolArguments(Arguments):
    terminal_id: str
    merchant_id: str
    profile: str = ""
    serial: str = ""
    model: str = ""
    place: str = ""
    networks: str = ""
    certificate_sha256: str = ""
    group: str = ""


class ShowArguments(Arguments):
    terminal_id: str


class MoveArguments(Arguments):
    terminal_id: str
    reason: str = ""


class BindArguments(Arguments):
    terminal_id: str
    certificate_sha256: str


class RenewArguments(BindArguments):
    """`overlap_s`: how long the certificate before this one still works."""

    overlap_s: int = Field(ge=60, le=366 * 86_400)


class SightingsArguments(Arguments):
    terminal_id: str = ""  # of all where it is empty
    limit: int = Field(default=100, ge=1, le=1_000)


class ListArguments(Arguments):
    after: str = ""
    limit: int = Field(default=PAGE_DEVICES_MAX, ge=1, le=PAGE_DEVICES_MAX)
    state: Annotated[DeviceState, Field(strict=False)] | None = None
    silent_for_s: float | None = Field(default=None, ge=0)
    merchant_id: str = ""
    group: str = ""
    inspected_before: str = ""  # YYYY-MM-DD


class ImportArguments(Arguments):
    csv: str
    activate: bool = False
    merchant_id: str = ""


# --- what stands behind it --------------------------------------------------------------------


class RuleApi(Protocol):
    """A registry rule, as far as it is shown."""

    @property
    def terminals(self) -> Sized: ...
    @property
    def text(self) -> str: ...
    @property
    def merchant_id(self) -> str: ...
    @property
    def profile(self) -> str: ...


class ImportedApi(Protocol):
    """What an import did."""

    @property
    def added(self) -> int: ...
    @property
    def completed(self) -> int: ...
    @property
    def unchanged(self) -> int: ...


class SightingView(TypedDict):
    """Attempts of somebody who may not come, many in a row as one; "" for what is not known."""

    terminal_id: str
    first: str  # ISO 8601, UTC
    last: str
    count: int
    listener: str
    address: str
    certificate_sha256: str
    why: str


class AttemptApi(Protocol):
    """See terminals/sightings.py."""

    @property
    def terminal_id(self) -> str: ...
    @property
    def listener(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def certificate_sha256(self) -> str: ...
    @property
    def why(self) -> str: ...


class SightingApi(Protocol):
    @property
    def attempt(self) -> AttemptApi: ...
    @property
    def first_ms(self) -> int: ...
    @property
    def last_ms(self) -> int: ...
    @property
    def count(self) -> int: ...


class SightingsApi(Protocol):
    """The sightings, as far as operators look at them."""

    def of(self, terminal_id: str = "", *, limit: int) -> Sequence[SightingApi]: ...


class RegistryApi(Protocol):
    """The device registry, as far as operators use it: see terminals/registry.py."""

    @property
    def rules(self) -> Sequence[RuleApi]: ...

    def get(self, terminal_id: str) -> Device: ...

    def last_seen_ms(self, device: Device) -> int: ...

    def select(
        self,
        *,
        after: str = "",
        limit: int | None = None,
        state: DeviceState | None = None,
        silent_for_s: float | None = None,
        merchant_id: str = "",
        group: str = "",
        inspected_before: str = "",
    ) -> list[Device]: ...

    async def enrol(
        self,
        *,
        terminal_id: str,
        merchant_id: str,
        profile: str = "",
        serial: str = "",
        model: str = "",
        place: str = "",
        networks: str = "",
        certificate_sha256: str = "",
        group: str = "",
        who: str = "",
    ) -> Device: ...

    async def activate(self, terminal_id: str, reason: str, *, who: str = "") -> Device: ...

    async def suspend(
        self, terminal_id: str, reason: str, *, who: str = "", until_ms: int = 0
    ) -> Device: ...

    async def resume(self, terminal_id: str, reason: str, *, who: str = "") -> Device: ...

    async def inspect(self, terminal_id: str, date: str, by: str, *, who: str = "") -> Device: ...

    async def bind_certificate(self, terminal_id: str, sha256: str, *, who: str = "") -> Device: ...

    async def renew_certificate(
        self, terminal_id: str, sha256: str, *, overlap_s: int, who: str = ""
    ) -> Device: ...

    async def import_csv(
        self,
        text: str,
        *,
        activate: bool = False,
        merchant_id: str = "",
        progress: Progress | None = None,
        who: str = "",
    ) -> ImportedApi: ...


@dataclass(frozen=True, slots=True)
class AdminApi:
    """What the server answers from: how the node does, what can be done, where faults are said."""

    status: Callable[[], Status]
    desk: Desk
    callers: Callable[[Peer], Caller]  # may look the user up: called in a thread
    emit: Emit
    group: str | None = None  # of the operating system: may open the socket beside our own user
