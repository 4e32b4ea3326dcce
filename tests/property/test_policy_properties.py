"""Blocklists, permissions and limits hold for any input, and in any order."""

from __future__ import annotations

from datetime import UTC
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from gateway.policy import blockfile_edits
from gateway.policy.blockfiles import assemble, parse, written_token
from gateway.policy.blocklists import ListName
from gateway.policy.card_numbers import holds_card_number, passes_luhn
from gateway.policy.decide import Policy, Refused, Subject
from gateway.policy.limits import Limits, Use, limit_rule
from gateway.policy.permissions import CardRanges, Permissions
from gateway.settings.schema_policy import AmountBounds, Limit, Merchant, Profile
from gateway.wire.message import Kind, Message

NAMES = st.sampled_from(list(ListName))


# --- text ---------------------------------------------------------------------------------------

_PIECES = st.sampled_from(
    (
        "T0000001",
        "4111",
        "411111-422222",
        "h1:AAAAAAAAAAAAAAAAAAAAAAAAAA",
        "203.0.113.0/24",
        "serial:0a",
        "until=2026-12-31",
        'reason="x"',
        "reason=",
        "code=43",
        '"',
        "#",
        " ",
        "\t",
        "\r",
        "\0",
        "\u00e9",
        "=",
        "-",
        "\n",
        "\n",
    )
)
HOSTILE = st.one_of(
    st.binary(max_size=200),
    st.lists(_PIECES, max_size=30).map(lambda parts: "".join(parts).encode()),
)


@given(NAMES, HOSTILE)
def test_any_bytes_are_read_or_refused_and_nothing_of_them_is_repeated(
    name: ListName, content: bytes
) -> None:
    parsed = parse(name, content, file="list", zone=UTC)
    assert (parsed.entries is None) or not parsed.problems
    lines = content.count(b"\n") + 1
    for problem in parsed.problems:
        assert 1 <= problem.line <= lines
        assert str(problem).isprintable()


def _with_check_digit(digits: str) -> str:
    return next(digits + str(last) for last in range(10) if passes_luhn(digits + str(last)))


PANS = st.from_regex(r"[2-6][0-9]{11,17}", fullmatch=True).map(_with_check_digit)


@given(
    NAMES,
    PANS,
    st.sampled_from(("", " ", "-", ".", " - ")),
    st.sampled_from(("{}", "# {}", "T1 # {}", 'T1 reason="{}"', "{} reason=x", "4111 {}")),
)
def test_a_card_number_is_refused_wherever_it_stands(
    name: ListName, pan: str, separator: str, line: str
) -> None:
    if name is ListName.MERCHANTS and len(pan) == 15:
        return  # A merchant id of UnionPay looks just so.
    written = separator.join(pan[at : at + 4] for at in range(0, len(pan), 4))
    assert holds_card_number(written)
    parsed = parse(name, (line.format(written) + "\n").encode(), file="list", zone=UTC)
    assert parsed.problems
    assert parsed.entries is None
    text = " ".join(map(str, parsed.problems))
    assert not any(pan[at : at + 5] in text for at in range(len(pan) - 4))


VALUES = {
    ListName.TERMINALS: st.from_regex(r"[A-Z][0-9]{1,6}", fullmatch=True),
    ListName.MERCHANTS: st.from_regex(r"M[A-Z ]{0,10}[A-Z]", fullmatch=True),
    ListName.BINS: st.from_regex(r"[0-9]{4,11}", fullmatch=True),
    ListName.CARDS: st.integers(0, 2**128 - 1).map(lambda n: written_token(f"1:{n:032x}")),
}


@given(st.data(), st.sampled_from(list(VALUES)))
def test_edits_add_and_take_out_one_entry_and_leave_the_rest(
    data: st.DataObject, name: ListName
) -> None:
    values = data.draw(st.lists(VALUES[name], unique=True, max_size=8))
    new = data.draw(VALUES[name])
    comments = data.draw(st.lists(st.sampled_from(("# x", "", "   ", "#T1")), max_size=4))
    lines = data.draw(st.permutations([blockfile_edits.entry(v) for v in values] + comments))
    before = "".join(f"{line}\n" for line in lines).encode()
    added = blockfile_edits.add(name, before, new, blockfile_edits.entry(new, reason="why"))
    parsed = parse(name, added.content, file="list", zone=UTC)
    assert not parsed.problems
    assert parsed.count == len({*values, new})
    removed = blockfile_edits.remove(name, added.content, new)
    assert removed.line == added.line
    if new not in values:
        assert removed.content == before
    assert parse(name, removed.content, file="list", zone=UTC).count == len({*values} - {new})


# --- look-ups against the plain way -------------------------------------------------------------

RANGES = st.one_of(
    st.from_regex(r"4[0-3]{3,6}", fullmatch=True),
    st.tuples(
        st.from_regex(r"4[0-3]{4}", fullmatch=True), st.from_regex(r"4[0-3]{4}", fullmatch=True)
    ).map(lambda ends: "-".join(sorted(ends))),
)


@given(
    st.lists(st.tuples(RANGES, st.sampled_from(("", " until=2026-01-01"))), max_size=12),
    st.lists(st.from_regex(r"4[0-3]{10}000", fullmatch=True), min_size=1, max_size=20),
)
def test_the_narrowest_range_that_still_holds_is_found(
    ranges: list[tuple[str, str]], pans: list[str]
) -> None:
    ends = {}
    lines = []
    for text, until in ranges:
        low, _, high = text.partition("-")
        pair = (int(low.ljust(11, "0")), int((high or low).ljust(11, "9")))
        if pair not in ends:
            lines.append(text + until)
            ends[pair] = (len(lines), until)
    content = "".join(f"{line}\n" for line in lines).encode()
    parsed = parse(ListName.BINS, content, file="bins", zone=UTC)
    assert not parsed.problems
    bins = assemble([parsed]).bins
    now_ms = 1_800_000_000_000  # in 2027
    for pan in pans:
        number = int(pan[:11])
        fits = [
            (last - first, line)
            for (first, last), (line, until) in ends.items()
            if first <= number <= last and not until
        ]
        hit = bins.find(pan, now_ms) if bins else None
        assert (hit.line if hit else None) == (min(fits)[1] if fits else None)


@given(
    st.lists(st.integers(0, 2**128 - 1), unique=True, max_size=40),
    st.lists(st.integers(0, 2**128 - 1), max_size=5),
)
def test_a_token_is_found_if_it_is_listed(listed: list[int], others: list[int]) -> None:
    # Tokens with the same upper word too, which by chance there never are.
    listed = list(dict.fromkeys([*listed, *(number ^ 1 for number in listed[:3])]))
    text = "".join(f"{written_token(f'1:{number:032x}')}\n" for number in listed)
    parsed = parse(ListName.CARDS, text.encode(), file="cards", zone=UTC)
    assert not parsed.problems
    cards = assemble([parsed]).cards
    for number in (*listed, *others):
        hit = cards.find(f"1:{number:032x}", 0) if cards else None
        assert (hit.line - 1 if hit else None) == (
            listed.index(number) if number in listed else None
        )


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=10),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=10),
)
def test_the_smallest_network_is_found(
    networks: list[tuple[int, int]], addresses: list[int]
) -> None:
    listed = list(dict.fromkeys(ip_network(pair, strict=False) for pair in networks))
    text = "".join(f"{network}\n" for network in listed).encode()
    table = assemble([parse(ListName.NETWORKS, text, file="networks", zone=UTC)]).networks
    for number in (*addresses, *(number for number, _ in networks)):
        address = ip_address(number)
        fits = [(-n.prefixlen, line) for line, n in enumerate(listed, 1) if address in n]
        hit = table.find(str(address), 0) if table else None
        assert (hit.line if hit else None) == (min(fits)[1] if fits else None)


@given(
    st.lists(RANGES, max_size=8),
    st.lists(st.from_regex(r"4[0-3]{12,15}", fullmatch=True), min_size=1, max_size=10),
)
def test_a_card_is_in_ranges_if_it_is_in_one(ranges: list[str], pans: list[str]) -> None:
    merged = CardRanges(ranges)
    for pan in pans:
        assert (pan in merged) == any(
            low <= pan[: len(low)] <= (high or low)
            for low, _, high in (text.partition("-") for text in ranges)
        )


# --- decisions ------------------------------------------------------------------------------------

MERCHANT_TABLES = (
    {"ids": ["A*"], "kinds": [Kind.PURCHASE]},
    {"ids": ["B*"], "currencies": ["978"]},
    {"ids": ["C*"], "card_ranges": ["4"]},
    {"ids": ["D*"], "amounts": [AmountBounds(currency="978", max_minor=500)]},
)


def _decision(
    profiles: list[Profile], merchants: list[Merchant], merchant_id: str, kind: Kind, profile: str
) -> tuple[object, ...]:
    policy = Policy(permissions=Permissions(profiles, merchants), version="v")
    message = Message(
        "0200", {2: "5" * 16, 4: "1000", 11: "1", 22: "051", 42: merchant_id, 49: "840"}
    )
    subject = Subject(
        message, kind, profile=profile, transaction_id=1, wall_ms=0, card_token="1:00"
    )
    decision = policy.decide(subject)
    return (decision.reason, decision.code) if isinstance(decision, Refused) else ()


@given(
    st.permutations(list(MERCHANT_TABLES)),
    st.permutations(["retail", "cash", "none"]),
    st.sampled_from(("A1", "B1", "C1", "D1", "E1")),
    st.sampled_from((Kind.PURCHASE, Kind.CASH, Kind.REFUND)),
    st.sampled_from(("retail", "cash", "none")),
)
def test_the_order_of_rules_that_do_not_overlap_decides_nothing(
    tables: list[dict[str, object]], names: list[str], merchant: str, kind: Kind, profile: str
) -> None:
    kinds = {
        "retail": [Kind.PURCHASE, Kind.REFUND],
        "cash": [Kind.CASH],
        "none": [Kind.BALANCE],
    }

    def profiles(order: list[str]) -> list[Profile]:
        return [Profile(name=name, kinds=kinds[name]) for name in order]

    shuffled = _decision(
        profiles(names), [Merchant.model_validate(t) for t in tables], merchant, kind, profile
    )
    in_order = _decision(
        profiles(sorted(names)),
        [Merchant.model_validate(t) for t in MERCHANT_TABLES],
        merchant,
        kind,
        profile,
    )
    assert shuffled == in_order


@given(
    st.permutations(["T1", "T2", "T3", "T4 until=2026-01-01"]),
    st.sampled_from(("T1", "T2", "T3", "T4", "T5")),
)
def test_the_order_of_a_list_decides_nothing(lines: list[str], terminal: str) -> None:
    text = "".join(f"{line}\n" for line in lines).encode()
    lists = assemble([parse(ListName.TERMINALS, text, file="t", zone=UTC)])
    assert bool(lists.terminal(terminal, 1_800_000_000_000)) == (terminal in ("T1", "T2", "T3"))


# --- limits ---------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 12), st.integers(1, 60)),
        st.tuples(st.just("give back"), st.integers(1, 12), st.integers(-1, 60)),
        st.tuples(st.just("wait"), st.integers(1, 90), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS, st.integers(0, 100), st.integers(0, 5))
def test_giving_back_never_lets_a_limit_exceed_its_window(
    steps: list[tuple[str, int, int]], amount_max: int, count_max: int
) -> None:
    limits = Limits()
    rules = [
        limit_rule(
            Limit(per="device", window=window, currency="978", **bounds),
            owner="p",
            nth=0,
            rule=window,
            zone=UTC,
            zone_name="UTC",
            day_starts="00:00",
        )
        for window, bounds in (
            ("minute", {"amount_max_minor": amount_max}),
            ("hour", {"count_max": count_max}),
        )
    ]
    now_ms = 1_800_000_000_000
    # What stands, by transaction: when it was taken and what of its amount.
    standing: dict[int, tuple[int, int]] = {}
    given: set[int] = set()
    for number, (step, which, minor) in enumerate(steps):
        if step == "wait":
            now_ms += which * 1_000
        elif step == "take":
            use = Use(number + 100, ("T1", "M1", ""), "978", minor)
            if limits.take(rules, use, now_ms=now_ms) is None:
                standing[number + 100] = (now_ms, minor)
        elif which + 99 in standing:
            back = limits.give_back(which + 99, left_minor=minor)
            assert back == (which + 99 not in given)
            given.add(which + 99)
            taken_ms, amount = standing[which + 99]
            if back and minor < 0:
                del standing[which + 99]
            elif back:
                standing[which + 99] = (taken_ms, min(amount, minor))
        for rule, size_ms in zip(rules, (60_000, 3_600_000), strict=True):
            held = [minor for ms, minor in standing.values() if ms // size_ms == now_ms // size_ms]
            assert limits.used(rule, "T1", now_ms=now_ms) == (len(held), sum(held))
        (_, amount), (count, _) = (limits.used(rule, "T1", now_ms=now_ms) for rule in rules)
        assert amount <= amount_max
        assert count <= count_max
