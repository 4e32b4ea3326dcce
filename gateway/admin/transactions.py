"""What operators do with transactions and reversals, over the store and a node's reversals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

from gateway.admin.access import Role
from gateway.admin.api import Progress
from gateway.admin.histories import reversal_view, timeline, transaction_view
from gateway.admin.ledger import (
    FindArguments,
    History,
    IdArguments,
    ResolveArguments,
    ReversalListArguments,
    ReversalPage,
    ReversalsApi,
    ReversalView,
    TransactionPage,
    UndeliveredArguments,
)
from gateway.admin.operations import Operation, Operations
from gateway.clock import Clock
from gateway.errors import NoSuchThing, OperatorError
from gateway.store.store import Criteria, OwedReversal, State, Store, Transaction

_HOUR_MS = 3_600_000
_SLICE_MS_MAX = 24 * _HOUR_MS
_TERMINAL_ID_CHARS = 8
_UNDER_WAY_MAX = 5_000  # so many with a smaller id can have been answered after another
_OWED_MAX = 100_000  # given up and looked at in one listing
_INDEXED_STATES = frozenset(
    (
        State.INTENDED,
        State.TIMED_OUT,
        State.REVERSAL_OWED,
        State.ADVICE_OWED,
        State.GIVEN_UP,
    )
)


class TransactionOperations(Operations):
    """Finding transactions and telling the history of one."""

    def __init__(self, *, store: Store, clock: Clock, grace_s: float) -> None:
        self._store = store
        self._clock = clock
        self._grace_ms = round(grace_s * 1000)
        super().__init__(
            {
                "list": Operation(FindArguments, self.find),
                "show": Operation(IdArguments, self.show),
                "undelivered": Operation(UndeliveredArguments, self.undelivered),
            }
        )

    async def show(self, arguments: IdArguments, _: Progress | None = None) -> History:
        return await _history(self._store, arguments.transaction_id, self._clock.wall_ms())

    async def find(
        self, arguments: FindArguments, progress: Progress | None = None
    ) -> TransactionPage:
        """Transactions that fit, the newest first.

        Where no index leads to them the time is looked through slice by slice, and how far that is
        is told.
        """
        criteria = self._criteria(arguments)
        wanted = arguments.limit + 1
        if _found_at_once(criteria):
            found = await self._store.select(criteria, wanted)
        else:
            found = await self._looked_for(criteria, wanted, progress)
        return _page(found, arguments.limit)

    async def undelivered(
        self, arguments: UndeliveredArguments, progress: Progress | None = None
    ) -> TransactionPage:
        """Approvals of which no hand-over is known, older than the grace time, the oldest first."""
        from_ms = arguments.from_ms
        if arguments.after_id:
            last = await self._store.transaction(arguments.after_id)
            from_ms = from_ms if last is None else max(from_ms, last.created_ms)
        until_ms = self._clock.wall_ms() - self._grace_ms
        wanted = arguments.limit + 1
        found: list[Transaction] = []
        for start_ms, end_ms in reversed(list(_slices(from_ms, until_ms))):
            part = await self._store.undelivered(
                since_ms=start_ms, until_ms=end_ms, limit=wanted + _UNDER_WAY_MAX
            )
            found += [one for one in part if one.transaction_id > arguments.after_id]
            _tell(progress, done_ms=end_ms - from_ms, total_ms=until_ms - from_ms)
            if len(found) >= wanted:
                break
        found.sort(key=lambda one: one.transaction_id)
        return _page(found[:wanted], arguments.limit)

    def _criteria(self, arguments: FindArguments) -> Criteria:
        values = arguments.model_dump(exclude={"limit"})
        if arguments.terminal_id:
            values["terminal_id"] = arguments.terminal_id.ljust(_TERMINAL_ID_CHARS)
        if arguments.stan:
            values["stan"] = arguments.stan.zfill(6)
        return Criteria(**values)

    async def _looked_for(
        self, criteria: Criteria, wanted: int, progress: Progress | None
    ) -> list[Transaction]:
        until_ms = criteria.until_ms or self._clock.wall_ms() + _HOUR_MS
        if criteria.before_id:
            last = await self._store.transaction(criteria.before_id)
            until_ms = until_ms if last is None else min(until_ms, last.created_ms + _HOUR_MS)
        oldest = await self._store.oldest(after_id=0, until_ms=until_ms, limit=1)
        if not oldest:
            return []
        from_ms = max(criteria.from_ms, oldest[0].created_ms)
        found: list[Transaction] = []
        for start_ms, end_ms in _slices(from_ms, until_ms):
            found += await self._store.select(
                replace(criteria, from_ms=start_ms, until_ms=end_ms), wanted - len(found)
            )
            _tell(progress, done_ms=until_ms - start_ms, total_ms=until_ms - from_ms)
            if len(found) >= wanted:
                break
        return found


class ReversalOperations(Operations):
    """Listing what is owed, and steering what was given up."""

    def __init__(self, *, store: Store, reversals: ReversalsApi | None, clock: Clock) -> None:
        self._store = store
        self._reversals = reversals
        self._clock = clock
        super().__init__(
            {
                "list": Operation(ReversalListArguments, self.page),
                "show": Operation(IdArguments, self.show),
                "retry": self._change(IdArguments, self.retry),
                "resolve": self._change(ResolveArguments, self.resolve),
            }
        )

    async def show(self, arguments: IdArguments, _: Progress | None = None) -> History:
        history = await _history(self._store, arguments.transaction_id, self._clock.wall_ms())
        if history["reversal"] is None:
            raise NoSuchThing(
                f"nothing is owed for transaction {arguments.transaction_id}: it is"
                f" {history['transaction']['state']}"
            )
        return history

    async def page(
        self, arguments: ReversalListArguments, _: Progress | None = None
    ) -> ReversalPage:
        """What is owed, the oldest first; what was given up before it."""
        open_ones: list[tuple[int, OwedReversal | None]] = []
        if arguments.given_up is not False:
            rows = await self._store.given_up_reversals(_OWED_MAX)
            open_ones += [(row.transaction_id, row) for row in rows]
            with_row = {row.transaction_id for row in rows}
            alone = await self._store.select(Criteria(state=State.GIVEN_UP), _OWED_MAX)
            open_ones += [
                (one.transaction_id, None)
                for one in reversed(alone)
                if one.transaction_id not in with_row
            ]
        if arguments.given_up is not True:
            rows = await self._store.owed_reversals()
            open_ones += [(row.transaction_id, row) for row in rows]
        shown: list[ReversalView] = []
        position = arguments.after
        while position < len(open_ones) and len(shown) < arguments.limit:
            number, row = open_ones[position]
            position += 1
            transaction = await self._store.transaction(number)
            if transaction is None or arguments.upstream not in ("", transaction.upstream):
                continue
            shown.append(reversal_view(transaction, row, now_ms=self._clock.wall_ms()))
        return {"reversals": shown, "next": position if position < len(open_ones) else 0}

    async def retry(self, arguments: IdArguments, _: Progress | None = None) -> History:
        await self._steered().retry(arguments.transaction_id)
        return await _history(self._store, arguments.transaction_id, self._clock.wall_ms())

    async def resolve(self, arguments: ResolveArguments, _: Progress | None = None) -> History:
        await self._steered().resolve(
            arguments.transaction_id, arguments.reason, booked=arguments.booked
        )
        return await _history(self._store, arguments.transaction_id, self._clock.wall_ms())

    def _change(
        self,
        arguments: type[IdArguments],
        run: Callable[[Any, Progress | None], Awaitable[object]],
    ) -> Operation:
        return Operation(
            arguments,
            run,
            Role.OPERATOR,
            subject="transaction_id",
            old=self._before,
            told=_steered_to,
        )

    async def _before(self, arguments: IdArguments) -> object:
        try:
            history = await _history(self._store, arguments.transaction_id, self._clock.wall_ms())
        except NoSuchThing:
            return None
        return _steered_to(history)

    def _steered(self) -> ReversalsApi:
        if self._reversals is None:
            raise OperatorError(
                "reversals are retried and resolved through the running gateway: start it with"
                " `gateway run`"
            )
        return self._reversals


async def _history(store: Store, transaction_id: int, now_ms: int) -> History:
    transaction = await store.transaction(transaction_id)
    if transaction is None:
        raise NoSuchThing(f"there is no transaction {transaction_id}")
    owed = await store.owed_reversal(transaction_id)
    follow_ups = await store.follow_ups(transaction_id)
    waits = owed is not None or transaction.state is State.GIVEN_UP
    return {
        "transaction": transaction_view(transaction),
        "timeline": timeline(transaction, owed, follow_ups),
        "reversal": reversal_view(transaction, owed, now_ms=now_ms) if waits else None,
        "follow_ups": [transaction_view(one) for one in follow_ups],
    }


def _steered_to(history: History) -> object:
    """What of a history the audit log is told."""
    return {"state": history["transaction"]["state"], "owed": history["reversal"]}


def _found_at_once(criteria: Criteria) -> bool:
    """Whether an index leads there, or everything fits anyway."""
    only_time = replace(criteria, from_ms=0, until_ms=0, before_id=0) == Criteria()
    return bool(
        only_time or criteria.rrn or criteria.terminal_id or criteria.state in _INDEXED_STATES
    )


def _slices(from_ms: int, until_ms: int) -> Iterator[tuple[int, int]]:
    """A time in slices, from its end back: short ones first, where most is looked for."""
    length_ms = _HOUR_MS
    while until_ms > from_ms:
        start_ms = max(from_ms, until_ms - length_ms)
        yield start_ms, until_ms
        until_ms = start_ms
        length_ms = min(length_ms * 2, _SLICE_MS_MAX)


def _tell(progress: Progress | None, *, done_ms: int, total_ms: int) -> None:
    if progress is not None:
        progress(done_ms // 60_000, max(1, total_ms // 60_000))


def _page(found: list[Transaction], limit: int) -> TransactionPage:
    shown = found[:limit]
    return {
        "transactions": [transaction_view(one) for one in shown],
        "next": shown[-1].transaction_id if len(found) > limit else 0,
    }
