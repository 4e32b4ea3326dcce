"""What operators do with keys: look, make, enter, hand on, put in force, destroy, wrap anew."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict

from gateway.admin.access import Role
from gateway.admin.api import Arguments, Progress
from gateway.admin.key_arguments import (
    CheckArguments,
    ComponentArguments,
    DestroyArguments,
    ExportArguments,
    KeyArguments,
    KeyView,
    ListArguments,
    MakeArguments,
    ManyArguments,
    MasterArguments,
    RewrapArguments,
    WrappedArguments,
    view,
)
from gateway.admin.key_ceremonies import Ceremonies
from gateway.admin.key_checks import check_keys
from gateway.admin.key_imports import import_many, wrapped_bytes
from gateway.admin.key_rewrap import rewrap
from gateway.admin.key_room import KeyRoom, NewKey
from gateway.admin.operations import Operation, Operations
from gateway.errors import OperatorError
from gateway.keys.components import read_component
from gateway.keys.kek_settings import Resolve, source_of
from gateway.keys.kek_sources import KekSource, kek_component
from gateway.keys.records import StoredKey
from gateway.telemetry.events import Emit, Event


class KeyPage(TypedDict):
    keys: list[KeyView]
    next: str  # the owner to go on behind; "": there are no more
    values: dict[str, int]  # in the store, by the version of store-data that they are under


class Exported(TypedDict):
    key: KeyView
    under: KeyView
    form: str
    wrapped: str  # hex digits, or a key block


class KeyOperations(Operations):
    """What can be done with keys, over a room of them."""

    def __init__(
        self,
        room: KeyRoom,
        *,
        resolve: Resolve,
        is_enrolled: Callable[[str], bool],
        emit: Emit,
    ) -> None:
        self._room = room
        self._resolve = resolve
        self._is_enrolled = is_enrolled
        self._emit = emit
        self._ceremonies = Ceremonies()
        long = frozenset(("csv", "wrapped"))
        super().__init__(
            {
                "list": Operation(ListArguments, self.page),
                "check": Operation(CheckArguments, self.check, Role.KEYS),
                "generate": self._change(MakeArguments, self.generate),
                "component": Operation(
                    ComponentArguments, self.component, Role.KEYS, subject="owner", keeps_who=True
                ),
                "import_wrapped": Operation(
                    WrappedArguments,
                    self.import_wrapped,
                    Role.KEYS,
                    subject="owner",
                    long=long,
                    keeps_who=True,
                ),
                "import_many": Operation(
                    ManyArguments,
                    self.import_many,
                    Role.KEYS,
                    subject="master_owner",
                    long=long,
                    keeps_who=True,
                ),
                "activate": self._change(KeyArguments, self.activate),
                "rotate": self._change(KeyArguments, self.rotate),
                "rollback": self._change(KeyArguments, self.rollback),
                "export": Operation(
                    ExportArguments, self.export, Role.KEYS, subject="owner", told=_without_value
                ),
                "destroy": self._change(DestroyArguments, self.destroy),
                "rewrap": Operation(
                    RewrapArguments,
                    self.rewrap,
                    Role.KEYS,
                    instead="put each component into a file that only the gateway's user reads,"
                    " name them as component_files in [keys.kek_next], and ask without components",
                ),
            }
        )

    def _change(
        self, arguments: type[Arguments], run: Callable[..., Awaitable[object]]
    ) -> Operation:
        return Operation(arguments, run, Role.KEYS, subject="owner", keeps_who=True)

    @property
    def room(self) -> KeyRoom:
        """What the operations are over."""
        return self._room

    # --- looking ----------------------------------------------------------------------------------

    async def page(self, arguments: ListArguments, _: Progress | None = None) -> KeyPage:
        """Keys by owner and purpose, the newest version first; whole owners to a page.

        Raises StoreError where the values in the store are to be counted and cannot be.
        """
        values: dict[str, int] = {}
        if arguments.values:
            under = await self._room.store.sealed_under()
            values = {str(version): count for version, count in under.items()}
        now_ms = self._room.now_ms()
        found: list[KeyView] = []
        last = ""
        owners = [arguments.owner] if arguments.owner else self._room.owners()
        for owner in owners:
            if arguments.after and owner <= arguments.after and not arguments.owner:
                continue
            if len(found) >= arguments.limit:
                return {"keys": found, "next": last, "values": values}
            found += [
                view(key, now_ms)
                for key in self._room.of(owner)
                if arguments.purpose in (None, key.purpose) and arguments.state in (None, key.state)
            ]
            last = owner
        return {"keys": found, "next": "", "values": values}

    async def check(self, _: CheckArguments, progress: Progress | None = None) -> object:
        """Whether every key unwraps, has its check value, and is none that everybody knows."""
        return await check_keys(self._room, progress=progress)

    # --- new keys ---------------------------------------------------------------------------------

    async def generate(
        self, arguments: MakeArguments, _: Progress | None = None, *, who: str
    ) -> KeyView:
        return self._view(await self._room.generate(_wanted(arguments), who=who))

    async def component(
        self, arguments: ComponentArguments, _: Progress | None = None, *, who: str
    ) -> dict[str, Any]:
        """Take one person's part of a key; the last one has the key kept, and in force.

        Raises OperatorError, which repeats no part.
        """
        room, wanted = self._room, _wanted(arguments)
        component = read_component(
            arguments.component.get_secret_value(),
            arguments.check_value,
            arguments.algorithm,
            where=f"part {arguments.part}",
        )
        room.check_wanted(wanted)
        settings = room.settings
        clear = self._ceremonies.enter(
            component,
            wanted,
            part=arguments.part,
            of=arguments.of,
            who=who,
            now_ms=room.now_ms(),
            wait_ms=round(settings.component_wait_s * 1_000),
            different_operators=settings.different_operators,
        )
        entered = {
            "part": arguments.part,
            "of": arguments.of,
            "component_check_value": component.check_value,
        }
        if clear is None:
            return {**entered, "key": None}
        return {**entered, "key": self._view(await room.enter(clear, wanted, who=who))}

    async def import_wrapped(
        self, arguments: WrappedArguments, _: Progress | None = None, *, who: str
    ) -> KeyView:
        key = await self._room.import_wrapped(
            wrapped_bytes(arguments.wrapped, arguments.form),
            _wanted(arguments),
            master=self._master(arguments),
            form=arguments.form,
            check=arguments.check_value,
            who=who,
        )
        return self._view(key)

    async def import_many(
        self, arguments: ManyArguments, progress: Progress | None = None, *, who: str
    ) -> dict[str, int]:
        done = await import_many(
            self._room,
            arguments.csv,
            purpose=arguments.purpose,
            algorithm=arguments.algorithm,
            master=self._master(arguments),
            form=arguments.form,
            is_enrolled=self._is_enrolled,
            who=who,
            progress=progress,
        )
        return {"keys": done.keys, "unchanged": done.unchanged, "unknown": done.unknown}

    # --- what becomes of them ------------------------------------------------------------

    async def activate(
        self, arguments: KeyArguments, _: Progress | None = None, *, who: str
    ) -> KeyView:
        if not arguments.version:
            raise OperatorError("say which version: `gateway keys list` shows those that wait")
        key = await self._room.activate(
            arguments.owner, arguments.purpose, arguments.version, who=who
        )
        return self._view(key)

    async def rotate(
        self, arguments: KeyArguments, _: Progress | None = None, *, who: str
    ) -> KeyView:
        return self._view(await self._room.rotate(arguments.owner, arguments.purpose, who=who))

    async def rollback(
        self, arguments: KeyArguments, _: Progress | None = None, *, who: str
    ) -> KeyView:
        return self._view(await self._room.rollback(arguments.owner, arguments.purpose, who=who))

    async def export(self, arguments: ExportArguments, _: Progress | None = None) -> Exported:
        key = self._room.find(arguments.owner, arguments.purpose, arguments.version)
        master = self._master(arguments)
        wrapped = self._room.export(key, master, arguments.form)
        text = wrapped.decode() if arguments.form.startswith("tr31") else wrapped.hex().upper()
        return {
            "key": self._view(key),
            "under": self._view(master),
            "form": arguments.form.value,
            "wrapped": text,
        }

    async def destroy(
        self, arguments: DestroyArguments, _: Progress | None = None, *, who: str
    ) -> dict[str, list[KeyView]]:
        gone = await self._room.destroy(
            arguments.owner, purpose=arguments.purpose, version=arguments.version, who=who
        )
        return {"destroyed": [self._view(key) for key in gone]}

    async def rewrap(
        self, arguments: RewrapArguments, progress: Progress | None = None
    ) -> dict[str, object]:
        """Change the key-encryption key to [keys.kek_next]; goes on where it was cut off."""
        source = None if self._room.holdings.own.rewrapping else self._next_source(arguments)
        done = await rewrap(self._room, source, progress=progress)
        self._emit(Event.KEK_CHANGED, kek=done.kek, former=done.former, keys=done.keys)
        return {
            "kek": done.kek,
            "former": done.former,
            "keys": done.keys,
            "resumed": done.resumed,
        }

    def _next_source(self, arguments: RewrapArguments) -> KekSource | None:
        settings = self._room.settings
        if settings.kek_next is None:
            return None
        components = [
            kek_component(one.component.get_secret_value(), one.check_value, where=f"part {number}")
            for number, one in enumerate(arguments.components, start=1)
        ]
        return source_of(
            settings.kek_next,
            self._resolve(settings.keyring),
            self._resolve,
            ask=(lambda _: components) if components else None,
            what="keys.kek_next",
        )

    def _master(self, arguments: MasterArguments) -> StoredKey:
        return self._room.master(arguments.master_owner, arguments.master_purpose)

    def _view(self, key: StoredKey) -> KeyView:
        return view(key, self._room.now_ms())


def _wanted(arguments: MakeArguments) -> NewKey:
    return NewKey(
        owner=arguments.owner,
        purpose=arguments.purpose,
        algorithm=arguments.algorithm,
        start_ms=arguments.start_ms,
        end_ms=arguments.end_ms,
        pending=arguments.pending,
    )


def _without_value(exported: Exported) -> object:
    """What the audit log is told of an export: which bytes left, by their hash."""
    digest = hashlib.sha256(exported["wrapped"].encode()).hexdigest()
    return {**exported, "wrapped": f"sha256:{digest}"}
