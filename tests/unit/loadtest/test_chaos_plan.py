"""A seed gives one plan, and every plan holds what a run must go through."""

from itertools import pairwise

import pytest

from loadtest.chaos_actors import weather_of
from loadtest.chaos_plan import HELD_S_MAX, Plan, Step, plan_of

NETWORK_ACTIONS = {"latency", "slow", "half-open", "mute", "reset", "cut", "refuse"}


def everybodys_steps(plan: Plan) -> list[tuple[Step, ...]]:
    return [plan.front, plan.disk, *plan.acquirers, *plan.fleets, *plan.backs]


def kills(steps: tuple[Step, ...]) -> int:
    return sum(step.action == "kill" for step in steps)


def test_a_seed_gives_the_same_plan_and_another_seed_another() -> None:
    assert plan_of(7, seconds=30) == plan_of(7, seconds=30)
    assert plan_of(7, seconds=30) != plan_of(8, seconds=30)


@pytest.mark.parametrize("seed", range(1, 11))
def test_a_minute_kills_gateways_and_acquirers_often_enough(seed: int) -> None:
    plan = plan_of(seed, seconds=60)
    assert len(plan.lives) >= 20
    assert sum(kills(steps) for steps in plan.acquirers) >= 10
    assert all(kills(steps) for steps in plan.fleets)
    assert any(life.starting for life in plan.lives)
    assert any(life.stops for life in plan.lives)
    assert any(life.reloads for life in plan.lives)
    assert {step.action for step in plan.front} == NETWORK_ACTIONS
    assert plan.disk


@pytest.mark.parametrize("seconds", [5, 15, 60, 300])
def test_the_steps_of_one_actor_follow_each_other(seconds: float) -> None:
    for seed in range(20):
        for steps in everybodys_steps(plan_of(seed, seconds=seconds)):
            assert all(one.at_s + one.lasts_s <= next_.at_s for one, next_ in pairwise(steps))
            assert steps[0].at_s >= 0
            assert steps[-1].at_s < seconds + HELD_S_MAX


def test_nothing_is_held_back_for_longer_than_a_late_answer_may_take() -> None:
    for seed in range(50):
        for steps in everybodys_steps(plan_of(seed, seconds=60)):
            for step in steps:
                if step.action in ("mute", "half-open", "stop"):
                    assert step.lasts_s <= HELD_S_MAX


def test_every_weather_of_a_plan_is_known() -> None:
    sudden = ("reset", "cut", "refuse")
    for step in plan_of(1, seconds=300).front:
        if step.action not in sudden:
            weather = weather_of(step)
            assert weather.latency_s or weather.bytes_per_s or weather.held


def test_a_plan_can_be_read_before_it_happens() -> None:
    lines = list(plan_of(3, seconds=60).lines())
    assert lines[0] == "seed 3, 60 s"
    assert any("killed" in line and "after it was ready" in line for line in lines)
    assert any(line.startswith("acquirer 2:") and "kill" in line for line in lines)
    assert any(line.startswith("disk:") and "full" in line for line in lines)
