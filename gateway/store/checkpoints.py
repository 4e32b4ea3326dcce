"""Copies the write-ahead log into the database beside the writer: no payment waits for it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from enum import Enum, auto

import apsw


class Copying(Enum):
    """How far a checkpoint is."""

    NONE = auto()
    UNDER_WAY = auto()
    OVER = auto()  # and the writer has not looked yet


class Checkpointer:
    """A thread and a connection of its own for the long part of a checkpoint.

    The writer goes on meanwhile, so what it commits then stays in the log: once this is over the
    writer copies that rest itself, between two batches. Only with nothing left in it the log
    begins anew, and does not grow.
    """

    def __init__(self, connect: Callable[[], apsw.Connection]) -> None:
        self._connect = connect
        self._wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._state = Copying.NONE
        self._error: apsw.Error | None = None

    @property
    def state(self) -> Copying:
        return self._state

    def begin(self) -> None:
        """Have the log copied; nothing may be under way."""
        self._state = Copying.UNDER_WAY
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="store-checkpoints", daemon=True)
            self._thread.start()
        self._wanted.put(True)

    def finish(self) -> None:
        """Take note that it is over; raises what SQLite raised."""
        self._state = Copying.NONE
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """Wait for what is under way, and end."""
        if self._thread is not None:
            self._wanted.put(False)
            self._thread.join()

    def _run(self) -> None:
        connection: apsw.Connection | None = None
        try:
            while self._wanted.get():
                try:
                    if connection is None:
                        connection = self._connect()
                    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                except apsw.Error as error:
                    self._error = error
                self._state = Copying.OVER
        finally:
            if connection is not None:
                connection.close()
