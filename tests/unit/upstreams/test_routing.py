"""The first route that fits names the group, the group's strategy the order, boarding who is in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

import pytest

from gateway.routes import opening_times
from gateway.settings.boarding import BoardedTerminal
from gateway.settings.schema_base import OpeningHours
from gateway.settings.schema_upstreams import Group, Member, Route, TerminalGroup, Upstream
from gateway.upstreams.conditions import Subject, subject_of
from gateway.upstreams.routing import Boarding, Router, boardings
from gateway.wire.entry_mode import EntryMode
from gateway.wire.message import Kind, Message

SALE = Subject(
    Kind.PURCHASE,
    card="6217001234567890",
    entry_mode=EntryMode.CHIP,
    currency="156",
    amount_minor=10_000,
    merchant_id="M0000001".ljust(15),
    terminal_id="T0000001",
)


def group(
    name: str, strategy: Literal["priority", "weighted", "least_pending"], **weights: int
) -> Group:
    members = [Member(upstream=upstream, weight=weight) for upstream, weight in weights.items()]
    return Group(name=name, strategy=strategy, members=members)


ONE, TWO = group("one", "priority", a=1), group("two", "priority", b=1)


def router(*routes: Route, groups: Sequence[TerminalGroup] = ()) -> Router:
    """Routes to group one, and one that takes the rest to group two."""
    return Router(
        [*routes, Route(name="rest", group="two")],
        [ONE, TWO],
        terminal_groups=groups,
        opening_times=opening_times,
    )


def fits(route: Route, subject: Subject, groups: Sequence[TerminalGroup] = ()) -> bool:
    return router(route, groups=groups).choose(subject).upstreams == ("a",)


def at(text: str, zone: str = "UTC") -> Subject:
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))
    return SALE._replace(wall_ms=round(moment.timestamp() * 1000))


class TestRoutes:
    def test_the_first_that_fits_is_taken(self) -> None:
        found = Router(
            [
                Route(name="refunds", kinds=[Kind.REFUND], group="one"),
                Route(name="rest", group="two"),
            ],
            [group("one", "priority", a=1), group("two", "priority", b=1, c=1)],
        )
        assert found.choose(Subject(Kind.REFUND)).upstreams == ("a",)
        assert found.choose(Subject(Kind.PURCHASE)).upstreams == ("b", "c")
        assert found.choose(Subject(Kind.PURCHASE)).why == "route rest, group two"

    def test_without_one_that_fits_there_is_no_candidate(self) -> None:
        found = Router([Route(name="refunds", kinds=[Kind.REFUND], group="one")], [ONE])
        choice = found.choose(Subject(Kind.PURCHASE))
        assert (choice.route, choice.upstreams, choice.why) == ("", (), "no route fits")

    def test_cards_by_their_first_digits(self) -> None:
        route = Route(name="r", bins=["6217", "622126-622925", "9"], group="one")
        for card in ("6217001234567890", "6221260000000000", "6229259999999999", "9", "62170"):
            assert fits(route, SALE._replace(card=card)), card
        for card in ("6216999999999999", "6221259999999999", "6229260000000000", "4111", ""):
            assert not fits(route, SALE._replace(card=card)), card

    def test_where_ranges_overlap_the_first_route_wins(self) -> None:
        found = Router(
            [
                Route(name="narrow", bins=["622200-622299"], group="one"),
                Route(name="wide", bins=["62"], group="two"),
            ],
            [ONE, TWO],
        )
        assert found.choose(SALE._replace(card="6222001")).route == "narrow"
        assert found.choose(SALE._replace(card="6223001")).route == "wide"
        assert found.choose(SALE._replace(card="4111")).route == ""

    def test_wallet_codes(self) -> None:
        route = Route(name="r", entry_modes=[EntryMode.QR], bins=["25-30"], group="one")
        code = "285012345678901234"
        assert fits(route, SALE._replace(card=code, entry_mode=EntryMode.QR))
        assert not fits(route, SALE._replace(card=code, entry_mode=EntryMode.MANUAL))
        assert not fits(route, SALE._replace(card="134512345678901234", entry_mode=EntryMode.QR))

    def test_currencies(self) -> None:
        route = Route(name="r", currencies=["156", "344"], group="one")
        assert fits(route, SALE)
        assert not fits(route, SALE._replace(currency="840"))
        assert not fits(route, SALE._replace(currency=""))

    @pytest.mark.parametrize(
        ("low", "high", "inside", "outside"),
        [
            (100, 200, (100, 150, 200), (0, 99, 201, None)),
            (None, 200, (0, 200), (201, None)),
            (100, None, (100, 999_999_999_999), (0, 99, None)),
            (0, 0, (0,), (1, None)),
        ],
    )
    def test_amounts(
        self,
        low: int | None,
        high: int | None,
        inside: tuple[int, ...],
        outside: tuple[int | None, ...],
    ) -> None:
        route = Route(name="r", amount_minor_min=low, amount_minor_max=high, group="one")
        assert all(fits(route, SALE._replace(amount_minor=amount)) for amount in inside)
        assert not any(fits(route, SALE._replace(amount_minor=amount)) for amount in outside)

    def test_merchants(self) -> None:
        route = Route(name="r", merchants=["M0000001", "N*"], group="one")
        for merchant in ("M0000001", "M0000001".ljust(15), "N", "N77".ljust(15)):
            assert fits(route, SALE._replace(merchant_id=merchant)), merchant
        for merchant in ("M00000011", "M000000", "", " ".ljust(15)):
            assert not fits(route, SALE._replace(merchant_id=merchant)), merchant

    def test_groups_of_terminals(self) -> None:
        groups = [
            TerminalGroup(name="malls", terminals=["X*", "T0000005-T0000009"]),
            TerminalGroup(name="kiosks", terminals=["K1"]),
        ]
        route = Route(name="r", terminal_groups=["malls", "kiosks"], group="one")
        for terminal in ("X0000001", "T0000005", "T0000009", "K1      "):
            assert fits(route, SALE._replace(terminal_id=terminal), groups), terminal
        for terminal in ("T0000004", "T0000010", "K2      ", "T000000A", ""):
            assert not fits(route, SALE._replace(terminal_id=terminal), groups), terminal

    def test_all_conditions_hold_at_once(self) -> None:
        route = Route(name="r", kinds=[Kind.PURCHASE], currencies=["156"], bins=["62"], group="one")
        assert fits(route, SALE)
        assert not fits(route, SALE._replace(kind=Kind.CASH))
        assert not fits(route, SALE._replace(currency="840"))
        assert not fits(route, SALE._replace(card="4111"))

    def test_what_of_a_message_counts(self) -> None:
        message = Message(
            "0200",
            {
                4: "000000010000",
                22: "051",
                35: "6217001234567890=2512",
                41: "T0000001",
                42: "M0000001       ",
                49: "156",
            },
        )
        assert subject_of(message, Kind.PURCHASE, 5) == SALE._replace(wall_ms=5)


class TestHours:
    ROUTE = Route(
        name="r",
        hours=[OpeningHours(days=["fri"], time="22:00-06:00"), OpeningHours(time="12:00-13:00")],
        time_zone="Europe/Berlin",
        group="one",
    )

    @pytest.mark.parametrize(
        ("local", "open_"),
        [
            ("2026-11-20T21:59", False),  # a Friday
            ("2026-11-20T22:00", True),
            ("2026-11-21T05:59", True),
            ("2026-11-21T06:00", False),
            ("2026-11-21T22:00", False),
            ("2026-11-19T12:00", True),
            ("2026-11-19T13:00", False),
            ("2026-07-03T22:00", True),  # summer time
            ("2026-07-03T21:59", False),
            ("2026-03-27T23:30", True),  # the night before the clocks go forward
            ("2026-10-25T12:30", True),  # the day they go back
        ],
    )
    def test_on_the_clock_of_the_zone(self, local: str, open_: bool) -> None:
        assert fits(self.ROUTE, at(local, "Europe/Berlin")) is open_

    def test_the_same_instant_in_another_season(self) -> None:
        assert fits(self.ROUTE, at("2026-11-20T21:00")) is True  # 22:00 there
        assert fits(self.ROUTE, at("2026-07-03T20:00")) is True
        assert fits(self.ROUTE, at("2026-07-03T19:59")) is False

    def test_each_minute_is_asked_anew(self) -> None:
        found = router(self.ROUTE)
        said = [
            found.choose(at(f"2026-11-19T{time}", "Europe/Berlin")).upstreams[0]
            for time in ("11:59", "12:00", "12:59:59", "13:00", "12:30")
        ]
        assert said == ["b", "a", "a", "b", "a"]


class TestStrategies:
    def test_weights_are_exact_shares_and_all_others_stand_in(self) -> None:
        found = Router([Route(name="all", group="g")], [group("g", "weighted", a=3, b=1)])
        orders = [found.choose(Subject(Kind.PURCHASE)).upstreams for _ in range(400)]
        assert Counter(order[0] for order in orders) == {"a": 300, "b": 100}
        assert all(set(order) == {"a", "b"} for order in orders)
        # Never bunched: in each run of four, three and one.
        assert all(
            Counter(order[0] for order in orders[start : start + 4]) == {"a": 3, "b": 1}
            for start in range(0, 400, 4)
        )

    def test_the_least_busy_goes_first_for_its_weight(self) -> None:
        pending = {"a": 4, "b": 1, "c": 9}
        found = Router(
            [Route(name="all", group="g")],
            [group("g", "least_pending", a=1, b=1, c=10)],
            pending=pending.__getitem__,
        )
        assert found.choose(SALE).upstreams == ("c", "b", "a")
        pending["c"] = 20
        assert found.choose(SALE).upstreams == ("b", "c", "a")

    def test_equals_take_turns(self) -> None:
        found = Router([Route(name="all", group="g")], [group("g", "least_pending", a=1, b=1, c=2)])
        first = Counter(found.choose(SALE).upstreams[0] for _ in range(400))
        assert first == {"a": 100, "b": 100, "c": 200}

    def test_who_gets_no_share_goes_last_and_who_starts_slowly_less_often(self) -> None:
        share = {"a": 0.0, "b": 1.0, "c": 0.25}
        found = Router(
            [Route(name="all", group="g")],
            [group("g", "weighted", a=1, b=1, c=1)],
            share=share.__getitem__,
        )
        orders = [found.choose(SALE).upstreams for _ in range(500)]
        assert Counter(order[0] for order in orders) == {"b": 400, "c": 100}
        assert all(order[-1] == "a" for order in orders)
        share |= {"b": 0.0, "c": 0.0}
        assert found.choose(SALE).upstreams == ("a", "b", "c")

    def test_a_backup_goes_first_while_the_primary_gets_no_share(self) -> None:
        share = {"a": 0.0, "b": 1.0}
        found = Router(
            [Route(name="all", group="g")],
            [group("g", "priority", a=1, b=1)],
            share=share.__getitem__,
        )
        assert found.choose(SALE).upstreams == ("b", "a")


def upstream(name: str, **values: object) -> Upstream:
    return Upstream.model_validate(
        {
            "name": name,
            "addresses": ["127.0.0.1:1"],
            "dialect": "iso87_ascii",
            "plain": True,
            **values,
        }
    )


class TestBoarding:
    def routed(self, *upstreams: Upstream, strategy: Literal["priority", "weighted"]) -> Router:
        terminals = {
            "b": {"T0000001": BoardedTerminal("90000001"), "T0000002": BoardedTerminal("90000002")}
        }
        return Router(
            [Route(name="all", group="g")],
            [group("g", strategy, **{one.name: 1 for one in upstreams})],
            boarding=boardings(upstreams, terminals),
        )

    def test_only_who_is_boarded_there_goes_there(self) -> None:
        found = self.routed(
            upstream("a", merchants=["M1*"]),
            upstream("b", knows_terminals="one_by_one", terminals_file="t.csv"),
            upstream("c"),
            strategy="priority",
        )
        assert found.choose(SALE).upstreams == ("b", "c")
        assert found.choose(SALE._replace(merchant_id="M1")).upstreams == ("a", "b", "c")
        assert found.choose(SALE._replace(terminal_id="T0000003")).upstreams == ("c",)

    def test_nobody_takes_it(self) -> None:
        found = self.routed(upstream("a", merchants=["M1"]), strategy="priority")
        choice = found.choose(SALE)
        assert (choice.route, choice.upstreams) == ("all", ())
        assert choice.why == (
            "route all, group g: none of its upstreams takes this merchant or terminal"
        )

    def test_turns_are_taken_among_those_who_may(self) -> None:
        found = self.routed(
            upstream("a", merchants=["M1"]), upstream("b"), upstream("c"), strategy="weighted"
        )
        first = Counter(found.choose(SALE).upstreams[0] for _ in range(100))
        assert first == {"b": 50, "c": 50}

    def test_why_not(self) -> None:
        boarding = Boarding(upstream("a", merchants=["M1"]), {})
        assert boarding.refusal("M2 ", "T1") == "merchant M2 is not boarded there"
        assert boarding.refusal("", "T1") == "no merchant is named"
        assert boarding.refusal("M1", "T1") == ""


class TestExplanations:
    def test_each_route_says_what_it_fails_on(self) -> None:
        groups = [TerminalGroup(name="malls", terminals=["X*"])]
        found = router(
            Route(name="kinds", kinds=[Kind.REFUND], bins=["9"], group="one"),
            Route(name="bins", bins=["622126-622925", "4"], group="one"),
            Route(name="modes", entry_modes=[EntryMode.QR], group="one"),
            Route(name="currencies", currencies=["840"], group="one"),
            Route(name="low", amount_minor_min=20_000, group="one"),
            Route(name="high", amount_minor_max=5_000, group="one"),
            Route(name="merchants", merchants=["N*"], group="one"),
            Route(name="terminals", terminal_groups=["malls"], group="one"),
            Route(
                name="hours", hours=[OpeningHours(days=["mon"], time="08:00-09:00")], group="one"
            ),
            Route(name="fits", bins=["6217"], group="one"),
            groups=groups,
        ).explain(SALE)
        assert found.route == "fits"
        assert [(step.route, step.fits, step.why) for step in found.routes] == [
            ("kinds", False, "it takes refund, and this is a purchase"),
            ("bins", False, "card 621700 is not in 622126-622925, 4"),
            ("modes", False, "it takes entry by qr, and this is by chip"),
            ("currencies", False, "it takes currency 840, and this is in 156"),
            ("low", False, "amount 10000 (minor units) is under 20000"),
            ("high", False, "amount 10000 (minor units) is over 5000"),
            ("merchants", False, "merchant M0000001 is not in N*"),
            ("terminals", False, "terminal T0000001 is in none of the terminal groups malls"),
            ("hours", False, "it is not within mon 08:00-09:00 (UTC)"),
            ("fits", True, ""),
            ("rest", True, "it fits too, but fits comes first"),
        ]

    def test_what_is_not_named(self) -> None:
        found = router(
            Route(name="bins", bins=["4"], group="one"),
            Route(name="currencies", currencies=["840"], group="one"),
            Route(name="amount", amount_minor_min=1, group="one"),
            Route(name="merchants", merchants=["N*"], group="one"),
        ).explain(Subject(Kind.PURCHASE))
        assert [step.why for step in found.routes] == [
            "it takes cards of 4, and this names no card",
            "it takes currency 840, and this names no currency",
            "it asks for an amount, and this has none",
            "it takes merchants N*, and none is named",
            "",
        ]

    def test_upstreams_and_why_not(self) -> None:
        upstreams = [upstream("a", merchants=["M1"]), upstream("b"), upstream("c")]
        found = Router(
            [Route(name="all", group="g")],
            [group("g", "weighted", a=5, b=1, c=2)],
            boarding=boardings(upstreams, {}),
        )
        explained = found.explain(SALE)
        assert [(one.upstream, one.boarded) for one in explained.upstreams] == [
            ("c", True),
            ("b", True),
            ("a", False),
        ]
        assert explained.upstreams[-1].why == "merchant M0000001 is not boarded there"
        # Asking takes nobody's turn.
        assert [found.choose(SALE).upstreams[0] for _ in range(3)] == ["c", "b", "c"]
