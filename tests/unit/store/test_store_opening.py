from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from gateway.errors import OperatorError
from gateway.store.migrations import MIGRATIONS, migrate, version_of
from tests.support.stores import a_transaction, opened


async def test_the_names_of_a_new_store_are_on_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    folder = tmp_path / "var" / "lib"
    async with opened(folder / "s"):
        named_in = (tmp_path, tmp_path / "var", folder)
        assert {one.stat().st_ino for one in named_in} <= synced


async def test_files_and_folder_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "gateway.db"
    async with opened(path) as store:
        await store.intend(a_transaction(1))
        modes = {found.name: found.stat().st_mode & 0o777 for found in path.parent.iterdir()}
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert set(modes) == {"gateway.db", "gateway.db-wal", "gateway.db-shm", "gateway.db.lock"}
    assert set(modes.values()) == {0o600}


async def test_a_file_that_others_could_read_no_longer_is_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.touch(0o644)
    async with opened(path):
        assert path.stat().st_mode & 0o777 == 0o600


async def test_a_second_opener_is_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with opened(path):
        with pytest.raises(OperatorError, match=f"in use by process {os.getpid()};"):
            async with opened(path):
                pass
    async with opened(path):
        pass


async def test_another_process_has_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    script = (
        "import fcntl, os, sys\n"
        "lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "os.pwrite(lock, b'%d\\n' % os.getpid(), 0)\n"
        "print('has it', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(  # noqa: ASYNC220 (nothing else runs in this loop)
        [sys.executable, "-c", script, f"{path}.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(OperatorError, match=f"in use by process {other.pid};"):
            async with opened(path):
                pass
    async with opened(path):
        pass


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"certainly not a database, and long enough to be told from one" * 20)
    with pytest.raises(OperatorError, match="cannot be opened"):
        async with opened(path):
            pass
    path.unlink()
    async with opened(path):  # the lock was let go
        pass


async def test_a_path_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="cannot be opened"):
        async with opened(tmp_path / "file" / "s"):
            pass


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with opened(path):
        pass
    database = apsw.Connection(str(path))
    assert version_of(database) == len(MIGRATIONS)
    database.pragma("user_version", len(MIGRATIONS) + 1)
    database.close()
    with pytest.raises(OperatorError, match=r"schema 2, .* up to 1: run the newer gateway"):
        async with opened(path):
            pass


def test_steps_are_taken_from_where_a_database_stands() -> None:
    database = apsw.Connection(":memory:")
    steps = ("CREATE TABLE one (a); INSERT INTO one VALUES (1)", "ALTER TABLE one ADD COLUMN b")
    migrate(database, steps[:1])
    assert version_of(database) == 1
    migrate(database, steps)
    assert version_of(database) == 2
    assert database.execute("SELECT a, b FROM one").fetchall() == [(1, None)]
    migrate(database, steps)
    assert version_of(database) == 2


def test_a_step_that_fails_leaves_the_one_before() -> None:
    database = apsw.Connection(":memory:")
    steps = ("CREATE TABLE one (a)", "CREATE TABLE two (a); CREATE TABLE one (b)")
    with pytest.raises(apsw.SQLError):
        migrate(database, steps)
    assert version_of(database) == 1
    assert database.execute("SELECT name FROM sqlite_schema").fetchall() == [("one",)]


async def test_a_new_database_comes_to_the_same_schema_step_by_step(tmp_path: Path) -> None:
    database = apsw.Connection(":memory:")
    for count in range(len(MIGRATIONS) + 1):
        migrate(database, MIGRATIONS[:count])
        assert version_of(database) == count
    schema = "SELECT type, name, sql FROM sqlite_schema ORDER BY name"
    async with opened(tmp_path / "s") as store:
        assert await store._read(schema) == database.execute(schema).fetchall()
