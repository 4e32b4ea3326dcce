"""Table: what `make bench` prints of its rows."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from loadtest.bench.figures import Figure, Measured

WIDTH = 100  # where there is no terminal that says
_MARKS = {True: "✓", False: "✗", None: ""}


def table_of(rows: Sequence[Measured], *, title: str) -> Table:
    """A line to each figure under its row's title; a row that could not be measured says why."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for column in ("target", "here", "unit", "echo", "x echo"):
        table.add_column(column, justify="left" if column == "unit" else "right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        table.add_row(f"[bold]{escape(row.title)}[/]")
        for figure in row.figures:
            table.add_row(*cells(figure))
        if row.failure or not row.figures:
            words = row.failure or "nothing was measured"
            table.add_row(escape(f"  {words}"), "", "", "", "", "", _MARKS[False])
        table.add_section()
    return table


def cells(figure: Figure) -> tuple[str, ...]:
    """A figure's cells, from its name to its tick or cross."""
    times = figure.times_echo
    return (
        f"  {escape(figure.name)}",
        figure.target,
        number(figure.value),
        figure.unit,
        "" if figure.echo is None else number(figure.echo),
        "" if times is None else f"{times:.2f}",
        _MARKS[figure.met],
    )


def number(value: float) -> str:
    """With as many digits as mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def drift_words(before_us: float | None, after_us: float | None) -> str:
    """By how much the machine itself changed meanwhile."""
    if not before_us or not after_us:
        return "The bare echo was not measured before and after, so that drift is unknown."
    change = 100 * (after_us / before_us - 1)
    return (
        f"The bare echo took {before_us:.0f} us a transaction before all this and {after_us:.0f} us"
        f" after it ({change:+.0f} %)."
    )
