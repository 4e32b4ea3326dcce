"""Progress: a run while it lasts, on standard error; a line now and then where no screen is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import trio
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from loadtest.run.board import Board
from loadtest.run.histogram import merged
from loadtest.run.tally import Ending

_REFRESH_S = 0.5
_LINE_S = 5.0
_RECENT_S = 5  # what is shown as now is an average of so long
_CODES_SHOWN, _EVENTS_SHOWN, _TROUBLES_SHOWN = 6, 4, 3


async def show_progress(board: Board, console: Console) -> None:
    """Shows a board until cancelled."""
    if not console.is_terminal:
        while True:
            await trio.sleep(_LINE_S)
            if board.start_s:
                console.print(Text(line_of(board)), soft_wrap=True)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(view_of(board), refresh=True)
            await trio.sleep(_REFRESH_S)


def line_of(board: Board) -> str:
    """Where a run stands, on one line."""
    now = _Now(board)
    counts = now.counts
    return (
        f"{board.at_s:5.0f} s of {board.scenario.seconds:g}  {now.rate:,.0f}/s"
        f"  in flight {board.in_flight}  p50 {now.p50_ms:.1f} p99 {now.p99_ms:.1f}"
        f" max {now.max_ms:.1f} ms  approved {counts.get(Ending.APPROVED, 0):,}"
        f"  errors {counts.get('error', 0)}  disturbed {counts.get('disturbed', 0)}"
    )


class _Now:
    """The last seconds of a run, and its counts so far."""

    def __init__(self, board: Board) -> None:
        tally = board.tally
        last = max(tally.seconds, default=0)
        recent = [
            tally.seconds[second]
            for second in range(max(0, last - _RECENT_S), last)
            if second in tally.seconds
        ]
        latency = merged(one.latency for one in recent)
        self.rate = latency.count / len(recent) if recent else 0.0
        self.p50_ms, self.p90_ms, self.p99_ms = latency.percentiles_ms((50, 90, 99))
        self.max_ms = latency.max_ms
        self.counts = tally.whole().counts


def view_of(board: Board) -> Group:
    """Everything that is known of a run at this moment."""
    scenario, now = board.scenario, _Now(board)
    done = min(1.0, max(0.0, board.at_s / scenario.seconds))
    bar = "█" * round(30 * done)
    head = Text.assemble(
        (scenario.name, "bold"),
        f"  {board.phase}  ",
        (f"{bar:░<30}", "cyan"),
        f" {max(0.0, min(board.at_s, scenario.seconds)):.0f} of {scenario.seconds:g} s",
    )
    table = Table.grid(padding=(0, 2))
    for name, value in _rows(board, now):
        table.add_row(Text(name, style="dim"), Text(value))
    return Group(head, table)


def _rows(board: Board, now: _Now) -> Iterator[tuple[str, str]]:
    counts = now.counts
    yield "rate", f"{now.rate:,.0f}/s   in flight {board.in_flight:,}"
    p50, p90, p99 = now.p50_ms, now.p90_ms, now.p99_ms
    yield "latency", f"p50 {p50:.1f}   p90 {p90:.1f}   p99 {p99:.1f}   max {now.max_ms:.1f} ms"
    codes = "   ".join(f"{code} {n:,}" for code, n in board.tally.codes.most_common(_CODES_SHOWN))
    yield "answers", codes or "none yet"
    failures = f"{counts.get('error', 0):,}   disturbed by events {counts.get('disturbed', 0):,}"
    troubles = islice(board.tally.troubles.most_common(), _TROUBLES_SHOWN)
    yield "errors", failures + "".join(f"   {why}: {n}" for why, n in troubles)
    for name in sorted(board.received):
        state = board.upstreams.get(name, "")
        yield name, f"{board.per_second(name):,.0f}/s   {state}"
    gateway = board.samples.get("gateway")
    if gateway is not None and gateway.taken:
        last = gateway.taken[-1]
        cpu = gateway.cpu_percent()[-1:]
        used = f"{cpu[0][1]:.0f} % of a processor   " if cpu else ""
        yield "gateway", f"{used}{last.rss_bytes / 1e6:.0f} MB   {last.fds} descriptors"
    for happened in board.happened[-_EVENTS_SHOWN:]:
        yield "event", f"{happened.at_s:.1f} s  {happened.what}  {happened.detail}"
