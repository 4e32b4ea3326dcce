"""Runner: the rows one after the other, the echo before and after them, within a bound of time."""

from __future__ import annotations

import hashlib
import platform
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import trio

from gateway import __version__
from loadtest.bench import rows, rows_crowd, rows_growth
from loadtest.bench.figures import Measured
from loadtest.bench.load import Said
from loadtest.bench.stand import Stand, configuration_hash, set_up
from loadtest.bench.work import PLAIN, Bench, Row
from loadtest.processes import ChildFailed, Children
from loadtest.run.line import TlsFolder
from loadtest.run.samples import machine

ROWS: tuple[Row, ...] = (*rows.ROWS, *rows_crowd.ROWS, *rows_growth.ROWS)
# `make bench` and `make bench-long` take no longer, whatever the machine: what is left is told.
_BOUND_S, _LONG_BOUND_S = 480.0, 2_400.0
_KEPT_FOR_ECHO_S = 15.0
_TERMINALS, _QUICK_TERMINALS = rows_crowd.CROWD + rows_crowd.STAYERS, 100
_GRACE_S = 15.0


@dataclass(frozen=True, slots=True)
class Options:
    """What is to be measured."""

    only: tuple[str, ...] = ()  # keys of rows; none: all
    long: bool = False
    quick: bool = False

    @property
    def rows(self) -> list[Row]:
        """A row that is named is measured, be it long or not."""
        if self.only:
            return [row for row in ROWS if row.key in self.only]
        return [row for row in ROWS if self.long or not row.long]

    @property
    def bound_s(self) -> float:
        return _LONG_BOUND_S if any(row.long for row in self.rows) else _BOUND_S


@dataclass(slots=True)
class Report:
    """What came of a run."""

    options: Options
    tool: str  # hash of isoload's program
    configuration: str
    began: datetime
    rows: list[Measured] = field(default_factory=list)
    echo_before: Said | None = None
    echo_after: Said | None = None
    seconds: float = 0.0

    @property
    def echo_before_us(self) -> float | None:
        return None if self.echo_before is None else self.echo_before.cpu_us

    @property
    def echo_after_us(self) -> float | None:
        return None if self.echo_after is None else self.echo_after.cpu_us

    @property
    def complete(self) -> bool:
        """Whether every row was measured and no transaction failed."""
        return not any(row.failure or row.errors or not row.figures for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        before, after = self.echo_before, self.echo_after
        return {
            "when": self.began.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 1),
            "quick": self.options.quick,
            "machine": machine(),
            "versions": {
                "gateway": __version__,
                "python": platform.python_version(),
                "trio": trio.__version__,
                "openssl": ssl.OPENSSL_VERSION,
                "sqlite": apsw.sqlite_lib_version(),
                "isoload": self.tool,
            },
            "configuration": self.configuration,
            "echo": {
                "before": None if before is None else before.raw,
                "after": None if after is None else after.raw,
            },
            "complete": self.complete,
            "rows": [row.to_json() for row in self.rows],
        }


async def set_up_for(options: Options) -> TlsFolder:
    """Certificates and blocklists, as far as they are not there. Raises ChildFailed."""
    return await set_up(terminals=_QUICK_TERMINALS if options.quick else _TERMINALS)


async def run(
    options: Options, *, tool: Path, tls: TlsFolder, kept: Path, say: Callable[[str], None]
) -> Report:
    """Measures the rows, in a folder under `kept` that is gone afterwards.

    A row that fails says so in the report. Raises ChildFailed where nothing can be measured.
    """
    started_s = trio.current_time()
    program = await trio.Path(tool).read_bytes()
    report = Report(
        options,
        hashlib.sha256(program).hexdigest()[:16],
        configuration_hash(),
        datetime.now(UTC),
    )
    with (
        tempfile.TemporaryDirectory(dir=kept, prefix="run-") as folder,
        tempfile.TemporaryDirectory(prefix="gw") as sockets,
    ):
        async with Children(grace_s=_GRACE_S) as children:
            stand = Stand(tool, tls, children, folder=Path(folder), sockets=Path(sockets))
            await stand.start_acquirers()
            bench = Bench(stand, quick=options.quick, say=say)
            with trio.move_on_after(options.bound_s - _KEPT_FOR_ECHO_S):
                say("The bare echo, before ...")
                report.echo_before = await bench.unit_of()
                await measure_rows(bench, options.rows, report.rows)
            mark_missing(options.rows, report.rows, bound_s=options.bound_s)
            with trio.move_on_after(_KEPT_FOR_ECHO_S):
                say("The bare echo, after ...")
                report.echo_after = await bench.of_echo(PLAIN)
    report.seconds = trio.current_time() - started_s
    return report


async def measure_rows(bench: Bench, wanted: list[Row], found: list[Measured]) -> None:
    """Measures one row after the other, each into an entry of `found`; a failure stays its own."""
    started_s = trio.current_time()
    for number, row in enumerate(wanted, 1):
        began_s = trio.current_time()
        bench.say(f"{began_s - started_s:4.0f} s  {number} of {len(wanted)}: {row.title} ...")
        measured = Measured(key=row.key, title=row.title)
        found.append(measured)
        try:
            await row.measure(bench, measured)
        except ChildFailed as error:
            measured.failure = str(error)
            bench.say(f"    {error}")
        measured.seconds = trio.current_time() - began_s


def mark_missing(wanted: list[Row], found: list[Measured], *, bound_s: float) -> None:
    """Say of the rows for which no time was left that it was so."""
    known = {one.key: one for one in found}
    for row in wanted:
        measured = known.get(row.key)
        if measured is None:
            measured = Measured(key=row.key, title=row.title)
            found.append(measured)
        if not measured.figures and not measured.failure:
            measured.failure = f"not measured: the {bound_s:g} s of a run were over"
