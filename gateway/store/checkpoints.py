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

    What is acknowledged rests on the writer's own sync of the log, never on this: SQLite reuses the
    log only after the database was synced, and where that fails the log stays as it is. The failure
    is for the writer to see, at its next batch at the latest. Each connection has a descriptor of
    its own, to which the kernel tells a failed write-back, whoever else was told.
    """

    def __init__(self, connect: Callable[[], apsw.Connection]) -> None:
        self._connect = connect
        self._wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._state = Copying.NONE
        self._error: Exception | None = None

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
        """Take note that it is over; raises what went wrong in it."""
        self._state = Copying.NONE
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """Wait for what is under way, and end; raises what went wrong in it."""
        if self._thread is not None:
            self._wanted.put(False)
            self._thread.join()
            self._thread = None
        self.finish()

    def _run(self) -> None:
        connection: apsw.Connection | None = None
        try:
            while self._wanted.get():
                try:
                    if connection is None:
                        connection = self._connect()
                    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                except Exception as error:
                    # Whatever it is: the writer has to hear of it, and the log must not grow on.
                    self._error = error
                self._state = Copying.OVER
        finally:
            if connection is not None:
                connection.close()
