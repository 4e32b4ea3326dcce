from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import OperatorError
from gateway.keys.own_keys import OwnKeys
from gateway.settings.loader import load
from gateway.store import backup, snapshot
from gateway.store.snapshot import Pace
from tests.support.key_rooms import source
from tests.support.small_config import CONFIG
from tests.support.stores import opened


async def backed_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[OwnKeys], object]
) -> backup.Made:
    config = folder / "gateway.toml"
    config.write_text(CONFIG)
    own = OwnKeys.create(folder / "keyring.json", source(folder), now_ms=1)
    async with opened(folder / "var" / "gateway.db"):
        pass
    copy = snapshot.copy

    def copied(*arguments: Any, **named: Any) -> None:
        copy(*arguments, **named)
        meanwhile(own)

    monkeypatch.setattr(snapshot, "copy", copied)
    return backup.make(
        load(config),
        folder / "backup",
        pace=Pace(step_pages=1_000, pause_s=0),
        wall_ms=lambda: time.time_ns() // 1_000_000,
    )


async def test_a_backup_is_refused_whose_keyring_forgot_what_its_keys_are_under(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(own: OwnKeys) -> None:
        own.begin_rewrap(source(tmp_path, "next"))
        own.finish_rewrap()

    with pytest.raises(OperatorError, match=r"was changed .* while the store was"):
        await backed_up(tmp_path, monkeypatch, changed)


async def test_a_change_that_is_only_begun_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await backed_up(
        tmp_path, monkeypatch, lambda own: own.begin_rewrap(source(tmp_path, "next"))
    )
    assert made.bytes > 0
