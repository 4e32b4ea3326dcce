"""One request on its way through the flow, and the reply that comes of it."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.keys.message_security import PinKey
from gateway.policy.decide import Refused
from gateway.policy.response_codes import CodeSet, Reason
from gateway.store.store import Device
from gateway.transactions.version import Version
from gateway.wire.message import Kind, Message


class Request:
    """A message from a device that has been identified.

    `version` is what it is decided by, from its start to its end; the flow sets it. `withheld` is
    why it is refused unless it repeats what was done before; `pins` are what its PIN block may be
    encrypted under, the likeliest first: both come of the keys that its device has.
    """

    __slots__ = (
        "address",
        "certificate_serial",
        "certificate_sha256",
        "code_set",
        "device",
        "dialect",
        "kind",
        "listener",
        "message",
        "pins",
        "started_s",
        "version",
        "wall_ms",
        "withheld",
    )

    version: Version

    def __init__(
        self,
        message: Message,
        kind: Kind,
        device: Device,
        *,
        listener: str,
        code_set: CodeSet,
        wall_ms: int,
        started_s: float,
        address: str = "",
        certificate_sha256: str = "",
        certificate_serial: int = 0,
        dialect: str = "",
    ) -> None:
        """Address and certificate are those of the connection that it came on; `dialect` is what
        the terminal speaks, where it may be another than the upstream's."""
        self.message = message
        self.kind = kind
        self.device = device
        self.listener = listener
        self.code_set = code_set
        self.wall_ms = wall_ms
        self.started_s = started_s
        self.address = address
        self.certificate_sha256 = certificate_sha256
        self.certificate_serial = certificate_serial
        self.dialect = dialect
        self.withheld: Refused | None = None
        self.pins: Sequence[PinKey] = ()


class Reply:
    """What goes back to the terminal.

    `transaction_id` is 0 where nothing is recorded; `unheard` says that it approves what moved or
    held money, and that nobody has been handed this approval before. Who waited for one under way
    shares its reply: what becomes of it on any connection is known to all.
    """

    __slots__ = ("handed_over", "message", "reason", "repeated", "transaction_id", "unheard")

    def __init__(
        self,
        message: Message,
        transaction_id: int = 0,
        *,
        unheard: bool = False,
        repeated: bool = False,
    ) -> None:
        self.message = message
        self.transaction_id = transaction_id
        self.unheard = unheard
        self.repeated = repeated  # from the store
        self.handed_over = False  # in part or whole
        self.reason: Reason | None = None  # where the gateway itself refused
