"""Reads an audit log: its records, and whether any was changed, removed, inserted or moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gateway.telemetry.audit_chain import (
    DAMAGED,
    GENESIS,
    PRUNED,
    TORN,
    Head,
    Record,
    parse,
    torn_mark,
)
from gateway.telemetry.audit_files import HEAD_FILE, chain_files, first_seq_of, read_head

PROBLEMS_MAX = 1_000  # more say nothing more


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is not as the gateway wrote it."""

    file: str
    line: int  # from 1; 0: the whole file
    seq: int  # of the record, or the one that should stand there
    problem: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: record {self.seq}: {self.problem}"


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What a verification came to."""

    files: int = 0
    records: int = 0
    first: Record | None = None
    last: Record | None = None
    problems: list[Problem] = field(default_factory=list)
    remarks: list[Problem] = field(default_factory=list)  # to be looked at, and no proof of harm

    @property
    def ok(self) -> bool:
        return not self.problems


def records(folder: Path) -> Iterator[Record]:
    """All records that can be read, the oldest first; raises OSError."""
    for file in chain_files(folder):
        with file.open("rb") as lines:
            for line in lines:
                record = parse(line.removesuffix(b"\n"))
                if record is not None:
                    yield record


def verify(folder: Path, *, anchor: Head | None = None) -> Verdict:
    """Follow the chain from its first record to its last; raises OSError.

    `anchor` is a head that was kept elsewhere: without one, who may write all files of the folder
    can make up a whole new chain. A log may be verified while it is written.
    """
    verdict = Verdict()
    try:
        # Before the files: they only grow, so that nothing of it can be missing from them.
        left = read_head(folder)
    except ValueError as error:
        verdict.problems.append(
            Problem(file=HEAD_FILE, line=0, seq=0, problem=f"not as it was written: {error}")
        )
        left = Head(0, GENESIS)
    chain = _Chain(verdict, left, anchor)
    for file in chain_files(folder):
        chain.file(file)
    chain.end()
    return verdict


class _Chain:
    """Where a verification stands in the chain."""

    def __init__(self, verdict: Verdict, left: Head | None, anchor: Head | None) -> None:
        self._verdict = verdict
        self._left = left
        self._anchor = anchor
        self._seq = 0  # of the record before
        self._hash = ""
        self._pruned: set[Head] = set()
        self._start: Head | None = None  # what the first record follows
        self._bad: tuple[Path, int, bytes] | None = None  # a line that may have been torn
        self._unended = False
        self._place = ("", 0)

    def file(self, file: Path) -> None:
        """Go through one file."""
        self._end_bad()
        self._verdict.files += 1
        named = first_seq_of(file)
        first = True
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                self._whole()
                self._place = (file.name, number)
                record = parse(line.removesuffix(b"\n"))
                if first and record is not None and record["seq"] != named:
                    self._problem(record["seq"], f"the file's name says that {named} stands here")
                first = False
                self._unended = not line.endswith(b"\n")
                if record is None:
                    self._end_bad()
                    self._bad = (file, number, line.removesuffix(b"\n"))
                else:
                    self._follow(record)

    def end(self) -> None:
        """The last file is over: is anything missing?"""
        verdict, left = self._verdict, self._left
        if self._unended:
            self._end_unended()
        self._end_bad()
        if left is None and verdict.records:
            verdict.problems.append(
                Problem(file=HEAD_FILE, line=0, seq=self._seq, problem="is missing")
            )
        if left is not None and left.seq > self._seq:
            self._problem(
                left.seq,
                f"records {self._seq + 1} to {left.seq} are missing from the end",
            )
        if self._anchor is not None and self._anchor.seq > self._seq:
            self._problem(self._anchor.seq, "the record that was kept elsewhere is missing")
        start = self._start
        if start is not None and start != Head(0, GENESIS) and start not in self._pruned:
            verdict.problems.insert(
                0,
                Problem(
                    file=file_of(verdict),
                    line=1,
                    seq=start.seq + 1,
                    problem=f"records up to {start.seq} are missing, and no record says that their"
                    " time was over",
                ),
            )

    # --- one record ---------------------------------------------------------------------------

    def _follow(self, record: Record) -> None:
        verdict = self._verdict
        seq, previous = record["seq"], record["previous"]
        self._marked(record)
        if verdict.first is None:
            verdict.first = record
            self._start = Head(seq - 1, previous)
        elif seq != self._seq + 1:
            self._out_of_order(seq)
        elif previous != self._hash:
            self._problem(
                seq,
                "does not follow the record before it: one of the two was put in another's place",
            )
        self._seq, self._hash = seq, record["hash"]
        verdict.last = record
        verdict.records += 1
        self._compare(record)
        if record["action"] == PRUNED and isinstance(record["new"], dict):
            through, ended = record["new"].get("through"), record["new"].get("ended_with")
            if isinstance(through, int) and isinstance(ended, str):
                self._pruned.add(Head(through, ended))
        if record["action"] == DAMAGED:
            self._remark(seq, f"at a start this was found: {_found(record)}")

    def _out_of_order(self, seq: int) -> None:
        wanted = self._seq + 1
        if seq > wanted:
            gap = f"record {wanted} is" if seq == wanted + 1 else f"{wanted} to {seq - 1} are"
            self._problem(seq, f"{gap} missing before it")
        else:
            self._problem(seq, f"stands where {wanted} should: inserted, or moved")

    def _compare(self, record: Record) -> None:
        for head, words in ((self._left, HEAD_FILE), (self._anchor, "what was kept elsewhere")):
            if head is not None and head.seq == record["seq"] and head.hash != record["hash"]:
                self._problem(
                    head.seq, f"is not the one that {words} names: the chain was rewritten"
                )

    def _marked(self, record: Record) -> None:
        """A line that was cut off is named by the record after it, byte for byte."""
        named = record["action"] == TORN
        if named and self._bad is not None and record["new"] == torn_mark(self._bad[2]):
            self._bad = None
        elif named and self._bad is None:
            self._problem(record["seq"], "the cut-off line that it names is missing")
        self._end_bad()

    def _end_bad(self) -> None:
        if self._bad is not None:
            file, number, _ = self._bad
            self._bad = None
            self._verdict.problems.append(
                Problem(
                    file=file.name,
                    line=number,
                    seq=self._seq + 1,
                    problem="changed: this is not what the gateway wrote",
                )
            )

    def _whole(self) -> None:
        """A line that has no end was the last of its file: only the last file may have one."""
        if self._unended:
            self._problem(self._seq, "the end of its line is missing")
            self._unended = False

    def _end_unended(self) -> None:
        acknowledged = self._left.seq if self._left is not None else 0
        if self._bad is None and self._seq <= acknowledged:
            self._problem(self._seq, "the end of its line is missing")
        elif self._bad is None or self._seq >= acknowledged:
            self._bad = None
            self._remark(
                self._seq,
                "the last line is not whole: a write that was cut off, which the next start marks",
            )

    def _problem(self, seq: int, problem: str) -> None:
        if len(self._verdict.problems) < PROBLEMS_MAX:
            file, line = self._place
            self._verdict.problems.append(Problem(file=file, line=line, seq=seq, problem=problem))

    def _remark(self, seq: int, problem: str) -> None:
        if len(self._verdict.remarks) < PROBLEMS_MAX:
            file, line = self._place
            self._verdict.remarks.append(Problem(file=file, line=line, seq=seq, problem=problem))


def _found(record: Record) -> str:
    return str(record["new"].get("found", "")) if isinstance(record["new"], dict) else ""


def file_of(verdict: Verdict) -> str:
    return "" if verdict.first is None else f"audit-{verdict.first['seq']:012d}.jsonl"
