"""A backup is put in place whole: STANs ahead, what it owes marked, and nothing overwritten."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile, copytree
from types import SimpleNamespace
from typing import IO, cast

import pytest
import trio

from gateway.clock import VirtualClock
from gateway.errors import OperatorError
from gateway.settings.loader import Configuration, load
from gateway.settings.schema_backup import Restore
from gateway.store import backup
from gateway.store.backup import Made
from gateway.store.snapshot import Pace
from gateway.store.sqlite import SqliteStore
from gateway.store.store import ReserveStans, State
from gateway.telemetry.audit import AuditLog, opened
from gateway.telemetry.audit_chain import EMPTY, Who
from gateway.telemetry.audit_files import chain_files
from gateway.telemetry.audit_reader import records, verify
from gateway.transactions import restoring
from gateway.transactions.gaps import Gaps
from gateway.transactions.restoring import Place, Restored
from gateway.upstreams.stan import BLOCK, BLOCKS, StanRing
from tests.support.fake_store import FakeStore
from tests.support.small_config import CONFIG
from tests.support.stores import a_transaction, settled

ADA = Who(name="ada", origin="command")
NOW_MS = 1_700_000_600_000
CLOCK = VirtualClock(NOW_MS)
SETTINGS = Restore(stans_ahead=2_000)


def unheard(*_: object, **__: object) -> None:
    """Nobody listens."""


async def open_store(path: Path) -> SqliteStore:
    return await SqliteStore.open(path, queue_max=1_000, batch_max=100, emit=unheard)


async def audited(folder: Path, *actions: str, file_bytes_max: int = 1 << 20) -> None:
    log = AuditLog(
        folder,
        node="n",
        clock=CLOCK,
        emit=unheard,
        file_bytes_max=file_bytes_max,
        files_kept=10,
        waiting_max=10,
    )
    async with opened(log) as audit:
        for action in actions:
            await audit.record(action, who=ADA)


def configured(folder: Path) -> Configuration:
    folder.mkdir()
    (folder / "gateway.toml").write_text(CONFIG)
    (folder / "keyring.json").write_text(json.dumps({"format": 2, "keys": []}))
    return load(folder / "gateway.toml")


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


async def a_gateway(folder: Path) -> Configuration:
    """Two transactions, the second without an outcome; STANs up to 1,999; two audit records."""
    configuration = configured(folder)
    store = await open_store(folder / "var/gateway.db")
    await store.commit(ReserveStans("one", 0, 5), ReserveStans("one", BLOCK, 6))
    await store.intend(a_transaction(1))
    await store.commit(settled(1))
    await store.intend(a_transaction(2))
    await store.aclose()
    await audited(folder / "var/audit", "first", "second")
    return configuration


async def a_backup(folder: Path, **more: Callable[[], object]) -> Made:
    configuration = await a_gateway(folder)
    pace = Pace(step_pages=2, pause_s=0.0, **more)
    return backup.make(configuration, folder.parent / "b", pace=pace, wall_ms=lambda: NOW_MS)


async def put(file: Path, folder: Path) -> Restored:
    with restoring.unpacked(file, folder) as (looked, staging):
        return await restoring.restore(
            looked,
            staging,
            restoring.in_folder(looked.manifest, folder),
            settings=SETTINGS,
            sha256="00",
            who=ADA,
            clock=CLOCK,
            emit=unheard,
        )


# --- all of it ------------------------------------------------------------------------------------


async def test_what_is_restored_owes_what_was_under_way(tmp_path: Path) -> None:
    made = await a_backup(tmp_path / "old")
    assert (made.manifest.store.open_intents, made.manifest.audit_seq) == (1, 2)
    assert made.manifest.store.stans == {"one": 1_999}
    new = tmp_path / "new"
    restored = await put(made.file, new)
    assert (restored.under_way, restored.recovered.reversals) == (1, 1)
    store = await open_store(new / "var/gateway.db")
    try:
        owed = await store.owed_reversals()
        assert [(one.transaction_id, one.upstream) for one in owed] == [(2, "one")]
        second = await store.transaction(2)
        assert second is not None
        assert second.state is State.REVERSAL_OWED
        gaps = Gaps(store=store, settings=SETTINGS, clock=CLOCK, emit=unheard)
        await gaps.restore()
        assert [(line.what, line.transaction_id) for line in gaps.lines()] == [("under_way", 2)]
        assert gaps.any
    finally:
        await store.aclose()
    verdict = verify(new / "var/audit")
    assert verdict.ok
    assert verdict.records == 4
    actions = [(one["action"], one["outcome"]) for one in records(new / "var/audit")]
    assert actions[-2:] == [("restore", "begun"), ("restore", "done")]
    # Nothing is left of the work.
    assert not [name for name in names(new) if name.startswith(".restore")]
    assert (new / "var/gateway.db").stat().st_mode & 0o777 == 0o600


async def test_the_next_stan_is_ahead_of_all_that_the_gap_may_have_issued(tmp_path: Path) -> None:
    made = await a_backup(tmp_path / "old")
    restored = await put(made.file, tmp_path / "new")
    assert restored.stans == {"one": 3_999}
    store = await open_store(tmp_path / "new/var/gateway.db")
    blocks = await store.stan_blocks("one")
    await store.aclose()
    ring = StanRing(late_max_ms=60_000)
    ring.restore([(one.first, one.reserved_ms) for one in blocks], now_ms=NOW_MS)
    assert ring.wanted(NOW_MS) == 4_000


@pytest.mark.parametrize("newest", [0, 997, 998, 999])
async def test_stans_jump_round_the_ring(newest: int) -> None:
    """What is passed over counts as used at the restore, beyond the ring's end as well."""
    store = FakeStore()
    await store.commit(ReserveStans("one", newest * BLOCK, NOW_MS + 10))  # the clock was set back
    await restoring.jump_stans(store, ["one"], stans_ahead=2_500, now_ms=NOW_MS)
    blocks = [(one.first, one.reserved_ms) for one in await store.stan_blocks("one")]
    assert len(blocks) == 4
    ring = StanRing(late_max_ms=60_000)
    ring.restore(blocks, now_ms=NOW_MS)
    assert ring.wanted(NOW_MS) == (newest + 4) % BLOCKS * BLOCK


async def test_a_store_that_changes_under_the_copy_is_copied_as_of_one_moment(
    tmp_path: Path,
) -> None:
    """What is committed meanwhile neither shows in it nor has it begin anew."""
    folder = tmp_path / "old"
    await a_gateway(folder)
    configuration = load(folder / "gateway.toml")
    store = await open_store(folder / "var/gateway.db")
    for number in range(3, 200):
        await store.intend(a_transaction(number, image=bytes(2_000)))
    steps = 0
    token = trio.lowlevel.current_trio_token()

    def meanwhile() -> None:
        nonlocal steps
        steps += 1
        if steps <= 5:
            trio.from_thread.run(store.intend, a_transaction(1_000 + steps), trio_token=token)

    pace = Pace(step_pages=8, pause_s=0.0, check=meanwhile)
    made = await trio.to_thread.run_sync(
        lambda: backup.make(configuration, tmp_path / "b", pace=pace, wall_ms=lambda: NOW_MS)
    )
    assert await store.last_transaction_id() == 1_005
    await store.aclose()
    assert made.manifest.store.last_transaction_id == 199
    assert steps > 5
    with restoring.unpacked(made.file) as (looked, _):
        assert looked.manifest.store.transactions == 199


async def test_a_backup_nobody_waits_for_leaves_nothing(tmp_path: Path) -> None:
    class Enough(Exception):
        """It is enough."""

    def check() -> None:
        raise Enough

    with pytest.raises(Enough):
        await a_backup(tmp_path / "old", check=check)
    assert names(tmp_path) == ["old"]


async def test_keys_in_the_clear_are_left_out(tmp_path: Path) -> None:
    configuration = await a_gateway(tmp_path / "old")
    (tmp_path / "old/keyring.json").write_text(json.dumps({"format": 1, "keys": []}))
    pace = Pace(step_pages=100, pause_s=0.0)
    made = backup.make(configuration, tmp_path / "b", pace=pace, wall_ms=lambda: NOW_MS)
    assert made.manifest.member("keys/keyring.json") is None
    assert "in the clear" in made.manifest.left_out[0]


async def test_a_file_of_a_strange_name_is_left_out_and_told(tmp_path: Path) -> None:
    configuration = await a_gateway(tmp_path / "old")
    lists = configuration.file.parent / "my lists"
    lists.mkdir()
    (lists / "terminals").write_text("T0000009\n")
    text = configuration.file.read_text()
    configuration.file.write_text(f'{text}\n[blocklists]\nfolder = "my lists"\n')
    made = backup.make(
        load(configuration.file),
        tmp_path / "b",
        pace=Pace(step_pages=100, pause_s=0.0),
        wall_ms=lambda: NOW_MS,
    )
    assert any("my lists" in one and "cannot hold" in one for one in made.manifest.left_out)


# --- what is refused ------------------------------------------------------------------------------


async def test_nothing_that_is_there_is_overwritten(tmp_path: Path) -> None:
    made = await a_backup(tmp_path / "old")
    for name, words in (
        ("var/gateway.db", "overwrites none"),
        ("keyring.json", "another keyring"),
        ("gateway.toml", "another configuration"),
    ):
        new = tmp_path / name.replace("/", "-")
        (new / name).parent.mkdir(parents=True)
        (new / name).write_text("mine")
        with pytest.raises(OperatorError, match=words):
            await put(made.file, new)
        assert (new / name).read_text() == "mine"
        assert name == "var/gateway.db" or not (new / "var/gateway.db").exists()


async def test_nothing_of_the_store_before_gets_into_the_restored_one(tmp_path: Path) -> None:
    """A write-ahead log that was left there would become the restored store's own."""
    made = await a_backup(tmp_path / "old")
    before = await open_store(tmp_path / "before.db")
    await before.intend(a_transaction(7))
    left = tmp_path / "new/var/gateway.db-wal"
    left.parent.mkdir(parents=True)
    copyfile(tmp_path / "before.db-wal", left)
    await before.aclose()
    with pytest.raises(OperatorError, match="-wal: belongs to the store that was there before"):
        await put(made.file, tmp_path / "new")
    left.write_bytes(b"")
    assert (await put(made.file, tmp_path / "new")).under_way == 1


async def test_a_running_gateway_keeps_its_store(tmp_path: Path) -> None:
    made = await a_backup(tmp_path / "old")
    store = await open_store(tmp_path / "new/var/gateway.db")
    try:
        (tmp_path / "new/var/gateway.db").unlink()
        with pytest.raises(OperatorError, match="a live store is not overwritten"):
            await put(made.file, tmp_path / "new")
    finally:
        (tmp_path / "new/var/gateway.db").touch()
        await store.aclose()


async def test_an_audit_log_that_goes_on_is_kept_and_another_refused(tmp_path: Path) -> None:
    made = await a_backup(tmp_path / "old")
    await audited(tmp_path / "old/var/audit", "in the gap")
    longer, other = tmp_path / "longer", tmp_path / "other"
    copytree(tmp_path / "old/var/audit", longer / "var/audit")
    await put(made.file, longer)
    actions = [one["action"] for one in records(longer / "var/audit")]
    assert actions == ["first", "second", "in the gap", "restore", "restore"]
    await audited(other / "var/audit", "somebody else's")
    with pytest.raises(OperatorError, match="another audit log"):
        await put(made.file, other)


async def test_a_changed_audit_log_in_a_backup_is_found(tmp_path: Path) -> None:
    """Even where whoever changed it has made all checksums fit."""
    folder = tmp_path / "old"
    configuration = await a_gateway(folder)
    [file] = (folder / "var/audit").glob("audit-*.jsonl")
    file.write_bytes(file.read_bytes().replace(b'"first"', b'"fiend"'))
    pace = Pace(step_pages=100, pause_s=0.0)
    made = backup.make(configuration, tmp_path / "b", pace=pace, wall_ms=lambda: NOW_MS)
    with (
        pytest.raises(OperatorError, match="the audit log in it is not whole"),
        restoring.unpacked(made.file),
    ):
        raise AssertionError("it was taken for whole")


def forged(made: Made, file: Path, extra: str = "", **changes: object) -> Path:
    """The backup with another manifest, and one file more whose checksum is in it."""
    with tarfile.open(made.file) as bundled, tarfile.open(file, "w:gz") as tar:
        for entry in bundled:
            content = cast("IO[bytes]", bundled.extractfile(entry)).read()
            if entry.name == "manifest.json":
                values = json.loads(content)
                if extra:
                    digest = hashlib.sha256(b"x").hexdigest()
                    values["files"].append({"name": extra, "bytes": 1, "sha256": digest})
                    more = tarfile.TarInfo(extra)
                    more.size = 1
                    tar.addfile(more, io.BytesIO(b"x"))
                content = json.dumps(values | changes).encode()
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file


@pytest.mark.parametrize(
    ("extra", "changes", "words"),
    [
        ("store/gateway.db-wal", {}, "'store/gateway.db-wal' does not belong"),
        ("", {"audit_seq": 0, "audit_hash": EMPTY.hash}, "its manifest says of none"),
        ("", {"audit_seq": "2"}, "manifest.json cannot be read: audit_seq: "),
        ("", {"taken_ms": None}, "manifest.json cannot be read: taken_ms: "),
        ("", {"files": [{"name": "x"}]}, "manifest.json cannot be read: files.0.bytes: "),
        ("", {"format": 2}, "restore it with the version that wrote it"),
        ("", {"paths": {}}, "paths.config is no path"),
        ("", {"paths": {"config": "../g", "store": "s", "keyring": "k", "audit": ""}}, "file's"),
        ("", {"paths": {"config": "g", "store": "a\0b", "keyring": "k", "audit": ""}}, "paths.st"),
    ],
)
async def test_a_forged_manifest_is_refused(
    extra: str, changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    made = await a_backup(tmp_path / "old")
    file = forged(made, tmp_path / "forged", extra, **changes)
    with pytest.raises(OperatorError, match=words):
        await put(file, tmp_path / "new")


@pytest.mark.parametrize("step", ["_put_others", "_put_store"])
async def test_a_restore_that_was_killed_is_done_again(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await a_backup(tmp_path / "old")
    whole = getattr(restoring, step)

    def killed(*arguments: object) -> None:
        if step == "_put_others":
            whole(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(restoring, step, killed)
    with pytest.raises(KeyboardInterrupt):
        await put(made.file, tmp_path / "new")
    assert not (tmp_path / "new/var/gateway.db").exists()
    monkeypatch.setattr(restoring, step, whole)
    assert (await put(made.file, tmp_path / "new")).under_way == 1
    assert verify(tmp_path / "new/var/audit").ok


@pytest.mark.parametrize("put_before", range(7))
async def test_a_restore_that_was_killed_between_two_files_is_done_again(
    put_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = await a_gateway(tmp_path / "old")
    audit = tmp_path / "old/var/audit"
    await audited(audit, "third", "fourth", file_bytes_max=300)
    pace = Pace(step_pages=100, pause_s=0.0)
    made = backup.make(configuration, tmp_path / "b", pace=pace, wall_ms=lambda: NOW_MS)
    assert len(chain_files(audit)) == 3
    whole, done = restoring._put, 0

    def killed(source: Path, target: Path) -> None:
        nonlocal done
        if done == put_before:
            raise KeyboardInterrupt
        done += 1
        whole(source, target)

    monkeypatch.setattr(restoring, "_put", killed)
    new = tmp_path / "new"
    if put_before < 6:  # keyring, three files, their head, configuration
        with pytest.raises(KeyboardInterrupt):
            await put(made.file, new)
        monkeypatch.setattr(restoring, "_put", whole)
    assert (await put(made.file, new)).under_way == 1
    verdict = verify(new / "var/audit")
    assert (verdict.ok, verdict.remarks, verdict.records) == (True, [], 6)


def test_paths_that_leave_the_folder_are_put_into_it_by_their_role() -> None:
    paths = {"config": "g.toml", "store": "/var/x.db", "keyring": "../k", "audit": "log"}
    manifest = SimpleNamespace(paths=paths)
    place = restoring.in_folder(manifest, Path("/new"))  # type: ignore[arg-type]
    assert place == Place(
        store=Path("/new/store/gateway.db"),
        keyring=Path("/new/keys/keyring.json"),
        audit=Path("/new/log"),
        config=Path("/new"),
        notes=place.notes,
    )
    assert len(place.notes) == 2
