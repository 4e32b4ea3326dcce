"""What operators do about the time between a backup and its restore: see its lines, settle them."""

from __future__ import annotations

from typing import TypedDict

from pydantic import Field

from gateway.admin.access import Role
from gateway.admin.api import Arguments, Progress
from gateway.admin.operations import Operation, Operations
from gateway.clock import iso_time
from gateway.transactions.gaps import Gaps, Line

PAGE_MAX = 1_000


class LinesArguments(Arguments):
    """Which lines: those behind a number, and only open ones unless all are wanted."""

    all: bool = False
    after: int = Field(default=0, ge=0)
    limit: int = Field(default=100, ge=1, le=PAGE_MAX)


class ResolveLineArguments(Arguments):
    number: int = Field(ge=1)
    reason: str = Field(min_length=1, max_length=120)


class LineView(TypedDict):
    """A line as commands show it; masked."""

    number: int
    state: str  # open, resolved
    what: str
    terminal_id: str
    merchant_id: str
    kind: str
    stan: str
    batch: str
    rrn: str
    amount_minor: int
    currency: str
    card: str
    first: str  # ISO 8601, UTC
    last: str
    count: int
    transaction_id: int
    resolution: str
    resolved: str
    resolved_by: str


class LinePage(TypedDict):
    lines: list[LineView]
    open: int
    next: int  # give it as `after` for the next page; 0: there is none


class GapOperations(Operations):
    """The list of what may have been done in the time that a restore lost."""

    def __init__(self, gaps: Gaps) -> None:
        self._gaps = gaps
        super().__init__(
            {
                "list": Operation(LinesArguments, self.page),
                "resolve": Operation(
                    ResolveLineArguments,
                    self.resolve,
                    Role.OPERATOR,
                    subject="number",
                    keeps_who=True,
                ),
            }
        )

    async def page(self, arguments: LinesArguments, _: Progress | None = None) -> LinePage:
        fitting = [
            line
            for line in self._gaps.lines()
            if line.number > arguments.after and (arguments.all or line.is_open)
        ]
        shown = fitting[: arguments.limit]
        more = len(fitting) > len(shown)
        return {
            "lines": [_view(line) for line in shown],
            "open": self._gaps.open,
            "next": shown[-1].number if more else 0,
        }

    async def resolve(
        self, arguments: ResolveLineArguments, _: Progress | None = None, *, who: str
    ) -> LineView:
        """Note how it was settled with the acquirer; a reversal of it is answered 00 from then on.

        Raises NoSuchThing, OperatorError and StoreError.
        """
        line = await self._gaps.resolve(arguments.number, resolution=arguments.reason, by=who)
        return _view(line)


def _view(line: Line) -> LineView:
    return {
        "number": line.number,
        "state": "open" if line.is_open else "resolved",
        "what": line.what,
        "terminal_id": line.terminal_id.rstrip(),
        "merchant_id": line.merchant_id.rstrip(),
        "kind": line.kind,
        "stan": line.stan,
        "batch": line.batch,
        "rrn": line.rrn,
        "amount_minor": line.amount_minor,
        "currency": line.currency,
        "card": line.card,
        "first": iso_time(line.first_ms),
        "last": iso_time(line.last_ms),
        "count": line.count,
        "transaction_id": line.transaction_id,
        "resolution": line.resolution,
        "resolved": iso_time(line.resolved_ms) if line.resolved_ms else "",
        "resolved_by": line.resolved_by,
    }
