"""Roster: devices as CSV text, written and read."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gateway.errors import OperatorError
from gateway.store.store import DeviceState
from gateway.terminals import device_fields

COLUMNS = (
    "terminal_id",
    "merchant_id",
    "state",
    "profile",
    "serial",
    "model",
    "place",
    "certificate_sha256",
    "networks",
    "group",
    "inspected",
    "inspected_by",
)
# All others come of what was done to a device that is enrolled.
_STATES = (DeviceState.PENDING.value, DeviceState.ACTIVE.value, DeviceState.SUSPENDED.value)
ROWS_MAX = 1_000_000
SHOWN_PROBLEMS_MAX = 1_000

Problem = tuple[int, str]  # the line, and what is wrong with it


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a roster: the columns that are filled, each value in its kept form."""

    line: int
    terminal_id: str
    values: dict[str, str]


class RosterRefused(OperatorError):
    """A roster has bad rows, so nothing of it was imported; the text names them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        bad = len({line for line, _ in problems})
        rows = "1 row is" if bad == 1 else f"{bad} rows are"
        shown = [f"  line {line}: {problem}" for line, problem in sorted(problems)]
        if len(shown) > SHOWN_PROBLEMS_MAX:
            shown[SHOWN_PROBLEMS_MAX:] = [f"  … and {len(shown) - SHOWN_PROBLEMS_MAX} more"]
        super().__init__("\n".join((f"nothing was imported, {rows} wrong:", *shown)))
        self.problems = tuple(problems)


def write(rows: Iterable[Mapping[str, str]]) -> str:
    """Rows by column name as CSV with a header; `parse` reads it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(row[column].rstrip(" ") for column in COLUMNS)
    return text.getvalue()


def parse(text: str, problems: list[Problem]) -> Iterator[Row]:
    """Each good row of a roster; every bad one is added to `problems` with its line.

    The first line names the columns, in any order; `terminal_id` must be among them. Raises
    OperatorError where the header is wrong, since no row means anything then.
    """
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    rows = 0
    try:
        columns = _header(next(reader, []))
        for cells in reader:
            if not cells:
                continue
            rows += 1
            if rows > ROWS_MAX:
                raise OperatorError(f"more than {ROWS_MAX} rows: split the file")
            row = _row(columns, cells, reader.line_num, problems)
            if row is not None:
                yield row
    except csv.Error as error:
        # Where a quote is not closed the rest of the file is one cell: no later row can be read.
        problems.append((reader.line_num, f"no CSV from here on: {error}"))


def _header(cells: list[str]) -> list[str]:
    columns = [cell.strip() for cell in cells]
    known = ", ".join(COLUMNS)
    if "terminal_id" not in columns:
        raise OperatorError(
            f"the first line must name the columns, terminal_id among them: {known}"
        )
    unknown = [column for column in columns if column not in COLUMNS]
    if unknown:
        raise OperatorError(f"unknown column {', '.join(map(repr, unknown))}; known are: {known}")
    if len(set(columns)) != len(columns):
        raise OperatorError("the first line names a column twice")
    return columns


def _row(columns: list[str], cells: list[str], line: int, problems: list[Problem]) -> Row | None:
    if len(cells) != len(columns):
        problems.append((line, f"{len(cells)} values where the header has {len(columns)} columns"))
        return None
    values: dict[str, str] = {}
    found: list[Problem] = []
    for column, cell in zip(columns, cells, strict=True):
        try:
            value = _CHECKS[column](cell) if cell.strip() else ""
        except OperatorError as error:
            found.append((line, str(error)))
            continue
        if value:
            values[column] = value
    terminal_id = values.pop("terminal_id", "")
    if not terminal_id and not found:
        found.append((line, "the terminal id is missing"))
    problems.extend(found)
    return None if found else Row(line, terminal_id, values)


def _state(text: str) -> str:
    if text.strip() not in _STATES:
        raise OperatorError(f"{text!r} is no state: write {', '.join(_STATES)}")
    return text.strip()


_CHECKS: dict[str, Callable[[str], str]] = {
    "terminal_id": device_fields.terminal_id,
    # Whether "*" may stand there depends on the registry's rules: the plan knows.
    "merchant_id": lambda text: device_fields.merchant_id(text, any_allowed=True),
    "state": _state,
    "profile": lambda text: device_fields.label("profile", text),
    "serial": lambda text: device_fields.label("serial", text),
    "model": lambda text: device_fields.label("model", text),
    "place": lambda text: device_fields.label("place", text),
    "certificate_sha256": device_fields.certificate_sha256,
    "networks": device_fields.networks,
    "group": lambda text: device_fields.label("group", text),
    "inspected": device_fields.date,
    "inspected_by": lambda text: device_fields.label("inspected_by", text),
}
