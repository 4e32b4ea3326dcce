"""Trace: everything that happened in a run, in order, and one hash that stands for it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import trio


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened."""

    at_s: float
    actor: str
    what: str
    fields: dict[str, object]

    def __str__(self) -> str:
        fields = " ".join(f"{name}={value}" for name, value in self.fields.items())
        return f"{self.at_s:10.4f}  {self.actor:<10} {self.what:<20} {fields}"


@dataclass(slots=True)
class About:
    """What tells the lines of one transaction from all others."""

    terminal_id: str
    stans: set[str]
    transactions: set[int] = field(default_factory=set)
    upstream: set[tuple[str, str]] = field(default_factory=set)  # upstream and STAN there

    def fits(self, line: Line) -> bool:
        fields = line.fields
        if not fields:
            return True  # a crash, a restart: it concerns everybody
        if fields.get("transaction") in self.transactions:
            return True
        if fields.get("terminal") == self.terminal_id and fields.get("stan") in self.stans:
            return True
        return (fields.get("upstream"), fields.get("upstream_stan")) in self.upstream


class Trace:
    """Takes lines down; equal runs have equal digests."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def __call__(self, actor: str, what: str, /, **fields: object) -> None:
        self.lines.append(Line(trio.current_time(), actor, what, fields))

    def digest(self) -> str:
        text = "\n".join(
            f"{line.at_s!r} {line.actor} {line.what} {line.fields!r}" for line in self.lines
        )
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def about(self, subjects: Collection[About]) -> Iterator[Line]:
        """The lines about some transactions, and those that concern everybody."""
        return (line for line in self.lines if any(one.fits(line) for one in subjects))
