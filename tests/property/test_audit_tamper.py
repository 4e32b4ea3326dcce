"""Whatever one edit changes in the files of an audit log, verifying it finds it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.telemetry.audit import opened
from gateway.telemetry.audit_files import HEAD_FILE, chain_files
from gateway.telemetry.audit_reader import verify
from tests.support.audit_logs import ANNA, audit_log


async def _filled(folder: Path) -> None:
    async with opened(audit_log(folder, file_bytes_max=1_500, files_kept=3)) as log:
        for number in range(12):
            await log.record("terminals.bind", who=ANNA, subject=f"T{number}", new={"n": number})
    with chain_files(folder)[-1].open("ab") as file:
        file.write(b'{"action":"tor')
    async with opened(audit_log(folder, files_kept=3)) as log:
        await log.record("terminals.bind", who=ANNA)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """The files of a log that was rotated, pruned, and once torn by a kill."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        trio.run(_filled, folder)
        assert verify(folder).ok
        wanted = [*chain_files(folder), folder / HEAD_FILE]
        return {file.name: file.read_bytes() for file in wanted}


def _noticed(files: dict[str, bytes]) -> bool:
    with TemporaryDirectory() as name:
        for file, content in files.items():
            (Path(name) / file).write_bytes(content)
        verdict = verify(Path(name))
        return bool(verdict.problems or verdict.remarks)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_single_edit_is_found(files: dict[str, bytes], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(files)))
    content = files[name]
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 600)))
    edited = content[:start] + data.draw(st.binary(max_size=20)) + content[end:]
    if edited != content:
        assert _noticed(files | {name: edited})


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_removed_repeated_and_moved_lines_are_found(
    files: dict[str, bytes], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(set(files) - {HEAD_FILE})))
    lines = files[name].splitlines(keepends=True)
    at = data.draw(st.integers(0, len(lines) - 1))
    to = data.draw(st.integers(0, len(lines) - 1))
    edits = {
        "remove": [*lines[:at], *lines[at + 1 :]],
        "repeat": [*lines[: at + 1], *lines[at:]],
        "swap": [lines[to if n == at else at if n == to else n] for n in range(len(lines))],
    }
    edited = edits[data.draw(st.sampled_from(sorted(edits)))]
    if edited != lines:
        assert _noticed(files | {name: b"".join(edited)})


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_file_that_is_gone_is_missed(files: dict[str, bytes], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(files)))
    assert _noticed({name: content for name, content in files.items() if name != gone})
