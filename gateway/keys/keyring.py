"""The keyring file: named keys with purpose, version and state, readable by its owner alone."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from gateway.errors import KeyUnavailable, OperatorError

# The format says how the keys are kept: 1 is in the clear, for development. A later one wraps them
# under a key-encryption key, and is told apart by its number.
FORMAT = 1
KEY_BYTES = 32
VERSION_MAX = 65_535  # a sealed value names its key's version in two bytes


class Purpose(StrEnum):
    """What a key is for; a key serves no other purpose than its own."""

    STORE_DATA = "store-data"
    CARD_TOKEN = "card-token"  # noqa: S105 (a name, no secret)
    CONTENT = "content"


ALGORITHMS = {
    Purpose.STORE_DATA: "AES-256-GCM",
    Purpose.CARD_TOKEN: "HMAC-SHA256",
    Purpose.CONTENT: "HMAC-SHA256",
}


class KeyState(StrEnum):
    """ACTIVE makes new values; RETIRED only reads what it made before."""

    ACTIVE = "active"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One version of a key; its repr does not show the material."""

    purpose: Purpose
    version: int
    state: KeyState
    created: str  # ISO 8601, UTC
    material: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """What the key is called where people read of it: `store-data.1`."""
        return f"{self.purpose.value}.{self.version}"


class Keyring:
    """The keys of one gateway; exactly one of each purpose is active."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[Key]) -> None:
        """Raises OperatorError where a purpose lacks its one active key, or a name occurs twice."""
        self._keys: dict[tuple[Purpose, int], Key] = {}
        for key in keys:
            if (key.purpose, key.version) in self._keys:
                raise OperatorError(f"keyring: {key.name} occurs twice")
            self._keys[key.purpose, key.version] = key
        for purpose in Purpose:
            active = [k for k in self.of(purpose) if k.state is KeyState.ACTIVE]
            if len(active) != 1:
                raise OperatorError(
                    f"keyring: {len(active)} active keys for {purpose.value}, and it takes one"
                )

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Keyring:
        """Write a new keyring file of mode 0600 with one random key to each purpose.

        Returns the keyring; raises OperatorError where the file exists or cannot be written.
        """
        created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        keyring = cls(
            Key(
                purpose=purpose,
                version=1,
                state=KeyState.ACTIVE,
                created=created,
                material=secrets.token_bytes(KEY_BYTES),
            )
            for purpose in Purpose
        )
        try:
            _write_new(Path(path), keyring._text())
        except FileExistsError:
            raise OperatorError(f"{path}: exists already; a keyring is not overwritten") from None
        except OSError as error:
            raise OperatorError(f"{path}: cannot be written: {error.strerror}") from None
        return keyring

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Keyring:
        """The keyring in a file.

        Raises OperatorError where the file is absent, readable by others than its owner, or not a
        keyring of a format known here.
        """
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
                data = file.read()
        except FileNotFoundError:
            raise OperatorError(
                f"{path}: no keyring; `create = true` under [keys] makes one for development"
            ) from None
        except OSError as error:
            raise OperatorError(f"{path}: cannot be read: {error.strerror}") from None
        if mode & 0o077:
            raise OperatorError(
                f"{path}: mode {mode:04o} lets others at the keys; `chmod 600 {path}` stops it"
            )
        try:
            return cls(_parse(json.loads(data)))
        except OperatorError as error:
            raise OperatorError(f"{path}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            # The cause is not chained: its text could quote the file.
            raise OperatorError(f"{path}: not a keyring file") from None

    def active(self, purpose: Purpose) -> Key:
        """The key that new values of a purpose are made under."""
        return next(k for k in self.of(purpose) if k.state is KeyState.ACTIVE)

    def get(self, purpose: Purpose, version: int) -> Key:
        """One version of a purpose's key; raises KeyUnavailable where it is not in the ring."""
        try:
            return self._keys[purpose, version]
        except KeyError:
            raise KeyUnavailable(f"key {purpose.value}.{version} is not in the keyring") from None

    def of(self, purpose: Purpose) -> list[Key]:
        """Every version of a purpose's key, the oldest first."""
        keys = [key for key in self._keys.values() if key.purpose is purpose]
        return sorted(keys, key=lambda key: key.version)

    def __repr__(self) -> str:
        return f"<Keyring {' '.join(key.name for key in self._keys.values())}>"

    def _text(self) -> bytes:
        keys = [
            {
                "name": key.purpose.value,
                "version": key.version,
                "purpose": key.purpose.value,
                "algorithm": ALGORITHMS[key.purpose],
                "state": key.state.value,
                "created": key.created,
                "material": base64.b64encode(key.material).decode(),
            }
            for key in self._keys.values()
        ]
        return json.dumps({"format": FORMAT, "keys": keys}, indent=2).encode() + b"\n"


def _parse(document: Any) -> list[Key]:
    if document["format"] != FORMAT:
        raise OperatorError(
            f"format {document['format']!r} is not known here, only {FORMAT}; "
            "a newer gateway wrote it"
        )
    return [_parse_key(entry) for entry in document["keys"]]


def _parse_key(entry: Any) -> Key:
    purpose = Purpose(entry["purpose"])
    version = entry["version"]
    if type(version) is not int or not 1 <= version <= VERSION_MAX:
        raise OperatorError(f"a version of {purpose.value} is not a number from 1 to {VERSION_MAX}")
    if entry["algorithm"] != ALGORITHMS[purpose]:
        raise OperatorError(f"{purpose.value}.{version}: algorithm is not {ALGORITHMS[purpose]}")
    try:
        material = base64.b64decode(entry["material"], validate=True)
    except binascii.Error:
        material = b""
    if len(material) != KEY_BYTES:
        raise OperatorError(f"{purpose.value}.{version}: the key is not {KEY_BYTES} bytes long")
    return Key(
        purpose=purpose,
        version=version,
        state=KeyState(entry["state"]),
        created=str(entry["created"]),
        material=material,
    )


def _write_new(path: Path, data: bytes) -> None:
    """Write a file that others cannot read, whole or not at all; raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        # A link, unlike a rename, refuses to replace what is there.
        os.link(draft, path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
