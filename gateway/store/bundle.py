"""Bundle: one file that holds a backup's files, and last of all what each of them must be."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import secrets
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from pydantic import TypeAdapter, ValidationError

from gateway.errors import OperatorError
from gateway.store.bundle_stream import BOUNDS, Bounds, members
from gateway.store.snapshot import Pace, Progress, StoreFacts

FORMAT = 1
MANIFEST = "manifest.json"
STORE = "store/gateway.db"
KEYRING = "keys/keyring.json"
AUDIT = "audit/"
CONFIG = "config/"
_PATHS = ("config", "store", "keyring", "audit")
_CHUNK_BYTES = 1 << 20
_MANIFEST_BYTES_MAX = 1 << 26
_COMPRESSION = 1  # the most it may cost beside payments
_NAME = re.compile(r"(store|keys|audit|config)(/[A-Za-z0-9_@+=,-][A-Za-z0-9_.@+=,-]*)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file of the bundle."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle holds, and of which gateway and moment."""

    format: int
    gateway: str  # the version that wrote it
    node: str
    taken_ms: int  # what was committed before is in it
    config_version: str
    # As the configuration writes them: "config" is the file's own name, the others as they stand.
    paths: Mapping[str, str]
    store: StoreFacts
    audit_seq: int  # the last record of the audit log that is in it
    audit_hash: str
    left_out: tuple[str, ...]  # what has to be kept elsewhere, and why
    files: tuple[Member, ...]

    def member(self, name: str) -> Member | None:
        """The file of this name; None where the bundle has none."""
        return next((one for one in self.files if one.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


_FORMAT: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
_MANIFEST = TypeAdapter(Manifest)


class BundleWriter:
    """Writes a bundle beside its place, readable by its owner alone, and puts it there whole."""

    def __init__(self, file: Path, *, pace: Pace) -> None:
        """Raises OperatorError where it cannot be written, or something is there."""
        self.file = file
        self._pace = pace
        self._draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
        self._members: list[Member] = []
        try:
            if file.exists():
                raise OperatorError(f"{file}: is there already; a backup replaces nothing")
            descriptor = os.open(
                self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise _unwritable(file, error) from None
        self._raw = os.fdopen(descriptor, "wb")
        self._hashed = _Hashed(self._raw)
        self._zip = gzip.GzipFile(
            filename="",
            fileobj=cast("IO[bytes]", self._hashed),
            mode="wb",
            compresslevel=_COMPRESSION,
            mtime=0,
        )
        self._tar = tarfile.TarFile(fileobj=self._zip, mode="w", format=tarfile.PAX_FORMAT)

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(self._members)

    def add(
        self, name: str, content: bytes | IO[bytes], size: int, progress: Progress | None = None
    ) -> None:
        """Add a file of so many bytes; raises OperatorError."""
        if not is_name(name):
            raise OperatorError(f"{name!r}: not a name that a backup can hold")
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        paced = _Paced(source, size, pace=self._pace, progress=progress)
        try:
            self._tar.addfile(_entry(name, size), cast("IO[bytes]", paced))
        except OSError as error:
            if error.errno is None:
                raise OperatorError(f"{name}: has become shorter while it was read") from None
            raise _unwritable(self.file, error) from None
        self._members.append(Member(name=name, bytes=size, sha256=paced.sha256))

    def finish(self, manifest: Manifest) -> str:
        """Add the manifest, and put the bundle in its place; returns the SHA-256 of the file.

        On return it is on the disk. Raises OperatorError.
        """
        content = json.dumps(manifest.to_json(), indent=1).encode() + b"\n"
        try:
            self._tar.addfile(_entry(MANIFEST, len(content)), io.BytesIO(content))
            self._tar.close()
            self._zip.close()
            self._raw.flush()
            os.fsync(self._raw.fileno())
            self._raw.close()
            # A link, unlike a rename, refuses to replace what came there meanwhile.
            os.link(self._draft, self.file)
            self._draft.unlink()
            sync_folder(self.file.parent)
        except OSError as error:
            raise _unwritable(self.file, error) from None
        return self._hashed.sha256

    def abandon(self) -> None:
        """Leave nothing of what was not finished."""
        with contextlib.suppress(OSError):
            self._raw.close()
        with contextlib.suppress(OSError):
            self._draft.unlink()


class _Hashed:
    """Writes to a file and takes the hash of what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.flush = file.flush

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return self._file.write(data)


class _Paced:
    """Reads a file's first bytes with pauses, takes their hash, and tells how far it is."""

    def __init__(
        self, source: IO[bytes], size: int, *, pace: Pace, progress: Progress | None
    ) -> None:
        self._source = source
        self._size = size
        self._pace = pace
        self._progress = progress
        self._done = 0
        self._unpaused = 0
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def read(self, count: int) -> bytes:
        data = self._source.read(count)
        self._digest.update(data)
        self._done += len(data)
        self._unpaused += len(data)
        if self._unpaused >= _CHUNK_BYTES:
            self._unpaused = 0
            if self._progress is not None:
                self._progress(self._done, self._size)
            self._pace.pause()
        return data


def read(file: Path, *, into: Path | None = None, bounds: Bounds = BOUNDS) -> Manifest:
    """Go through a whole bundle: every file in it is what its manifest says, or it is refused.

    With `into` the files are written into that folder, each under its name, synced. Raises
    OperatorError where the bundle is not whole, was changed, holds more than `bounds` allow, or
    is of a format not known here.
    """
    found: dict[str, Member] = {}
    content = b""
    try:
        with file.open("rb") as opened:
            for entry, source in members(file, opened, into=into, bounds=bounds):
                name = entry.name
                if name in found:
                    raise OperatorError(f"{file}: holds {name!r} twice")
                if content or not (name == MANIFEST or is_name(name)):
                    raise OperatorError(f"{file}: {name!r} does not belong in a backup")
                if name != MANIFEST:
                    found[name] = _taken(source, name, into)
                elif entry.size > _MANIFEST_BYTES_MAX:
                    raise OperatorError(
                        f"{file}: {MANIFEST} has {entry.size} bytes, and {_MANIFEST_BYTES_MAX} at"
                        " most"
                    )
                else:
                    content = b"".join(iter(partial(source.read, _CHUNK_BYTES), b""))
    # Tarfile lets through what int() and its like make of the words in a header.
    except (
        EOFError,
        zlib.error,
        gzip.BadGzipFile,
        tarfile.TarError,
        RecursionError,
        ValueError,
    ) as error:
        raise OperatorError(f"{file}: is no whole backup: {error}") from None
    except OSError as error:
        raise OperatorError(f"{file}: cannot be read: {error.strerror or error}") from None
    if not content:
        raise OperatorError(f"{file}: is no whole backup: its end with the manifest is missing")
    manifest = _parsed(file, content)
    _compare(file, manifest, found)
    return manifest


def _taken(source: IO[bytes], name: str, into: Path | None) -> Member:
    digest = hashlib.sha256()
    count = 0
    with contextlib.ExitStack() as stack:
        target = None
        if into is not None:
            path = into / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            target = stack.enter_context(os.fdopen(descriptor, "wb"))
        while data := source.read(_CHUNK_BYTES):
            digest.update(data)
            count += len(data)
            if target is not None:
                target.write(data)
        if target is not None:
            target.flush()
            os.fsync(target.fileno())
    return Member(name=name, bytes=count, sha256=digest.hexdigest())


def _parsed(file: Path, content: bytes) -> Manifest:
    try:
        known = _FORMAT.validate_json(content).get("format")
        if known != FORMAT:
            raise OperatorError(
                f"{file}: format {known!r} is not known here, only {FORMAT}; "
                "restore it with the version that wrote it"
            )
        manifest = _MANIFEST.validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise OperatorError(f"{file}: {MANIFEST} cannot be read: {place}: {first['msg']}") from None
    _check_paths(file, manifest.paths)
    return manifest


def _check_paths(file: Path, paths: Mapping[str, str]) -> None:
    """Each is one that a configuration can have; `audit` may be empty."""
    for key in _PATHS:
        path = paths.get(key, "")
        if not (path or (key == "audit" and key in paths)) or not path.isprintable():
            raise OperatorError(f"{file}: {MANIFEST} cannot be read: paths.{key} is no path")
    if Path(paths["config"]).name != paths["config"]:
        raise OperatorError(f"{file}: {MANIFEST} cannot be read: paths.config is no file's name")


def check_sha256(file: Path, expected: str) -> None:
    """Raises OperatorError where a file's SHA-256, in hex, is another than was kept of it."""
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise OperatorError(f"{file}: cannot be read: {error.strerror}") from None
    if found != expected.strip().lower():
        raise OperatorError(
            f"{file}: is not the file that was kept account of: its SHA-256 is {found}; find the"
            " right one, or look into who changed it"
        )


def _compare(file: Path, manifest: Manifest, there: dict[str, Member]) -> None:
    for wanted in manifest.files:
        member = there.pop(wanted.name, None)
        if member is None:
            raise OperatorError(f"{file}: {wanted.name} is missing")
        if member != wanted:
            raise OperatorError(
                f"{file}: {wanted.name} is not what was backed up: {member.bytes} bytes with"
                f" SHA-256 {member.sha256}, and the manifest says {wanted.bytes} bytes with"
                f" {wanted.sha256}; take another backup"
            )
    if there:
        raise OperatorError(f"{file}: {next(iter(there))} is not in its manifest")


def is_name(name: str) -> bool:
    """Whether a bundle can hold a file of this name."""
    return _NAME.fullmatch(name) is not None


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o600
    return entry


def _unwritable(file: Path, error: OSError) -> OperatorError:
    return OperatorError(f"{file}: cannot be written: {error.strerror or error}")
