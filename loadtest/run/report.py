"""Report: a run as one page that opens offline, light or dark, held against an earlier one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from loadtest.run.charts import (
    Curve,
    Mark,
    chart,
    nines,
    nines_scale,
    number_text,
    time_scale,
)
from loadtest.run.report_style import STYLE
from loadtest.run.result import Result, notes
from loadtest.run.thresholds import FIGURES

# The figures at the top of the page: name, words, unit, and whether more of it is better.
_HEADLINES = (
    ("rate", "transactions", "/s", True),
    ("p50_ms", "p50", "ms", False),
    ("p99_ms", "p99", "ms", False),
    ("max_ms", "longest", "ms", False),
    ("errors", "errors", "", False),
    ("approved_percent", "approved", "%", True),
    ("cpu_us_per_txn", "gateway processor, each", "µs", False),
    ("rss_mb", "gateway memory", "MB", False),
)
_MORE_IS_BETTER = frozenset(
    ("rate", "approved", "approved_percent", "transactions", "resumed_percent")
)
# They say what was run, not how well.
_NEITHER = frozenset(("transactions", "declined", "repeats", "reversed", "disturbed"))
_SAME = 0.05  # less than this is no difference that one run shows
_MARKS_MAX = 12
_ROUTINE = frozenset(("reload", "reconnect-storm"))
_UPSTREAM_STYLES = ("s1", "s2", "s3", "s4")
# Nothing may be fetched and nothing may run: the page is all there is.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page_of(result: Result, earlier: Result | None) -> str:
    """The page of a result; `earlier` is a run it is held against."""
    scenario = result["scenario"]
    title = f"{scenario['name']}, {result['when'][:16].replace('T', ' ')}"
    sections = [
        _head(result, earlier),
        _headlines(result, earlier),
        _thresholds(result),
        _charts(result, earlier),
        _comparison(result, earlier),
        _tables(result),
        _what(result, earlier),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>{''.join(section + chr(10) for section in sections if section)}</main>"
        "</body></html>\n"
    )


# --- the top -------------------------------------------------------------------------------------


def _head(result: Result, earlier: Result | None) -> str:
    scenario = result["scenario"]
    verdict = ("passed", "pass") if result["passed"] else ("failed", "fail")
    rate = f"up to {scenario['rate_max']:,g}/s" if scenario["rate_max"] else "as fast as they think"
    told = (
        f"{scenario['devices']:,} devices, {scenario['security']}, {rate},"
        f" {scenario['seconds']:,g} s, against {result['against']}"
    )
    told_more = notes(result)
    if earlier is not None and earlier["scenario"]["name"] != scenario["name"]:
        told_more.append(f"compared with a run of another scenario, {earlier['scenario']['name']}")
    found = "".join(f"<p class='note'>{escape(note)}</p>" for note in told_more)
    return (
        f'<header><h1>{escape(scenario["name"])} <span class="verdict {verdict[1]}">{verdict[0]}'
        f"</span></h1><p>{escape(scenario['title'])}</p>"
        f'<p class="quiet">{escape(told)}<br>{escape(result["when"])}</p>{found}</header>'
    )


def _headlines(result: Result, earlier: Result | None) -> str:
    figures = result["figures"]
    cards = []
    for name, words, unit, more_is_better in _HEADLINES:
        value = figures.get(name)
        if value is None:
            continue
        changed = ""
        if earlier is not None and name in earlier["figures"]:
            changed = _change(earlier["figures"][name], value, more_is_better=more_is_better)
        cards.append(
            f'<div class="card"><span class="quiet">{escape(words)}</span>'
            f"<b>{_number(value)}<small> {escape(unit)}</small></b>{changed}</div>"
        )
    return f'<section class="cards">{"".join(cards)}</section>'


def _change(before: float, after: float, *, more_is_better: bool | None) -> str:
    """How a figure moved since the earlier run, in words and a colour."""
    if before == after:
        return '<span class="change">as before</span>'
    if before:
        share = (after - before) / abs(before)
        words = f"{100 * share:+.1f} %"
        same = abs(share) < _SAME
    else:
        words, same = f"from {_number(before)}", False
    if same or more_is_better is None:
        style = ""
    else:
        style = "better" if (after > before) is more_is_better else "worse"
    return f'<span class="change {style}">{words}</span>'


def _thresholds(result: Result) -> str:
    if not result["thresholds"]:
        return ""
    styles = {True: ("pass", "✓"), False: ("fail", "✗"), None: ("none", "-")}
    rows = []
    for one in result["thresholds"]:
        style, mark = styles[one["passed"]]
        found = "not measured here" if one["found"] is None else _number(one["found"])
        meaning = FIGURES.get(one["threshold"].split()[0], "")
        rows.append(
            f'<tr class="{style}"><td class="mark">{mark}</td><td><code>'
            f'{escape(one["threshold"])}</code></td><td class="number">{found}</td>'
            f'<td class="quiet wide">{escape(meaning)}</td></tr>'
        )
    table = _scrolling(f"<table>{''.join(rows)}</table>")
    return f"<section><h2>Thresholds</h2>{table}</section>"


# --- curves --------------------------------------------------------------------------------------


def _charts(result: Result, earlier: Result | None) -> str:
    series, seconds = result["series"], result["scenario"]["seconds"]
    x = time_scale(seconds)
    marks = list(_marks(result["events"]))
    # What is counted over a step stands in its middle.
    at_s = [min(seconds, at_s + series["step_s"] / 2) for at_s in series["at_s"]]

    def over_time(name: str, key: str, style: str, *, filled: bool = False) -> Curve:
        return Curve(name, list(zip(at_s, series[key], strict=True)), style, filled=filled)

    found = [
        chart(
            "Latency from the intended moment",
            "ms",
            [
                over_time("longest", "max_ms", "faint"),
                over_time("p99", "p99_ms", "s3"),
                over_time("p90", "p90_ms", "s2"),
                over_time("p50", "p50_ms", "s1"),
            ],
            x=x,
            x_text="time",
            marks=marks,
            may_be_logarithmic=True,
        ),
        chart(
            "Transactions",
            "a second",
            [
                over_time("wanted", "rate", "s1", filled=True),
                over_time("declined", "declined", "s4"),
                over_time("errors", "error", "bad"),
                over_time("disturbed by an event", "disturbed", "s2"),
            ],
            x=x,
            x_text="time",
            marks=marks,
        ),
        _percentile_chart(result, earlier),
        *_upstream_chart(series, x, marks),
        *_gateway_charts(series["gateway"], x, marks),
    ]
    return f'<section><h2>Over time</h2><div class="charts">{"".join(found)}</div></section>'


def _marks(events: Sequence[dict[str, Any]]) -> Iterator[Mark]:
    """Bands with the numbers of the table; where there are many, strokes for what is routine."""
    many = len(events) > _MARKS_MAX
    for number, event in enumerate(events, start=1):
        until_s = event["until_s"] or event["at_s"]
        told = f"{number}: {event['what']} at {event['at_s']:g} s {event['detail']}"
        label = "" if many and event["what"] in _ROUTINE else str(number)
        yield Mark(label, event["at_s"], until_s, told)


def _percentile_chart(result: Result, earlier: Result | None) -> str:
    def points(one: Result) -> list[tuple[float, float]]:
        return [(nines(percent), ms) for percent, ms in one["percentiles_ms"] if percent < 100]

    curves = [Curve("this run", points(result), "s1")]
    if earlier is not None:
        curves.append(Curve("the earlier run", points(earlier), "faint"))
    return chart(
        "Latency by percentile",
        "ms",
        curves,
        x=nines_scale(),
        x_text="nines",
        may_be_logarithmic=True,
    )


def _upstream_chart(series: dict[str, Any], x: Any, marks: Sequence[Mark]) -> Iterator[str]:
    curves = [
        Curve(name, [(at_s, rate) for at_s, rate in points if at_s <= x.high], style)
        for style, (name, points) in zip(
            _UPSTREAM_STYLES * 2, sorted(series["upstreams"].items()), strict=False
        )
    ]
    if any(curve.points for curve in curves):
        title = "Requests that each acquirer received"
        yield chart(title, "a second", curves, x=x, x_text="time", marks=marks)


def _gateway_charts(gateway: dict[str, Any], x: Any, marks: Sequence[Mark]) -> Iterator[str]:
    if not gateway["at_s"]:
        return
    cpu = [(at_s, used) for at_s, used in gateway["cpu"]]
    for title, unit, points, style in (
        ("Gateway: processor", "% of one", cpu, "s1"),
        ("Gateway: memory", "MB", list(zip(gateway["at_s"], gateway["rss_mb"], strict=True)), "s3"),
        ("Gateway: descriptors", "open", list(zip(gateway["at_s"], gateway["fds"], strict=True)),
         "s4"),
    ):  # fmt: skip
        inside = [(at_s, value) for at_s, value in points if at_s <= x.high]
        curves = [Curve(title, inside, style, filled=True)]
        yield chart(title, unit, curves, x=x, x_text="time", marks=marks)


# --- an earlier run ------------------------------------------------------------------------------


def _comparison(result: Result, earlier: Result | None) -> str:
    if earlier is None:
        return ""
    rows = []
    for name in FIGURES:
        before, after = earlier["figures"].get(name), result["figures"].get(name)
        if before is None and after is None:
            continue
        change = ""
        if isinstance(before, (int, float)) and isinstance(after, (int, float)):
            better = None if name in _NEITHER else name in _MORE_IS_BETTER
            change = _change(before, after, more_is_better=better)
        rows.append(
            f"<tr><td><code>{name}</code></td><td class='number'>{_number(before)}</td>"
            f"<td class='number'>{_number(after)}</td><td>{change}</td></tr>"
        )
    same = earlier["scenario"]["sha256"] == result["scenario"]["sha256"]
    note = "" if same else '<p class="note">The scenario file was another one.</p>'
    for key in ("seconds", "devices"):
        if earlier["scenario"][key] != result["scenario"][key]:
            note += (
                f'<p class="note">{key}: {earlier["scenario"][key]:g} then,'
                f" {result['scenario'][key]:g} now.</p>"
            )
    when = escape(earlier["when"][:16].replace("T", " "))
    head = f"<th>figure</th><th class='number'>{when}</th><th class='number'>now</th><th></th>"
    half = -(-len(rows) // 2)
    tables = "".join(
        f"<div>{_scrolling(f'<table><tr>{head}</tr>{one}</table>')}</div>"
        for one in ("".join(rows[:half]), "".join(rows[half:]))
    )
    title = "Compared with an earlier run"
    return f"<section><h2>{title}</h2>{note}<div class='tables'>{tables}</div></section>"


# --- tables --------------------------------------------------------------------------------------


def _tables(result: Result) -> str:
    kinds = [
        (
            kind,
            f"{one['transactions']:,}",
            number_text(one["p50_ms"]),
            number_text(one["p99_ms"]),
            number_text(one["max_ms"]),
        )
        for kind, one in result["kinds"].items()
    ]
    events = _event_rows(result["events"])
    ledgers = result["ledgers"]
    parts = [
        _table("Kinds", ("", "number", "p50 ms", "p99 ms", "longest ms"), kinds),
        _table("Answers", ("DE39", "number"), _counted(result["codes"])),
        _table("Events", ("", "when", "what", ""), events, numbers_from=9, style="events"),
        _table("Also counted", ("", "number"), _counted(result["counts"])),
        _table("Troubles", ("", "number"), _counted(result["troubles"])),
        _table("Processor time", ("", "s"), _counted(result["processors_s"])),
    ]
    if ledgers is not None:
        parts.append(_table("Ledgers", ("", "number"), _counted(ledgers)))
    if result["disagreements"]:
        lines = escape("\n".join(result["disagreements"]))
        parts.append(f"<section><h2>Disagreements</h2><pre>{lines}</pre></section>")
    return f'<div class="tables">{"".join(parts)}</div>'


def _event_rows(events: Sequence[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Every event; where there are many, what is routine only by its number."""
    many = len(events) > _MARKS_MAX
    routine = Counter(event["what"] for event in events if many and event["what"] in _ROUTINE)
    rows = [
        (str(number), f"{one['at_s']:g} - {one['until_s']:g} s", one["what"], one["detail"])
        for number, one in enumerate(events, start=1)
        if one["what"] not in routine
    ]
    return rows + [("", "now and then", what, f"{n} times") for what, n in routine.items()]


def _counted(counts: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, _number(count)) for name, count in counts.items()]


def _table(
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers_from: int = 1,
    style: str = "",
) -> str:
    """A table under its title; columns from `numbers_from` on are figures. Nothing of no rows."""
    if not rows:
        return ""

    def row(cells: Sequence[str], tag: str) -> str:
        made = [
            f"<{tag} class='{'number' if at >= numbers_from else ''}'>{escape(cell)}</{tag}>"
            for at, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(made)}</tr>"

    body = row(head, "th") + "".join(row(cells, "td") for cells in rows)
    table = _scrolling(f"<table class='{style}'>{body}</table>")
    return f"<section><h2>{escape(title)}</h2>{table}</section>"


def _what(result: Result, earlier: Result | None) -> str:
    scenario, machine = result["scenario"], result["machine"]
    mix = ", ".join(f"{kind} {weight:g}" for kind, weight in scenario["mix"].items())
    versions = ", ".join(f"{name} {found}" for name, found in result["versions"].items())
    size = f"{scenario['devices']:,} in {scenario['processes']} processes"
    processors = f"{machine['processors']} processors {machine['model']}".rstrip()
    rows = [
        ("scenario", f"{scenario['file']}, SHA-256 {scenario['sha256'][:16]}…"),
        ("devices", f"{size}, connections {scenario['connection']}"),
        ("arrival", f"{scenario['arrival']}, seed {scenario['seed']}"),
        ("mix", mix),
        ("machine", f"{processors}, {machine['memory_gb']:g} GB, {machine['system']}"),
        ("versions", versions),
    ]
    if result["configuration_sha256"]:
        configuration = f"SHA-256 {result['configuration_sha256'][:16]}…"
        if earlier is not None:
            same = earlier["configuration_sha256"] == result["configuration_sha256"]
            configuration += ", as then" if same else ", another one then"
        rows.append(("configuration", configuration))
    body = "".join(f"<tr><td>{escape(k)}</td><td>{escape(v)}</td></tr>" for k, v in rows)
    return f"<section><h2>What was run</h2><table class='what'>{body}</table></section>"


def _scrolling(table: str) -> str:
    """What is too wide for a narrow page is moved within itself."""
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _number(value: float | str | None) -> str:
    if value is None:
        return ""
    return escape(value) if isinstance(value, str) else number_text(value)
