"""A small disk is full when it is filled, free when it is freed, and gone with its process."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# In a process of its own, since it takes itself out of the tests' mount namespace.
SCRIPT = """
import errno, pathlib, sys
from loadtest.disks import NoDisk, SmallDisk, keep_mounts_private

folder, kept = map(pathlib.Path, sys.argv[1:])
try:
    keep_mounts_private()
    disk = SmallDisk(folder, size_bytes=4 << 20)
except NoDisk as error:
    print(f"no disk: {error}")
    raise SystemExit
(folder / "before").write_bytes(b"x" * 1000)
disk.fill()
assert disk.full and disk.free_bytes == 0
try:
    (folder / "more").write_bytes(b"x" * 100_000)
except OSError as error:
    assert error.errno == errno.ENOSPC
else:
    raise AssertionError("it was not full")
disk.free()
assert not disk.full
(folder / "more").write_bytes(b"x" * 100_000)
disk.fill()
disk.keep(kept)
print("left mounted")
"""


def test_a_disk_fills_frees_and_leaves_nothing_behind(tmp_path: Path) -> None:
    mount, kept = tmp_path / "disk", tmp_path / "kept"
    mount.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(mount), str(kept)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("no disk"):
        pytest.skip(done.stdout.strip())
    assert list(mount.iterdir()) == []
    assert sorted(path.name for path in kept.iterdir()) == ["before", "more"]
