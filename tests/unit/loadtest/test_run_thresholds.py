"""Thresholds: a closed grammar, a figure each, and what was not measured is neither."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.run.thresholds import FIGURES, BadThreshold, judged, parse


@pytest.mark.parametrize(
    ("text", "found", "passed"),
    [
        ("p99_ms < 50", 49.9, True),
        ("p99_ms < 50", 50.0, False),
        ("p99_ms<=50", 50.0, True),
        ("  errors   ==  0 ", 0, True),
        ("errors == 0", 1, False),
        ("rate >= 99.5", 99.5, True),
        ("transactions != 0", 0, False),
        ("ledgers == equal", "equal", True),
        ("ledgers == equal", "different", False),
        ("ledgers != equal", "different", True),
        ("fds == flat", "growing", False),
    ],
)
def test_a_threshold_is_held_against_its_figure(
    text: str, found: float | str, passed: bool
) -> None:
    threshold = parse(text)
    (one,) = judged([threshold], {threshold.figure: found})
    assert one.passed is passed
    assert one.told.startswith("✓" if passed else "✗")


def test_what_was_not_measured_neither_passes_nor_fails() -> None:
    (one,) = judged([parse("rss_mb < 100")], {"errors": 0})
    assert one.passed is None
    assert one.told == "- rss_mb < 100: not measured here"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("p99 < 50", 'did you mean "p99_ms"?'),
        ("p99_ms", "FIGURE SIGN VALUE"),
        ("p99_ms < fast", "is a number"),
        ("p99_ms = 5", "FIGURE SIGN VALUE"),
        ("ledgers == 0", "ledgers == equal would be right"),
        ("ledgers < equal", "ledgers == equal would be right"),
        ("errors == 0 or 1", "FIGURE SIGN VALUE"),
        ("__import__('os').system('x') == 0", "FIGURE SIGN VALUE"),
    ],
)
def test_what_is_not_a_threshold_is_told_what_would_be(text: str, told: str) -> None:
    with pytest.raises(BadThreshold) as error:
        parse(text)
    assert told in str(error.value)


@given(
    st.sampled_from(sorted(set(FIGURES) - {"ledgers", "fds"})),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    st.integers(-1_000_000, 1_000_000),
)
def test_what_is_written_is_read_as_it_was(figure: str, sign: str, value: int) -> None:
    threshold = parse(f"{figure}{sign}{value}")
    assert (threshold.figure, threshold.sign, threshold.value) == (figure, sign, value)


@given(st.text(max_size=60))
def test_any_text_is_a_threshold_or_refused(text: str) -> None:
    with suppress(BadThreshold):
        parse(text)
