"""Failover evidence: what ledgers and the gateway's log say after one case."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Any

from gateway.store.store import State
from loadtest.chaos_evidence import Evidence
from loadtest.commit import open_for_reading
from loadtest.failover_measures import Taken
from loadtest.gateway_ledger import Record, key_of, read_records
from loadtest.ledger import Outcome, read_attempts

_SHOWN_MAX = 8
_EVENTS_MAX = 60
_PURCHASE = "0200"
_LINK_TRIED = ("link_up", "link_failed")
# Of each event only what tells one from the other is kept.
_TOLD = ("upstream", "link", "state", "was", "reason", "why")


@dataclass(slots=True)
class Verdict:
    """Whether everybody believes the same, and where not."""

    lost: int = 0
    doubled: int = 0
    unexplained: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        return not (self.lost or self.doubled or self.unexplained)

    def add(self, fault: str, line: str) -> None:
        setattr(self, fault, getattr(self, fault) + 1)
        self.lines.append(f"{fault}: {line}")


def three_ledgers(
    *, terminals: Path, store: Path, acquirers: Mapping[str, Path], log: Path
) -> Verdict:
    """Terminals, gateway and acquirers compared."""
    found = Evidence(terminals=[terminals], acquirers=acquirers, store=store).look()
    return Verdict(found.lost, found.doubled, found.unexplained, list(found.lines(log)))


def without_acquirers(
    *, terminals: Path, store: Path, received: Mapping[str, int | None]
) -> Verdict:
    """Terminals and gateway compared, where acquirers only count.

    `received` has for each acquirer how many purchases came to it; None where it was killed and
    cannot tell. More of them than the gateway says it sent there were sent twice.
    """
    verdict = Verdict()
    records = {key_of(record.terminal_id, record.stan): record for record in read_records(store)}
    for attempt in read_attempts(terminals):
        record = records.get(key_of(attempt.terminal_id, attempt.stan))
        holds = record is not None and record.holds_money
        if attempt.outcome is Outcome.APPROVED and not holds:
            verdict.add("unexplained", f"{attempt.reference}: approved, the gateway: {record}")
        if attempt.outcome is not Outcome.APPROVED and holds:
            verdict.add("lost", f"{attempt.reference}: {attempt.outcome}, the gateway: {record}")
    sent = Counter(_sent_to(records.values()))
    for name, count in received.items():
        if count is not None and count > sent[name]:
            line = f"{name} got {count} purchases, the gateway sent it {sent[name]}"
            verdict.doubled += count - sent[name]
            verdict.lines.append(f"doubled: {line}")
    return verdict


def _sent_to(records: Any) -> Iterator[str]:
    record: Record
    for record in records:
        if record.state != State.NOTHING_SENT:
            yield record.upstream


def read_taken(store: Path, *, zero_ms: float) -> list[Taken]:
    """Which upstream got each transaction, and when, seen from a moment of wall time."""
    database = open_for_reading(store)
    try:
        rows = database.execute(
            "SELECT (julianday(created) - 2440587.5) * 86400000.0, upstream FROM ledger"
            " WHERE state != ?",
            (State.NOTHING_SENT.value,),
        )
        return sorted(
            Taken((created_ms - zero_ms) / 1000, upstream) for created_ms, upstream in rows
        )
    finally:
        database.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What the gateway's log says of one upstream from some moment on."""

    attempts: int  # to connect
    suspicions: int
    events: dict[str, int]
    first: list[dict[str, Any]]  # the first of them, with the second of sickness
    suspected_after_s: float | None


def listen(log: Path, upstreams: Sequence[str], *, from_ms: float, to_ms: float = inf) -> Heard:
    """Reads a log of JSON lines, from one moment to another; what it cannot read is no subject."""
    counts: Counter[str] = Counter()
    first: list[dict[str, Any]] = []
    suspected_s: float | None = None
    suspicions = 0
    for event in _events(log):
        name = event["event"]
        of = str(event.get("upstream") or event.get("link", "")).partition("/")[0]
        at_s = round((_wall_ms(event["time"]) - from_ms) / 1000, 3)
        if of not in upstreams or not 0 <= at_s <= (to_ms - from_ms) / 1000:
            continue
        counts[name] += 1
        if "suspect" in name or event.get("state") == "suspect":
            suspicions += 1
            suspected_s = at_s if suspected_s is None else suspected_s
        if len(first) < _EVENTS_MAX:
            first.append({"s": at_s, "event": name} | {k: event[k] for k in _TOLD if k in event})
    return Heard(
        attempts=sum(counts[name] for name in _LINK_TRIED),
        suspicions=suspicions,
        events=dict(sorted(counts.items())),
        first=first,
        suspected_after_s=suspected_s,
    )


def _events(log: Path) -> Iterator[dict[str, Any]]:
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if '"link_' in line or '"upstream_' in line:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if str(event.get("event", "")).startswith(("link_", "upstream_")):
                    yield event


def _wall_ms(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000


def purchases_of(received: Mapping[str, int]) -> int:
    """Of what isoload's acquirer received, the purchases, marked repeats not among them."""
    return received.get(_PURCHASE, 0)
