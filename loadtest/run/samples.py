"""Samples: processor time, memory and descriptors of processes, read from /proc each second."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

_PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_USER, _SYSTEM = 11, 12  # of /proc/PID/stat, counted from the field after the name
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4_096
_SETTLED = 0.2  # of a life: what grows before is the process getting ready


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment, in seconds from the start of the run."""

    at_s: float
    pid: int
    cpu_s: float  # since the process began
    rss_bytes: int
    fds: int


def sample(pid: int, *, at_s: float) -> Sample | None:
    """How a process stands; None where it is gone, or there is no /proc."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        pages = (_PROC / str(pid) / "statm").read_text(encoding="ascii").split()[1]
        fds = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 # half the cost of iterdir
    except (OSError, IndexError):
        return None
    after_name = stat.rpartition(")")[2].split()
    ticks = int(after_name[_USER]) + int(after_name[_SYSTEM])
    return Sample(at_s, pid, ticks / _TICKS_PER_S, int(pages) * _PAGE_BYTES, fds)


@dataclass(slots=True)
class Samples:
    """The samples of one part of a run, over the lives of its processes."""

    taken: list[Sample] = field(default_factory=list)

    def take(self, pid: int, *, at_s: float) -> None:
        """Add a sample, where the process is there."""
        found = sample(pid, at_s=at_s)
        if found is not None:
            self.taken.append(found)

    @property
    def lives(self) -> list[list[Sample]]:
        """By process, in the order of their first sample."""
        lives: dict[int, list[Sample]] = {}
        for one in self.taken:
            lives.setdefault(one.pid, []).append(one)
        return list(lives.values())

    def cpu_s(self) -> float:
        """Processor time between the first and last sample of each life."""
        return sum(life[-1].cpu_s - life[0].cpu_s for life in self.lives)

    def cpu_percent(self) -> list[tuple[float, float]]:
        """Processor use, in percent of one processor, between each sample and the one before."""
        found = []
        for life in self.lives:
            for before, after in pairwise(life):
                lasts_s = after.at_s - before.at_s
                if lasts_s > 0:
                    share = 100 * (after.cpu_s - before.cpu_s) / lasts_s
                    found.append((after.at_s, round(share, 1)))
        return found

    def rss_mb_max(self) -> float:
        return round(max((one.rss_bytes for one in self.taken), default=0) / 1e6, 1)

    def rss_growth_mb(self) -> float | None:
        """Growth within the longest life, from the end of its first fifth to its end, by medians of
        a tenth each; None where there are too few samples to say."""
        life = max(self.lives, key=len, default=[])
        tenth = max(1, len(life) // 10)
        settled = int(len(life) * _SETTLED)
        if len(life) < 5:
            return None
        before = median(one.rss_bytes for one in life[settled : settled + tenth])
        after = median(one.rss_bytes for one in life[-tenth:])
        return round((after - before) / 1e6, 2)


def machine() -> dict[str, object]:
    """What this machine is, as far as it says."""
    model = ""
    memory_kib = 0
    try:
        cpuinfo = (_PROC / "cpuinfo").read_text(encoding="utf-8", errors="replace")
        model = next(
            (
                line.partition(":")[2].strip()
                for line in cpuinfo.splitlines()
                if line.startswith("model name")
            ),
            "",
        )
        memory_kib = int((_PROC / "meminfo").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return {
        "processors": os.cpu_count() or 0,
        "model": model,
        "memory_gb": round(memory_kib / 1e6, 1),
        "system": " ".join(os.uname()[::2][:2]),
    }
