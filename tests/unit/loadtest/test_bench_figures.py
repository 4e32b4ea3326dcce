"""Figures of the benchmark: targets, multiples of the echo, and the table that shows them."""

import pytest
from rich.console import Console

from loadtest.bench.figures import Figure, Measured, spread_percent
from loadtest.bench.rows_growth import by_part
from loadtest.bench.table import drift_words, number, table_of


@pytest.mark.parametrize(
    ("value", "met"), [(129.0, True), (130.0, True), (130.1, False)], ids=["under", "at", "over"]
)
def test_a_bound_from_above(value: float, met: bool) -> None:
    figure = Figure(name="CPU", unit="us", value=value, at_most=130.0)
    assert figure.met is met
    assert figure.target == "<= 130"


@pytest.mark.parametrize(("value", "met"), [(5_999.0, False), (6_000.0, True)])
def test_a_bound_from_below(value: float, met: bool) -> None:
    figure = Figure(name="rate", unit="tps", value=value, at_least=6_000.0)
    assert figure.met is met
    assert figure.target == ">= 6,000"


def test_a_figure_without_a_target_neither_passes_nor_fails() -> None:
    figure = Figure(name="CPU", unit="us", value=1.0)
    assert figure.met is None
    assert figure.target == ""


@pytest.mark.parametrize(("echo", "times"), [(50.0, 2.0), (None, None), (0.0, None)])
def test_the_echo_is_the_unit(echo: float | None, times: float | None) -> None:
    figure = Figure(name="CPU", unit="us", value=100.0, echo=echo)
    assert figure.times_echo == times
    assert figure.to_json()["times_echo"] == times


@pytest.mark.parametrize(
    ("values", "percent"), [([100.0, 115.0, 110.0], 15.0), ([7.0], 0.0), ([0.0, 1.0], 0.0)]
)
def test_the_spread_is_the_most_over_the_least(values: list[float], percent: float) -> None:
    assert spread_percent(values) == pytest.approx(percent)


def test_parts_are_read_between_two_looks() -> None:
    # 10 us a transaction at first, then 20; memory grows with the count. Looks fall between parts.
    looks = [(0, 1.0, 50.0), (1_500, 1.015, 65.0), (3_000, 1.045, 80.0), (3_100, 1.047, 81.0)]
    costs, memory_mb = by_part(looks, part=1_000, parts=3)
    assert costs == pytest.approx([10.0, 15.0, 20.0])
    assert memory_mb == pytest.approx([60.0, 70.0, 80.0])


def test_a_look_at_which_nothing_had_happened_is_no_part() -> None:
    looks = [(0, 1.0, 50.0), (0, 1.0, 50.0), (2_000, 1.02, 50.0)]
    assert by_part(looks, part=1_000, parts=2)[0] == pytest.approx([10.0, 10.0])


def test_what_was_done_beyond_the_last_part_is_left_out() -> None:
    assert by_part([(0, 0.0, 1.0), (5_000, 0.05, 1.0)], part=1_000, parts=2)[0] == pytest.approx(
        [10.0, 10.0]
    )


def test_the_table_has_ticks_crosses_and_reasons() -> None:
    rows = [
        Measured(
            key="plain",
            title="100 terminals",
            figures=[
                Figure(name="CPU", unit="us", value=260.0, at_most=130.0, echo=104.0),
                Figure(name="rate", unit="tps", value=6_100.0, at_least=6_000.0),
            ],
        ),
        Measured(key="crowd", title="5,000 at once", failure="the gateway ended with -9 [sic]"),
    ]
    console = Console(width=100)
    with console.capture() as printed:
        console.print(table_of(rows, title="gateway"))
    lines = printed.get().splitlines()
    cpu = next(line.split() for line in lines if "CPU" in line)
    assert cpu == ["CPU", "<=", "130", "260", "us", "104", "2.50", "✗"]
    rate = next(line.split() for line in lines if "rate" in line)
    assert rate == ["rate", ">=", "6,000", "6,100", "tps", "✓"]
    assert any("ended with -9 [sic]" in line and line.rstrip().endswith("✗") for line in lines)


@pytest.mark.parametrize(
    ("value", "text"), [(12_345.6, "12,346"), (99.94, "99.9"), (1.234, "1.23"), (0.0, "0.00")]
)
def test_numbers_have_the_digits_that_mean_something(value: float, text: str) -> None:
    assert number(value) == text


def test_drift_is_told() -> None:
    assert "(+10 %)" in drift_words(100.0, 110.0)
    assert "unknown" in drift_words(None, 110.0)
