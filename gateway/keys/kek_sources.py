"""Where the key-encryption key comes from: a passphrase, components of several people, a token."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway.errors import OperatorError
from gateway.keys.components import Component, combine, read_component
from gateway.keys.key_encryption import KEK_BYTES, AesKeyEncryption, KeyEncryption
from gateway.keys.records import KeyAlgorithm
from gateway.keys.secret_files import read_secret, write_secret

PASSPHRASE_CHARS_MIN = 12
SALT_BYTES = 16
LOG2_N_MAX = 20
_BLOCK_SIZE = 8  # scrypt's r; its p is 1
_COMPONENT_LINES = 2
KEK_ALGORITHM = KeyAlgorithm.AES_256


@dataclass(frozen=True, slots=True, kw_only=True)
class KekRecord:
    """What the keyring file says of a key-encryption key: never the key."""

    name: str
    source: str
    salt: bytes = b""  # of scrypt (RFC 7914), where the key is derived
    log2_n: int = 0


class KekSource(Protocol):
    """Something that gives a key-encryption key; it may take its time, and ask."""

    @property
    def source(self) -> str:
        """passphrase, components or pkcs11."""
        ...

    def describe(self) -> str:
        """What people know it by: the file, the token."""
        ...

    def open(self, record: KekRecord | None) -> tuple[KekRecord, KeyEncryption]:
        """The key, and what the keyring is to say of it.

        `record` is what a keyring says; None for a new one. The key may be another than the one of
        the record: names tell. Raises OperatorError.
        """
        ...


class PassphraseSource:
    """A key derived from the text of a file by scrypt (RFC 7914) with a salt of its own."""

    source = "passphrase"

    def __init__(self, file: Path, *, log2_n: int) -> None:
        self._file = file
        self._log2_n = log2_n

    def describe(self) -> str:
        """The file's path."""
        return str(self._file)

    def create_file(self) -> None:
        """Write a random passphrase of 256 bits, where there is no file; raises OperatorError."""
        try:
            write_secret(self._file, secrets.token_urlsafe(KEK_BYTES).encode() + b"\n")
        except FileExistsError:
            pass
        except OSError as error:
            raise OperatorError(f"{self._file}: cannot be written: {error.strerror}") from None

    def open(self, record: KekRecord | None) -> tuple[KekRecord, KeyEncryption]:
        """See `KekSource.open`."""
        passphrase = read_secret(
            self._file,
            "passphrase file",
            remedy="write the passphrase of the key-encryption key into it, mode 0600",
        ).strip()
        if len(passphrase) < PASSPHRASE_CHARS_MIN:
            raise OperatorError(
                f"{self._file}: the passphrase has {len(passphrase)} characters, and it takes"
                f" {PASSPHRASE_CHARS_MIN} at least, better 30"
            )
        salt = record.salt if record is not None else secrets.token_bytes(SALT_BYTES)
        log2_n = record.log2_n if record is not None else self._log2_n
        clear = hashlib.scrypt(
            passphrase,
            salt=salt,
            n=1 << log2_n,
            r=_BLOCK_SIZE,
            p=1,
            maxmem=(256 << log2_n) * _BLOCK_SIZE,
            dklen=KEK_BYTES,
        )
        kek = AesKeyEncryption(clear, source=self.source)
        return KekRecord(name=kek.name, source=self.source, salt=salt, log2_n=log2_n), kek


class ComponentFilesSource:
    """Two or three files of mode 0600 or 0400, each with a component and its check value."""

    source = "components"

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(files)

    def describe(self) -> str:
        """The files' paths."""
        return ", ".join(map(str, self._files))

    def open(self, record: KekRecord | None) -> tuple[KekRecord, KeyEncryption]:
        """See `KekSource.open`."""
        return _of_components([_component_in(file) for file in self._files])


class AskedComponentsSource:
    """Components that are asked for: `ask` is called once, and gives them all."""

    source = "components"

    def __init__(self, ask: Callable[[], Sequence[Component]]) -> None:
        self._ask = ask

    def describe(self) -> str:
        """What people are told."""
        return "the components that were entered"

    def open(self, record: KekRecord | None) -> tuple[KekRecord, KeyEncryption]:
        """See `KekSource.open`."""
        return _of_components(self._ask())


class TokenSource:
    """A key inside a token; `open_token` logs in and gives it."""

    source = "pkcs11"

    def __init__(self, open_token: Callable[[], KeyEncryption], *, description: str) -> None:
        self._open_token = open_token
        self._description = description

    def describe(self) -> str:
        """The token's label."""
        return self._description

    def open(self, record: KekRecord | None) -> tuple[KekRecord, KeyEncryption]:
        """See `KekSource.open`."""
        kek = self._open_token()
        return KekRecord(name=kek.name, source=self.source), kek


def kek_component(text: str, stated: str, *, where: str) -> Component:
    """A component of a key-encryption key: 64 hex digits and its check value.

    Raises OperatorError.
    """
    return read_component(text, stated, KEK_ALGORITHM, where=where)


def _of_components(components: Sequence[Component]) -> tuple[KekRecord, KeyEncryption]:
    kek = AesKeyEncryption(combine(components), source="components")
    return KekRecord(name=kek.name, source="components"), kek


def _component_in(file: Path) -> Component:
    component, check_value = component_lines(file)
    return kek_component(component, check_value, where=str(file))


def component_lines(file: Path) -> tuple[str, str]:
    """What a component file says: the component in hex digits, and its check value.

    Raises OperatorError where it is absent, open to others, or does not have these two lines.
    """
    content = read_secret(file, "component file", remedy="its holder brings it")
    lines = [line.strip() for line in content.decode("ascii", "replace").splitlines()]
    said = [line for line in lines if line and not line.startswith("#")]
    if len(said) != _COMPONENT_LINES:
        raise OperatorError(
            f"{file}: {len(said)} lines, and a component file has two: the component in hex digits,"
            " and its check value"
        )
    return said[0], said[1]
