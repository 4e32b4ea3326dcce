"""KeyRoom: what operators have done with keys, durable first and then in force."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import trio

from gateway.admin.device_notes import device_notes
from gateway.clock import Clock
from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys.check_value import CheckValueForm, agrees
from gateway.keys.components import stated_check_value
from gateway.keys.holdings import KeyHoldings
from gateway.keys.key_life import KeyEvent, moved, succession, works
from gateway.keys.keyring import OWN_ALGORITHMS
from gateway.keys.message_security import KeyForm
from gateway.keys.owners import check_algorithm, check_purpose
from gateway.keys.records import (
    GATEWAY,
    KeyAlgorithm,
    KeyPurpose,
    StoredKey,
    StoredKeyState,
)
from gateway.keys.usage import MASTERS, WRAPS
from gateway.keys.weak_keys import is_known, weakness
from gateway.settings.schema_keys import Keys
from gateway.store.store import DestroyKeys, ForgetKeys, Operation, PutKey, Store
from gateway.telemetry.events import Emit, Event

_DAY_MS = 86_400_000
VERSIONS_KEPT = 8  # of an owner's purpose, those that are over included


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """What a key is to be that is made or entered."""

    owner: str
    purpose: KeyPurpose
    algorithm: KeyAlgorithm
    start_ms: int = 0  # 0: now
    end_ms: int = 0  # 0: as keys.lifetime_days says
    pending: bool = False  # it waits for `keys activate`, or its first good use


class KeyRoom:
    """Changes of keys, one at a time: in the store or the keyring file before they are in force."""

    def __init__(
        self,
        *,
        holdings: KeyHoldings,
        store: Store,
        clock: Clock,
        settings: Callable[[], Keys],
        emit: Emit,
        production: bool,
    ) -> None:
        self.holdings = holdings
        self.table = holdings.table
        self._store = store
        self._clock = clock
        self._settings = settings
        self._emit = emit
        self._production = production
        self.changing = trio.Lock()

    @property
    def store(self) -> Store:
        """Where keys are kept."""
        return self._store

    @property
    def settings(self) -> Keys:
        """The [keys] table in force."""
        return self._settings()

    def now_ms(self) -> int:
        """Wall time."""
        return self._clock.wall_ms()

    # --- new keys ------------------------------------------------------------

    async def generate(self, wanted: NewKey, *, who: str) -> StoredKey:
        """A random key, durable; raises OperatorError, KeyUnavailable and StoreError."""
        async with self.changing:
            self.check_wanted(wanted)
            record = self.record_of(wanted)
            made = self.holdings.messages.generate(
                owner=record.owner,
                purpose=record.purpose,
                version=record.version,
                algorithm=record.algorithm,
                start_ms=record.start_ms,
                end_ms=record.end_ms,
            )
            return await self._put(made, pending=wanted.pending, who=who)

    async def enter(self, clear: bytes, wanted: NewKey, *, who: str) -> StoredKey:
        """A key that people entered; the errors of `generate`."""
        async with self.changing:
            self.check_wanted(wanted)
            self.refuse_weak(wanted.algorithm, clear)
            made = self.holdings.messages.keep(clear, as_=self.record_of(wanted))
            return await self._put(made, pending=wanted.pending, who=who)

    async def import_wrapped(
        self,
        wrapped: bytes,
        wanted: NewKey,
        *,
        master: StoredKey,
        form: KeyForm,
        check: str,
        who: str,
    ) -> StoredKey:
        """A key that came under a master key; `check`: its check value as hex, "" in key blocks.

        The errors of `generate`.
        """
        async with self.changing:
            self.check_wanted(wanted)
            made = self.unwrapped(wrapped, wanted, master=master, form=form, check=check)
            return await self._put(made, pending=wanted.pending, who=who)

    def unwrapped(
        self, wrapped: bytes, wanted: NewKey, *, master: StoredKey, form: KeyForm, check: str
    ) -> StoredKey:
        """The key as it is to be kept, PENDING; nothing is written.

        Raises OperatorError where it does not unwrap, has another check value, or is weak, and
        KeyUnavailable where the master may not carry it.
        """
        record = self.record_of(wanted)
        made = self.holdings.messages.import_under(wrapped, master, form, as_=record)
        clear = self.holdings.wrapping.unwrap(made)
        if check:
            stated = stated_check_value(check, where=record.name)
            if not any(agrees(stated, made.algorithm, clear, form=one) for one in CheckValueForm):
                raise OperatorError(
                    f"{record.name}: its check value is {made.check_value}, and {check.upper()} was"
                    f" stated: it is damaged, or not under {master.name}"
                )
        elif form in (KeyForm.ECB, KeyForm.CBC):
            raise OperatorError(
                f"{record.name}: say its check value: nothing else tells a wrong key in {form}"
            )
        self.refuse_weak(made.algorithm, clear)
        return made

    def record_of(self, wanted: NewKey) -> StoredKey:
        """The record of a key that has no value yet."""
        now_ms = self.now_ms()
        days = self.settings.lifetime_days
        start_ms = max(wanted.start_ms, now_ms)
        end_ms = wanted.end_ms or (start_ms + days * _DAY_MS if days else 0)
        if end_ms and end_ms <= start_ms:
            raise OperatorError("the key would end before it starts")
        return StoredKey(
            owner=wanted.owner,
            purpose=wanted.purpose,
            version=self.table.next_version(wanted.owner, wanted.purpose),
            algorithm=wanted.algorithm,
            state=StoredKeyState.PENDING,
            start_ms=start_ms,
            end_ms=end_ms,
        )

    def refuse_weak(self, algorithm: KeyAlgorithm, clear: bytes) -> None:
        """Raises OperatorError for a weak key, and in production for a known test key."""
        reason = weakness(algorithm, clear)
        if not reason and self._production and is_known(clear):
            reason = "it is a published test key, and this node is in production"
        if reason:
            raise OperatorError(f"the key is refused: {reason}; have another made")

    def check_wanted(self, wanted: NewKey) -> None:
        """Raises OperatorError where there cannot be such a key, or is no room for it."""
        check_purpose(wanted.owner, wanted.purpose)
        check_algorithm(wanted.purpose, wanted.algorithm)
        if wanted.purpose in OWN_ALGORITHMS:
            raise OperatorError(
                f"{wanted.purpose} keys are made by the gateway alone: `gateway keys rotate"
                f" {GATEWAY} {wanted.purpose}`"
            )
        self.table.check_room()

    async def _put(self, made: StoredKey, *, pending: bool, who: str) -> StoredKey:
        if pending:
            await self.commit([made], who=who)
            return made
        rows = self.succeeding(made)
        await self.commit(rows, who=who)
        return rows[0]

    def succeeding(self, new: StoredKey) -> tuple[StoredKey, ...]:
        """What changes when a key takes the place of those before it, itself first."""
        return succession(
            new,
            self.table.versions(new.owner, new.purpose),
            now_ms=self.now_ms(),
            overlap_ms=round(self.settings.overlap_s * 1_000),
        )

    # --- what becomes of them ------------------------------------------------------------

    async def activate(
        self, owner: str, purpose: KeyPurpose, version: int, *, who: str
    ) -> StoredKey:
        """A key that waits takes the place of the one in force; raises OperatorError."""
        async with self.changing:
            new = self._version(owner, purpose, version)
            rows = self.succeeding(new)
            await self.commit(rows, who=who)
            return rows[0]

    async def rotate(self, owner: str, purpose: KeyPurpose, *, who: str) -> StoredKey:
        """Another random key after the one in force.

        Of the gateway's own keys it is in force at once, and the former goes on reading what it
        made. A key that somebody shares waits, to be handed on first. Raises OperatorError where
        there is none to replace, or it is a terminal's working key.
        """
        if purpose in OWN_ALGORITHMS and owner == GATEWAY:
            return await self._rotate_own(purpose)
        if purpose in WRAPS[KeyPurpose.TERMINAL_MASTER] - {KeyPurpose.TERMINAL_MASTER}:
            raise OperatorError(
                f"a terminal gets its {purpose} key when it signs on: set rotate_after_h or"
                " rotate_after_count in its profile ([profiles.keys.working])"
            )
        current = self._current(owner, purpose)
        return await self.generate(
            NewKey(owner=owner, purpose=purpose, algorithm=current.algorithm, pending=True),
            who=who,
        )

    async def _rotate_own(self, purpose: KeyPurpose) -> StoredKey:
        own = self.holdings.own
        async with self.changing:
            with trio.CancelScope(shield=True):
                new = await trio.to_thread.run_sync(
                    partial(own.rotate, purpose, now_ms=self.now_ms())
                )
                self.holdings.security.take_up(own.keyring())
        return new

    async def rollback(self, owner: str, purpose: KeyPurpose, *, who: str) -> StoredKey:
        """The key before the one in force is in force again, and that one over.

        Returns the one that is in force. Raises OperatorError where none before it works any more.
        """
        async with self.changing:
            now_ms = self.now_ms()
            current = self._current(owner, purpose)
            before = next(
                (
                    key
                    for key in self.table.versions(owner, purpose)
                    if key.version < current.version and works(key, now_ms)
                ),
                None,
            )
            if before is None:
                raise OperatorError(
                    f"no {purpose} key of {owner} before {current.name} works any more: its overlap"
                    " is over; `gateway keys generate` or `import` brings another"
                )
            restored = moved(before, KeyEvent.RESTORED, now_ms=now_ms)
            if restored is before:  # it was to go on until the other starts
                restored = replace(before, end_ms=0)
            taken_back = moved(current, KeyEvent.TAKEN_BACK, now_ms=now_ms)
            await self.commit([restored, taken_back], who=who)
            return restored

    async def destroy(
        self, owner: str, *, purpose: KeyPurpose | None = None, version: int = 0, who: str
    ) -> list[StoredKey]:
        """One version of a key, all of a purpose or all of an owner's; returns what was destroyed.

        Raises OperatorError where there is nothing to destroy.
        """
        if purpose in OWN_ALGORITHMS and owner == GATEWAY:
            return [await self._destroy_own(purpose, version)]
        async with self.changing:
            now_ms = self.now_ms()
            if version and purpose is not None:
                gone = [
                    moved(self._version(owner, purpose, version), KeyEvent.DESTROYED, now_ms=now_ms)
                ]
                await self.commit(gone, who=who)
            else:
                purposes = () if purpose is None else (purpose,)
                with trio.CancelScope(shield=True):
                    ending = [
                        replace(key, state=StoredKeyState.DESTROYED)
                        for key in self.table.of(owner)
                        if key.wrapped and (not purposes or key.purpose in purposes)
                    ]
                    await self._store.commit(
                        DestroyKeys(owner, now_ms, purposes),
                        *device_notes(ending, at_ms=now_ms, who=who),
                    )
                    gone = self.table.destroyed(owner, at_ms=now_ms, purposes=purposes)
            if not gone:
                raise OperatorError(f"{owner} has no such key; `gateway keys list` shows all")
            self.holdings.messages.forget(owner)
            for key in gone:
                self._emit(Event.KEY_DESTROYED, key=key.name)
            return gone

    async def _destroy_own(self, purpose: KeyPurpose | None, version: int) -> StoredKey:
        own = self.holdings.own
        if purpose is None or not version:
            raise OperatorError(
                "say which version of the gateway's own key: what it made can no longer be read"
            )
        if purpose is KeyPurpose.STORE_DATA:
            left = (await self._store.sealed_under()).get(version, 0)
            if left:
                raise OperatorError(
                    f"{left} values in the store are under {purpose.value}.{version} and could no"
                    " longer be read: rotate the key, and wait until they are sealed anew"
                )
        async with self.changing:
            with trio.CancelScope(shield=True):
                gone = await trio.to_thread.run_sync(
                    partial(own.destroy, purpose, version, now_ms=self.now_ms())
                )
                self.holdings.security.take_up(own.keyring())
        self._emit(Event.KEY_DESTROYED, key=gone.name)
        return gone

    def export(self, key: StoredKey, master: StoredKey, form: KeyForm) -> bytes:
        """A key under a master key, for the other side.

        Raises KeyUnavailable where the master may not carry it, and OperatorError where the form
        cannot, or the key is one that never leaves.
        """
        if key.owner == GATEWAY and key.purpose in OWN_ALGORITHMS:
            raise OperatorError(f"{key.name} never leaves the gateway")
        return self.holdings.messages.export_under(key, master, form)

    # --- finding ------------------------------------------------------------

    def master(self, owner: str, purpose: KeyPurpose) -> StoredKey:
        """The master key of an owner that is in force; raises OperatorError."""
        if purpose not in MASTERS:
            raise OperatorError(
                f"a {purpose} key carries no keys: name a "
                + " or ".join(sorted(one.value for one in MASTERS))
            )
        return self._current(owner, purpose)

    def find(self, owner: str, purpose: KeyPurpose, version: int) -> StoredKey:
        """A version of a key, or with 0 the one in force; raises OperatorError."""
        if version:
            return self._version(owner, purpose, version)
        return self._current(owner, purpose)

    def all(self) -> list[StoredKey]:
        """Every key, the gateway's own first."""
        return [*self.holdings.own.keys, *self.table]

    def owners(self) -> list[str]:
        """Whoever has keys, in order."""
        return sorted({GATEWAY, *self.table.owners()})

    def of(self, owner: str) -> list[StoredKey]:
        """The keys of an owner by purpose, the newest version first."""
        own = self.holdings.own.keys if owner == GATEWAY else ()
        return sorted(
            (*own, *self.table.of(owner)), key=lambda key: (key.purpose.value, -key.version)
        )

    def _current(self, owner: str, purpose: KeyPurpose) -> StoredKey:
        check_purpose(owner, purpose)
        try:
            return self.table.current(owner, purpose, self.now_ms())
        except KeyUnavailable as error:
            raise OperatorError(str(error)) from None

    def _version(self, owner: str, purpose: KeyPurpose, version: int) -> StoredKey:
        check_purpose(owner, purpose)
        try:
            return self.table.version(owner, purpose, version)
        except KeyUnavailable as error:
            raise OperatorError(str(error)) from None

    def is_as(self, key: StoredKey) -> bool:
        """Whether a key still is as it was found."""
        versions = self.table.versions(key.owner, key.purpose)
        return any(one == key for one in versions)

    # --- making it durable ------------------------------------------------------------

    async def commit(self, rows: Sequence[StoredKey], *, who: str) -> None:
        """Rows into the store, then into the table; old versions that are over go.

        `who` changes them, as devices' histories say; "": nobody, it was time.
        Whoever hangs up leaves it done all the same. Raises StoreError.
        """
        operations: list[Operation] = [PutKey(row) for row in rows]
        operations += device_notes(rows, at_ms=self.now_ms(), who=who)
        forgotten = []
        newest: dict[tuple[str, KeyPurpose], int] = {}
        for row in rows:
            name = row.owner, row.purpose
            newest[name] = max(row.version, newest.get(name, 0))
        for (owner, purpose), version in newest.items():
            below = version - VERSIONS_KEPT
            if below > 0 and len(self.table.versions(owner, purpose)) > VERSIONS_KEPT:
                forgotten.append((owner, purpose, below))
                operations.append(ForgetKeys(owner, purpose, below))
        with trio.CancelScope(shield=True):
            await self._store.commit(*operations)
            self.table.install(*rows)
            for owner, purpose, below in forgotten:
                self.table.forgotten(owner, purpose, below_version=below)
