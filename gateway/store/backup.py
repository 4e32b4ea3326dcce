"""Backup: the store, the wrapped keys, the audit log and the configuration in one file."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway import __version__
from gateway.errors import OperatorError
from gateway.settings.loader import Configuration, audit_folder
from gateway.settings.sources import certificate_files, files_of
from gateway.store import bundle, snapshot
from gateway.store.bundle import BundleWriter, Manifest
from gateway.store.snapshot import Pace, Progress
from gateway.telemetry.audit_chain import EMPTY, Head, canonical, parse
from gateway.telemetry.audit_files import HEAD_FILE, chain_files, read_head

_WRAPPED_FROM = 2  # a keyring file of an earlier format holds its keys in the clear
_SECRETS = (b"PRIVATE KEY",)
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A backup that is on the disk."""

    file: Path
    bytes: int
    sha256: str
    manifest: Manifest


def make(
    configuration: Configuration,
    file: Path,
    *,
    pace: Pace,
    wall_ms: Callable[[], int],
    progress: Progress = lambda *_: None,
) -> Made:
    """Write a backup of what the configuration names, while it is in use or not; blocks.

    Audit records are taken after the store, so that each change in the store has its record. No
    key-encryption key, private key or passphrase is in it. `progress` is told bytes done and in
    all. Raises OperatorError, and what the pace's `check` does: nothing of it stays then.
    """
    settings = configuration.settings
    store = configuration.resolve(settings.store.path)
    if not store.exists():
        raise OperatorError(f"{store}: there is no store to back up")
    writer = BundleWriter(file, pace=pace)
    copied = file.with_name(f".{file.name}.{secrets.token_hex(4)}.db")
    try:
        taken_ms = wall_ms()
        keyring = configuration.resolve(settings.keys.keyring)
        wrapped_under = _key_encryption_keys(keyring)
        snapshot.copy(store, copied, pace=pace, progress=_half(progress, first=True))
        facts = snapshot.facts_of(copied, pace=pace)
        with copied.open("rb") as content:
            writer.add(bundle.STORE, content, facts.bytes, _half(progress, first=False))
        left_out = _add_keyring(writer, keyring)
        if not wrapped_under <= _key_encryption_keys(keyring):
            # Keys in the copy are under one that the keyring says nothing of any more.
            raise OperatorError(
                "the key-encryption key was changed (`gateway keys rewrap`) while the store was"
                " being copied: make the backup again"
            )
        head = _add_audit(writer, audit_folder(configuration))
        left_out += _add_configuration(writer, configuration)
        manifest = Manifest(
            format=bundle.FORMAT,
            gateway=__version__,
            node=settings.node.name,
            taken_ms=taken_ms,
            config_version=configuration.version,
            paths={
                "config": configuration.file.name,
                "store": settings.store.path,
                "keyring": settings.keys.keyring,
                "audit": settings.audit.folder or "",
            },
            store=facts,
            audit_seq=head.seq,
            audit_hash=head.hash,
            left_out=tuple(left_out),
            files=writer.members,
        )
        sha256 = writer.finish(manifest)
    except OSError as error:
        raise OperatorError(f"{error.filename}: cannot be read: {error.strerror}") from None
    finally:
        writer.abandon()
        for path in (copied, copied.with_name(copied.name + "-journal")):
            path.unlink(missing_ok=True)
    return Made(file=file, bytes=file.stat().st_size, sha256=sha256, manifest=manifest)


def _half(progress: Progress, *, first: bool) -> Progress:
    """Copying is one half of the work, packing the other."""

    def told(done: int, total: int) -> None:
        progress(done if first else total + done, 2 * total)

    return told


def _key_encryption_keys(keyring: Path) -> frozenset[str]:
    """The names of what a keyring file says that keys are wrapped under."""
    try:
        named = json.loads(keyring.read_bytes())["key_encryption_keys"]
        return frozenset(str(one["name"]) for one in named)
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def _add_keyring(writer: BundleWriter, path: Path) -> list[str]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [f"{path}: the keyring is not there"]
    try:
        wrapped = int(json.loads(content)["format"]) >= _WRAPPED_FROM
    except (ValueError, KeyError, TypeError):
        wrapped = False
    if not wrapped:
        return [
            f"{path}: holds its keys in the clear, and a backup never does: keep a copy of it apart"
        ]
    writer.add(bundle.KEYRING, content, len(content))
    return [f"the key-encryption key of {path}: without it nothing sealed opens; keep it apart"]


# --- the audit log --------------------------------------------------------------------------------


def _add_audit(writer: BundleWriter, folder: Path) -> Head:
    """Add the chain up to its last whole record; returns the head that is in the backup."""
    for _ in range(_ATTEMPTS):
        # The head before the files: they only grow, so that it is never ahead of them.
        try:
            head = read_head(folder)
            files = [(file, _whole_lines(file)) for file in chain_files(folder)]
        except ValueError as error:
            raise OperatorError(f"{error}; `gateway audit verify` tells more") from None
        except FileNotFoundError:
            continue  # the oldest was deleted meanwhile, its time being over
        break
    else:
        raise OperatorError(f"{folder}: its oldest files were deleted meanwhile; try again")
    for file, size in files:
        with file.open("rb") as content:
            writer.add(bundle.AUDIT + file.name, content, size)
    if head is not None:
        text = canonical({"seq": head.seq, "hash": head.hash}) + b"\n"
        writer.add(bundle.AUDIT + HEAD_FILE, text, len(text))
    return _last(files) or head or EMPTY


def _whole_lines(file: Path) -> int:
    """The length of a file up to the end of its last line: more may be half written."""
    with file.open("rb") as content:
        size = content.seek(0, os.SEEK_END)
        while size:
            start = max(0, size - 65_536)
            content.seek(start)
            end = content.read(size - start).rfind(b"\n")
            if end >= 0:
                return start + end + 1
            size = start
    return 0


def _last(files: list[tuple[Path, int]]) -> Head | None:
    for file, size in reversed(files):
        with file.open("rb") as content:
            content.seek(max(0, size - 1_048_576))
            lines = content.read(size - content.tell()).splitlines()
        for line in reversed(lines):
            record = parse(line)
            if record is not None:
                return Head(record["seq"], record["hash"])
    return None


# --- the configuration ----------------------------------------------------------------------------


def _add_configuration(writer: BundleWriter, configuration: Configuration) -> list[str]:
    """Add every file that it is made of, but for what holds a private key."""
    left_out: list[str] = []
    folder = configuration.file.parent
    for file in _configuration_files(configuration):
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            continue
        if any(secret in content for secret in _SECRETS):
            left_out.append(f"{file}: holds a private key: keep a copy of it apart")
            continue
        name = name_of(file, folder)
        if name is None:
            left_out.append(f"{file}: lies outside the configuration's folder")
            continue
        if not bundle.is_name(bundle.CONFIG + name):
            left_out.append(f"{file}: has a name that a backup cannot hold: keep a copy apart")
            continue
        writer.add(bundle.CONFIG + name, content, len(content))
    return left_out


def _configuration_files(configuration: Configuration) -> Iterator[Path]:
    yield from dict.fromkeys((*files_of(configuration), *certificate_files(configuration)))


def name_of(file: Path, folder: Path) -> str | None:
    """A file's name as seen from the configuration's folder; None where it lies outside."""
    relative = os.path.relpath(file, folder)
    return None if relative.startswith("..") else relative
