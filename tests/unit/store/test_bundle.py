"""A backup's file: written whole or not at all, and refused where a byte of it is another."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.errors import OperatorError
from gateway.store import bundle
from gateway.store.bundle import BundleWriter, Manifest
from gateway.store.bundle_stream import Bounds
from gateway.store.snapshot import Pace, StoreFacts

PACE = Pace(step_pages=1, pause_s=0.0)
FACTS = StoreFacts(
    schema=1,
    bytes=5,
    transactions=1,
    last_transaction_id=1,
    open_intents=0,
    reversals_owed=0,
    reversals_given_up=0,
    devices=0,
    stans={"a": 999},
)


def written(file: Path, **members: bytes) -> str:
    writer = BundleWriter(file, pace=PACE)
    for name, content in (members or {"store": b"pages"}).items():
        writer.add(f"{name}/file", content, len(content))
    return writer.finish(manifest(writer))


def manifest(writer: BundleWriter) -> Manifest:
    return Manifest(
        format=bundle.FORMAT,
        gateway="1",
        node="n",
        taken_ms=1,
        config_version="v",
        paths={"config": "g.toml", "store": "s", "keyring": "k", "audit": ""},
        store=FACTS,
        audit_seq=0,
        audit_hash="",
        left_out=("a key",),
        files=writer.members,
    )


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "b"
    written(file, store=b"pages" * 500_000, keys=b"", audit=b"one\n")
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]
    found = bundle.read(file, into=tmp_path / "out")
    assert [one.name for one in found.files] == ["store/file", "keys/file", "audit/file"]
    assert (found.store, found.left_out) == (FACTS, ("a key",))
    assert (tmp_path / "out/store/file").read_bytes() == b"pages" * 500_000
    assert (tmp_path / "out/store/file").stat().st_mode & 0o777 == 0o600


def test_the_hash_that_is_told_is_the_files(tmp_path: Path) -> None:
    import hashlib

    told = written(tmp_path / "b")
    assert told == hashlib.sha256((tmp_path / "b").read_bytes()).hexdigest()


def test_nothing_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(OperatorError, match="is there already"):
        BundleWriter(tmp_path / "b", pace=PACE)
    writer = BundleWriter(tmp_path / "c", pace=PACE)
    (tmp_path / "c").write_text("came meanwhile")
    with pytest.raises(OperatorError, match="cannot be written"):
        writer.finish(manifest(writer))
    writer.abandon()
    assert (tmp_path / "c").read_text() == "came meanwhile"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b", "c"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, share: float) -> None:
    file = tmp_path / "b"
    written(file, store=bytes(range(256)) * 1_000)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(OperatorError, match="b: "):
        bundle.read(file)


def test_every_byte_counts(tmp_path: Path) -> None:
    file = tmp_path / "b"
    written(file, store=b"pages")
    tar = gzip.decompress(file.read_bytes())
    at = tar.index(b"pages")
    file.write_bytes(gzip.compress(tar[:at] + b"pagez" + tar[at + 5 :]))
    with pytest.raises(OperatorError, match="store/file is not what was backed up"):
        bundle.read(file)


def _entry(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.linkname = "/etc/passwd"
    return entry


@pytest.mark.parametrize(
    "entry",
    [
        _entry("../outside"),
        _entry("/store/file"),
        _entry("store/../../outside"),
        _entry("store/.hidden"),
        _entry("elsewhere/file"),
        _entry("store/link", tarfile.SYMTYPE),
        _entry("store/link", tarfile.LNKTYPE),
        _entry("store/device", tarfile.CHRTYPE),
    ],
)
def test_what_does_not_belong_in_it_is_never_written(
    tmp_path: Path, entry: tarfile.TarInfo
) -> None:
    file = tmp_path / "b"
    with tarfile.open(file, "w:gz") as tar:
        tar.addfile(entry, io.BytesIO())
    with pytest.raises(OperatorError, match="does not belong"):
        bundle.read(file, into=tmp_path / "in" / "out")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace(b'"format": 1', b'"format": 9'), "format 9 is not known"),
        (lambda text: text.replace(b"store/file", b"store/filf"), "missing"),
        (lambda text: text[:-20], "cannot be read"),
        (lambda text: text.replace(b'"node"', b'"edon"'), "cannot be read"),
    ],
)
def test_the_manifest_must_fit(
    tmp_path: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    file = tmp_path / "b"
    written(file)
    with tarfile.open(file) as tar:
        members = [(one.name, tar.extractfile(one)) for one in tar.getmembers()]
        content = {name: found.read() for name, found in members if found is not None}
    content[bundle.MANIFEST] = change(content[bundle.MANIFEST])
    file.unlink()
    with tarfile.open(file, "w:gz") as tar:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    with pytest.raises(OperatorError, match=words):
        bundle.read(file)


def harmful(file: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> None:
    """A bundle of members whose headers may say anything, whatever is behind them."""
    with gzip.open(file, "wb") as zipped:
        for entry, content in entries:
            zipped.write(entry.tobuf(tarfile.GNU_FORMAT))
            zipped.write(content + bytes(-len(content) % 512))
        zipped.write(bytes(1_024))


def sized(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type = size, kind
    return entry


SMALL = Bounds(files_max=3, bytes_max=5_000, of_a_file={"keys": 1_000})


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([(sized("keys/k", 1_001), b"")], "'keys/k' has 1001 bytes, and a file of keys/ has 1000"),
        (
            [(sized("store/s", 1 << 40), b"")],
            "with 'store/s' it takes 1099511627776 bytes, and may",
        ),
        (
            [(sized("store/s", 4_000), bytes(4_000)), (sized("audit/a", 1_001), b"")],
            "with 'audit/a' it takes 5001 bytes, and may take 5000",
        ),
        (
            [(sized(f"store/{number}", 0), b"") for number in range(4)],
            "'store/3' is file 4 in it, and a backup holds 3 at most",
        ),
        ([(sized("store/s", 9), b"123456789")] * 2, "holds 'store/s' twice"),
        ([(sized("manifest.json", 1 << 27), b"")], "takes 134217728 bytes"),
        ([(sized("store/s", 3_000), b"short")], "is no whole backup"),
    ],
)
def test_it_holds_no_more_than_a_backup_may(
    tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], words: str
) -> None:
    harmful(tmp_path / "b", *entries)
    with pytest.raises(OperatorError) as refused:
        bundle.read(tmp_path / "b", into=tmp_path / "out", bounds=SMALL)
    assert words in str(refused.value)
    written = sum(file.stat().st_size for file in tmp_path.rglob("out/*/*"))
    assert written <= 5_000


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_takes_no_memory(tmp_path: Path, kind: bytes) -> None:
    harmful(tmp_path / "b", (sized("x", 1 << 27, kind), bytes(1 << 27)))
    assert (tmp_path / "b").stat().st_size < 1 << 18
    tracemalloc.start()
    try:
        with pytest.raises(OperatorError, match="is no whole backup: a header of 134217728 bytes"):
            bundle.read(tmp_path / "b")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 22


def test_headers_about_headers_come_to_an_end(tmp_path: Path) -> None:
    harmful(tmp_path / "b", *[(sized("x", 10, tarfile.XHDTYPE), b"10 path=y\n")] * 2_000)
    with pytest.raises(OperatorError, match="is no whole backup"):
        bundle.read(tmp_path / "b")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"size": "-5"}, "does not belong in a backup"),
        ({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, "is no whole backup"),
    ],
)
def test_what_a_header_says_is_not_believed(
    tmp_path: Path, words: dict[str, str], told: str
) -> None:
    entry = sized("keys/a", 10)
    entry.pax_headers = words
    file = tmp_path / "b.tar.gz"
    with tarfile.open(file, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(entry, io.BytesIO(b"x" * 10))
    with pytest.raises(OperatorError, match=told):
        bundle.read(file, into=tmp_path)


def test_what_is_not_free_is_not_begun(tmp_path: Path) -> None:
    harmful(tmp_path / "b", (sized("store/s", 1 << 60), b""))
    with pytest.raises(OperatorError, match="which is what is free at"):
        bundle.read(tmp_path / "b", into=tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()


def test_a_store_of_more_than_eight_gibibytes_has_a_header_of_its_own(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("store/s")
    entry.size = 1 << 34
    with gzip.open(tmp_path / "b", "wb") as zipped:
        zipped.write(entry.tobuf(tarfile.PAX_FORMAT))
    with pytest.raises(OperatorError, match="with 'store/s' it takes 17179869184 bytes"):
        bundle.read(tmp_path / "b", bounds=SMALL)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 1 << 20, (1 << 20) + 512, 3_000_001])
def test_members_of_any_size_come_back(tmp_path: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    written(tmp_path / "b", store=content, keys=b"k" * 512, audit=content[:700])
    bundle.read(tmp_path / "b", into=tmp_path / "out")
    assert (tmp_path / "out/store/file").read_bytes() == content
    assert (tmp_path / "out/audit/file").read_bytes() == content[:700]


def test_the_whole_file_is_held_against_what_was_kept_of_it(tmp_path: Path) -> None:
    told = written(tmp_path / "b")
    bundle.check_sha256(tmp_path / "b", f" {told.upper()}\n")
    with pytest.raises(OperatorError, match=f"its SHA-256 is {told}"):
        bundle.check_sha256(tmp_path / "b", "0" * 64)


def test_a_file_that_shrinks_while_it_is_read_spoils_it(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path / "b", pace=PACE)
    with pytest.raises(OperatorError, match="shorter"):
        writer.add("audit/file", io.BytesIO(b"half"), 8)
    writer.abandon()
    assert list(tmp_path.iterdir()) == []
