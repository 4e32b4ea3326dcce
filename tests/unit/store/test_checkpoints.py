"""The thread that copies the log: the writer hears of whatever happens in it."""

from __future__ import annotations

import time
from pathlib import Path

import apsw
import pytest

from gateway.store.checkpoints import Checkpointer, Copying


def over(checkpointer: Checkpointer) -> None:
    """Wait for the thread; it has nothing to wait for itself."""
    until_s = time.monotonic() + 10
    while checkpointer.state is Copying.UNDER_WAY:
        assert time.monotonic() < until_s
        time.sleep(0.001)


def never() -> apsw.Connection:
    raise MemoryError("no room for a connection")


def test_the_log_is_copied_and_the_thread_ends(tmp_path: Path) -> None:
    writer = apsw.Connection(str(tmp_path / "s"))
    writer.pragma("journal_mode", "wal")
    writer.execute("CREATE TABLE t (n); INSERT INTO t VALUES (1)")
    before = (tmp_path / "s").stat().st_size

    def another() -> apsw.Connection:
        connection = apsw.Connection(str(tmp_path / "s"))
        assert connection.pragma("journal_mode") == "wal"
        return connection

    checkpointer = Checkpointer(another)
    checkpointer.begin()
    over(checkpointer)
    assert checkpointer.state is Copying.OVER
    assert (tmp_path / "s").stat().st_size > before
    checkpointer.finish()
    assert checkpointer.state is Copying.NONE
    checkpointer.stop()
    writer.close()


def test_whatever_goes_wrong_in_it_is_told_and_it_can_begin_again() -> None:
    checkpointer = Checkpointer(never)
    for _ in range(2):
        checkpointer.begin()
        over(checkpointer)
        with pytest.raises(MemoryError):
            checkpointer.finish()
        assert checkpointer.state is Copying.NONE
    checkpointer.stop()


def test_what_nobody_looked_at_is_told_at_the_end() -> None:
    checkpointer = Checkpointer(never)
    checkpointer.begin()
    with pytest.raises(MemoryError):
        checkpointer.stop()


def test_one_that_never_began_ends_at_once() -> None:
    Checkpointer(never).stop()
