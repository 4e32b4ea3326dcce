"""A room of keys over a store and a keyring file of a test's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.admin.key_room import KeyRoom
from gateway.admin.keys import KeyOperations
from gateway.keys.holdings import KeyHoldings
from gateway.keys.kek_sources import KekSource, PassphraseSource
from gateway.keys.own_keys import OwnKeys
from gateway.settings.schema_keys import Kek, Keys
from gateway.store.store import Store
from gateway.telemetry.events import Event
from tests.support.fake_store import FakeStore

NOW_MS = 1_800_000_000_000


@dataclass
class Wall:
    """A clock that stands where it was put."""

    ms: int = NOW_MS

    def wall_ms(self) -> int:
        return self.ms

    def monotonic_s(self) -> float:
        return self.ms / 1_000


@dataclass
class Room:
    """A room, what it is over, and what it told."""

    folder: Path
    store: Store
    wall: Wall
    settings: Keys
    holdings: KeyHoldings
    room: KeyRoom
    operations: KeyOperations
    events: list[tuple[Event, dict[str, object]]] = field(default_factory=list)

    async def run(self, operation: str, who: str = "ann", **arguments: Any) -> dict[str, Any]:
        return await self.operations.run(operation, arguments, who=who)


def passphrase_file(folder: Path, name: str = "pass", text: str = "correct horse battery") -> Path:
    """A passphrase file that only its owner can read."""
    file = folder / name
    file.write_text(text + "\n")
    file.chmod(0o600)
    return file


def source(folder: Path, name: str = "pass") -> PassphraseSource:
    """A source that is quick: scrypt's cost is as low as it goes."""
    return PassphraseSource(passphrase_file(folder, name, f"the passphrase of {name}"), log2_n=4)


def holdings_of(own: OwnKeys, keys: Any = (), *, keys_max: int = 100_000) -> KeyHoldings:
    """Holdings over an open keyring and what a store has."""
    return KeyHoldings.over(own, keys, keys_max=keys_max)


async def a_room(
    folder: Path,
    *,
    store: Store | None = None,
    sources: list[KekSource] | None = None,
    production: bool = False,
    **settings: Any,
) -> Room:
    """A room over the keyring in a folder, which is made where there is none."""
    path = folder / "keyring.json"
    sources = sources or [source(folder)]
    if not path.exists():
        OwnKeys.create(path, sources[0], now_ms=NOW_MS)
    own = OwnKeys.open(path, sources)
    store = store if store is not None else FakeStore()
    keys = Keys(
        keyring="keyring.json",
        kek_next=Kek(
            source="passphrase",
            passphrase_file=str(passphrase_file(folder, "next", "the passphrase of next")),
            scrypt_log2_n=14,
        ),
        pause_ms=0,
        **settings,
    )
    holdings = holdings_of(own, await store.keys(), keys_max=keys.keys_max)
    wall = Wall()
    events: list[tuple[Event, dict[str, object]]] = []

    def emit(event: Event, /, **fields: object) -> None:
        events.append((event, fields))

    room = KeyRoom(
        holdings=holdings,
        store=store,
        clock=wall,
        settings=lambda: keys,
        emit=emit,
        production=production,
    )
    operations = KeyOperations(
        room,
        resolve=lambda name: folder / name,
        is_enrolled=lambda terminal_id: terminal_id.startswith("T"),
        emit=emit,
    )
    return Room(folder, store, wall, keys, holdings, room, operations, events)
