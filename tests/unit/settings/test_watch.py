"""Edits are heard of, however an editor makes them, by the kernel's word or by looking."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from gateway.settings.sources import Digests, Texts, difference, version_of
from gateway.settings.watch import Watch, folders_of


class Heard:
    def __init__(self) -> None:
        self.count = 0
        self._some = trio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._some.set()

    async def once(self) -> None:
        """Wait until something is heard of."""
        with trio.fail_after(20):
            await self._some.wait()
        self._some = trio.Event()


@asynccontextmanager
async def watched(
    *files: Path, look_s: float = 3_600.0, notified: bool = True
) -> AsyncIterator[Heard]:
    heard = Heard()
    async with trio.open_nursery() as nursery:
        await nursery.start(Watch(lambda: files, heard, look_s=look_s, notified=notified).run)
        if notified:
            # The kernel is asked in a thread: until it listens, its word is not to be had.
            with trio.fail_after(20):
                while not heard.count:
                    files[0].touch()
                    with trio.move_on_after(0.5):
                        await heard.once()
            with trio.move_on_after(0.3):
                await heard.once()
        yield heard
        nursery.cancel_scope.cancel()


def _rename(file: Path) -> None:
    fresh = file.with_name("fresh")
    fresh.write_text("new")
    fresh.replace(file)


def _relink(file: Path) -> None:
    target = file.parent / "other"
    target.write_text("new")
    link = file.with_name("link")
    link.symlink_to(target)
    link.replace(file)


def _in_place(file: Path) -> None:
    with file.open("a") as opened:
        opened.write("more")


EDITS = [_rename, _relink, _in_place, Path.unlink]


@pytest.mark.parametrize("edit", EDITS)
async def test_the_kernel_says_so(tmp_path: Path, edit: Callable[[Path], None]) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    async with watched(file) as heard:
        edit(file)
        await heard.once()


@pytest.mark.parametrize("edit", EDITS)
async def test_looking_finds_it(tmp_path: Path, edit: Callable[[Path], None]) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    async with watched(file, look_s=0.01, notified=False) as heard:
        edit(file)
        await heard.once()


async def test_a_file_that_comes_and_a_folder_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    async with watched(file, tmp_path / "x", look_s=0.01, notified=False) as heard:
        file.parent.mkdir()
        file.write_text("new")
        await heard.once()


def test_links_on_the_way_are_watched(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "file").write_text("x")
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "file").symlink_to(tmp_path / "data" / "file")
    assert folders_of([tmp_path / "conf" / "file"]) == {tmp_path / "conf", tmp_path / "v1"}
    assert folders_of([tmp_path / "data" / "file"]) >= {tmp_path, tmp_path / "v1"}


def test_contents_are_compared_not_times(tmp_path: Path) -> None:
    file, digests = tmp_path / "file", Digests()
    file.write_text("one")
    first = digests.of([file])
    file.touch()
    assert digests.of([file]) == first
    file.write_text("two")
    assert digests.of([file]) != first
    file.unlink()
    assert digests.of([file]) == {file: ""}
    file.mkdir()
    assert digests.of([file])[file] not in ("", first[file])


def test_the_version_is_of_names_and_contents(tmp_path: Path) -> None:
    here, there = tmp_path / "a", tmp_path / "b"
    for folder in (here, there):
        folder.mkdir()
        (folder / "gateway.toml").write_text("x")
        (folder / "list").write_text("y")
    versions = {
        version_of(
            Digests().of([folder / "gateway.toml", folder / "list", folder / "absent"]),
            beside=folder / "gateway.toml",
        )
        for folder in (here, there)
    }
    assert len(versions) == 1
    (there / "list").rename(there / "absent")
    assert (
        version_of(
            Digests().of([there / "gateway.toml", there / "list", there / "absent"]),
            beside=there / "gateway.toml",
        )
        not in versions
    )


def test_a_difference_is_of_lines(tmp_path: Path) -> None:
    found = difference(tmp_path / "list", b"a\nb\nb\nc\n", b"c\na\nd\xff\n")
    assert found.to_json() == {
        "file": "list",
        "removed": 2,
        "added": 1,
        "lines": ["-b (2 times)", "+d\\xff"],
    }
    many = difference(tmp_path / "list", None, b"".join(b"%d\n" % n for n in range(1_000)))
    assert (many.added, len(many.lines), many.lines[-1]) == (1_000, 51, "+…")


def test_what_is_too_large_is_only_named(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text("x" * 100)
    texts = Texts(bytes_max=10)
    (found,), keep = texts.changed({}, {file: "digest"})
    assert found.lines == ("(too large to be compared)",)
    keep()


def test_keys_and_certificates_are_not_shown(tmp_path: Path) -> None:
    found = difference(tmp_path / "key", None, b"-----BEGIN A KEY-----\nsecret\n")
    assert found.lines == ("(a key or certificate: not shown)",)
    assert difference(tmp_path / "key", b"-----BEGIN X-----\n", b"x\n").lines == found.lines


def test_what_is_edited_again_meanwhile_is_not_taken_for_this_version(tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_text("one\n")
    digests = Digests().of([file])
    file.write_text("two\n")
    texts = Texts(bytes_max=100)
    (found,), keep = texts.changed({}, digests)
    assert found.lines == ("(edited again meanwhile)",)
    keep()
