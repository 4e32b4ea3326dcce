"""Resealing: what is under an older key is sealed anew under the newest, a little at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from gateway.errors import KeyUnavailable, StoreError
from gateway.settings.schema_backup import Sealing
from gateway.store.store import PutNote, Reseal, Sealed, SealedValue, Store
from gateway.telemetry.events import Emit, Event
from gateway.transactions import images
from gateway.transactions.uploads import context_of_upload

_NOTE = "resealed"
_FIRST_AFTER_S = 30.0  # a node that starts has other things to do
_PASSES_MAX = 10


class Sealer(Protocol):
    """The security module, as far as it is needed here."""

    @property
    def sealing_version(self) -> int: ...

    def seal(self, plaintext: bytes, *, context: bytes) -> bytes: ...

    def unseal(self, sealed: bytes, *, context: bytes) -> bytes: ...


@dataclass(slots=True)
class Done:
    """What one run did."""

    version: int  # that everything is under now, unless something is unreadable
    values: int = 0
    unreadable: int = 0


class Resealing:
    """Goes through all sealed values once after each rotation of the key that seals them.

    Each step is one short commit among those of payments. It replaces a value only as long as that
    is what was read, so that nothing wiped or answered meanwhile comes back. A kill loses a step at
    most, and that is done again. A version is finished with when a whole pass has found no value
    under another one.
    """

    def __init__(
        self, *, store: Store, security: Sealer, settings: Callable[[], Sealing], emit: Emit
    ) -> None:
        self._store = store
        self._security = security
        self._settings = settings
        self._emit = emit
        self._finished = 0  # the version that everything is under; 0: not known

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look every `every_s` whether the key was rotated, until cancelled."""
        task_status.started()
        await trio.sleep(min(_FIRST_AFTER_S, self._settings().every_s))
        while True:
            if self._settings().enabled:
                try:
                    await self.once()
                except (StoreError, KeyUnavailable) as error:
                    self._emit(Event.RESEAL_FAILED, reason=str(error))
            await trio.sleep(self._settings().every_s)

    async def once(self) -> Done:
        """Have everything under the newest key; returns what was done. Raises StoreError."""
        done = Done(self._security.sealing_version)
        if await self._is_finished(done.version):
            return done
        for _ in range(_PASSES_MAX):
            found = await self._pass(done)
            if not found:
                break
        if done.unreadable:
            self._emit(
                Event.RESEAL_FAILED,
                reason=f"{done.unreadable} values do not open: their keys are gone",
                version=done.version,
            )
            return done
        if found or done.version != self._security.sealing_version:
            return done  # More came meanwhile, under whichever key: the next turn goes on.
        await self._store.commit(PutNote(_NOTE, str(done.version)))
        self._finished = done.version
        self._emit(Event.RESEALED, version=done.version, values=done.values)
        return done

    async def _is_finished(self, version: int) -> bool:
        if not self._finished:
            self._finished = int((await self._store.notes(_NOTE)).get(_NOTE, "0"))
        return self._finished == version

    async def _pass(self, done: Done) -> int:
        """Go through all columns once; returns how many values were sealed anew."""
        settings = self._settings()
        sealed = unreadable = 0
        for what in Sealed:
            after_id = 0
            while True:
                step = await self._store.sealed_otherwise(
                    what, version=done.version, after_id=after_id, limit=settings.step_rows
                )
                if not step.last_id:
                    break
                after_id = step.last_id
                changes: list[Reseal] = []
                for value in step.values:
                    change = self._anew(what, value)
                    if change is None:
                        unreadable += 1
                    else:
                        changes.append(change)
                if changes:
                    await self._store.commit(*changes)
                    sealed += len(changes)
                await trio.sleep(settings.pause_ms / 1000)
        done.values += sealed
        done.unreadable = unreadable
        return sealed

    def _anew(self, what: Sealed, value: SealedValue) -> Reseal | None:
        """The value under the newest key; None where it does not open."""
        if what is Sealed.UPLOADS:
            context = context_of_upload(value.terminal_id, value.batch, value.stan)
        else:
            context = images.context_of(value.row_id)
        try:
            plain = self._security.unseal(value.value, context=context)
        except KeyUnavailable:
            return None
        return Reseal(what, value.row_id, value.value, self._security.seal(plain, context=context))
