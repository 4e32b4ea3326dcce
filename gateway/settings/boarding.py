"""Which terminals an upstream knows one by one, and under which ids: the rows of a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gateway.wire.id_patterns import MERCHANT_ID_CHARS_MAX, TERMINAL_ID_CHARS, padded

REQUIRED_COLUMNS = ("terminal_id", "upstream_terminal_id", "upstream_merchant_id")
COLUMNS = (*REQUIRED_COLUMNS, "batch")
_BATCH_DIGITS = 6  # UnionPay, DE60.2
_FAULTS_MAX = 50  # a file of another kind is wrong in every row


@dataclass(frozen=True, slots=True)
class BoardedTerminal:
    """What an upstream calls a terminal; an empty value leaves the terminal's own."""

    terminal_id: str  # DE41, padded with blanks to 8
    merchant_id: str = ""  # DE42, padded with blanks to 15
    batch: str = ""  # the second part of DE60 where there is one


# By the terminal's own id, padded as DE41 carries it.
BoardedTerminals = Mapping[str, BoardedTerminal]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with the file."""

    line: int
    problem: str
    remedy: str


@dataclass(slots=True)
class BoardingFile:
    """What a file says; with any fault it is not to be used."""

    terminals: dict[str, BoardedTerminal] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def read_boarding(text: str, *, rows_max: int) -> BoardingFile:
    """The terminals of a CSV file whose first line names the columns; every fault at once.

    Rows that are empty, or begin with #, are skipped.
    """
    file = BoardingFile()
    rows = _rows(text, file)
    head = next(rows, None)
    if head is None:
        file.faults.append(Fault(1, "is empty", f"begin with the line {','.join(COLUMNS)}"))
        return file
    columns = [name.strip().lower() for name in head[1]]
    if not _columns_fit(columns, head[0], file):
        return file
    reader = _Reader(file)
    for line, row in rows:
        if len(reader.own) >= rows_max:
            file.faults.append(
                Fault(line, f"has more than {rows_max} terminals", "raise terminals_max")
            )
            break
        if len(file.faults) >= _FAULTS_MAX:
            file.faults.append(Fault(line, "and more that is wrong", "correct what is above first"))
            break
        if len(row) != len(columns):
            problem = f"has {len(row)} values where the first line names {len(columns)} columns"
            file.faults.append(Fault(line, problem, "write one value to each column"))
        else:
            values = (value.strip() for value in row)
            reader.take(line, dict(zip(columns, values, strict=True)))
    return file


def _rows(text: str, file: BoardingFile) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text.splitlines(), strict=True)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            file.faults.append(Fault(reader.line_num, f"is not CSV: {error}", "close the quotes"))
            return
        if row and any(row) and not row[0].startswith("#"):
            yield reader.line_num, row


def _columns_fit(columns: list[str], line: int, file: BoardingFile) -> bool:
    absent = [name for name in REQUIRED_COLUMNS if name not in columns]
    unknown = [name for name in columns if name not in COLUMNS]
    wanted = f"the columns are {', '.join(COLUMNS)} (batch may be left out)"
    if absent:
        file.faults.append(Fault(line, f"lacks the column {absent[0]}", wanted))
    for name in unknown:
        file.faults.append(Fault(line, f'has an unknown column "{name}"', wanted))
    if len(set(columns)) != len(columns):
        file.faults.append(Fault(line, "names a column twice", wanted))
    return not file.faults


class _Reader:
    """Takes rows one by one and remembers what they used."""

    def __init__(self, file: BoardingFile) -> None:
        self._file = file
        self.own: dict[str, int] = {}  # the line of each terminal
        self._theirs: dict[tuple[str, str], int] = {}  # and of what the upstream calls it

    def take(self, line: int, values: Mapping[str, str]) -> None:
        own, theirs = values["terminal_id"], values["upstream_terminal_id"]
        merchant, batch = values["upstream_merchant_id"], values.get("batch", "")
        if not (
            self._is_id(line, "terminal_id", own, TERMINAL_ID_CHARS)
            and self._is_id(line, "upstream_terminal_id", theirs, TERMINAL_ID_CHARS)
            and (
                not merchant
                or self._is_id(line, "upstream_merchant_id", merchant, MERCHANT_ID_CHARS_MAX)
            )
        ):
            return
        if batch and not (batch.isascii() and batch.isdigit() and len(batch) == _BATCH_DIGITS):
            self._fault(line, f"batch {batch!r} is not {_BATCH_DIGITS} digits", "such as 000001")
            return
        first = self.own.setdefault(padded(own), line)
        if first != line:
            self._fault(line, f"terminal {own} is already on line {first}", "keep one of them")
            return
        first = self._theirs.setdefault((theirs, merchant), line)
        if first != line:
            self._fault(
                line,
                f"upstream terminal {theirs} is already used on line {first}",
                "give each terminal an id of its own at the upstream",
            )
            return
        self._file.terminals[padded(own)] = BoardedTerminal(
            padded(theirs), merchant.ljust(MERCHANT_ID_CHARS_MAX) if merchant else "", batch
        )

    def _is_id(self, line: int, column: str, text: str, chars_max: int) -> bool:
        if text and len(text) <= chars_max and text.isascii() and text.isprintable():
            return True
        problem = f"{column} {text!r} is no id" if text else f"{column} is empty"
        self._fault(line, problem, f"write 1 to {chars_max} printable characters")
        return False

    def _fault(self, line: int, problem: str, remedy: str) -> None:
        self._file.faults.append(Fault(line, problem, remedy))
