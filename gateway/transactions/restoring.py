"""Restoring: a backup put in its place, with STANs ahead and what it owes marked, or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from gateway.clock import Clock, iso_time
from gateway.errors import OperatorError
from gateway.settings.schema_backup import Restore
from gateway.store import bundle, snapshot
from gateway.store.bundle import Manifest, sync_folder
from gateway.store.sqlite import SqliteStore
from gateway.store.store import ReserveStans, Store
from gateway.telemetry.audit import BEGUN, DONE, AuditLog, opened
from gateway.telemetry.audit_chain import EMPTY, Head, Who
from gateway.telemetry.audit_files import chain_files
from gateway.telemetry.audit_reader import records, verify
from gateway.telemetry.events import Emit, Event
from gateway.transactions.gaps import Gap, Gaps
from gateway.transactions.recovery import Recovered, recover
from gateway.upstreams.stan import BLOCK, BLOCKS

_INTENTS_MAX = 1_000_000
_QUEUE_MAX, _BATCH_MAX = 10_000, 256
_LEFT_BESIDE = ("-wal", "-journal")  # SQLite takes what it finds there for the database's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where each part of a backup goes."""

    store: Path
    keyring: Path
    audit: Path
    config: Path | None  # the folder of the configuration; None: it is left as it is there
    notes: tuple[str, ...] = ()  # what the operator has to do besides


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What is in a backup, after each byte of it was held against its checksum."""

    file: Path
    manifest: Manifest
    audit_records: int
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was put in place."""

    looked: Looked
    place: Place
    gap: Gap
    recovered: Recovered
    under_way: int  # lines on the operators' list
    stans: dict[str, int]  # by upstream: those up to it are never issued


def in_folder(manifest: Manifest, folder: Path) -> Place:
    """The place in a folder of its own, laid out as the configuration in the backup says.

    What that names by an absolute path, or outside its own folder, is put under the folder by its
    role; the configuration then has to be told.
    """
    notes: list[str] = []

    def at(key: str, role: str) -> Path:
        written = manifest.paths[key]
        name = os.path.normpath(written)
        if not Path(name).is_absolute() and not name.startswith(".."):
            return folder / name
        notes.append(f"{key} = {written!r} in the configuration: it is restored as {role}")
        return folder / role

    store = at("store", bundle.STORE)
    keyring = at("keyring", bundle.KEYRING)
    audit = at("audit", "audit") if manifest.paths["audit"] else store.parent / "audit"
    return Place(store=store, keyring=keyring, audit=audit, config=folder, notes=tuple(notes))


@contextmanager
def unpacked(
    file: Path, beside: Path | None = None, *, sha256: str = ""
) -> Iterator[tuple[Looked, Path]]:
    """Yields what is in a backup and the folder where its files lie, which is deleted after.

    Everything is held against its checksum, the audit log against its own chain, the store against
    SQLite's check; with `sha256`, which was kept elsewhere, the whole file first. Blocks. Raises
    OperatorError where any of it is not as it was backed up, or beyond what a backup may hold.
    """
    if sha256:
        bundle.check_sha256(file, sha256)
    if beside is not None:
        beside.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        staging = Path(tempfile.mkdtemp(prefix=".restore-", dir=beside))
    except OSError as error:
        raise OperatorError(f"{beside}: cannot be written: {error.strerror}") from None
    try:
        manifest = bundle.read(file, into=staging)
        yield _look(file, manifest, staging), staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _look(file: Path, manifest: Manifest, staging: Path) -> Looked:
    facts = snapshot.facts_of(staging / bundle.STORE)
    if facts != manifest.store:
        raise OperatorError(f"{file}: the store in it holds something else than its manifest says")
    for member in manifest.files:
        if member.name.startswith(str(Path(bundle.STORE).parent)) and member.name != bundle.STORE:
            # Beside the database SQLite would take it for the database's own.
            raise OperatorError(f"{file}: {member.name!r} does not belong in a backup")
    head = Head(manifest.audit_seq, manifest.audit_hash)
    verdict = verify(staging / bundle.AUDIT, anchor=None if head == EMPTY else head)
    if head == EMPTY and verdict.records:
        raise OperatorError(f"{file}: there is an audit log in it, and its manifest says of none")
    if not verdict.ok:
        raise OperatorError(f"{file}: the audit log in it is not whole: {verdict.problems[0]}")
    return Looked(
        file=file,
        manifest=manifest,
        audit_records=verdict.records,
        remarks=tuple(str(one) for one in verdict.remarks),
    )


def check_place(looked: Looked, place: Place, staging: Path) -> None:
    """Raise OperatorError where something is in the place that is not this backup's."""
    if place.store.exists():
        raise OperatorError(
            f"{place.store}: there is a store, and a restore overwrites none; move it and its -wal"
            " and -shm aside, or restore --to another folder"
        )
    for end in _LEFT_BESIDE:
        left = place.store.with_name(place.store.name + end)
        if left.exists() and left.stat().st_size:  # who only reads leaves an empty one
            # SQLite would write what is in it into the restored store.
            raise OperatorError(
                f"{left}: belongs to the store that was there before; move it to where that is"
            )
    _check_same(place.keyring, staging / bundle.KEYRING, "keyring")
    if (
        chain_files(place.audit)
        and not _goes_on(place.audit, looked.manifest)
        and not _is_part(place.audit, staging / bundle.AUDIT)
    ):
        raise OperatorError(
            f"{place.audit}: there is another audit log, in which that of the backup does not go"
            " on; move it aside"
        )
    if place.config is not None:
        for member in looked.manifest.files:
            if member.name.startswith(bundle.CONFIG):
                name = member.name.removeprefix(bundle.CONFIG)
                _check_same(place.config / name, staging / member.name, "configuration")


def _check_same(target: Path, source: Path, what: str) -> None:
    if source.exists() and target.exists() and target.read_bytes() != source.read_bytes():
        raise OperatorError(f"{target}: there is another {what}; move it aside")


def _goes_on(folder: Path, manifest: Manifest) -> bool:
    """Whether the audit log that is there holds the last record of the backup's, and is whole.

    Then it knows of the gap, and is kept.
    """
    verdict = verify(folder)
    return verdict.ok and any(
        (record["seq"], record["hash"]) == (manifest.audit_seq, manifest.audit_hash)
        for record in records(folder)
    )


def _is_part(folder: Path, backed_up: Path) -> bool:
    """Whether nothing but files of the backup is there: a restore was killed while it put them."""
    return all(
        (backed_up / file.name).exists()
        and (backed_up / file.name).read_bytes() == file.read_bytes()
        for file in chain_files(folder)
    )


async def restore(
    looked: Looked,
    staging: Path,
    place: Place,
    *,
    settings: Restore,
    sha256: str,
    who: Who,
    clock: Clock,
    emit: Emit,
) -> Restored:
    """Put an unpacked backup in its place; the store comes last, so that before it nothing runs.

    In it the STANs are ahead and what is owed is marked before it is there at all. A restore that
    was killed may be run again. Raises OperatorError, StoreError and AuditFailed.
    """
    with _held(place.store):
        check_place(looked, place, staging)
        gap = Gap(taken_ms=looked.manifest.taken_ms, restored_ms=clock.wall_ms(), backup=sha256)
        recovered, under_way, stans = await _prepare(
            staging / bundle.STORE,
            gap,
            looked.manifest.store.stans,
            settings=settings,
            clock=clock,
            emit=emit,
        )
        await trio.to_thread.run_sync(_put_others, looked.manifest, staging, place)
        async with _audit(place.audit, looked.manifest.node, clock, emit) as audit:
            new = {
                "backup": looked.file.name,
                "sha256": sha256,
                "taken": iso_time(gap.taken_ms),
                "restored": iso_time(gap.restored_ms),
                "reversals_owed": recovered.reversals,
                "for_operators": recovered.for_operators,
                "under_way": under_way,
                "stans_from": {name: stan + 1 for name, stan in stans.items()},
            }
            subject = str(place.store)
            begun = await audit.record("restore", who=who, subject=subject, new=new, outcome=BEGUN)
            await trio.to_thread.run_sync(_put_store, staging / bundle.STORE, place.store)
            await audit.record("restore", who=who, subject=subject, outcome=DONE, refers=begun)
    return Restored(
        looked=looked,
        place=place,
        gap=gap,
        recovered=recovered,
        under_way=under_way,
        stans=stans,
    )


# --- the store --------------------------------------------------------------------------------


async def _prepare(
    database: Path,
    gap: Gap,
    upstreams: Iterable[str],
    *,
    settings: Restore,
    clock: Clock,
    emit: Emit,
) -> tuple[Recovered, int, dict[str, int]]:
    store = await SqliteStore.open(database, queue_max=_QUEUE_MAX, batch_max=_BATCH_MAX, emit=emit)
    try:
        stans = await jump_stans(
            store, upstreams, stans_ahead=settings.stans_ahead, now_ms=gap.restored_ms
        )
        gaps = Gaps(store=store, settings=settings, clock=clock, emit=emit)
        await gaps.restore()
        await gaps.open_gap(gap)
        under_way = [one for one in await store.unsettled(_INTENTS_MAX) if one.upstream]
        for transaction in under_way:
            await gaps.note_under_way(transaction, gap.restored_ms)
        recovered = await recover(store, clock=clock, emit=emit)
    finally:
        await store.aclose()
    return recovered, len(under_way), stans


async def jump_stans(
    store: Store, upstreams: Iterable[str], *, stans_ahead: int, now_ms: int
) -> dict[str, int]:
    """Reserve the next STANs of each upstream, so that what the gap may have issued is not issued.

    All of them count as used now: the ring comes round to none before answers to the gap's are out
    of the question. Returns the last STAN passed over, by upstream. Raises StoreError.
    """
    passed: dict[str, int] = {}
    for upstream in upstreams:
        blocks = sorted(await store.stan_blocks(upstream), key=lambda one: one.reserved_ms)
        newest = blocks[-1]
        first_ms = max(now_ms, newest.reserved_ms + 1)
        block = newest.first // BLOCK
        for ahead in range(-(-stans_ahead // BLOCK)):
            block = (block + 1) % BLOCKS
            await store.commit(ReserveStans(upstream, block * BLOCK, first_ms + ahead))
        passed[upstream] = block * BLOCK + BLOCK - 1
    return passed


@contextmanager
def _held(store: Path) -> Iterator[None]:
    """Keep any gateway from starting on the store meanwhile; raises OperatorError."""
    store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = store.with_name(store.name + ".lock")
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise OperatorError(
            f"{store}: a gateway runs on this store, or another restore; a live store is not"
            " overwritten"
        ) from None
    try:
        yield
    finally:
        os.close(lock)


def _put_store(source: Path, target: Path) -> None:
    if target.exists():
        raise OperatorError(f"{target}: a store came there meanwhile")
    shutil.move(source, target)
    sync_folder(target.parent)


# --- the rest ---------------------------------------------------------------------------------


def _put_others(manifest: Manifest, staging: Path, place: Place) -> None:
    keyring = staging / bundle.KEYRING
    try:
        if keyring.exists() and not place.keyring.exists():
            _put(keyring, place.keyring)
        if not _goes_on(place.audit, manifest):
            place.audit.mkdir(mode=0o700, parents=True, exist_ok=True)
            for member in manifest.files:
                if member.name.startswith(bundle.AUDIT):
                    _put(staging / member.name, place.audit / Path(member.name).name)
        if place.config is not None:
            for member in manifest.files:
                target = place.config / member.name.removeprefix(bundle.CONFIG)
                if member.name.startswith(bundle.CONFIG) and not target.exists():
                    _put(staging / member.name, target)
    except OSError as error:
        raise OperatorError(f"{error.filename}: cannot be written: {error.strerror}") from None


def _put(source: Path, target: Path) -> None:
    """Move a file into its place, whole or not at all."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.restored")
    shutil.copyfile(source, draft)
    draft.chmod(0o600)
    descriptor = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.replace(target)
    sync_folder(target.parent)


@asynccontextmanager
async def _audit(folder: Path, node: str, clock: Clock, emit: Emit) -> AsyncIterator[AuditLog]:
    log = AuditLog(
        folder,
        node=node,
        clock=clock,
        emit=emit,
        file_bytes_max=1 << 24,
        files_kept=100_000,
        waiting_max=100,
    )
    async with opened(log) as audit:
        yield audit


def unheard(event: Event, /, **fields: object) -> None:
    """No gateway runs whose log this could go to; the command says itself what it did."""
