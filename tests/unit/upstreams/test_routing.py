"""The first route that fits names the group, and the group's strategy the order."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from gateway.settings.schema import Group, Member, Route
from gateway.upstreams.conditions import Subject
from gateway.upstreams.routing import Router
from gateway.wire.message import Kind


def group(name: str, strategy: Literal["priority", "weighted"], **weights: int) -> Group:
    members = [Member(upstream=upstream, weight=weight) for upstream, weight in weights.items()]
    return Group(name=name, strategy=strategy, members=members)


def test_the_first_route_that_fits_is_taken() -> None:
    router = Router(
        [
            Route(name="refunds", kinds=[Kind.REFUND], group="one"),
            Route(name="rest", group="two"),
        ],
        [group("one", "priority", a=1), group("two", "priority", b=1, c=1)],
    )
    assert router.choose(Subject(Kind.REFUND)).upstreams == ("a",)
    assert router.choose(Subject(Kind.PURCHASE)).upstreams == ("b", "c")


def test_without_a_route_that_fits_there_is_no_candidate() -> None:
    router = Router(
        [Route(name="refunds", kinds=[Kind.REFUND], group="one")], [group("one", "priority", a=1)]
    )
    assert router.choose(Subject(Kind.PURCHASE)).upstreams == ()


def test_weights_are_exact_shares_and_all_others_stand_in() -> None:
    router = Router([Route(name="all", group="g")], [group("g", "weighted", a=3, b=1)])
    orders = [router.choose(Subject(Kind.PURCHASE)).upstreams for _ in range(400)]
    assert Counter(order[0] for order in orders) == {"a": 300, "b": 100}
    assert all(set(order) == {"a", "b"} for order in orders)
    # Never bunched: in each run of four, three and one.
    assert all(
        Counter(order[0] for order in orders[at : at + 4]) == {"a": 3, "b": 1}
        for at in range(0, 400, 4)
    )
