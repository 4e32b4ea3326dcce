"""Where log lines go: a bounded queue, emptied into a file or descriptor by one thread."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

POLL_S = 0.05
BATCH_LINES_MAX = 1_000
STDERR = 2

# A line, or what makes it: called in the thread, it raises nothing.
Line = bytes | Callable[[], bytes]


class LineSink:
    """Takes lines without ever waiting, and writes them in batches from a daemon thread.

    Where the file or the reader behind the descriptor stalls, the queue fills to its bound and
    further lines are dropped and counted.
    """

    def __init__(
        self,
        *,
        file: Path | None = None,
        descriptor: int = STDERR,
        lines_max: int = 50_000,
        poll_s: float = POLL_S,
    ) -> None:
        """Raises OSError where the file cannot be opened."""
        self._file = file
        self._descriptor = descriptor if file is None else _open(file)
        self._lines_max = lines_max
        self._poll_s = poll_s
        self._lines: deque[Line] = deque()
        self._refused = 0  # the queue was full; counted by those who put
        self._lost = 0  # the write failed; counted by the thread
        self._failure = ""
        self.trouble = False  # lines were dropped or a write failed since `take_trouble`
        self._torn = False
        self._reopen = False
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: Line) -> None:
        """Queue a line, which ends with its newline; counted and dropped where there is no room."""
        if len(self._lines) < self._lines_max and not self._stopping:
            self._lines.append(line)
        else:
            self._refused += 1
            self.trouble = True

    def hurry(self) -> None:
        """Have what is queued written now rather than at the next look."""
        self._wake.set()

    @property
    def is_terminal(self) -> bool:
        return os.isatty(self._descriptor)

    @property
    def queued(self) -> int:
        return len(self._lines)

    @property
    def dropped(self) -> int:
        """Lines that never reached the file, since the start."""
        return self._refused + self._lost

    @property
    def has_room(self) -> bool:
        """Whether the queue is half empty: time to tell what was dropped."""
        return len(self._lines) * 2 <= self._lines_max

    def take_trouble(self) -> str:
        """Why a write or an opening failed since the last call; empty if none did."""
        self.trouble = False
        failure, self._failure = self._failure, ""
        return failure

    def reopen(self) -> None:
        """Have the file opened anew by its name: it was moved away, to be rotated."""
        self._reopen = True
        self._wake.set()

    def close(self, timeout_s: float = 2.0) -> bool:
        """Write what is queued and end the thread; returns whether that was done in time."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # --- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait(self._poll_s)
            self._wake.clear()
            # Read before the queue is emptied, so that nothing put before `close` is left.
            stopping = self._stopping
            if self._reopen:
                self._reopen = False
                self._open_again()
            while self._lines:
                count = min(len(self._lines), BATCH_LINES_MAX)
                lines = [self._lines.popleft() for _ in range(count)]
                self._write(b"".join([one if isinstance(one, bytes) else one() for one in lines]))
            if stopping:
                if self._file is not None:
                    os.close(self._descriptor)
                return

    def _open_again(self) -> None:
        if self._file is None:
            return
        try:
            descriptor = _open(self._file)
        except OSError as error:
            self._fail(error)
            return
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._torn = False

    def _write(self, data: bytes) -> None:
        # A line that a failed write cut short is ended first, so that it spoils no other.
        rest = memoryview(b"\n" + data if self._torn else data)
        while rest:
            try:
                written = os.write(self._descriptor, rest)
            except BlockingIOError:
                # Somebody else's non-blocking terminal or pipe.
                with contextlib.suppress(OSError, ValueError):
                    select.select((), (self._descriptor,), (), self._poll_s)
                continue
            except OSError as error:
                self._lost += bytes(rest).count(b"\n")
                self._fail(error)
                return
            self._torn = rest[written - 1] != 0x0A
            rest = rest[written:]

    def _fail(self, error: OSError) -> None:
        self._failure = error.strerror or type(error).__name__
        self.trouble = True


def _open(file: Path) -> int:
    return os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
