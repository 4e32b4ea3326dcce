"""Charts: curves over time as inline SVG, with their words in HTML, so that both fit any width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

# A curve: points of (x, y) in the units of its chart.
Points = Sequence[tuple[float, float]]

_SIZE = 1_000  # of the SVG's own square; the page stretches it
_TICKS = 4
_TIME_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400)
_TIME_TICKS_MAX = 6
_COLUMNS_MAX = 100  # that tell their figures when they are pointed at
_STROKE = 45  # how far a mark without a label comes down
_WIDE = 50.0  # from least to most: above it a scale is logarithmic
_LABEL_LEFT = 0.94  # from here on a label stands on the left of its place
_NINES = (50.0, 90.0, 99.0, 99.9, 99.99)


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart; `style` is a class of the page's style sheet."""

    name: str
    points: Points
    style: str
    filled: bool = False
    # Where two curves would stand on each other's words: those of an earlier run are not listed.
    listed: bool = True


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened, from one moment to another."""

    label: str  # "": a stroke without a label, where there are too many to be read
    from_x: float
    to_x: float
    told: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Values to shares of an axis, and the ticks beside it."""

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where a value stands, from 0 to 1."""
        if self.logarithmic:
            value = max(value, self.low)
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def scale_of(values: Sequence[float], *, may_be_logarithmic: bool = False) -> Scale:
    """A scale from 0 for values of 0 and more; logarithmic where they are far apart and it may."""
    high = max(values, default=0.0)
    positive = [value for value in values if value > 0]
    low = min(positive, default=1.0)
    if may_be_logarithmic and high / low > _WIDE:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        ticks = tuple(10.0**power for power in range(first, last + 1))
        return Scale(ticks[0], ticks[-1], ticks, logarithmic=True)
    step = _nice(high / _TICKS) if high > 0 else 1.0
    count = max(1, math.ceil(high / step - 1e-9))
    return Scale(0.0, step * count, tuple(step * number for number in range(count + 1)))


def _nice(step: float) -> float:
    """The next of 1, 2, 2.5 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * 0.999)


def time_scale(seconds: float) -> Scale:
    """A scale from 0 to so many seconds."""
    step_s = next(
        (step for step in _TIME_STEPS_S if seconds / step <= _TIME_TICKS_MAX), _TIME_STEPS_S[-1]
    )
    ticks = tuple(float(step_s * number) for number in range(int(seconds / step_s) + 1))
    return Scale(0.0, max(seconds, 1e-9), ticks)


def nines(percent: float) -> float:
    """Where a percentile stands: each nine more is as far as the one before."""
    return -math.log10(max(1e-9, 1 - percent / 100))


def nines_scale() -> Scale:
    """A scale of percentiles, from none to 99.99."""
    return Scale(0.0, nines(99.99), tuple(nines(percent) for percent in _NINES))


def nines_text(value: float) -> str:
    """A tick of `nines_scale`: `99.9 %`."""
    return f"{100 - 100 * 10**-value:.6g} %"


def time_text(seconds: float) -> str:
    """`45 s`, `2:30` for minutes and seconds, `1:00:00` with hours."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def number_text(value: float) -> str:
    """A figure with three digits that count: `12,300`, `4.57`, `0.012`."""
    if value == 0:
        return "0"
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    text = f"{value:.{max(0, digits)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def chart(
    title: str,
    unit: str,
    curves: Sequence[Curve],
    *,
    x: Scale,
    x_text: str,
    marks: Sequence[Mark] = (),
    may_be_logarithmic: bool = False,
) -> str:
    """A figure with its curves; `x_text` is "time" or "nines", for what stands below it."""
    told = time_text if x_text == "time" else nines_text
    values = [y for curve in curves for _, y in curve.points]
    y = scale_of(values, may_be_logarithmic=may_be_logarithmic)
    body = "".join(_grid(tick, y) for tick in y.ticks)
    body += "".join(_band(mark, x) for mark in marks)
    body += "".join(_path(curve, x, y) for curve in curves)
    if x_text == "time":
        body += _columns(curves, x, unit)
    logarithmic = ", logarithmic" if y.logarithmic else ""
    described = f"{title}, {unit}: " + ", ".join(c.name for c in curves)
    return (
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>'
        f' <span class="unit">{escape(unit)}{logarithmic}</span>{_legend(curves)}</figcaption>'
        f'<div class="plot"><div class="y">{_labels(y, number_text, "bottom")}</div>'
        f'<div class="area">'
        f'<svg viewBox="0 0 {_SIZE} {_SIZE}" preserveAspectRatio="none" role="img"'
        f' aria-label="{escape(described)}">{body}</svg>'
        f"{''.join(_flag(mark, x) for mark in marks)}</div>"
        f'<div class="x">{_labels(x, told, "left")}</div></div></figure>'
    )


# --- parts ---------------------------------------------------------------------------------------


def _at(share: float) -> float:
    return round(_SIZE * share, 1)


def _grid(tick: float, y: Scale) -> str:
    at = round(_SIZE - _at(y.share(tick)), 1)
    return f'<path class="grid" d="M0 {at}H{_SIZE}"/>'


def _band(mark: Mark, x: Scale) -> str:
    from_, to = _at(_inside(x.share(mark.from_x))), _at(_inside(x.share(mark.to_x)))
    if not mark.label:
        return f'<path class="stroke" d="M{from_} 0V{_STROKE}"/>'
    width = max(to - from_, 1.5)
    return f'<rect class="band" x="{from_}" y="0" width="{width:.1f}" height="{_SIZE}"/>'


def _flag(mark: Mark, x: Scale) -> str:
    share = _inside(x.share(mark.from_x))
    side = " flip" if share > _LABEL_LEFT else ""
    if not mark.label:
        return ""
    return (
        f'<span class="flag{side}" style="left:{100 * share:.2f}%" title="{escape(mark.told)}">'
        f"{escape(mark.label)}</span>"
    )


def _path(curve: Curve, x: Scale, y: Scale) -> str:
    """A line; where it is not known for a while it is broken."""
    if not curve.points:
        return ""
    points = [
        (_at(_inside(x.share(at))), round(_SIZE - _at(_inside(y.share(value))), 1))
        for at, value in curve.points
    ]
    line = "M" + "L".join(f"{at} {value}" for at, value in points)
    filled = ""
    if curve.filled:
        area = f"{line}L{points[-1][0]} {_SIZE}L{points[0][0]} {_SIZE}Z"
        filled = f'<path class="fill {curve.style}" d="{area}"/>'
    return f'{filled}<path class="line {curve.style}" d="{line}"/>'


def _columns(curves: Sequence[Curve], x: Scale, unit: str) -> str:
    """Columns that cannot be seen, and tell the figures at their moment when pointed at."""
    moments = sorted({at for curve in curves if curve.listed for at, _ in curve.points})
    step = max(1, -(-len(moments) // _COLUMNS_MAX))
    chosen = moments[::step]
    by_curve = {curve.name: dict(curve.points) for curve in curves if curve.listed}
    found = []
    for number, at in enumerate(chosen):
        until = chosen[number + 1] if number + 1 < len(chosen) else x.high
        figures = [
            f"{name} {number_text(points[at])}" for name, points in by_curve.items() if at in points
        ]
        from_, to = _at(_inside(x.share(at))), _at(_inside(x.share(until)))
        told = escape(f"{time_text(at)}: {', '.join(figures)} ({unit})")
        found.append(
            f'<rect class="column" x="{from_}" y="0" width="{max(0.0, to - from_):.1f}"'
            f' height="{_SIZE}"><title>{told}</title></rect>'
        )
    return "".join(found)


def _legend(curves: Sequence[Curve]) -> str:
    listed = [curve for curve in curves if curve.listed]
    items = "".join(
        f'<span><i class="swatch {curve.style}"></i>{escape(curve.name)}</span>' for curve in listed
    )
    return f'<span class="legend">{items}</span>' if len(listed) > 1 else ""


def _labels(scale: Scale, text: Callable[[float], str], side: str) -> str:
    return "".join(
        f'<span style="{side}:{100 * scale.share(tick):.2f}%"'
        f"{' class=last' if scale.share(tick) > _LABEL_LEFT else ''}>{escape(text(tick))}</span>"
        for tick in scale.ticks
    )


def _inside(share: float) -> float:
    return min(1.0, max(0.0, share))
