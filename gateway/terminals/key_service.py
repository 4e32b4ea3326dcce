"""The keys that terminals get: handed out at a sign-on, proven by use, told when they are old."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import trio

from gateway.clock import Clock
from gateway.errors import KeyUnavailable, OperatorError, StoreError
from gateway.keys.key_life import KeyEvent, moved, succession
from gateway.keys.key_table import KeyTable
from gateway.keys.message_security import KeyForm, MessageSecurity
from gateway.keys.records import (
    KeyAlgorithm,
    KeyPurpose,
    StoredKey,
    StoredKeyState,
    terminal_owner,
)
from gateway.settings.schema_keys_use import WorkingKeys
from gateway.store.store import ForgetKeys, Operation, PutKey, Store
from gateway.telemetry.events import Emit, Event
from gateway.wire.working_keys import CHECK_BYTES, CarriedKey, packed

T = TypeVar("T")

PURPOSES = {"pin": KeyPurpose.PIN, "mac": KeyPurpose.MAC, "data": KeyPurpose.DATA}
_REPEAT_MS = 120_000  # a sign-on with the same STAN within this time is the same one
_PENDING_MAX = 4  # handed out and not used yet: whoever signs on in a device's name ends no others
_VERSIONS_KEPT = 8
_OVER = (StoredKeyState.EXPIRED, StoredKeyState.DESTROYED)


class Age(StrEnum):
    """How a device's keys stand against the rotation of its profile."""

    FRESH = "fresh"
    DUE = "due"  # it is told to sign on again
    OVER = "over"  # it has to


@dataclass(frozen=True, slots=True)
class _HandedOut:
    """What a sign-on was answered, for its repeat."""

    stan: str
    asked: tuple[str, ...]
    at_ms: int
    versions: tuple[StoredKey, ...]
    field: bytes


class _Use:
    """How often the keys of one sign-on were used, and since when others are due."""

    __slots__ = ("count", "due_ms", "start_ms")

    def __init__(self, start_ms: int) -> None:
        self.start_ms = start_ms
        self.count = 0
        self.due_ms = 0


class KeyService:
    """Hands out working keys under terminals' master keys.

    The keys of one sign-on belong together: they have the same start. Counts of use, and who signed
    on without keys, are of this process; keys themselves are in the store before anybody has them.
    """

    def __init__(
        self,
        *,
        table: KeyTable,
        security: MessageSecurity,
        store: Store,
        clock: Clock,
        emit: Emit,
        devices_max: int,
    ) -> None:
        self._table = table
        self._security = security
        self._store = store
        self._clock = clock
        self._emit = emit
        self._devices_max = devices_max
        self._handed_out: OrderedDict[str, _HandedOut] = OrderedDict()
        self._uses: OrderedDict[str, _Use] = OrderedDict()
        self._signed_on: OrderedDict[str, None] = OrderedDict()
        self._signed_off: OrderedDict[str, None] = OrderedDict()
        self._under_way: dict[str, trio.Event] = {}

    # --- which keys a device may use ----------------------------------------------------------

    def candidates(self, terminal_id: str, purpose: KeyPurpose, now_ms: int) -> list[StoredKey]:
        """The keys that a message may be under: active, retiring, then those handed out last."""
        owner = terminal_owner(terminal_id)
        found = self._table.usable(owner, purpose, now_ms)
        return found + [
            key
            for key in self._table.versions(owner, purpose)
            if key.state is StoredKeyState.PENDING
            and key.start_ms <= now_ms
            and (not key.end_ms or now_ms < key.end_ms)
        ]

    def is_signed_on(self, terminal_id: str, working: WorkingKeys | None, now_ms: int) -> bool:
        """Whether a device has signed on, on whichever connection, and its keys are not over."""
        if terminal_id in self._signed_off:
            return False
        if working is None:
            return terminal_id in self._signed_on
        main = PURPOSES["mac" if "mac" in working.purposes else working.purposes[0]]
        return bool(self.candidates(terminal_id, main, now_ms))

    def signed_on(self, terminal_id: str) -> None:
        """A device without working keys has signed on."""
        self._signed_off.pop(terminal_id, None)
        self._remember(self._signed_on, terminal_id, None)

    def signed_off(self, terminal_id: str) -> None:
        self._signed_on.pop(terminal_id, None)
        self._remember(self._signed_off, terminal_id, None)

    # --- their age ------------------------------------------------------------------------------

    def used(self, key: StoredKey, terminal_id: str, working: WorkingKeys, now_ms: int) -> Age:
        """A message came under this key; whether others are wanted by now.

        With a count the time from which they are due is this process's: a restart counts anew.
        """
        after_ms = round((working.rotate_after_h or 0) * 3_600_000)
        due_ms = key.start_ms + after_ms if after_ms else 0
        if working.rotate_after_count is not None:
            use = self._uses.get(terminal_id)
            if use is None or use.start_ms != key.start_ms:
                if use is not None and use.start_ms > key.start_ms:
                    return Age.FRESH  # It has newer ones already, and goes over to them.
                use = _Use(key.start_ms)
                self._remember(self._uses, terminal_id, use)
            use.count += 1
            if use.count >= working.rotate_after_count and not use.due_ms:
                use.due_ms = now_ms
            if use.due_ms:
                due_ms = min(due_ms or use.due_ms, use.due_ms)
        if not due_ms or now_ms < due_ms:
            return Age.FRESH
        return Age.DUE if now_ms < due_ms + round(working.overlap_s * 1000) else Age.OVER

    # --- sign-on --------------------------------------------------------------------------------

    async def hand_out(
        self,
        terminal_id: str,
        working: WorkingKeys,
        *,
        stan: str,
        purposes: Sequence[str],
        proves_by_mac: bool,
    ) -> bytes:
        """New keys, durable, as they stand in the field of the answer.

        The same again for the same STAN. They are pending until a good MAC under them has come;
        where there are no MACs they are in force at once, and those before retire. Raises
        KeyUnavailable where there is no master key or no key can be made, and StoreError.
        """
        async with self._alone(terminal_owner(terminal_id)):
            again = self._again(terminal_id, stan, tuple(purposes))
            if again is not None:
                return again
            return await self._made(
                terminal_id, working, stan=stan, purposes=purposes, proves_by_mac=proves_by_mac
            )

    @asynccontextmanager
    async def _alone(self, owner: str) -> AsyncIterator[None]:
        """One change of a terminal's keys at a time: what it read is so still as it is written."""
        while (under_way := self._under_way.get(owner)) is not None:
            await under_way.wait()
        done = self._under_way[owner] = trio.Event()
        try:
            yield
        finally:
            del self._under_way[owner]
            done.set()

    def _again(self, terminal_id: str, stan: str, asked: tuple[str, ...]) -> bytes | None:
        before = self._handed_out.get(terminal_id)
        if before is None or before.stan != stan or before.asked != asked:
            return None
        if self._clock.wall_ms() - before.at_ms > _REPEAT_MS:
            return None
        for key in before.versions:
            now = next(
                one
                for one in (*self._table.versions(key.owner, key.purpose), key)
                if one.version == key.version
            )
            if now.state in _OVER or now.wrapped != key.wrapped:
                return None
        return before.field

    async def _made(
        self,
        terminal_id: str,
        working: WorkingKeys,
        *,
        stan: str,
        purposes: Sequence[str],
        proves_by_mac: bool,
    ) -> bytes:
        now_ms = self._clock.wall_ms()
        owner = terminal_owner(terminal_id)
        master = self._table.current(owner, KeyPurpose.TERMINAL_MASTER, now_ms)
        try:
            self._table.check_room(len(purposes))
            made = [self._new(owner, name, working, now_ms) for name in purposes]
            field = packed(self._carried(key, master, KeyForm(working.form)) for key in made)
        except OperatorError as error:
            raise KeyUnavailable(str(error)) from None
        rows: list[StoredKey] = []
        for key in made:
            known = self._table.versions(owner, key.purpose)
            rows += self._before(known, now_ms)
            if proves_by_mac:
                rows.append(key)
            else:
                overlap_ms = round(working.overlap_s * 1000)
                rows += succession(key, known, now_ms=now_ms, overlap_ms=overlap_ms)
        await self._keep(rows, made)
        self._signed_off.pop(terminal_id, None)
        self._remember(
            self._handed_out,
            terminal_id,
            _HandedOut(stan, tuple(purposes), now_ms, tuple(made), field),
        )
        self._emit(
            Event.KEYS_HANDED_OUT,
            terminal=terminal_id.rstrip(),
            keys=" ".join(key.name for key in made),
        )
        return field

    def _new(self, owner: str, name: str, working: WorkingKeys, now_ms: int) -> StoredKey:
        purpose = PURPOSES[name]
        mac = working.mac_algorithm if purpose is KeyPurpose.MAC else None
        after_ms = round((working.rotate_after_h or 0) * 3_600_000)
        return self._security.generate(
            owner=owner,
            purpose=purpose,
            version=self._table.next_version(owner, purpose),
            algorithm=KeyAlgorithm(mac or working.algorithm),
            start_ms=now_ms,
            end_ms=now_ms + after_ms + round(working.overlap_s * 1000) if after_ms else 0,
        )

    def _carried(self, key: StoredKey, master: StoredKey, form: KeyForm) -> CarriedKey:
        wrapped = self._security.export_under(key, master, form)
        if form in (KeyForm.TR31_B, KeyForm.TR31_D):
            return CarriedKey(wrapped)
        return CarriedKey(wrapped, self._security.check_value_of(key, CHECK_BYTES))

    @staticmethod
    def _before(known: Sequence[StoredKey], now_ms: int) -> list[StoredKey]:
        """What ends as others are handed out: what is over, and the oldest of too many pending."""
        pending = [key for key in known if key.state is StoredKeyState.PENDING]
        ended = pending[_PENDING_MAX - 1 :] + [
            key
            for key in known
            if key.state is StoredKeyState.RETIRING and key.end_ms and key.end_ms <= now_ms
        ]
        return [moved(key, KeyEvent.ENDED, now_ms=now_ms) for key in ended]

    async def _keep(self, rows: Sequence[StoredKey], made: Sequence[StoredKey]) -> None:
        """Durable, and then known; old versions that are over go. Raises StoreError."""
        by_name = {(key.purpose, key.version): key for key in rows}
        forget = [
            ForgetKeys(key.owner, key.purpose, key.version - _VERSIONS_KEPT)
            for key in made
            if key.version > _VERSIONS_KEPT
        ]
        operations: list[Operation] = [PutKey(key) for key in by_name.values()]
        await self._store.commit(*operations, *forget)
        self._table.install(*by_name.values())
        for one in forget:
            self._table.forgotten(one.owner, one.purpose, below_version=one.below_version)

    # --- proven by use --------------------------------------------------------------------------

    async def proven(self, key: StoredKey, working: WorkingKeys | None) -> None:
        """A good MAC came under a key that was pending: it and those handed out with it are in
        force, and those before them retire.

        Where the store fails they stay pending, and are taken all the same.
        """
        async with self._alone(key.owner):
            await self._proven(key, working)

    async def _proven(self, key: StoredKey, working: WorkingKeys | None) -> None:
        now_ms = self._clock.wall_ms()
        overlap_ms = round(working.overlap_s * 1000) if working is not None else 0
        rows: list[StoredKey] = []
        for purpose in PURPOSES.values():
            known = self._table.versions(key.owner, purpose)
            for one in known:
                if one.start_ms == key.start_ms and one.state is StoredKeyState.PENDING:
                    rows += succession(one, known, now_ms=now_ms, overlap_ms=overlap_ms)
        if not rows:
            return
        try:
            await self._store.commit(*[PutKey(row) for row in rows])
        except StoreError:
            return
        self._table.install(*rows)
        self._emit(Event.KEYS_PROVEN, key=key.name)

    def _remember(self, table: OrderedDict[str, T], terminal_id: str, value: T) -> None:
        table[terminal_id] = value
        table.move_to_end(terminal_id)
        if len(table) > self._devices_max:
            table.popitem(last=False)
