"""Edits of a configuration: each bad one changes nothing and is named; good ones are whole."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from gateway.clock import SystemClock
from gateway.errors import OperatorError
from gateway.live import Parts, prepare
from gateway.policy.blockfiles import written_token
from gateway.settings.reload import Prepared, Reloader, ReloadReport, read_whole
from gateway.settings.restart import needs_restart
from gateway.telemetry.audit import opened
from gateway.telemetry.audit_reader import records, verify
from gateway.telemetry.events import Event
from tests.support.audit_logs import Events, audit_log
from tests.support.small_config import CONFIG

PAN = "4111111111111111"


class Edited:
    """A configuration in a folder, and a reloader over it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "gateway.toml"
        self.lists = folder / "blocklists"
        self.lists.mkdir()
        self.file.write_text(CONFIG)
        self.events = Events()
        self.swapped: list[Prepared[Parts]] = []
        self.reloader: Reloader[Parts]

    def block(self, *terminals: str) -> None:
        (self.lists / "terminals").write_text("".join(f"{one}\n" for one in terminals))

    def change(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))

    @property
    def version(self) -> str:
        return self.reloader.status()["version"]

    async def look(self, **how: bool) -> ReloadReport:
        return await self.reloader.look(**how)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Edited]:
        async with opened(audit_log(self.folder / "audit")) as self._audit:
            self.restart()
            yield self
        assert verify(self.folder / "audit").ok

    def restart(self) -> None:
        """Run on the files as they are."""
        self.reloader = Reloader(
            read_whole(self.file, prepare),
            prepare=prepare,
            swap=self.swapped.append,
            needs_restart=needs_restart,
            audit=self._audit,
            clock=SystemClock(),
            emit=self.events,
        )

    def told(self) -> list[tuple[str, str]]:
        return [(one["who"], one["outcome"]) for one in records(self.folder / "audit")]


@pytest.fixture
async def edited(tmp_path: Path) -> AsyncIterator[Edited]:
    folder = Edited(tmp_path)
    folder.block(*(f"T{n:07d}" for n in range(20)))
    async with folder.running():
        yield folder


def _directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _half(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2 + 3])


def _write(text: str | bytes) -> Callable[[Path], None]:
    content = text.encode() if isinstance(text, str) else text

    def edit(file: Path) -> None:
        file.write_bytes(content)

    return edit


def _replaced(old: str, new: str) -> Callable[[Path], None]:
    def edit(file: Path) -> None:
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    return edit


def _added(line: str | bytes) -> Callable[[Path], None]:
    extra = line.encode() if isinstance(line, str) else line

    def edit(file: Path) -> None:
        file.write_bytes(file.read_bytes() + extra)

    return edit


TOML, LIST = "gateway.toml", "blocklists/terminals"

BAD_EDITS: list[tuple[str, Callable[[Path], None], int, str]] = [
    (TOML, _half, 0, "not TOML"),
    (TOML, _replaced('kinds = ["purchase"]', 'kinds = "purchase"'), 17, "does not fit"),
    (TOML, _replaced('kinds = ["purchase"]', 'kinds = ["purchse"]'), 17, "purchase"),
    (TOML, _added('[[profiles]]\nname = "standard"\nkinds = ["refund"]\n'), 0, "already used"),
    (TOML, _added('[node]\nname = "again"\n'), 0, "not TOML"),
    (
        TOML,
        _replaced(
            '"R0000001-R0000003", profile = "standard"', '"R0000001-R0000003", profile = "x"'
        ),
        13,
        "x",
    ),
    (TOML, _write(""), 1, "missing"),
    (TOML, _added(b"# caf\xe9\n"), 0, "not UTF-8"),
    (TOML, _directory, 1, "cannot be read"),
    (TOML, Path.unlink, 1, "cannot be read"),
    (TOML, _added("surprise = 1\n"), 0, "unknown key"),
    (LIST, _added("T00000021"), 21, "does not end"),
    (LIST, _added("T0000030 until=yesterday\n"), 21, "until"),
    (LIST, _added(f"{PAN}\n"), 21, "card number"),
    (LIST, _added("T0000001\n"), 21, "already on line 2"),
    (LIST, _added(b"caf\xe9\n"), 21, ""),
    (LIST, _directory, 1, "cannot be read"),
    (LIST, _added("T0000030 surprise=1\n"), 21, "unknown key"),
    (LIST, _added("\0\0\0\n"), 21, ""),
]


@pytest.mark.parametrize("number", range(len(BAD_EDITS)))
async def test_a_bad_edit_changes_nothing_and_is_named(edited: Edited, number: int) -> None:
    name, edit, line, words = BAD_EDITS[number]
    before = edited.version
    edit(edited.folder / name)
    report = await edited.look()
    assert report["result"] == "refused", report
    assert edited.swapped == []
    assert edited.version == before
    refused = edited.reloader.status()["refused"]
    assert refused[0]["file"].endswith(name)
    assert refused[0]["line"] == line or not line
    assert words in " ".join(f"{one['problem']} {one['remedy']}" for one in refused)
    assert PAN not in repr((report, edited.events, edited.told()))
    assert edited.events.names() == [Event.CONFIG_REFUSED]
    # It is not told again as long as nobody edits it.
    assert (await edited.look())["result"] == "refused"
    assert edited.events.names() == [Event.CONFIG_REFUSED]
    assert [outcome[:7] for _, outcome in edited.told()] == ["refused"]


ENTRIES: dict[str, Callable[[int], str]] = {
    "terminals": "T{:07d}".format,
    "cards": lambda number: written_token(f"1:{number:032x}"),
    "bins": "62{:04d}".format,
    "merchants": "M{:014d}".format,
    "networks": "10.0.{}.0/24".format,
    "certificates": "sha256:{:064x}".format,
}
SPOILT: dict[str, Callable[[Path], None]] = {
    "half a file": _half,
    "a directory": _directory,
    "a clear card number": _added(f"{PAN}\n"),
    "a card number in groups": _added("4111 1111-1111 1111\n"),
    "an end that is no day": _added("x until=yesterday\n"),
    "an unknown key": _added("x surprise=1\n"),
    "no UTF-8": _added(b"caf\xe9\n"),
    "zeros": _added("\0\0\0\n"),
    "twice the same": lambda file: file.write_bytes(2 * file.read_bytes()),
    "a line without an end": _added("x"),
    "a remark never ended": _added('x reason="stolen\n'),
}


async def test_a_hundred_bad_edits_one_after_the_other(edited: Edited) -> None:
    """Whichever file is spoilt: the old version stays, and file and line are named."""
    contents = {}
    for name, form in ENTRIES.items():
        (edited.lists / name).write_text("".join(f"{form(number)}\n" for number in range(20)))
        contents[edited.lists / name] = (edited.lists / name).read_bytes()
    assert (await edited.look())["result"] == "loaded", edited.reloader.status()
    version = edited.version
    edits: list[tuple[Path, Callable[[Path], None]]] = [
        (file, spoil) for file in contents for spoil in SPOILT.values()
    ]
    edits += [(edited.folder / name, edit) for name, edit, _, _ in BAD_EDITS if name == TOML]
    text = edited.file.read_bytes()
    lines = text.splitlines(keepends=True)
    edits += [(edited.file, _write(b"".join(lines[:count]))) for count in range(len(lines) - 2)]
    assert len(edits) >= 100
    contents[edited.file] = text
    swapped = len(edited.swapped)
    for file, edit in edits:
        edit(file)
        report = await edited.look()
        assert report["result"] == "refused", (file, edit)
        refused = edited.reloader.status()["refused"]
        assert str(file) in {one["file"] for one in refused}
        assert all(one["line"] and one["problem"] and one["remedy"] for one in refused)
        assert edited.version == version
        assert len(edited.swapped) == swapped
        if file.is_dir():
            file.rmdir()
        file.write_bytes(contents[file])
    assert (await edited.look())["result"] == "unchanged"
    assert PAN not in repr((edited.events, edited.told()))


@pytest.mark.skipif(os.getuid() == 0, reason="root may read every file")
async def test_a_file_that_may_not_be_read(edited: Edited) -> None:
    (edited.lists / "terminals").chmod(0)
    assert (await edited.look())["result"] == "refused"
    assert edited.reloader.status()["refused"][0]["file"].endswith(LIST)


async def test_what_was_refused_is_over_when_it_is_mended(edited: Edited) -> None:
    good = edited.file.read_text()
    edited.file.write_text("nonsense")
    await edited.look()
    edited.file.write_text(good)
    assert (await edited.look())["result"] == "unchanged"
    assert edited.reloader.status()["refused"] == []
    assert edited.events.names() == [Event.CONFIG_REFUSED, Event.CONFIG_LOADED]


async def test_a_good_edit_is_swapped_in_and_its_difference_written_down(edited: Edited) -> None:
    before = edited.version
    edited.block(*(f"T{n:07d}" for n in range(21)))
    report = await edited.look()
    assert report["result"] == "loaded"
    assert report["version"] == edited.version != before
    (prepared,) = edited.swapped
    assert prepared.parts.blocklists.terminal("T0000020", 0) is not None
    (record,) = records(edited.folder / "audit")
    assert (record["who"], record["origin"], record["outcome"]) == ("unknown", "file", "done")
    assert record["old"] == {"version": before}
    assert record["new"]["files"] == [
        {"file": "terminals", "removed": 0, "added": 1, "lines": ["+T0000020"]}
    ]


async def test_the_version_is_the_content_s(edited: Edited) -> None:
    first = edited.version
    edited.block(*(f"T{n:07d}" for n in range(21)))
    await edited.look()
    edited.block(*(f"T{n:07d}" for n in range(20)))
    await edited.look()
    assert edited.version == first
    assert len(edited.swapped) == 2


async def test_renames_links_and_edits_in_place(edited: Edited) -> None:
    file = edited.lists / "terminals"
    names = [f"T{n:07d}" for n in range(20)]
    fresh = edited.lists / "terminals.new"
    fresh.write_text("".join(f"{one}\n" for one in [*names, "A0000001"]))
    fresh.replace(file)
    assert (await edited.look())["result"] == "loaded"
    first, second = edited.folder / "first", edited.folder / "second"
    first.write_text("".join(f"{one}\n" for one in [*names, "A0000002"]))
    second.write_text("".join(f"{one}\n" for one in [*names, "A0000003"]))
    file.unlink()
    file.symlink_to(first)
    assert (await edited.look())["result"] == "loaded"
    link = edited.lists / "link"
    link.symlink_to(second)
    link.replace(file)
    assert (await edited.look())["result"] == "loaded"
    with second.open("a") as opened_file:
        opened_file.write("A0000004\n")
    assert (await edited.look())["result"] == "loaded"
    found = edited.swapped[-1].parts.blocklists
    assert found.terminal("A0000004", 0) is not None
    assert found.terminal("A0000001", 0) is None


async def test_a_list_that_lost_much_waits_for_a_word(edited: Edited) -> None:
    edited.block(*(f"T{n:07d}" for n in range(17)))
    report = await edited.look()
    assert report["result"] == "waits"
    assert report["notes"] == ["blocklist terminals goes from 20 entries to 17"]
    assert edited.swapped == []
    status = edited.reloader.status()
    assert status["waits"] == report["notes"]
    assert status["waits_version"] == report["candidate"]
    assert (await edited.look())["result"] == "waits"
    assert edited.events.names() == [Event.CONFIG_WAITS]
    assert (await edited.look(confirm=True))["result"] == "loaded"
    assert edited.reloader.status()["waits"] == []


async def test_one_entry_or_a_tenth_may_go_unasked(edited: Edited) -> None:
    edited.block(*(f"T{n:07d}" for n in range(18)))
    assert (await edited.look())["result"] == "loaded"
    (edited.lists / "terminals").unlink()
    assert (await edited.look())["result"] == "waits"


async def test_a_dry_run_changes_nothing(edited: Edited) -> None:
    edited.block(*(f"T{n:07d}" for n in range(21)))
    report = await edited.look(dry_run=True)
    assert (report["result"], report["files"]) == ("would_load", ["terminals"])
    edited.file.write_text("nonsense")
    assert (await edited.look(dry_run=True))["result"] == "refused"
    assert edited.reloader.status()["refused"] == []
    assert edited.swapped == edited.events == edited.told() == []


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('listen = "127.0.0.1:9000"', 'listen = "127.0.0.1:9001"', "listeners"),
        ('path = "var/gateway.db"', 'path = "var/other.db"', "store.path"),
        ('keyring = "keyring.json"', 'keyring = "other.json"', "keys.keyring"),
        ('admin_socket = "admin"', 'admin_socket = "admin"\nname = "b"', "node.name"),
        ("[store]", '[log]\nformat = "json"\n\n[store]', "log.format"),
    ],
)
async def test_what_needs_a_restart_is_told_and_the_rest_left_alone(
    edited: Edited, old: str, new: str, key: str
) -> None:
    edited.change(old, new)
    edited.change('kinds = ["purchase"]', 'kinds = ["purchase", "refund"]')
    report = await edited.look()
    assert report["result"] == "refused"
    assert [one["path"] for one in report["findings"]] == [key]
    assert "restart" in report["findings"][0]["remedy"]
    assert edited.swapped == []


async def test_profiles_routes_and_the_log_s_level_are_taken_up(edited: Edited) -> None:
    edited.change('kinds = ["purchase"]', 'kinds = ["purchase", "refund"]')
    edited.change("[store]", '[log]\nlevel = "debug"\n\n[store]')
    assert (await edited.look())["result"] == "loaded"


CALLED = """
[[upstreams]]
name = "south"
listen = "127.0.0.1:9102"
callers = ["127.0.0.1"]
dialect = "iso87_ascii"
plain = true
"""


@pytest.mark.parametrize("where", ["added", "changed", "called by now", "called no more"])
async def test_an_upstream_listens_from_a_start_only(edited: Edited, where: str) -> None:
    """Were it taken up, one whose port is taken would end the node, and one that was called would
    have no links."""
    text = edited.file.read_text()
    if where in ("changed", "called no more"):
        text += CALLED
        edited.file.write_text(text)
        edited.restart()
    match where:
        case "added":
            text += CALLED
        case "changed":
            text = text.replace("127.0.0.1:9102", "127.0.0.1:9103")
        case "called by now":
            text = text.replace('addresses = ["127.0.0.1:9101"]', 'listen = "127.0.0.1:9101"')
        case _:
            called = 'listen = "127.0.0.1:9102"\ncallers = ["127.0.0.1"]'
            assert called in text
            text = text.replace(called, 'addresses = ["127.0.0.1:9102"]')
    edited.file.write_text(text)
    report = await edited.look()
    assert report["result"] == "refused"
    assert "restart" in report["findings"][0]["remedy"]
    assert edited.swapped == []


async def test_upstreams_are_taken_up(edited: Edited) -> None:
    edited.change('addresses = ["127.0.0.1:9101"]', 'addresses = ["127.0.0.1:9102"]')
    assert (await edited.look())["result"] == "loaded"
    [means] = edited.swapped[0].parts.means
    assert means.settings.addresses == ["127.0.0.1:9102"]


async def test_keys_are_never_shown(edited: Edited) -> None:
    key = edited.folder / "client.key"
    key.write_text("-----BEGIN A KEY-----\nc2VjcmV0\n-----END A KEY-----\n")
    edited.change(
        "plain = true",
        'tls = { ca = "client.key", server_name = "north", '
        'certificate = "client.key", key = "client.key" }',
    )
    report = await edited.look()
    assert report["result"] == "refused"
    assert "client.key" in report["findings"][0]["problem"]
    assert "c2VjcmV0" not in repr((report, edited.events, list(records(edited.folder / "audit"))))


async def test_nothing_is_taken_up_that_cannot_be_written_down(
    edited: Edited, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    edited.block(*(f"T{n:07d}" for n in range(21)))
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OperatorError, match="could not be written down"):
            await edited.look()
    assert edited.swapped == []
    assert (await edited.look())["result"] == "loaded"


async def test_hints_are_taken_up_after_a_moment(edited: Edited) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(edited.reloader.run)
        edited.block(*(f"T{n:07d}" for n in range(21)))
        edited.reloader.hint()
        with trio.fail_after(10):
            while not edited.swapped:  # noqa: ASYNC110 — what swaps has no event to wait for
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
