"""Processes: children that are started, watched and ended by their own handle, never by a name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import trio

_ROOT = Path(__file__).resolve().parent.parent
_LINE_BYTES_MAX = 65_536
_TAIL_BYTES = 4_096
_TAIL_LINES = 12


class ChildFailed(Exception):
    """A process did not do what it was started for; the text holds the end of what it said."""


def python(*arguments: str) -> list[str]:
    """The command that runs a module of this project under this interpreter."""
    return [sys.executable, "-m", *arguments]


async def run_once(*command: str, timeout_s: float = 120.0) -> str:
    """The standard output of a command that ends by itself; raises ChildFailed."""
    with trio.move_on_after(timeout_s):
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False, env=_environment()
        )
        if done.returncode == 0:
            return bytes(done.stdout).decode()
        said = bytes(done.stderr).decode(errors="replace").strip()
        raise ChildFailed(f"{_shown(command)} ended with {done.returncode}: {said}")
    raise ChildFailed(f"{_shown(command)} did not end within {timeout_s:g} s")


class Child:
    """One process in a session of its own, so that a Ctrl-C at the terminal is not its concern."""

    def __init__(self, name: str, process: trio.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self.process = process
        self._held = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    async def line(self, *, timeout_s: float) -> str:
        """The next line of its standard output; raises ChildFailed where none comes."""
        stdout = self.process.stdout
        if stdout is None:
            raise ChildFailed(f"{self.name} was started without its standard output")
        with trio.move_on_after(timeout_s) as waiting:
            while b"\n" not in self._held:
                data = await stdout.receive_some(_LINE_BYTES_MAX)
                if not data:
                    await self.process.wait()
                    raise self.failure()
                self._held += bytes(data)
        if waiting.cancelled_caught:
            raise ChildFailed(f"{self.name} said nothing within {timeout_s:g} s")
        line, _, self._held = self._held.partition(b"\n")
        return line.decode()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        self.process.send_signal(number)

    async def stop(self, *, grace_s: float) -> int:
        """Its exit status after SIGTERM, or SIGKILL where it does not end in time."""
        with trio.CancelScope(shield=True):
            await self._end(grace_s)
        return self.process.returncode or 0

    async def _end(self, grace_s: float) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            with trio.move_on_after(grace_s):
                await self.process.wait()
                return
            self.process.kill()
        await self.process.wait()

    def failure(self) -> ChildFailed:
        """That it ended, with the end of its log."""
        ended = f"{self.name} ended with {self.process.poll()}"
        return ChildFailed(f"{ended}; the end of {self.log}:\n{_tail(self.log)}")


class Children:
    """The processes of one run; all that still run at its end are stopped, the latest first."""

    def __init__(self, *, grace_s: float) -> None:
        self._grace_s = grace_s
        self._all: list[Child] = []

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for child in reversed(self._all):
            await child.stop(grace_s=self._grace_s)

    async def start(
        self, name: str, command: Sequence[str], *, log: Path, talks: bool = False
    ) -> Child:
        """Start a process whose output goes to the end of a file.

        With `talks` its standard output is read by `Child.line` instead.
        """
        with _open_log(log) as file:
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else file,
                stderr=file,
                start_new_session=True,
                env=_environment(),
            )
        child = Child(name, process, log)
        self._all.append(child)
        return child


def _environment() -> dict[str, str]:
    paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _open_log(path: Path) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:])
    except OSError as error:
        return f"({error})"


def _shown(command: Sequence[str]) -> str:
    return " ".join(command[command.index("-m") + 1 :] if "-m" in command else command)
