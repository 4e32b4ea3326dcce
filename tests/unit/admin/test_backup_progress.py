"""A backup that the daemon writes tells how far it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.admin import backup
from gateway.clock import SystemClock
from gateway.keys.own_keys import OwnKeys
from gateway.settings.loader import load
from tests.support.key_rooms import source
from tests.support.small_config import CONFIG
from tests.support.stores import opened


async def test_progress_is_told_from_the_thread_that_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_TOLD_EVERY_S", 0.0)
    config = tmp_path / "gateway.toml"
    config.write_text(CONFIG + "\n[backup]\nstep_pages = 16\n")
    OwnKeys.create(tmp_path / "keyring.json", source(tmp_path), now_ms=1)
    async with opened(tmp_path / "var" / "gateway.db"):
        pass
    configuration = load(config)

    def emit(*_: Any, **__: Any) -> None:
        pass

    operations = backup.BackupOperations(
        configuration=lambda: configuration, clock=SystemClock(), emit=emit
    )
    told: list[tuple[int, int]] = []
    arguments = backup.BackupArguments(file=str(tmp_path / "backup.tar.gz"))

    await operations.create(arguments, lambda done, total: told.append((done, total)))

    assert told
    assert told[-1][0] <= told[-1][1]
