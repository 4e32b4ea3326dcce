"""Slow acquirers are not suspected, mute ones are, and our own stalls are nobody's silence."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.settings.schema_upstreams import Health as HealthSettings
from gateway.upstreams.health import Health
from tests.support.wire_sim import Wire

Sampler = Callable[[], float]

# Of the requests made once its latencies are known, at most so many make a healthy link suspect.
FALSE_SUSPICIONS_MAX = 1 / 1_000


def lognormal(rng: random.Random, median_s: float, sigma: float) -> Sampler:
    return lambda: rng.lognormvariate(log(median_s), sigma)


def pareto(rng: random.Random, least_s: float, alpha: float) -> Sampler:
    return lambda: min(least_s * rng.paretovariate(alpha), 20.0)


def two_humps(rng: random.Random, fast_s: float, slow_s: float, share: float) -> Sampler:
    """A switch whose foreign cards take far longer."""
    return lambda: rng.uniform(0.8, 1.2) * (slow_s if rng.random() < share else fast_s)


@st.composite
def samplers(draw: st.DrawFn) -> tuple[str, Sampler]:
    rng = random.Random(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(("lognormal", "pareto", "humps")))
    if kind == "lognormal":
        median_s, sigma = draw(st.floats(0.005, 0.8)), draw(st.floats(0.1, 1.0))
        return f"{kind} {median_s:.3f} {sigma:.2f}", lognormal(rng, median_s, sigma)
    if kind == "pareto":
        least_s, alpha = draw(st.floats(0.005, 0.5)), draw(st.floats(2.0, 4.0))
        return f"{kind} {least_s:.3f} {alpha:.2f}", pareto(rng, least_s, alpha)
    fast_s, share = draw(st.floats(0.01, 0.3)), draw(st.floats(0.05, 0.4))
    return f"{kind} {fast_s:.3f} {share:.2f}", two_humps(rng, fast_s, 2.0, share)


def arrivals(rng: random.Random, *, from_s: float, rate: float, number: int) -> list[float]:
    times, now_s = [], from_s
    for _ in range(number):
        now_s += rng.expovariate(rate)
        times.append(now_s)
    return times


@given(sampler=samplers(), rate=st.floats(0.2, 500.0), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_a_naturally_slow_acquirer_is_not_suspected(
    sampler: tuple[str, Sampler], rate: float, seed: int
) -> None:
    number = 1_000
    times = arrivals(random.Random(seed), from_s=0.0, rate=rate, number=number)
    wire = Wire(lambda _: sampler[1]())
    wire.ask(times)
    wire.run(times[-1])
    known_s = times[min(number // 5, 300)]
    false = [when_s for when_s in wire.became(Health.SUSPECT) if when_s > known_s]
    assert len(false) <= 3 + FALSE_SUSPICIONS_MAX * number
    # And none is ever closed for it: its host answers before that.
    assert not [when_s for when_s in wire.became(Health.DOWN) if when_s > known_s]


def test_the_rate_of_false_suspicions_is_what_is_stated() -> None:
    rng = random.Random(20)
    requests = suspicions = 0
    for sigma in (0.3, 0.6, 1.0):
        for median_s in (0.02, 0.3, 0.7):
            for rate in (0.5, 5.0, 100.0):
                sampler = lognormal(rng, median_s, sigma)
                times = arrivals(rng, from_s=0.0, rate=rate, number=1_500)
                wire = Wire(lambda _, sampler=sampler: sampler())  # type: ignore[misc]
                wire.ask(times)
                wire.run(times[-1])
                requests += 1_300
                suspicions += sum(when_s > times[200] for when_s in wire.became(Health.SUSPECT))
                assert not wire.became(Health.DOWN)
    assert suspicions <= FALSE_SUSPICIONS_MAX * requests


@given(
    sampler=samplers(),
    rate=st.floats(1.0, 500.0),
    seed=st.integers(0, 2**32),
    echoes=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_a_mute_acquirer_is_suspected_in_time_and_then_closed(
    sampler: tuple[str, Sampler], rate: float, seed: int, *, echoes: bool
) -> None:
    rng = random.Random(seed)
    times = arrivals(rng, from_s=0.0, rate=rate, number=1_000)
    mute_s = times[-1]
    first = arrivals(rng, from_s=mute_s, rate=rate, number=50)

    def answers(latency_s: float, now_s: float) -> float:
        # From then on nothing leaves it, what it has under way included.
        return inf if now_s + latency_s >= mute_s else latency_s

    wire = Wire(
        lambda now_s: answers(sampler[1](), now_s),
        lambda now_s: 0.01 if echoes else answers(0.01, now_s),
    )
    wire.ask(times + first)
    wire.run(mute_s)
    patience_s = max(0.1, wire.health.patience_s)
    if wire.health.state is not Health.UP:
        return  # suspected already: a lone slow answer
    wire.run(first[-1] + 100.0)
    suspected = [when_s for when_s in wire.became(Health.SUSPECT) if when_s > mute_s]
    assert suspected
    assert suspected[0] <= first[0] + patience_s + 1e-6
    down = [when_s for when_s in wire.became(Health.DOWN) if when_s > mute_s]
    settings_ = HealthSettings()
    bound_s = max(settings_.suspect_max_s, patience_s) if echoes else settings_.echo_s
    assert down
    assert down[0] <= suspected[0] + bound_s + 1e-6


@given(
    stall_s=st.floats(0.02, 3.0),
    offset_s=st.floats(0.0, 0.2),
    rate=st.floats(1.0, 300.0),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=25, deadline=None)
def test_our_own_stall_is_nobodys_silence(
    stall_s: float, offset_s: float, rate: float, seed: int
) -> None:
    rng = random.Random(seed)
    sampler = lognormal(rng, 0.02, 0.3)
    times = arrivals(rng, from_s=0.0, rate=rate, number=600)
    wire = Wire(lambda _: sampler())
    wire.ask(times)
    stalled_s = times[400] + offset_s
    wire.stall(stalled_s, stalled_s + stall_s)
    wire.run(max(times[-1], stalled_s + stall_s) + 1.0)
    assert not [at_s for at_s in wire.became(Health.SUSPECT) if at_s >= stalled_s]
    assert not wire.became(Health.DOWN)


@given(lag_s=st.floats(0.0, 0.3), rate=st.floats(1.0, 300.0), echoes=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_process_that_is_always_late_sees_a_mute_acquirer_all_the_same(
    lag_s: float, rate: float, *, echoes: bool
) -> None:
    wire = Wire(
        lambda now_s: 0.02 if now_s < 5 else inf,
        lambda now_s: 0.01 if now_s < 5 or echoes else inf,
        lag_s=lag_s,
    )
    times = [number / rate for number in range(1, int(8 * rate) + 1)]
    wire.ask(times)
    wire.run(60.0)
    first_s = next(when_s for when_s in times if when_s >= 5)
    suspected_s = next(when_s for when_s in wire.became(Health.SUSPECT) if when_s > 5)
    patience_s = 1.0 if 5 * rate < 52 else 0.1
    assert suspected_s <= first_s + patience_s + 4 * lag_s + 0.03
    assert wire.became(Health.DOWN)[0] <= suspected_s + 2.0 + 4 * lag_s + 0.01


@given(rate=st.floats(0.1, 500.0), seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_looks_are_few(rate: float, seed: int) -> None:
    rng = random.Random(seed)
    sampler = lognormal(rng, 0.02, 0.3)
    times = arrivals(rng, from_s=0.0, rate=rate, number=1_000)
    wire = Wire(lambda _: sampler())
    wire.ask(times)
    wire.run(times[-1])
    # Ten a second of traffic or a little over, as patience goes; or a few to each request after a
    # pause; and the echoes.
    most = min(13 * times[-1], 3 * len(times)) + times[-1] / 10 + 60
    assert wire.looks <= most


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_an_acquirer_that_swallows_many_requests_is_suspected(share: float) -> None:
    rng = random.Random(3)
    sampler = lognormal(rng, 0.03, 0.3)
    wire = Wire(lambda now_s: inf if now_s > 5 and rng.random() < share else sampler())
    wire.ask([number / 200 for number in range(2_000)])
    wire.run(10.0)
    assert 5.0 < wire.became(Health.SUSPECT)[0] < 5.5


def test_an_acquirer_that_loses_one_in_a_hundred_is_not() -> None:
    rng = random.Random(3)
    sampler = lognormal(rng, 0.03, 0.3)
    wire = Wire(lambda _: inf if rng.random() < 0.01 else sampler())
    wire.ask([number / 200 for number in range(6_000)])
    wire.run(30.0)
    assert wire.became(Health.SUSPECT) == []
