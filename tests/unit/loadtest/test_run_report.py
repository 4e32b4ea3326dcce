"""The page: all of it in one file, in a real browser at two widths, in light and dark."""

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.run.charts import (
    Curve,
    Mark,
    chart,
    nines_scale,
    nines_text,
    number_text,
    scale_of,
    time_scale,
    time_text,
)
from loadtest.run.report import page_of
from loadtest.run.result import FORMAT, NotAResult, Result, read_result
from tests.support.browser import CHROMIUM, browser

NASTY = '<script src="https://example.org/x.js">alert(1)</script>'


def result_of(*, p99_ms: float = 42.0, passed: bool = True) -> Result:
    """A run of twenty seconds as `--json` prints it, with names that are not to be trusted."""
    at_s = list(range(20))
    curve = [10.0 + second % 3 for second in at_s]
    figures: dict[str, Any] = {
        "transactions": 2_000,
        "rate": 100.0,
        "approved_percent": 97.5,
        "errors": 0 if passed else 3,
        "p50_ms": 4.2,
        "p99_ms": p99_ms,
        "max_ms": 2_310.5,
        "late_p99_ms": 31.0,
        "tool_cpu_us_per_txn": 210.0,
        "cpu_us_per_txn": 180.0,
        "rss_mb": 95.0,
        "ledgers": "equal",
    }
    return {
        "format": FORMAT,
        "passed": passed,
        "when": "2026-11-22T03:24:44.613Z",
        "scenario": {
            "name": "a-name-of-quite-some-length-for-a-heading",
            "title": NASTY,
            "seconds": 20.0,
            "devices": 5_000,
            "processes": 2,
            "security": "mutual-tls",
            "connection": "kept",
            "arrival": "curve",
            "rate_max": 100.0,
            "mix": {"purchase": 90.0, "void": 10.0},
            "seed": 1,
            "file": "scenario.toml",
            "sha256": "ab" * 32,
        },
        "against": "a gateway of its own",
        "machine": {
            "processors": 2,
            "model": "A model name as long as they are made, with its frequency",
            "memory_gb": 24.7,
            "system": "Linux 6.1",
        },
        "versions": {"gateway": "0.1.0", "python": "3.11.7", "trio": "0.35.0"},
        "configuration_sha256": "cd" * 32,
        "figures": figures,
        "thresholds": [
            {"threshold": "p99_ms < 50", "found": p99_ms, "passed": passed},
            {"threshold": "ledgers == equal", "found": "equal", "passed": True},
            {"threshold": "fds == flat", "found": None, "passed": None},
        ],
        "percentiles_ms": [[50.0, 4.2], [90.0, 9.0], [99.0, p99_ms], [99.9, 900.0], [100.0, 2e3]],
        "kinds": {"purchase": {"transactions": 1_800, "p50_ms": 4, "p99_ms": 42, "max_ms": 2_310}},
        "codes": {"00": 1_950, "51": 50},
        "counts": {"repeats": 3},
        "troubles": {f"sign-on was answered with {NASTY}": 2},
        "ledgers": {"attempts": 2_000, "lost": 0},
        "disagreements": [NASTY + " x" * 200],
        "settled_s": 0.5,
        "events": [
            {"at_s": 5.0, "until_s": 7.0, "what": "kill-gateway", "detail": NASTY},
            {"at_s": 19.8, "until_s": 0.0, "what": "reload", "detail": "edit 1"},
        ],
        "processors_s": {"gateway": 3.1, "tool": 1.2},
        "series": {
            "step_s": 1,
            "at_s": at_s,
            "rate": [100.0] * 20,
            "p50_ms": curve,
            "p90_ms": curve,
            "p99_ms": [one * (200 if second == 6 else 2) for second, one in enumerate(curve)],
            "max_ms": [one * 3 for one in curve],
            "error": [0.0] * 20,
            "disturbed": [0.0] * 20,
            "declined": [2.5] * 20,
            "blocked": [0.0] * 20,
            "gateway": {
                "at_s": [0.0, 10.0, 20.0],
                "rss_mb": [90.0, 93.0, 95.0],
                "fds": [5_020, 5_021, 5_020],
                "cpu": [[10.0, 20.0], [20.0, 25.0]],
            },
            "upstreams": {"acquirer-1": [[1.0, 50.0], [2.0, 51.0]], "acquirer-2": [[1.0, 50.0]]},
        },
    }


def test_the_page_is_whole_and_trusts_nothing() -> None:
    page = page_of(result_of(), None)
    assert "<script" not in page
    assert "&lt;script src=" in page
    assert "default-src 'none'" in page
    for outside in ("http:", "url(", "@import", "<link", "<img", 'src="http'):
        assert outside not in page.replace("&quot;", "").replace(NASTY, "")


def test_a_threshold_that_was_missed_is_seen() -> None:
    page = page_of(result_of(passed=False), None)
    assert '<span class="verdict fail">failed' in page
    assert '<tr class="fail"><td class="mark">✗' in page
    assert "not measured here" in page


def test_a_tool_that_was_late_says_so() -> None:
    assert "the tool itself was late (31 ms" in page_of(result_of(), None)


def test_an_earlier_run_is_beside_it() -> None:
    page = page_of(result_of(p99_ms=42.0), result_of(p99_ms=84.0))
    assert "Compared with an earlier run" in page
    assert '<span class="change better">-50.0 %</span>' in page
    assert '<span class="change worse">+100.0 %</span>' in page_of(
        result_of(p99_ms=84.0), result_of(p99_ms=42.0)
    )


def test_of_many_events_what_is_routine_is_a_stroke_and_a_number() -> None:
    result = result_of()
    routine = {"until_s": 0.0, "what": "reload", "detail": ""}
    kill = result["events"][0]
    result["events"] = [kill, *({"at_s": second / 2, **routine} for second in range(30))]
    page = page_of(result, None)
    charts = 6  # over time
    assert page.count('<path class="stroke"') == 30 * charts
    assert page.count('<rect class="band"') == charts
    assert "30 times" in page


def test_another_scenario_beside_it_is_told() -> None:
    earlier = result_of()
    earlier["scenario"]["name"] = "lunch"
    assert "compared with a run of another scenario, lunch" in page_of(result_of(), earlier)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("compared", [False, True])
def test_in_a_browser_nothing_stands_out_and_nothing_is_fetched(
    tmp_path: Path, compared: bool
) -> None:
    page = tmp_path / "report.html"
    earlier = result_of(p99_ms=84.0) if compared else None
    page.write_text(page_of(result_of(), earlier), encoding="utf-8")
    with browser() as tab:
        for width in (1280, 420):
            for dark in (False, True):
                seen = tab.look(page, width=width, dark=dark)
                assert seen.width == width
                assert seen.scrolls <= width
                assert seen.overflowing == []
                assert seen.requests == []
                assert seen.complaints == []
                assert "Latency from the intended moment" in seen.text


# --- the parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([], (0.0, 1.0)),
        ([0.0], (0.0, 1.0)),
        ([7.0], (0.0, 2.0, 4.0, 6.0, 8.0)),
        ([99.0, 3.0], (0.0, 25.0, 50.0, 75.0, 100.0)),
    ],
)
def test_a_scale_holds_its_values_on_round_ticks(
    values: list[float], ticks: tuple[float, ...]
) -> None:
    scale = scale_of(values)
    assert scale.ticks == pytest.approx(ticks)
    assert all(0 <= scale.share(value) <= 1 for value in values)


def test_a_scale_is_logarithmic_only_where_it_has_to_be_and_may() -> None:
    assert not scale_of([1.0, 40.0], may_be_logarithmic=True).logarithmic
    assert not scale_of([1.0, 4_000.0]).logarithmic
    scale = scale_of([3.0, 4_000.0], may_be_logarithmic=True)
    assert scale.ticks == (1.0, 10.0, 100.0, 1_000.0, 10_000.0)
    assert scale.share(100.0) == pytest.approx(0.5)
    assert scale.share(0.0) == 0


@pytest.mark.parametrize("seconds", [1, 5, 20, 61, 600, 1_800, 86_400])
def test_time_has_few_ticks(seconds: int) -> None:
    assert 1 <= len(time_scale(seconds).ticks) <= 7


def test_words_of_axes() -> None:
    assert [time_text(s) for s in (0, 90, 150, 3_725)] == ["0 s", "90 s", "2:30", "1:02:05"]
    assert [number_text(n) for n in (0, 0.0123, 4.567, 250, 12_345.6)] == [
        *("0", "0.0123", "4.57", "250", "12,346"),
    ]
    assert [nines_text(one) for one in nines_scale().ticks] == [
        *("50 %", "90 %", "99 %", "99.9 %", "99.99 %"),
    ]


def test_a_chart_of_nothing_is_one() -> None:
    made = chart("Nothing", "ms", [Curve("none", [], "s1")], x=time_scale(5), x_text="time")
    assert made.startswith('<figure class="chart">')


def test_a_mark_near_the_end_has_its_label_inside() -> None:
    made = chart(
        "T",
        "ms",
        [Curve("a", [(0, 1), (100, 2)], "s1")],
        x=time_scale(100),
        x_text="time",
        marks=[Mark("1", 99.0, 100.0, 'a "kill"')],
    )
    assert 'class="flag flip"' in made
    assert "a &quot;kill&quot;" in made


def test_an_earlier_run_that_is_none_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "earlier.json"
    with pytest.raises(NotAResult, match=r"earlier\.json"):
        read_result(path)
    for text in ("{", "[]", json.dumps({"format": 99})):
        path.write_text(text)
        with pytest.raises(NotAResult):
            read_result(path)
    path.write_text(json.dumps(result_of()))
    assert read_result(path)["passed"]
