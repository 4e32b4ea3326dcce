"""Gaps: what fell between a backup and its restore is answered 96, and told to an operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC
from enum import StrEnum
from typing import Any, Literal
from zoneinfo import ZoneInfo

import orjson
import trio

from gateway.clock import Clock
from gateway.errors import NoSuchThing, OperatorError
from gateway.settings.schema_backup import Restore
from gateway.store.store import Criteria, PutNote, Store, Transaction
from gateway.telemetry.events import Emit, Event
from gateway.transactions.duplicates import batch_of
from gateway.transactions.matching import reference, transmitted_by_original
from gateway.transactions.named_times import (
    DAY_MS,
    own_times,
    span,
    times_named,
    times_of_original,
)
from gateway.transactions.request import Request
from gateway.wire.message import TRANSMISSION_TIME, mask_pan

_GAPS, _LINES = "restored:", "gap:"
_STANS = 1_000_000  # DE11 has six digits
_LOOKED_AT_MAX = 200

What = Literal["reversal", "repeat", "follow_up", "under_way"]


class Where(StrEnum):
    """Where a time or a STAN lies, seen from a gap."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    UNKNOWN = "unknown"


# (its time, its STAN) -> whether it counts as the gap's. What points to an original says little of
# it: one sign that it is the gap's is enough, and where nothing says that it is not it may be. (A
# 25 would end the debt for good, while the acquirer has the money.)
POINTS_INTO_GAP: dict[tuple[Where, Where], bool] = {
    (Where.INSIDE, Where.INSIDE): True,
    (Where.INSIDE, Where.OUTSIDE): True,
    (Where.INSIDE, Where.UNKNOWN): True,
    (Where.OUTSIDE, Where.INSIDE): True,
    (Where.OUTSIDE, Where.OUTSIDE): False,
    (Where.OUTSIDE, Where.UNKNOWN): False,
    (Where.UNKNOWN, Where.INSIDE): True,
    (Where.UNKNOWN, Where.OUTSIDE): False,
    (Where.UNKNOWN, Where.UNKNOWN): True,
}
# A repeat bears the time at which it was first sent: that decides, and its STAN only without it.
REPEATS_GAP: dict[tuple[Where, Where], bool] = {
    (Where.INSIDE, Where.INSIDE): True,
    (Where.INSIDE, Where.OUTSIDE): True,
    (Where.INSIDE, Where.UNKNOWN): True,
    (Where.OUTSIDE, Where.INSIDE): False,
    (Where.OUTSIDE, Where.OUTSIDE): False,
    (Where.OUTSIDE, Where.UNKNOWN): False,
    (Where.UNKNOWN, Where.INSIDE): True,
    (Where.UNKNOWN, Where.OUTSIDE): False,
    (Where.UNKNOWN, Where.UNKNOWN): True,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The time of which a restored store knows nothing."""

    taken_ms: int  # what was committed before is in the backup
    restored_ms: int
    backup: str = ""  # the SHA-256 of its file


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Something for an operator to settle with the acquirer; masked."""

    number: int
    what: What
    terminal_id: str
    merchant_id: str
    activation: int
    kind: str
    mti: str
    stan: str  # of what is to be settled: the original's, or the repeat's own
    batch: str
    transmitted: str  # DE7 of it, as DE90 has it, or nothing
    amount_minor: int
    currency: str
    card: str
    rrn: str
    first_ms: int
    last_ms: int
    count: int = 1
    transaction_id: int = 0  # of what was under way at the backup: its reversal is owed
    resolution: str = ""  # "": it is open
    resolved_ms: int = 0
    resolved_by: str = ""

    @property
    def is_open(self) -> bool:
        return not self.resolved_ms

    @property
    def about(self) -> tuple[object, ...]:
        """What makes another message the same line."""
        return (
            self.what,
            self.terminal_id,
            self.activation,
            self.stan,
            self.batch,
            self.transmitted,
            self.amount_minor,
            self.transaction_id,
        )


class Gaps:
    """The gaps of a store, and the lines that came of them; empty where nothing was restored."""

    def __init__(self, *, store: Store, settings: Restore, clock: Clock, emit: Emit) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._emit = emit
        self._zones = [UTC, *(ZoneInfo(name) for name in settings.time_zones if name != "UTC")]
        self._gaps: list[Gap] = []
        self._lines: dict[tuple[object, ...], Line] = {}
        # By terminal and STAN of the original.
        self._reversals: dict[tuple[str, str], dict[tuple[object, ...], None]] = {}
        self._first_stans: dict[tuple[int, str, int], int] = {}  # by gap, terminal, activation
        self._open: Counter[str] = Counter()  # by terminal
        self._last = 0
        self._writing = trio.Lock()

    async def restore(self) -> None:
        """Take up what was kept; raises StoreError."""
        for text in (await self._store.notes(_GAPS)).values():
            self._gaps.append(Gap(**orjson.loads(text)))
        for text in (await self._store.notes(_LINES)).values():
            self._take(Line(**orjson.loads(text)))

    @property
    def any(self) -> bool:
        """Whether this store was ever restored: nothing else needs to be asked of others."""
        return bool(self._gaps)

    @property
    def open(self) -> int:
        """How many lines wait for an operator."""
        return self._open.total()

    def lines(self) -> list[Line]:
        """All lines, the oldest first."""
        return sorted(self._lines.values(), key=lambda line: line.number)

    # --- what comes -------------------------------------------------------------------------------

    async def reversal(self, request: Request) -> Line | None:
        """The line of a reversal whose original is not found and may be of a gap; else None.

        On return the line is durable. Raises StoreError.
        """
        named = reference(request.message)
        batch, stan = named or ("", request.message.stan)
        batch = batch or batch_of(request.message)
        if not await self._is_of_gap(request, POINTS_INTO_GAP, times_of_original, stan):
            return None
        return await self._noted("reversal", request, stan=stan, batch=batch)

    async def follow_up(self, request: Request) -> Line | None:
        """As `reversal`, for a void, completion, adjustment or refund without its original."""
        named = reference(request.message)
        batch, stan = named or ("", "")
        if not await self._is_of_gap(request, POINTS_INTO_GAP, times_named, stan):
            return None
        return await self._noted("follow_up", request, stan=stan, batch=batch)

    async def repeat(self, request: Request) -> Line | None:
        """As `reversal`, for what says that it was sent before, and is not known."""
        stan = request.message.stan
        if not await self._is_of_gap(request, REPEATS_GAP, own_times, stan):
            return None
        batch = batch_of(request.message)
        return await self._noted("repeat", request, stan=stan, batch=batch)

    def undone(self, request: Request) -> Line | None:
        """The line of a reversal that came before this request, its original, came (again)."""
        message = request.message
        # Asked of every request once a store was restored: the lines may be many.
        for about in self._reversals.get((message.terminal_id, message.stan), ()):
            line = self._lines[about]
            if (
                line.activation == request.device.activation
                and line.amount_minor == (message.amount_minor or 0)
                and line.batch in ("", batch_of(message))
                and request.wall_ms - line.last_ms < DAY_MS
                and line.transmitted in ("", message.get(TRANSMISSION_TIME))
            ):
                return line
        return None

    async def _is_of_gap(
        self,
        request: Request,
        table: dict[tuple[Where, Where], bool],
        times_of: Any,
        stan: str,
    ) -> bool:
        for gap in self._gaps:
            if request.wall_ms - gap.restored_ms > self._settings.gap_days * DAY_MS:
                continue
            by_time = self._by_time(gap, times_of(request.message), request.wall_ms)
            by_stan = await self._by_stan(gap, request, stan)
            if table[by_time, by_stan]:
                return True
        return False

    # --- by what it is known ----------------------------------------------------------------------

    def _by_time(self, gap: Gap, times: Iterator[str], now_ms: int) -> Where:
        """Where the times that a message names lie, on the clocks of all zones that may be meant.

        One that would lie ahead of now is not of that zone.
        """
        skew_ms = round(self._settings.clock_skew_s * 1000)
        where = Where.UNKNOWN
        for text in times:
            for zone in self._zones:
                found = span(text, zone, now_ms)
                if found is None or found[0] > now_ms + skew_ms:
                    continue
                first_ms, last_ms = found
                if first_ms <= gap.restored_ms + skew_ms and last_ms >= gap.taken_ms - skew_ms:
                    return Where.INSIDE
                where = Where.OUTSIDE
        return where

    async def _by_stan(self, gap: Gap, request: Request, stan: str) -> Where:
        """Where a STAN lies between the terminal's last before and its first after the gap."""
        if not (stan.isascii() and stan.isdigit()):
            return Where.UNKNOWN
        terminal_id, activation = request.message.terminal_id, request.device.activation

        criteria = Criteria(terminal_id=terminal_id, until_ms=gap.taken_ms)
        found = await self._store.select(criteria, _LOOKED_AT_MAX)
        before = [int(one.stan) for one in found if _counts(one, activation)]
        if not before:
            return Where.UNKNOWN
        after = await self._first_since(gap, terminal_id, activation)
        ahead = (int(stan) - before[0]) % _STANS
        # Nothing came since: what is ahead of the last one may be the gap's, by half the ring.
        until = _STANS // 2 if after is None else (after - before[0]) % _STANS
        return Where.INSIDE if 0 < ahead < until else Where.OUTSIDE

    async def _first_since(self, gap: Gap, terminal_id: str, activation: int) -> int | None:
        """The first STAN of a terminal after a gap; looked for once, since it stays the first."""
        sought = (gap.restored_ms, terminal_id, activation)
        first = self._first_stans.get(sought)
        before_id = 0
        while sought not in self._first_stans:
            criteria = Criteria(
                terminal_id=terminal_id, from_ms=gap.restored_ms, before_id=before_id
            )
            found = await self._store.select(criteria, _LOOKED_AT_MAX)
            for one in found:
                before_id = one.transaction_id
                first = int(one.stan) if _counts(one, activation) else first
            if len(found) == _LOOKED_AT_MAX:
                continue
            if first is None:
                break
            if len(self._first_stans) >= self._settings.lines_max:
                del self._first_stans[next(iter(self._first_stans))]
            self._first_stans[sought] = first
        return first

    # --- the list ---------------------------------------------------------------------------------

    async def _noted(self, what: What, request: Request, *, stan: str, batch: str) -> Line:
        message = request.message
        now_ms = self._clock.wall_ms()
        async with self._writing:
            fresh = Line(
                number=self._last + 1,
                what=what,
                terminal_id=message.terminal_id,
                merchant_id=message.merchant_id,
                activation=request.device.activation,
                kind=request.kind.value,
                mti=message.mti,
                stan=stan,
                batch=batch,
                transmitted=transmitted_by_original(message),
                amount_minor=message.amount_minor or 0,
                currency=message.get(49),
                card=mask_pan(message.pan),
                rrn=message.rrn,
                first_ms=now_ms,
                last_ms=now_ms,
            )
            known = self._lines.get(fresh.about)
            if known is not None:
                fresh = replace(known, last_ms=now_ms, count=known.count + 1)
            elif not await self._has_room(fresh):
                self._say(fresh, kept=False)
                return fresh
            await self._put(fresh)
        if known is None:
            self._say(fresh, kept=True)
        return fresh

    async def _has_room(self, line: Line) -> bool:
        """Whether it may be listed: one terminal does not fill the list of all."""
        settings = self._settings
        if self._open[line.terminal_id] >= settings.lines_of_terminal_max:
            return False
        if len(self._lines) < settings.lines_max:
            return True
        over_ms = line.last_ms - settings.gap_days * DAY_MS
        settled = (one for one in self._lines.values() if not one.is_open)
        oldest = min(settled, key=lambda one: one.last_ms, default=None)
        if oldest is None or oldest.last_ms > over_ms:
            return False
        await self._store.commit(PutNote(_name_of(oldest), ""))
        self._drop(oldest)
        return True

    async def note_under_way(self, transaction: Transaction, now_ms: int) -> None:
        """A line for what was under way at the backup: its answer is not known. Raises StoreError.

        Its reversal is owed, and its terminal may have been approved in the gap.
        """
        line = Line(
            number=self._last + 1,
            what="under_way",
            terminal_id=transaction.terminal_id,
            merchant_id=transaction.merchant_id,
            activation=transaction.activation,
            kind=transaction.kind.value,
            mti=transaction.mti,
            stan=transaction.stan,
            batch="",
            transmitted="",
            amount_minor=transaction.amount_minor,
            currency=transaction.currency,
            card=transaction.card_masked,
            rrn=transaction.rrn,
            first_ms=transaction.created_ms,
            last_ms=now_ms,
            transaction_id=transaction.transaction_id,
        )
        await self._put(line)

    async def resolve(self, number: int, *, resolution: str, by: str) -> Line:
        """Note how a line was settled; returns it, raises NoSuchThing, OperatorError, StoreError.

        The reversal of a line that is settled is answered 00 from then on.
        """
        async with self._writing:
            line = next((one for one in self._lines.values() if one.number == number), None)
            if line is None:
                raise NoSuchThing(f"no line {number}: `gateway restore gap list` shows all")
            if not line.is_open:
                raise OperatorError(f"line {number} is settled already: {line.resolution}")
            line = replace(
                line, resolution=resolution, resolved_ms=self._clock.wall_ms(), resolved_by=by
            )
            await self._put(line)
        return line

    async def open_gap(self, gap: Gap) -> None:
        """The store is what a backup was; durable on return. Raises StoreError."""
        name = f"{_GAPS}{gap.restored_ms}"
        await self._store.commit(PutNote(name, orjson.dumps(asdict(gap)).decode()))
        self._gaps.append(gap)

    async def _put(self, line: Line) -> None:
        values = {one.name: getattr(line, one.name) for one in fields(line)}
        text = orjson.dumps(values).decode()
        await self._store.commit(PutNote(_name_of(line), text))
        self._take(line)

    def _take(self, line: Line) -> None:
        before = self._lines.get(line.about)
        self._open[line.terminal_id] += line.is_open - (before is not None and before.is_open)
        self._lines[line.about] = line
        self._last = max(self._last, line.number)
        if line.what == "reversal":
            named = self._reversals.setdefault((line.terminal_id, line.stan), {})
            named[line.about] = None

    def _drop(self, line: Line) -> None:
        del self._lines[line.about]
        named = self._reversals.get((line.terminal_id, line.stan), {})
        named.pop(line.about, None)
        if not named:
            self._reversals.pop((line.terminal_id, line.stan), None)

    def _say(self, line: Line, *, kept: bool) -> None:
        self._emit(
            Event.RESTORE_GAP,
            terminal=line.terminal_id.rstrip(),
            kind=line.kind,
            what=line.what,
            stan=line.stan,
            amount=line.amount_minor,
            line=line.number if kept else 0,
        )


def _counts(transaction: Transaction, activation: int) -> bool:
    return transaction.activation == activation and transaction.stan.isdigit()


def _name_of(line: Line) -> str:
    return f"{_LINES}{line.number:08d}"
