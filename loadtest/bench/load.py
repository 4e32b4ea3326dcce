"""Load: what isoload's terminals are told to do, and what they say of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loadtest.addresses import HostPort
from loadtest.run.line import TlsFolder

_ANSWER_S = 30.0  # isoload's own patience with an answer
_SPARE_S = 60.0
_QUICK_TERMINALS, _QUICK_S, _QUICK_WARMUP_S, _QUICK_RATE = 20, 1.0, 0.3, 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One run of isoload's terminals."""

    terminals: int
    tls: bool = False
    rate: float = 0.0  # transactions a second over all terminals; 0: closed loop
    seconds: float = 8.0  # measured
    warmup_s: float = 2.0  # under the same load before, not measured
    each_time: bool = False  # connect, one purchase, hang up
    resume: bool = False  # TLS sessions
    connect_per_s: float = 2_000.0  # at first; 0: no limit
    first: int = 1  # number of the first terminal

    def quick(self) -> Load:
        """As much of it as shows that it works."""
        return replace(
            self,
            terminals=min(self.terminals, _QUICK_TERMINALS),
            rate=min(self.rate, _QUICK_RATE),
            seconds=_QUICK_S,
            warmup_s=_QUICK_WARMUP_S,
        )

    @property
    def timeout_s(self) -> float:
        """More than it can take, connecting included."""
        connecting_s = self.terminals / 50 if self.tls else self.terminals / 500
        return connecting_s + self.warmup_s + self.seconds + _ANSWER_S + _SPARE_S

    def command(self, tool: Path, target: HostPort, *, tls: TlsFolder, pid: int) -> list[str]:
        """isoload's command line, watching the process that serves."""
        command = [
            str(tool),
            "terminals",
            *("-target", str(target), "-n", str(self.terminals), "-first", str(self.first)),
            *("-rate", f"{self.rate:g}", "-duration", f"{self.seconds:g}s"),
            *("-warmup", f"{self.warmup_s:g}s", "-timeout", f"{_ANSWER_S:g}s"),
            *("-connect-rate", f"{self.connect_per_s:g}", "-pid", str(pid), "-json"),
        ]
        if self.tls:
            command += ["-tls", "-certdir", str(tls.folder), "-ca", str(tls.ca)]
        if self.each_time:
            command += ["-per-conn", "1"]
        if self.resume:
            command += ["-resume"]
        return command


@dataclass(frozen=True, slots=True)
class Said:
    """isoload's report, as far as the table wants it; the whole of it in `raw`."""

    ok: int
    errors: int
    tps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of the process that serves, per transaction
    raw: dict[str, Any]


def read(text: str) -> Said:
    """The report that isoload printed; raises ValueError where it is none."""
    try:
        raw = json.loads(text)
        return Said(
            ok=raw["ok"],
            errors=raw["errors"],
            tps=raw["tps"],
            p50_ms=raw["latency_ms"]["p50"],
            p99_ms=raw["latency_ms"]["p99"],
            cpu_us=raw["gateway"][0]["cpu_us_per_txn"],
            raw=raw,
        )
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"isoload's report has no {error}") from error
