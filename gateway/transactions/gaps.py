"""Gaps: what fell between a backup and its restore is answered 96, and told to an operator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
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
from gateway.transactions.request import Request
from gateway.wire.message import (
    LOCAL_DATE,
    LOCAL_TIME,
    TRANSMISSION_TIME,
    Message,
    mask_pan,
)

_GAPS, _LINES = "restored:", "gap:"
_DAY_MS = 86_400_000
_STANS = 1_000_000  # DE11 has six digits
_LOOKED_AT_MAX = 200
_UNIONPAY_ORIGINAL = 61  # original batch 6, original STAN 6, original date 4

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
        return sum(line.is_open for line in self._lines.values())

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
        if not await self._is_of_gap(request, POINTS_INTO_GAP, _times_of_original, stan):
            return None
        return await self._noted("reversal", request, stan=stan, batch=batch)

    async def follow_up(self, request: Request) -> Line | None:
        """As `reversal`, for a void, completion, adjustment or refund without its original."""
        named = reference(request.message)
        batch, stan = named or ("", "")
        if not await self._is_of_gap(request, POINTS_INTO_GAP, _times_named, stan):
            return None
        return await self._noted("follow_up", request, stan=stan, batch=batch)

    async def repeat(self, request: Request) -> Line | None:
        """As `reversal`, for what says that it was sent before, and is not known."""
        stan = request.message.stan
        if not await self._is_of_gap(request, REPEATS_GAP, _own_times, stan):
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
                and request.wall_ms - line.last_ms < _DAY_MS
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
            if request.wall_ms - gap.restored_ms > self._settings.gap_days * _DAY_MS:
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
                found = _span(text, zone, now_ms)
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

        async def stans(*, from_ms: int = 0, until_ms: int = 0) -> list[int]:
            criteria = Criteria(terminal_id=terminal_id, from_ms=from_ms, until_ms=until_ms)
            found = await self._store.select(criteria, _LOOKED_AT_MAX)
            return [int(one.stan) for one in found if _counts(one, activation)]

        before = await stans(until_ms=gap.taken_ms)
        if not before:
            return Where.UNKNOWN
        after = await stans(from_ms=gap.restored_ms)
        ahead = (int(stan) - before[0]) % _STANS
        # Nothing came since: what is ahead of the last one may be the gap's, by half the ring.
        until = (after[-1] - before[0]) % _STANS if after else _STANS // 2
        return Where.INSIDE if 0 < ahead < until else Where.OUTSIDE

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
            elif len(self._lines) >= self._settings.lines_max:
                self._say(fresh, kept=False)
                return fresh
            await self._put(fresh)
        if known is None:
            self._say(fresh, kept=True)
        return fresh

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
        await self._store.commit(PutNote(f"{_LINES}{line.number:08d}", text))
        self._take(line)

    def _take(self, line: Line) -> None:
        self._lines[line.about] = line
        self._last = max(self._last, line.number)
        if line.what == "reversal":
            named = self._reversals.setdefault((line.terminal_id, line.stan), {})
            named[line.about] = None

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


# --- times that messages name ---------------------------------------------------------------------


def _own_times(message: Message) -> Iterator[str]:
    """When a message was first sent: DE12 with DE13; DE7 where there is neither."""
    local = message.get(LOCAL_TIME)
    if len(local) == 12:  # ISO 8583:1993: YYMMDDhhmmss
        yield local[2:]
    elif len(local) == 6 and len(message.get(LOCAL_DATE)) == 4:
        yield message.get(LOCAL_DATE) + local
    elif len(message.get(TRANSMISSION_TIME)) == 10:
        yield message.get(TRANSMISSION_TIME)


def _times_named(message: Message) -> Iterator[str]:
    """What a message says of its original's time: DE7 in DE90, or the date in DE61."""
    transmitted = transmitted_by_original(message)
    if transmitted:
        yield transmitted
    unionpay = message.get(_UNIONPAY_ORIGINAL)
    if len(unionpay) >= 16 and unionpay[:16].isdigit() and unionpay[12:16].strip("0"):
        yield unionpay[12:16]


def _times_of_original(message: Message) -> Iterator[str]:
    """Of a reversal DE12 and DE13 may be its original's as well."""
    yield from _times_named(message)
    yield from _own_times(message)


def _span(text: str, zone: Any, now_ms: int) -> tuple[int, int] | None:
    """The first and last millisecond of a time MMDDhhmmss or a day MMDD; None where it is none.

    It has no year: it is the one that puts it nearest to now.
    """
    if not (text.isascii() and text.isdigit()) or len(text) not in (4, 10):
        return None
    year = datetime.fromtimestamp(now_ms / 1000, UTC).year
    clock = text[4:] or "000000"
    found: list[int] = []
    for one in (year - 1, year, year + 1):
        try:
            moment = datetime(
                one,
                int(text[:2]),
                int(text[2:4]),
                int(clock[:2]),
                int(clock[2:4]),
                int(clock[4:]),
                tzinfo=zone,
            )
        except ValueError:
            continue  # no such day in that year, or at all
        found.append(round(moment.timestamp() * 1000))
    if not found:
        return None
    nearest = min(found, key=lambda moment_ms: abs(moment_ms - now_ms))
    return nearest, nearest + (999 if len(text) == 10 else _DAY_MS - 1)


def _counts(transaction: Transaction, activation: int) -> bool:
    return transaction.activation == activation and transaction.stan.isdigit()
