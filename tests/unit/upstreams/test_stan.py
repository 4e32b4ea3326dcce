"""STANs are never issued too soon again, restarts included."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams.stan import BLOCK, BLOCKS, StanRing

LATE_MS = 60_000


def take(ring: StanRing, now_ms: int) -> int | None:
    """Take a STAN as the pool does: reserving first where one is wanted."""
    first = ring.wanted(now_ms)
    if first is not None:
        ring.reserved(first)
    return ring.take(now_ms)


def test_nothing_is_issued_before_a_reservation_is_durable() -> None:
    ring = StanRing(late_max_ms=LATE_MS)
    assert ring.wanted(0) == 0
    assert ring.take(0) is None
    ring.reserved(0)
    assert ring.take(0) == 1


def test_stans_count_up_from_one_and_zero_is_never_issued() -> None:
    ring = StanRing(late_max_ms=LATE_MS)
    assert [take(ring, 0) for _ in range(2_500)] == list(range(1, 2_501))


def test_the_next_block_is_reserved_before_the_current_one_runs_out() -> None:
    ring = StanRing(late_max_ms=LATE_MS)
    ring.reserved(0)
    for _ in range(BLOCK // 2 - 2):
        ring.take(0)
    assert ring.wanted(0) is None
    ring.take(0)
    assert ring.wanted(0) == BLOCK


def test_a_whole_turn_within_late_max_exhausts_the_ring() -> None:
    ring = StanRing(late_max_ms=LATE_MS)
    issued = [take(ring, 0) for _ in range(BLOCK * BLOCKS)]
    numbers = [stan for stan in issued if stan is not None]
    assert len(numbers) == len(set(numbers)) == BLOCK * BLOCKS - 1
    assert issued[-1] is None
    assert take(ring, LATE_MS) is None
    assert take(ring, LATE_MS + 1) == 1


def test_a_held_stan_is_skipped_until_released_as_often_as_held() -> None:
    ring = StanRing(late_max_ms=0)
    for _ in range(2):
        ring.hold(7)
    ring.release(7)
    assert [take(ring, 0) for _ in range(8)] == [1, 2, 3, 4, 5, 6, 8, 9]
    ring.release(7)
    ring.release(7)  # once more than held is no error
    again = [take(ring, turn) for turn in range(1, BLOCK * BLOCKS)]
    assert 7 in again


def test_a_restart_goes_on_behind_what_was_reserved() -> None:
    before = StanRing(late_max_ms=LATE_MS)
    reserved: list[tuple[int, int]] = []
    used = set()
    for moment in range(2_300):
        first = before.wanted(moment)
        if first is not None:
            reserved.append((first, moment))
            before.reserved(first)
        used.add(before.take(moment))
    after = StanRing(late_max_ms=LATE_MS)
    after.restore(reserved, now_ms=2_300)
    assert not used & {take(after, 2_301) for _ in range(5_000)}


@given(st.lists(st.tuples(st.integers(0, 3_000), st.booleans()), min_size=1, max_size=60))
def test_no_stan_twice_within_late_max_whatever_the_pace_and_the_restarts(
    steps: list[tuple[int, bool]],
) -> None:
    late_ms = 2_000
    ring = StanRing(late_max_ms=late_ms)
    reserved: dict[int, int] = {}
    last_issued: dict[int, int] = {}
    now_ms = 0
    for pause_ms, restart in steps:
        now_ms += pause_ms
        if restart:
            ring = StanRing(late_max_ms=late_ms)
            ring.restore(list(reserved.items()), now_ms=now_ms)
        for _ in range(700):
            now_ms += 1
            first = ring.wanted(now_ms)
            if first is not None:
                reserved[first] = now_ms
                ring.reserved(first)
            stan = ring.take(now_ms)
            if stan is not None:
                assert now_ms - last_issued.get(stan, -late_ms - 1) > late_ms
                last_issued[stan] = now_ms
