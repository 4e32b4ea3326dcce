"""Processors: who used the machine's in some time, so that a bad figure has a name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_IDLE, _IOWAIT = 3, 4  # columns of /proc/stat
_SHOWN = 8  # user, nice, system, idle, iowait, irq, softirq, steal; guests are within user
_USER, _SYSTEM = 11, 12  # of /proc/PID/stat, counted from the field after the name


class _Reading(NamedTuple):
    all_ticks: int
    used_ticks: int
    by_pid: dict[int, int]


class Processors:
    """What named processes used since it was made, in percent of all processors.

    Where there is no /proc nothing is known, and nothing is said.
    """

    def __init__(self, pids: Mapping[str, list[int]]) -> None:
        self._pids = {name: list(of) for name, of in pids.items()}
        self._began = self._read()

    def used_percent(self, more: Mapping[str, list[int]]) -> dict[str, float]:
        """By name, `others` being everybody else; `more` are processes that began since.

        What a process used that has ended counts as others'.
        """
        for name, of in more.items():
            known = self._pids.setdefault(name, [])
            known += [pid for pid in of if pid not in known]
        now = self._read()
        if self._began is None or now is None:
            return {}
        total = max(1, now.all_ticks - self._began.all_ticks)
        used: dict[str, float] = {}
        for name, pids in self._pids.items():
            ticks = sum(
                max(0, now.by_pid.get(pid, 0) - self._began.by_pid.get(pid, 0)) for pid in pids
            )
            used[name] = round(100 * ticks / total, 1)
        all_used = 100 * (now.used_ticks - self._began.used_ticks) / total
        used["others"] = round(max(0.0, all_used - sum(used.values())), 1)
        return used

    def _read(self) -> _Reading | None:
        try:
            line = (_PROC / "stat").read_text(encoding="ascii").partition("\n")[0]
        except OSError:
            return None
        columns = [int(column) for column in line.split()[1 : 1 + _SHOWN]]
        idle = columns[_IDLE] + columns[_IOWAIT]
        pids = [pid for of in self._pids.values() for pid in of]
        return _Reading(sum(columns), sum(columns) - idle, {pid: _ticks(pid) for pid in pids})


def _ticks(pid: int) -> int:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    after_name = text.rpartition(")")[2].split()
    return int(after_name[_USER]) + int(after_name[_SYSTEM])
