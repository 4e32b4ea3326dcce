"""One request on its way through the flow, and the reply that comes of it."""

from __future__ import annotations

from gateway.policy.response_codes import CodeSet
from gateway.store.store import Device
from gateway.wire.message import Kind, Message


class Request:
    """A message from a device that has been identified."""

    __slots__ = ("code_set", "device", "kind", "listener", "message", "started_s", "wall_ms")

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
    ) -> None:
        self.message = message
        self.kind = kind
        self.device = device
        self.listener = listener
        self.code_set = code_set
        self.wall_ms = wall_ms
        self.started_s = started_s


class Reply:
    """What goes back to the terminal.

    `transaction_id` is 0 where nothing is recorded; `approved` says that money was moved or held.
    """

    __slots__ = ("approved", "message", "transaction_id")

    def __init__(
        self, message: Message, transaction_id: int = 0, *, approved: bool = False
    ) -> None:
        self.message = message
        self.transaction_id = transaction_id
        self.approved = approved
