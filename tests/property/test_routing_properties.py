"""What routes choose, against the plainest reading of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.settings.schema_upstreams import Group, Member, Route, TerminalGroup
from gateway.upstreams.conditions import Subject
from gateway.upstreams.routing import Router
from gateway.wire.entry_mode import EntryMode
from gateway.wire.message import Kind

KINDS = [Kind.PURCHASE, Kind.REFUND, Kind.CASH]
MODES = [EntryMode.CHIP, EntryMode.QR]
TERMINALS = ["T0000001", "T0000002", "X0000001"]
MERCHANTS = ["M1", "M2", "N1", ""]
TERMINAL_GROUPS = {"t": ["T*"], "one": ["T0000001-T0000001"], "x": ["X0000001"]}
_DIGITS = "0129"

cards = st.text(_DIGITS, max_size=5)
amounts = st.none() | st.integers(0, 6)


@st.composite
def bins(draw: st.DrawFn) -> str:
    digits = draw(st.integers(1, 3))
    ends = sorted(draw(st.lists(st.text(_DIGITS, min_size=digits, max_size=digits), min_size=2)))
    return draw(st.sampled_from([ends[0], f"{ends[0]}-{ends[-1]}"]))


def some(values: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), max_size=2, unique=True)


@st.composite
def routes(draw: st.DrawFn, name: str) -> Route:
    return Route(
        name=name,
        kinds=draw(st.lists(st.sampled_from(KINDS), max_size=2, unique=True)),
        entry_modes=draw(st.lists(st.sampled_from(MODES), max_size=1)),
        bins=draw(st.lists(bins(), max_size=2)),
        currencies=draw(some(["156", "840"])),
        amount_minor_min=draw(amounts),
        amount_minor_max=draw(amounts),
        merchants=draw(some(["M1", "M*", "N1", "*"])),
        terminal_groups=draw(some(list(TERMINAL_GROUPS))),
        group=name,
    )


@st.composite
def tables(draw: st.DrawFn) -> list[Route]:
    return [draw(routes(f"r{number}")) for number in range(draw(st.integers(0, 6)))]


subjects = st.builds(
    Subject,
    kind=st.sampled_from(KINDS),
    card=cards,
    entry_mode=st.sampled_from([*MODES, EntryMode.UNKNOWN]),
    currency=st.sampled_from(["156", "840", "978", ""]),
    amount_minor=amounts,
    merchant_id=st.sampled_from([*MERCHANTS, "M1".ljust(15)]),
    terminal_id=st.sampled_from([*TERMINALS, ""]),
)


def routed(table: list[Route]) -> Router:
    return Router(
        table,
        [Group(name=route.group, members=[Member(upstream=route.name)]) for route in table],
        terminal_groups=[
            TerminalGroup(name=name, terminals=patterns)
            for name, patterns in TERMINAL_GROUPS.items()
        ],
    )


def plainly_fits(route: Route, subject: Subject) -> bool:
    """One condition after the other, as a person would read them."""
    if route.kinds and subject.kind not in route.kinds:
        return False
    if route.entry_modes and subject.entry_mode not in route.entry_modes:
        return False
    if route.currencies and subject.currency not in route.currencies:
        return False
    if route.bins and not any(in_range(subject.card, text) for text in route.bins):
        return False
    low, high, amount = route.amount_minor_min, route.amount_minor_max, subject.amount_minor
    if (low, high) != (None, None) and (
        amount is None or (low is not None and amount < low) or (high is not None and amount > high)
    ):
        return False
    merchant = subject.merchant_id.rstrip()
    if route.merchants and not (merchant and any(named(merchant, p) for p in route.merchants)):
        return False
    patterns = [p for name in route.terminal_groups for p in TERMINAL_GROUPS[name]]
    return not patterns or any(
        named(subject.terminal_id, p.partition("-")[0]) for p in patterns if subject.terminal_id
    )


def in_range(card: str, text: str) -> bool:
    low, _, high = text.partition("-")
    start = card[: len(low)]
    # A card number that is shorter than the range is in it where all that it may be is.
    return bool(card) and low <= start.ljust(len(low), "\0") <= (high or low)


def named(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


@given(tables(), subjects)
def test_the_first_route_that_plainly_fits_is_chosen_and_explained(
    table: list[Route], subject: Subject
) -> None:
    plain = [route.name for route in table if plainly_fits(route, subject)]
    router = routed(table)
    assert router.choose(subject).route == (plain[0] if plain else "")
    explained = router.explain(subject)
    assert explained.route == (plain[0] if plain else "")
    assert [step.route for step in explained.routes if step.fits] == plain
    assert all(step.fits or step.why for step in explained.routes)


@given(tables(), subjects, st.randoms())
def test_the_order_of_routes_that_do_not_both_fit_changes_nothing(
    table: list[Route], subject: Subject, random: object
) -> None:
    fitting = [route for route in table if plainly_fits(route, subject)]
    others = [route for route in table if route not in fitting]
    random.shuffle(others)  # type: ignore[attr-defined]
    mixed = list(others)
    # The routes that fit keep their order among themselves; all others may stand anywhere.
    place = 0
    for route in fitting:
        place = random.randint(place, len(mixed))  # type: ignore[attr-defined]
        mixed.insert(place, route)
        place += 1
    assert routed(mixed).choose(subject).route == routed(table).choose(subject).route
