"""What is kept of those who were turned away: bounded, told once a minute, and over a restart."""

from __future__ import annotations

import trio
import trio.testing

from gateway.clock import VirtualClock
from gateway.telemetry.events import Event
from gateway.terminals.sightings import Attempt, Sightings
from tests.support.fake_store import FakeStore


def attempt(terminal_id: str = "T1", address: str = "192.0.2.1") -> Attempt:
    return Attempt(
        terminal_id=terminal_id,
        listener="shops",
        address=address,
        certificate_sha256="",
        why="terminal_blocked: blocklists/terminals:1",
    )


class Kept:
    def __init__(self, *, kept_max: int = 3, subjects_max: int = 2) -> None:
        self.store = FakeStore()
        self.clock = VirtualClock(1_000_000)
        self.told: list[Event] = []
        self.bounds = (kept_max, subjects_max)
        self.sightings = self.made()

    def made(self) -> Sightings:
        kept_max, subjects_max = self.bounds
        return Sightings(
            self.store,
            clock=self.clock,
            emit=lambda event, /, **_: self.told.append(event),
            kept_max=kept_max,
            subjects_max=subjects_max,
        )


async def test_the_same_again_is_counted_and_told_once_a_minute(
    autojump_clock: trio.testing.MockClock,
) -> None:
    kept = Kept()
    for _ in range(5):
        kept.sightings.note(attempt())
    (one,) = kept.sightings.of("T1", limit=10)
    assert (one.count, kept.told) == (5, [Event.SIGHTING])
    await trio.sleep(1)
    kept.sightings.note(attempt(address="192.0.2.2"))
    assert [one.count for one in kept.sightings.of("T1", limit=10)] == [1, 5]


async def test_each_keeps_so_many_and_those_seen_last_are_kept() -> None:
    kept = Kept()
    for number in range(9):
        kept.sightings.note(attempt(address=f"192.0.2.{number}"))
    assert len(kept.sightings.of("T1", limit=100)) == 3
    for terminal in ("T2", "T1", "T3"):
        kept.sightings.note(attempt(terminal))
    assert {one.attempt.terminal_id for one in kept.sightings.of(limit=100)} == {"T1", "T3"}
    assert len(kept.sightings.of(limit=2)) == 2


async def test_they_outlive_a_restart_and_forgotten_ones_do_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    kept = Kept()
    async with trio.open_nursery() as nursery:
        await nursery.start(kept.sightings.run)
        for terminal in ("T1", "T2", "T3"):
            kept.sightings.note(attempt(terminal))
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    again = kept.made()
    await again.restore()
    assert again.of(limit=100) == kept.sightings.of(limit=100)
    assert again.of("T1", limit=100) == []
