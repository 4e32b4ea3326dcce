"""Retention: what came to the end of its time is archived and deleted, a little at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

import trio

from gateway.clock import Clock, utc
from gateway.errors import OperatorError, StoreError
from gateway.settings.loader import Configuration
from gateway.settings.schema import Retention as RetentionSettings
from gateway.store.store import Forget, Leftover, State, Store, Transaction, Trim
from gateway.telemetry.events import Emit, Event
from gateway.transactions.archive import Archive, Archived, DayFile

Steps = AsyncGenerator[list[Transaction], None]

_DAY_MS = 86_400_000
_FIRST_AFTER_S = 60.0  # a node that starts has other things to do
_FINISHED = frozenset(
    (
        State.NOTHING_SENT,
        State.ANSWERED,
        State.DELIVERED,
        State.REVERSED,
        State.ADVISED,
        State.BOOKED,
        State.CLOSED,
    )
)


@dataclass(slots=True)
class Done:
    """What one run did."""

    archived: int = 0
    deleted: int = 0
    kept: int = 0  # old enough, and still open
    leftovers: int = 0  # tombstones, uploads, batches and lines of devices' histories deleted

    @property
    def anything(self) -> bool:
        return bool(self.archived or self.deleted or self.leftovers)


class Retention:
    """Archives and deletes what is older than the settings say, day by day.

    A day is archived whole, durably, before anything of it is deleted; after a crash between the
    two it is not archived again. Nothing open is deleted: the store itself refuses to. Each
    deletion is one short commit among those of payments, with a pause after it.
    """

    def __init__(
        self,
        *,
        store: Store,
        settings: RetentionSettings,
        folder: Path,
        grace_s: float,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._store = store
        self._settings = settings
        self._folder = folder
        self._grace_ms = round(grace_s * 1000)
        self._clock = clock
        self._emit = emit
        self._failed = False
        self._open_batches: dict[str, int] = {}

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look every `every_s` for what came to its end, until cancelled."""
        task_status.started()
        if not self._settings.enabled:
            return
        await trio.sleep(min(_FIRST_AFTER_S, self._settings.every_s))
        while True:
            try:
                done = await self.once()
            except (StoreError, OperatorError, OSError) as error:
                self._failed = True
                self._emit(Event.RETENTION_FAILED, reason=str(error))
            else:
                if done.anything or self._failed:
                    self._failed = False
                    self._emit(
                        Event.RETENTION_DONE,
                        archived=done.archived,
                        deleted=done.deleted,
                        kept=done.kept,
                        leftovers=done.leftovers,
                    )
            await trio.sleep(self._settings.every_s)

    async def once(self) -> Done:
        """Archive and delete what came to its end; returns what was done.

        Raises StoreError, OSError where the archive cannot be written, and OperatorError where it
        is broken.
        """
        done = Done()
        self._open_batches = {
            batch.terminal_id: batch.number for batch in await self._store.open_batches()
        }
        until_ms = self._days_ago(self._settings.transactions_days)
        archived = await self._archived()
        after_id = 0
        while first := await self._store.oldest(after_id=after_id, until_ms=until_ms, limit=1):
            day = _day_of(first[0])
            of_day = partial(self._of_day, day, after_id, until_ms)
            if archived is not None:
                await self._archive_day(day, of_day, archived, done)
            after_id = await self._delete_day(of_day, archived, done)
        for what, days in (
            (Leftover.TOMBSTONES, self._settings.tombstones_days),
            (Leftover.UPLOADS, self._settings.uploads_days),
            (Leftover.BATCHES, self._settings.batches_days),
            (Leftover.DEVICE_HISTORY, self._settings.device_history_days),
        ):
            await self._trim(what, self._days_ago(days), done)
        return done

    # --- one day --------------------------------------------------------------------------

    async def _archived(self) -> Archived | None:
        """What is in the archive; None where nothing is archived."""
        if not self._settings.archive:
            return None
        return Archived(await trio.to_thread.run_sync(Archive(self._folder).manifests))

    async def _archive_day(
        self, day: str, of_day: Callable[[], Steps], archived: Archived, done: Done
    ) -> None:
        """Write what is finished and not archived yet into a file of its own."""
        file: DayFile | None = None
        last_id = 0
        kept: list[int] = []
        try:
            async with aclosing(of_day()) as steps:
                async for step in steps:
                    last_id = step[-1].transaction_id
                    new = [one for one in step if one.transaction_id not in archived]
                    finished = [one for one in new if self._is_finished(one)]
                    kept += {one.transaction_id for one in new}.difference(
                        one.transaction_id for one in finished
                    )
                    if finished:
                        if file is None:
                            file = await trio.to_thread.run_sync(DayFile, self._folder, day)
                        await trio.to_thread.run_sync(file.write, finished)
                        done.archived += len(finished)
                        await self._pause()
            if file is not None:
                finish = partial(file.finish, last_id=last_id, kept=sorted(kept))
                archived.add(await trio.to_thread.run_sync(finish))
        except BaseException:
            if file is not None:
                file.abandon()
            raise

    async def _delete_day(
        self, of_day: Callable[[], Steps], archived: Archived | None, done: Done
    ) -> int:
        """Delete what is finished and archived; returns the day's last id."""
        last_id = 0
        async with aclosing(of_day()) as steps:
            async for step in steps:
                last_id = step[-1].transaction_id
                finished = [one.transaction_id for one in step if self._is_finished(one)]
                ids = [one for one in finished if archived is None or one in archived]
                done.kept += len(step) - len(ids)
                if ids:
                    await self._store.commit(Forget(tuple(ids)))
                    done.deleted += len(ids)
                    await self._pause()
        return last_id

    async def _of_day(self, day: str, after_id: int, until_ms: int) -> Steps:
        """The transactions from an id on up to the end of a day, in steps, none of them empty.

        Ids are given in order of time, save for those under way at one moment: around midnight a
        few come in the file of the next day.
        """
        while True:
            found = await self._store.oldest(
                after_id=after_id, until_ms=until_ms, limit=self._settings.step_rows
            )
            step = list(takewhile(lambda one: _day_of(one) <= day, found))
            if step:
                yield step
                after_id = step[-1].transaction_id
            if not step or len(step) < len(found):
                return

    def _is_finished(self, transaction: Transaction) -> bool:
        """Whether nobody waits for anything of it any more."""
        if transaction.state not in _FINISHED:
            return False
        now_ms = self._clock.wall_ms()
        if (
            transaction.state is State.ANSWERED
            and transaction.answered_ms + self._grace_ms > now_ms
        ):
            return False
        open_number = self._open_batches.get(transaction.terminal_id)
        if not transaction.batch or open_number is None or transaction.batch < open_number:
            return True
        return transaction.created_ms < self._days_ago(self._settings.open_batches_days)

    # --- the rest -------------------------------------------------------------------------

    async def _trim(self, what: Leftover, before_ms: int, done: Done) -> None:
        rows = await self._store.trimmable(what, before_ms)
        for _ in range(0, rows, self._settings.step_rows):
            await self._store.commit(Trim(what, before_ms, self._settings.step_rows))
            await self._pause()
        done.leftovers += rows

    async def _pause(self) -> None:
        await trio.sleep(self._settings.pause_ms / 1000)

    def _days_ago(self, days: int) -> int:
        """The start of that day in UTC."""
        return (self._clock.wall_ms() // _DAY_MS - days) * _DAY_MS


def archive_folder(configuration: Configuration) -> Path:
    """Where a configuration has archived transactions put: beside the store, unless it says so."""
    settings = configuration.settings
    if settings.retention.archive_folder is not None:
        return configuration.resolve(settings.retention.archive_folder)
    return configuration.resolve(settings.store.path).parent / "archive"


def _day_of(transaction: Transaction) -> str:
    return utc(transaction.created_ms).strftime("%Y-%m-%d")
