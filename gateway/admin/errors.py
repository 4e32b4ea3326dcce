"""What operators see of frames that could not be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypedDict

from pydantic import Field

from gateway.admin.api import Arguments, Progress
from gateway.admin.operations import Operation, Operations
from gateway.clock import iso_time

LAST_MAX = 1_000


class LastArguments(Arguments):
    last: int = Field(default=20, ge=1, le=LAST_MAX)


class RejectedFrameView(TypedDict):
    """One frame; "" and -1 for what is not known. Bytes that may not be seen are `**`."""

    number: int  # counted since the start
    at: str  # ISO 8601, UTC
    listener: str
    address: str
    dialect: str
    reason: str
    field: str
    position: int  # of the byte at which reading stopped, after the length
    mti: str
    stan: str
    length: int  # bytes
    fields: dict[str, str]  # what was read and may be seen
    dump: list[
        str
    ]  # lines of an offset and up to 16 bytes; lines of which nothing may be seen lack


class RejectedFrameList(TypedDict):
    frames: list[RejectedFrameView]  # the newest first
    count: int  # since the start; so many less than are there were forgotten


class MaskedFrameApi(Protocol):
    """See wire/masked_dump.py."""

    @property
    def length(self) -> int: ...
    @property
    def lines(self) -> Sequence[str]: ...
    @property
    def fields(self) -> dict[int, str]: ...


class RejectedFrameApi(Protocol):
    """See terminals/rejected_frames.py."""

    @property
    def number(self) -> int: ...
    @property
    def at_ms(self) -> int: ...
    @property
    def listener(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def dialect(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def field(self) -> str: ...
    @property
    def position(self) -> int: ...
    @property
    def mti(self) -> str: ...
    @property
    def stan(self) -> str: ...
    @property
    def frame(self) -> MaskedFrameApi: ...


class RejectedFramesApi(Protocol):
    """The frames kept, as far as operators look at them."""

    @property
    def count(self) -> int: ...

    def last(self, count: int) -> Sequence[RejectedFrameApi]: ...


class ErrorOperations(Operations):
    """The last frames that could not be read."""

    def __init__(self, rejected: RejectedFramesApi) -> None:
        self._rejected = rejected
        super().__init__({"frames": Operation(LastArguments, self.frames)})

    async def frames(
        self, arguments: LastArguments, _: Progress | None = None
    ) -> RejectedFrameList:
        """The newest of them first."""
        return {
            "frames": [_view(one) for one in self._rejected.last(arguments.last)],
            "count": self._rejected.count,
        }


def _view(one: RejectedFrameApi) -> RejectedFrameView:
    return {
        "number": one.number,
        "at": iso_time(one.at_ms),
        "listener": one.listener,
        "address": one.address,
        "dialect": one.dialect,
        "reason": one.reason,
        "field": one.field,
        "position": one.position,
        "mti": one.mti,
        "stan": one.stan,
        "length": one.frame.length,
        "fields": {str(number): value for number, value in one.frame.fields.items()},
        "dump": list(one.frame.lines),
    }
