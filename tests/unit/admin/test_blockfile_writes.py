"""A list's file is replaced whole: its mode, links and what others wrote meanwhile stay."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from gateway.admin.blockfile_writes import edit
from gateway.errors import OperatorError
from gateway.policy.blockfile_edits import Edited, add
from gateway.policy.blocklists import ListName

ADD = partial(add, ListName.TERMINALS, value="T2", line="T2")


def test_mode_and_links_stay_and_nothing_is_left_beside(tmp_path: Path) -> None:
    real = tmp_path / "data" / "terminals"
    real.parent.mkdir()
    real.write_text("# ours\nT1\n")
    real.chmod(0o604)
    link = tmp_path / "terminals"
    link.symlink_to(real)
    assert edit(link, ADD).line == 3
    assert link.is_symlink()
    assert real.read_text() == "# ours\nT1\nT2\n"
    assert real.stat().st_mode & 0o777 == 0o604
    assert [one.name for one in real.parent.iterdir()] == ["terminals"]


def test_a_file_and_its_folder_come_to_be(tmp_path: Path) -> None:
    file = tmp_path / "blocklists" / "terminals"
    edit(file, ADD)
    assert file.read_text() == "T2\n"


def test_what_somebody_else_writes_meanwhile_is_not_lost(tmp_path: Path) -> None:
    file = tmp_path / "terminals"
    file.write_text("T1\n")
    seen: list[bytes] = []

    def change(content: bytes) -> Edited:
        seen.append(content)
        if len(seen) == 1:
            file.write_text("T1\nT3\n")
        return ADD(content)

    edit(file, change)
    assert file.read_text() == "T1\nT3\nT2\n"


def test_a_file_that_is_written_all_the_time_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "terminals"
    file.write_text("T1\n")

    def change(content: bytes) -> Edited:
        file.write_text(file.read_text() + "T9\n")
        return ADD(content)

    with pytest.raises(OperatorError, match="somebody else"):
        edit(file, change)
    assert "T2" not in file.read_text()
    assert [one.name for one in tmp_path.iterdir()] == ["terminals"]


def test_nothing_to_change_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "terminals"
    assert edit(file, lambda content: Edited(content, 0)).line == 0
    assert not file.exists()


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot be read"):
        edit(tmp_path, ADD)
