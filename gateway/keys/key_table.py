"""KeyTable: every key that the store holds, in memory, by owner and purpose."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import Final

from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys.key_life import KeyEvent, moved, why_not, works
from gateway.keys.records import KeyPurpose, StoredKey, StoredKeyState

_Versions = tuple[StoredKey, ...]  # of an owner's purpose, the newest first

_REMEDIES: Final = {
    KeyPurpose.PIN: "the terminal has to sign on",
    KeyPurpose.MAC: "the terminal has to sign on",
    KeyPurpose.DATA: "the terminal has to sign on",
}
_ACTIVE: Final = StoredKeyState.ACTIVE  # reached as a member it costs 50 ns each time
_IMPORT: Final = "`gateway keys import` enters one"


class KeyTable:
    """What look-ups of keys ask; the store is the truth, and is written first.

    Holds wrapped keys only. Each message asks it, so that a look-up is two dictionaries and no I/O.
    """

    __slots__ = ("_count", "_keys_max", "_owners")

    def __init__(self, keys: Iterable[StoredKey] = (), *, keys_max: int) -> None:
        """`keys_max` bounds versions of keys, destroyed ones included."""
        self._owners: dict[str, dict[KeyPurpose, _Versions]] = {}
        self._keys_max = keys_max
        self._count = 0
        self.install(*keys)

    # --- asked for each message ---

    def current(self, owner: str, purpose: KeyPurpose, now_ms: int) -> StoredKey:
        """The key to use: the newest that is active now.

        Raises KeyUnavailable, which says what is wrong and what to do.
        """
        purposes = self._owners.get(owner)
        if purposes is not None:
            for key in purposes.get(purpose, ()):
                if (
                    key.state is _ACTIVE
                    and key.start_ms <= now_ms
                    and (not key.end_ms or now_ms < key.end_ms)
                ):
                    return key
        raise self._unavailable(owner, purpose, now_ms)

    def usable(self, owner: str, purpose: KeyPurpose, now_ms: int) -> list[StoredKey]:
        """What the other side may still use: active keys and those retiring, the newest first."""
        purposes = self._owners.get(owner)
        if purposes is None:
            return []
        return [key for key in purposes.get(purpose, ()) if works(key, now_ms)]

    def pending(self, owner: str, purpose: KeyPurpose) -> StoredKey | None:
        """The newest key that was handed out and has not been used yet."""
        versions = self.versions(owner, purpose)
        return next((key for key in versions if key.state is StoredKeyState.PENDING), None)

    # --- asked now and then ---

    def versions(self, owner: str, purpose: KeyPurpose) -> tuple[StoredKey, ...]:
        """Every version of an owner's key, whatever its state, the newest first."""
        return self._owners.get(owner, {}).get(purpose, ())

    def version(self, owner: str, purpose: KeyPurpose, version: int) -> StoredKey:
        """One version of an owner's key; raises KeyUnavailable where there is none."""
        for key in self.versions(owner, purpose):
            if key.version == version:
                return key
        raise KeyUnavailable(
            f"there is no key {owner}/{purpose}.{version}; `gateway keys list {owner}` shows those"
            " that are"
        )

    def of(self, owner: str) -> list[StoredKey]:
        """Every key of an owner, by purpose, the newest version first."""
        return [key for versions in self._owners.get(owner, {}).values() for key in versions]

    def owners(self) -> list[str]:
        """Whoever has, or had, a key."""
        return list(self._owners)

    def next_version(self, owner: str, purpose: KeyPurpose) -> int:
        """The number that the next version gets: none is given twice."""
        versions = self.versions(owner, purpose)
        return versions[0].version + 1 if versions else 1

    def check_room(self, count: int = 1) -> None:
        """Raises OperatorError where so many more versions are over the bound."""
        if self._count + count > self._keys_max:
            raise OperatorError(
                f"{self._count} versions of keys are kept, and keys.keys_max is {self._keys_max}:"
                " raise it, or destroy what is not used any more"
            )

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[StoredKey]:
        for purposes in self._owners.values():
            for versions in purposes.values():
                yield from versions

    def __repr__(self) -> str:
        return f"<KeyTable {self._count} keys of {len(self._owners)} owners>"

    # --- what the store has committed ---

    def install(self, *keys: StoredKey) -> None:
        """Take up what was put into the store: new versions, and others in place of what they were.

        A destroyed one stays destroyed, as it does in the store.
        """
        for key in keys:
            purposes = self._owners.setdefault(key.owner, {})
            versions = purposes.get(key.purpose, ())
            before = next((one for one in versions if one.version == key.version), None)
            if before is None:
                self._count += 1
            elif before.state is StoredKeyState.DESTROYED:
                continue
            others = [one for one in versions if one.version != key.version]
            purposes[key.purpose] = tuple(
                sorted((*others, key), key=lambda one: one.version, reverse=True)
            )

    def destroyed(
        self, owner: str, *, at_ms: int, purposes: Collection[KeyPurpose] = ()
    ) -> list[StoredKey]:
        """Take up a `DestroyKeys`; returns what was destroyed by it, as it is now."""
        gone = [
            moved(key, KeyEvent.DESTROYED, now_ms=at_ms)
            for key in self.of(owner)
            if key.state is not StoredKeyState.DESTROYED
            and (not purposes or key.purpose in purposes)
        ]
        self.install(*gone)
        return gone

    def rewrapped(self, before: StoredKey, *, kek: str, wrapped: bytes) -> None:
        """Take up a `RewrapKey`, which changes nothing where the key is no longer as `before`."""
        for key in self.versions(before.owner, before.purpose):
            if key.version == before.version and key.wrapped and key.wrapped == before.wrapped:
                self.install(replace(key, kek=kek, wrapped=wrapped))

    def forgotten(self, owner: str, purpose: KeyPurpose, *, below_version: int) -> None:
        """Take up a `ForgetKeys`: versions that are over go, the highest stays."""
        versions = self.versions(owner, purpose)
        kept = tuple(
            key
            for index, key in enumerate(versions)
            if index == 0
            or key.version >= below_version
            or key.state not in (StoredKeyState.EXPIRED, StoredKeyState.DESTROYED)
        )
        self._count -= len(versions) - len(kept)
        if versions:
            self._owners[owner][purpose] = kept

    def _unavailable(self, owner: str, purpose: KeyPurpose, now_ms: int) -> KeyUnavailable:
        versions = self.versions(owner, purpose)
        remedy = _REMEDIES.get(purpose, _IMPORT)
        if not versions:
            return KeyUnavailable(f"{owner} has no {purpose} key: {remedy}")
        return KeyUnavailable(f"{why_not(versions[0], now_ms)}: {remedy}")
