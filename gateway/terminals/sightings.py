"""Where those who may not come any more were seen since: when, from where, with what, and why."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace

import orjson
import trio

from gateway.clock import Clock
from gateway.errors import StoreError
from gateway.store.store import PutNote, Store
from gateway.telemetry.events import Emit, Event

_PREFIX = "sightings:"
_WRITE_EVERY_S = 0.5
_WRITTEN_AT_ONCE = 200
_SAME_MS = 60_000  # one who tries again and again is told of once in so long


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Somebody who was turned away; "" for what is not known of them."""

    terminal_id: str  # without the blanks that pad it; claimed, and perhaps not proved
    listener: str
    address: str
    certificate_sha256: str
    why: str  # with the file and line of the entry, where one decided


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """The same attempt, once or many times in a row."""

    attempt: Attempt
    first_ms: int
    last_ms: int
    count: int


class Sightings:
    """The last sightings of each device, certificate or address, bounded, and written behind.

    A crash may lose the last half second of them; a terminal never waits for one to be written.
    """

    def __init__(
        self, store: Store, *, clock: Clock, emit: Emit, kept_max: int, subjects_max: int
    ) -> None:
        """`kept_max` are kept of each, and of at most `subjects_max`: those seen last."""
        self._store = store
        self._clock = clock
        self._emit = emit
        self._kept_max = kept_max
        self._subjects_max = subjects_max
        self._by_subject: OrderedDict[str, deque[Sighting]] = OrderedDict()
        self._unwritten: dict[str, None] = {}
        # Told of each: the report of an incident grows by it.
        self.heard: Callable[[Attempt], None] = lambda _: None

    async def restore(self) -> None:
        """Take up what was kept; raises StoreError."""
        found = await self._store.notes(_PREFIX)
        kept = [(name.removeprefix(_PREFIX), _read(text)) for name, text in found.items()]
        for subject, sightings in sorted(kept, key=lambda one: one[1][-1].last_ms if one[1] else 0):
            if sightings:
                self._by_subject[subject] = deque(sightings, maxlen=self._kept_max)

    def note(self, attempt: Attempt) -> None:
        """Somebody was turned away."""
        self._keep(attempt)
        self.heard(attempt)

    def _keep(self, attempt: Attempt) -> None:
        now_ms = self._clock.wall_ms()
        subject = attempt.terminal_id or attempt.certificate_sha256 or attempt.address
        seen = self._by_subject.setdefault(subject, deque(maxlen=self._kept_max))
        self._by_subject.move_to_end(subject)
        self._unwritten[subject] = None
        last = seen[-1] if seen else None
        if last is not None and last.attempt == attempt and now_ms - last.first_ms < _SAME_MS:
            seen[-1] = replace(last, last_ms=now_ms, count=last.count + 1)
            return
        seen.append(Sighting(attempt=attempt, first_ms=now_ms, last_ms=now_ms, count=1))
        if len(self._by_subject) > self._subjects_max:
            forgotten, _ = self._by_subject.popitem(last=False)
            self._unwritten[forgotten] = None
        self._emit(
            Event.SIGHTING,
            terminal=attempt.terminal_id,
            listener=attempt.listener,
            address=attempt.address,
            certificate=attempt.certificate_sha256,
            reason=attempt.why,
        )

    def of(self, terminal_id: str = "", *, limit: int) -> list[Sighting]:
        """The latest sightings, the newest first: of one device, or of all."""
        one = self._by_subject.get(terminal_id.rstrip(), ())
        found: Iterable[Sighting] = (
            one if terminal_id else (each for kept in self._by_subject.values() for each in kept)
        )
        return sorted(found, key=lambda each: -each.last_ms)[:limit]

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what is new every so often, until cancelled; the last is written then."""
        task_status.started()
        try:
            while True:
                await trio.sleep(_WRITE_EVERY_S)
                self._write(_WRITTEN_AT_ONCE)
        finally:
            self._write(self._subjects_max)

    def _write(self, count_max: int) -> None:
        for subject in list(self._unwritten)[:count_max]:
            try:
                self._store.post(
                    PutNote(_PREFIX + subject, _text(self._by_subject.get(subject, ())))
                )
            except StoreError:
                return  # The store says so itself; it is tried again.
            del self._unwritten[subject]


def _text(sightings: Iterable[Sighting]) -> str:
    """As it is kept; nothing for who is forgotten."""
    rows = [asdict(one) for one in sightings]
    return orjson.dumps(rows).decode() if rows else ""


def _read(text: str) -> list[Sighting]:
    try:
        return [
            Sighting(**{**row, "attempt": Attempt(**row["attempt"])}) for row in orjson.loads(text)
        ]
    except (ValueError, KeyError, TypeError):
        return []  # Of another version of the gateway.
