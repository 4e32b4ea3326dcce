"""The short form of `make fuzz`: only errors that a peer may cause."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.mutator import Mutator
from tests.fuzz.seeds import framed, links, seeds
from tests.fuzz.target import run, through

LINKS = links()
SEEDS = seeds(LINKS)
FRAMES = 12_000


def test_changed_frames_are_read_or_refused() -> None:
    report = run(seed=7, first=0, count=FRAMES)
    assert not report.failures  # How long each takes is asked by `make fuzz`.
    assert sum(report.outcomes.values()) == FRAMES
    assert report.outcomes["read and written"] > FRAMES // 20
    assert report.outcomes["no message"] > FRAMES // 20
    assert report.outcomes["no frame"] > FRAMES // 100


def test_the_same_seed_changes_the_same() -> None:
    bodies = Mutator([one.body for one in SEEDS])
    for number in range(50):
        first, again = (bodies.changed(number % len(SEEDS), Random(number)) for _ in range(2))
        assert first == again


@settings(deadline=None, max_examples=500)
@given(st.integers(0, len(LINKS) - 1), st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused(number: int, data: bytes, whole: bool) -> None:
    link = LINKS[number]
    if whole and len(data) >= 4 and link.spec.length != "stx_etx":
        data = framed(link.spec, data)
    assert through(link, data)
