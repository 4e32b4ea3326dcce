"""OwnKeys: the gateway's own keys, from the keyring file, and the key-encryption keys beside it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gateway.errors import KeyUnavailable, OperatorError
from gateway.keys.check_value import check_value
from gateway.keys.kek_sources import KekSource
from gateway.keys.key_encryption import KeyEncryption, KeyWrapping
from gateway.keys.key_life import KeyEvent, moved
from gateway.keys.keyring import KEY_BYTES, OWN_ALGORITHMS, VERSION_MAX, Key, Keyring
from gateway.keys.keyring_file import KeyringFile
from gateway.keys.records import GATEWAY, KeyPurpose, StoredKey, StoredKeyState


class OwnKeys:
    """The keyring file and what opens it; each change is in the file before it is in memory.

    Methods that write take a few milliseconds of the disk, and those that open a source what
    scrypt or a token takes: call them in a thread. Not for use by two threads at once.
    """

    def __init__(self, path: Path, file: KeyringFile, wrapping: KeyWrapping) -> None:
        self.path = path
        self.wrapping = wrapping
        self._file = file

    @classmethod
    def create(cls, path: Path, source: KekSource, *, now_ms: int) -> OwnKeys:
        """A new keyring file with one random key to each purpose, under the key of `source`.

        Raises OperatorError where the file exists or cannot be written.
        """
        record, kek = source.open(None)
        wrapping = KeyWrapping(kek)
        keys = tuple(
            _random_key(wrapping, purpose, version=1, now_ms=now_ms) for purpose in OWN_ALGORITHMS
        )
        file = KeyringFile(keks=(record,), in_force=kek.name, keys=keys)
        return cls(path, file.write(path, kek, new=True), wrapping)

    @classmethod
    def open(cls, path: Path, sources: Sequence[KekSource]) -> OwnKeys:
        """The keyring of a file, opened with what the sources give.

        Raises OperatorError where the file cannot be read, no source gives the key-encryption key
        in force, or the file was changed.
        """
        file = KeyringFile.read(path)
        found = _opened(file, sources)
        kek = found.get(file.in_force)
        if kek is None:
            raise OperatorError(_locked(path, file, sources, found))
        try:
            file.check(kek)
        except KeyUnavailable as error:
            raise OperatorError(f"{path}: {error}") from None
        others = (one for name, one in found.items() if name != kek.name)
        own = cls(path, file, KeyWrapping(kek, *others))
        try:
            own.keyring()
        except KeyUnavailable as error:
            raise OperatorError(f"{path}: {error}") from None
        return own

    def keyring(self) -> Keyring:
        """The keys in the clear, for the security module; raises KeyUnavailable, OperatorError."""
        return Keyring(
            Key(
                purpose=key.purpose,
                version=key.version,
                active=key.state is StoredKeyState.ACTIVE,
                material=self.wrapping.unwrap(key),
            )
            for key in self._file.keys
            if key.wrapped
        )

    @property
    def keys(self) -> tuple[StoredKey, ...]:
        """The gateway's own keys as the file has them, destroyed ones included."""
        return self._file.keys

    @property
    def kek_names(self) -> list[str]:
        """The key-encryption keys that the file names: one, or two while they are changed."""
        return [one.name for one in self._file.keks]

    @property
    def rewrapping(self) -> bool:
        """Whether the key-encryption key is being changed: keys may be under either."""
        return len(self._file.keks) > 1

    def next_version(self, purpose: KeyPurpose) -> int:
        """The number of the next version of an own key."""
        return max(key.version for key in self._file.keys if key.purpose is purpose) + 1

    # --- changes ----------------------------------------------------------------------------------

    def rotate(self, purpose: KeyPurpose, *, now_ms: int) -> StoredKey:
        """A new version of an own key in place of the active one, which goes on reading.

        Returns the new one. Raises OperatorError where it is no own key, or there were 65,535.
        """
        if purpose not in OWN_ALGORITHMS:
            raise OperatorError(f"{purpose} is no key of the gateway's own")
        version = self.next_version(purpose)
        if version > VERSION_MAX:
            raise OperatorError(f"{purpose} has had {VERSION_MAX} versions, and can have no more")
        new = _random_key(self.wrapping, purpose, version=version, now_ms=now_ms)
        kept = [
            # What it made is read until somebody destroys it: it has no end.
            replace(key, state=StoredKeyState.RETIRING)
            if key.purpose is purpose and key.state is StoredKeyState.ACTIVE
            else key
            for key in self._file.keys
        ]
        self._write(replace(self._file, keys=(*kept, new)))
        return new

    def destroy(self, purpose: KeyPurpose, version: int, *, now_ms: int) -> StoredKey:
        """Take a former version's value away; what it made can no longer be read.

        Returns it as it is now. Raises OperatorError where there is no such version, or it is the
        active one.
        """
        for key in self._file.keys:
            if (key.purpose, key.version) == (purpose, version):
                break
        else:
            raise OperatorError(f"there is no key {GATEWAY}/{purpose}.{version}")
        if key.state is StoredKeyState.ACTIVE:
            raise OperatorError(f"{key.name} is in use: `gateway keys rotate` comes first")
        gone = moved(key, KeyEvent.DESTROYED, now_ms=now_ms)
        self._write(
            replace(self._file, keys=tuple(gone if one is key else one for one in self._file.keys))
        )
        return gone

    def begin_rewrap(self, source: KekSource) -> str:
        """Put the key of another source in force: from now on new keys are wrapped under it.

        The own keys are, all at once; what the file says of the old key stays until
        `finish_rewrap`, since keys in the store are under it yet. Returns the new one's name.
        Raises OperatorError where it is in force already, or another change is unfinished.
        """
        record, kek = source.open(None)
        if self.rewrapping or kek.name == self._file.in_force:
            raise OperatorError(
                f"{self._file.in_force} is in force already"
                if kek.name == self._file.in_force
                else "the key-encryption key is being changed already: that comes first"
            )
        wrapping = KeyWrapping(kek, self.wrapping.in_force)
        keys = tuple(wrapping.rewrap(key) if key.wrapped else key for key in self._file.keys)
        file = replace(
            self._file, keks=(*self._file.keks, record), in_force=kek.name, keys=keys
        ).write(self.path, kek)
        # On disk: in memory too, in the object that everybody holds.
        self.wrapping.put_in_force(kek)
        self._file = file
        return kek.name

    def finish_rewrap(self) -> None:
        """Forget the former key-encryption key: no key is wrapped under it any more."""
        keks = tuple(one for one in self._file.keks if one.name == self._file.in_force)
        self._write(replace(self._file, keks=keks))
        for name in self.wrapping.names:
            self.wrapping.drop(name)

    def _write(self, file: KeyringFile) -> None:
        self._file = file.write(self.path, self.wrapping.in_force)

    def __repr__(self) -> str:
        return f"<OwnKeys {self.path} under {self._file.in_force}>"


def _random_key(
    wrapping: KeyWrapping, purpose: KeyPurpose, *, version: int, now_ms: int
) -> StoredKey:
    clear = secrets.token_bytes(KEY_BYTES)
    algorithm = OWN_ALGORITHMS[purpose]
    key = StoredKey(
        owner=GATEWAY,
        purpose=purpose,
        version=version,
        algorithm=algorithm,
        state=StoredKeyState.ACTIVE,
        start_ms=now_ms,
        check_value=check_value(algorithm, clear).hex().upper(),
    )
    return wrapping.wrap(clear, key)


def _opened(file: KeyringFile, sources: Sequence[KekSource]) -> dict[str, KeyEncryption]:
    """The key-encryption keys of a file that the sources give, by name."""
    found: dict[str, KeyEncryption] = {}
    for record in file.keks:
        for source in sources:
            if source.source == record.source and record.name not in found:
                _, kek = source.open(record)
                if kek.name == record.name:
                    found[kek.name] = kek
    return found


def _locked(
    path: Path,
    file: KeyringFile,
    sources: Sequence[KekSource],
    found: dict[str, KeyEncryption],
) -> str:
    """Why a keyring cannot be opened, and what to do about it."""
    wanted = next(one for one in file.keks if one.name == file.in_force)
    same = [one.describe() for one in sources if one.source == wanted.source]
    if same:
        why = f"what is given by {' and '.join(same)} is another key"
    else:
        why = f"[keys.kek] has no source {wanted.source!r}"
    also = f"; {', '.join(found)} is there, but no more in force" if found else ""
    return (
        f"{path}: wrapped under {wanted.name}, and {why}{also}: correct [keys.kek] (and"
        " [keys.kek_next] while the key-encryption key is being changed), or restore the keyring"
        " that belongs to it"
    )
