"""Whatever happens to an upstream: what may be asked of it, and when, keeps its bounds."""

from __future__ import annotations

from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.settings.schema_upstreams import Health as Settings
from gateway.upstreams.health import UPSTREAM_TRANSITIONS, Health
from gateway.upstreams.upstream_health import UpstreamHealth

SETTINGS = Settings(eject_max_s=20.0)
MOVES = {(before, after) for (before, _), after in UPSTREAM_TRANSITIONS.items()}

happenings = st.one_of(
    st.tuples(
        st.just("links"),
        st.integers(0, 2),
        st.integers(0, 2),
        st.integers(0, 3),
        st.booleans(),
    ),
    st.tuples(st.just("answered"), st.sampled_from(("00", "51", "91", "96")), st.integers(0, 4)),
    st.tuples(st.just("timed out")),
    st.tuples(st.just("asked")),
    st.tuples(st.just("released")),
    st.tuples(st.just("look")),
    st.tuples(st.just("wait"), st.floats(0.0, 30.0)),
)


class Run:
    """An upstream's health, and who was let through since it is being probed."""

    def __init__(self, *, others_up: bool) -> None:
        self.now_s = 0.0
        self.others_up = others_up
        self.usable = self.suspect = 0
        self.probes: list[float] = []
        self.health = UpstreamHealth(SETTINGS, random=lambda: 0.5, changed=self._changed)

    def _changed(self, before: Health, after: Health, why: str) -> None:
        assert before is not after
        assert (before, after) in MOVES
        assert why
        self.probes.clear()

    def do(self, what: str, *values: object) -> None:
        getattr(self, f"_{what.replace(' ', '_')}")(*values)
        self._holds()

    def _links(self, usable: int, suspect: int, lost: int, silent: bool) -> None:
        self.usable, self.suspect = usable, suspect
        self.health.links(
            self.now_s,
            usable=usable,
            suspect=suspect,
            lost=lost,
            silent=silent,
            others_up=self.others_up,
        )

    def _answered(self, code: str, bank: int) -> None:
        self.health.answered(
            code,
            issuer=f"40000{bank}",
            asked_s=self.now_s,
            now_s=self.now_s,
            others_up=self.others_up,
        )

    def _timed_out(self) -> None:
        self.health.timed_out(asked_s=self.now_s, now_s=self.now_s)

    def _asked(self) -> None:
        probing = self.health.state is Health.PROBING
        wanted = self.health.wants_probe(self.now_s)
        admitted = self.health.admits(self.now_s)
        if probing:
            assert admitted is wanted
            if admitted:
                self.probes = [s for s in self.probes if self.now_s < s + SETTINGS.eject_max_s]
                self.probes.append(self.now_s)
                assert len(self.probes) == 1
        elif self.health.state is not Health.UP:
            assert not admitted

    def _released(self) -> None:
        self.health.released()
        self.probes.clear()

    def _look(self) -> None:
        self.health.look(self.now_s)

    def _wait(self, seconds: float) -> None:
        self.now_s += seconds

    def _holds(self) -> None:
        health = self.health
        if not self.usable:
            assert health.state in (Health.DOWN, Health.SUSPECT)
        if not self.usable and not self.suspect:
            assert health.state is Health.DOWN
        if health.state in (Health.UP, Health.SUSPECT):
            assert health.ejected_until_s is None
        if health.ejected_until_s is not None:
            assert health.ejected_until_s <= self.now_s + 1.1 * SETTINGS.eject_max_s
        if health.state is Health.DOWN and self.usable:
            # It is never forgotten: there is a time to look, and then it is probed.
            assert health.next_s < inf
        assert 0.1 <= health.share <= 1.0


@given(st.lists(happenings, max_size=60), st.booleans())
@settings(max_examples=150, deadline=None)
def test_bounds_hold_whatever_happens(
    happened: list[tuple[str, object]],
    others_up: bool,
) -> None:
    run = Run(others_up=others_up)
    for what, *values in happened:
        run.do(what, *values)
    # And it always comes back: a link, its time, and one good answer.
    run.do("links", 1, 0, 0, False)
    run.do("wait", max(0.0, min(run.health.next_s, 1e6) - run.now_s))
    run.do("look")
    assert run.health.state in (Health.UP, Health.PROBING)
    run.do("answered", "00", 0)
    assert run.health.state is Health.UP
    run.do("wait", SETTINGS.slow_start_s)
    assert all(run.health.admits(run.now_s) for _ in range(20))
