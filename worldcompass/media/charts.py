"""Small inline SVG charts without a plotting library; colours come from the page's CSS variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from worldcompass.statistics import Estimate, number, percent

WIDTH, HEIGHT = 320, 150
LEFT, RIGHT, TOP, BOTTOM = 68, 10, 10, 22  # margins; the left one fits the label "−0.00116"
Scale = Callable[[float], float]

NAME_LEFT, LETTER = 66, 7.2  # smallest margin to the left of bars, and the width of a letter of a name
MAX_POINTS = 400  # longer series are averaged in buckets


@dataclass(frozen=True)
class Bar:
    """One row of an interval chart."""

    name: str
    share: Estimate
    style: str
    """CSS class: ``base``, ``trained``, ``engine`` or the i-th run's ``run<i>``."""


@dataclass(frozen=True)
class Series:
    """One run's curve."""

    name: str
    points: Sequence[tuple[float, float]]
    """(step, value), with NaN for missing values."""


@dataclass(frozen=True)
class Band:
    """One side's curve over chunks, with its intervals and with dots where it differs from another one."""

    name: str
    mean: Sequence[float]
    low: Sequence[float]
    """Empty without intervals."""
    high: Sequence[float]
    style: str
    """CSS class, see ``Bar``."""
    dots: Sequence[bool] = ()


def smooth(values: Sequence[float]) -> list[float]:
    """A centred moving average over about a seventh of the series; non-finite values are left out."""
    reach = max(1, len(values) // 14)
    means = []
    for index in range(len(values)):
        window = [v for v in values[max(0, index - reach) : index + reach + 1] if math.isfinite(v)]
        means.append(sum(window) / len(window) if window else math.nan)
    return means


def line_chart(name: str, steps: Sequence[float], values: Sequence[float]) -> str:
    """One series over steps: the raw line faint, the smoothed line strong, the ends of both axes labelled."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return f'<p class="muted">{escape(name)}: no finite value yet</p>'
    steps, values = _shorten(steps, values)
    low, high = min(finite), max(finite)
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    scale_x = _scale(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    scale_y = _scale(low - pad, high + pad, HEIGHT - BOTTOM, TOP)
    description = (
        f"{name}: from {number(finite[0])} to {number(finite[-1])}, between {number(low)} and {number(high)}"
    )
    marks = [
        _path(steps, values, scale_x, scale_y, "raw"),
        _path(steps, smooth(values), scale_x, scale_y, "smooth"),
        _frame(),
        _text(LEFT - 6, scale_y(high) + 4, number(high), "end"),
        _text(LEFT - 6, scale_y(low) + 4, number(low), "end") if high > low else "",
        _text(LEFT, HEIGHT - 6, number(min(steps)), "start"),
        _text(WIDTH - RIGHT, HEIGHT - 6, f"step {number(max(steps))}", "end"),
    ]
    return _svg(WIDTH, HEIGHT, description, marks)


def curves_chart(title: str, series: Sequence[Series]) -> str:
    """Moving averages of several series on common axes, the i-th in the style ``run<i>``; empty without values."""
    lines = [[(x, y) for x, y in one.points if math.isfinite(y)] for one in series]
    every = [point for line in lines for point in line]
    if not every:
        return ""
    steps, values = zip(*every, strict=True)
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    scale_x = _scale(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    scale_y = _scale(low - pad, high + pad, HEIGHT - BOTTOM, TOP)
    marks = []
    for index, line in enumerate(lines):
        if line:
            xs, ys = _shorten([x for x, _ in line], [y for _, y in line])
            marks.append(f'<g class="run{index}">{_path(xs, smooth(ys), scale_x, scale_y, "smooth")}</g>')
    marks += [
        _frame(),
        _text(LEFT - 6, scale_y(high) + 4, number(high), "end"),
        _text(LEFT - 6, scale_y(low) + 4, number(low), "end") if high > low else "",
        _text(WIDTH - RIGHT, HEIGHT - 6, f"step {number(max(steps))}", "end"),
    ]
    ends = "; ".join(
        f"{one.name} from {number(line[0][1])} to {number(line[-1][1])}"
        for one, line in zip(series, lines, strict=True)
        if line
    )
    return _svg(WIDTH, HEIGHT, f"{title}: {ends}", marks)


def depth_chart(title: str, bands: Sequence[Band], share: bool) -> str:
    """Curves over the chunks of a video, with bands of their intervals; empty for less than two chunks.

    Args:
        title: begins the description.
        bands: of the same measure.
        share: show values as percent.
    """
    bands = [band for band in bands if band.mean]
    chunks = max((len(band.mean) for band in bands), default=0)
    values = [v for band in bands for v in (*band.mean, *band.low, *band.high) if math.isfinite(v)]
    if chunks < 2 or not values:
        return ""
    say: Callable[[float], str] = percent if share else number
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    scale_x = _scale(1, chunks, LEFT + 4, WIDTH - RIGHT - 4)
    scale_y = _scale(low - pad, high + pad, HEIGHT - BOTTOM, TOP)
    marks = [_frame()]
    for band in bands:
        marks.append(f'<g class="{band.style}">{_band(band, scale_x, scale_y)}</g>')
    marks += [
        _text(LEFT - 6, scale_y(high) + 4, say(high), "end"),
        _text(LEFT - 6, scale_y(low) + 4, say(low), "end") if high > low else "",
        _text(LEFT, HEIGHT - 6, "chunk 1", "start"),
        _text(WIDTH - RIGHT, HEIGHT - 6, f"chunk {chunks}", "end"),
    ]
    ends = "; ".join(f"{band.name} from {say(band.mean[0])} to {say(band.mean[-1])}" for band in bands)
    return _svg(WIDTH, HEIGHT, f"{title}: {ends}", marks)


def _band(band: Band, scale_x: Scale, scale_y: Scale) -> str:
    chunks = range(1, len(band.mean) + 1)
    ends = [
        (chunk, low, high)
        for chunk, low, high in zip(chunks, band.low, band.high, strict=False)
        if math.isfinite(low) and math.isfinite(high)
    ]
    around = [(chunk, low) for chunk, low, _ in ends] + [(chunk, high) for chunk, _, high in reversed(ends)]
    corners = " ".join(f"{scale_x(x):.1f},{scale_y(y):.1f}" for x, y in around)
    dots = "".join(
        f'<circle class="dot" cx="{scale_x(chunk):.1f}" cy="{scale_y(mean):.1f}" r="3"/>'
        for chunk, mean, dot in zip(chunks, band.mean, band.dots, strict=False)
        if dot and math.isfinite(mean)
    )
    area = f'<polygon class="band" points="{corners}"/>' if ends else ""
    return f"{area}{_path(chunks, band.mean, scale_x, scale_y, 'smooth')}{dots}"


def interval_chart(title: str, rows: Sequence[Bar]) -> str:
    """Shares with their intervals on one axis from 0 to 100%."""
    height = 34 * len(rows) + 26
    left, right = max(NAME_LEFT, 16 + LETTER * max(len(row.name) for row in rows)), 56
    width = round(left) + 378
    scale = _scale(0, 100, left, width - right)
    marks = []
    for tick in (0, 25, 50, 75, 100):
        x = scale(tick)
        marks += [
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="6" y2="{height - 20}"/>',
            _text(x, height - 5, f"{tick}%", "middle"),
        ]
    for index, row in enumerate(rows):
        marks.append(_interval_row(row, scale, 22 + 34 * index, left))
    shares = ((row.name, row.share.times(100)) for row in rows)
    description = f"{title}: " + ", ".join(
        f"{name} {v.mean:.1f}% ({v.low:.1f} to {v.high:.1f})" for name, v in shares
    )
    return _svg(width, height, description, marks)


@dataclass(frozen=True)
class Point:
    """One mark of a scatter chart."""

    name: str
    x: float
    """Share from 0 to 1, as ``y``."""
    y: float
    style: str
    """CSS class, see ``Bar``."""


def scatter_chart(title: str, across: str, up: str, points: Sequence[Point]) -> str:
    """Shares against shares, 0 to 100% on both axes, with the line of equality."""
    side, left, bottom = 300, 44, 34
    scale_x, scale_y = _scale(0, 1, left, left + side), _scale(0, 1, 10 + side, 10)
    corner = f"{scale_x(0):.0f} {scale_y(0):.0f}L{scale_x(1):.0f} {scale_y(1):.0f}"
    marks = [
        f'<path class="grid" d="M{corner}"/>',
        f'<path class="axis" d="M{scale_x(0):.0f} {scale_y(1):.0f}V{scale_y(0):.0f}H{scale_x(1):.0f}"/>',
        _text(scale_x(0.5), side + 10 + bottom - 4, across, "middle"),
        _text(left + 4, 22, up, "start"),
    ]
    for tick in (0, 0.5, 1):
        marks += [
            _text(scale_x(tick), side + 26, percent(tick, 0), "middle"),
            _text(left - 6, scale_y(tick) + 4, percent(tick, 0), "end"),
        ]
    for point in points:
        said = f"{point.name}: {percent(point.x, 0)} {across}, {percent(point.y, 0)} {up}"
        marks.append(
            f'<g class="{point.style}"><circle class="bar" cx="{scale_x(point.x):.1f}"'
            f' cy="{scale_y(point.y):.1f}" r="5"><title>{escape(said)}</title></circle></g>'
        )
    told = "; ".join(f"{p.name} {percent(p.x, 0)} and {percent(p.y, 0)}" for p in points)
    return _svg(left + side + 20, side + 10 + bottom, f"{title}: {told}", marks)


def _interval_row(row: Bar, scale: Scale, y: float, left: float) -> str:
    value = row.share.times(100)
    low, mean, high = (scale(min(max(v, 0), 100)) for v in (value.low, value.mean, value.high))
    return (
        f'<g class="{row.style}">{_text(left - 8, y + 4, row.name, "end")}'
        f'<rect class="bar" x="{left}" y="{y - 8:.1f}" width="{max(mean - left, 1):.1f}" height="16" rx="3"/>'
        f'<path class="whisker" d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 5}v10M{high:.1f} {y - 5}v10"/>'
        f"{_text(high + 6, y + 4, f'{value.mean:.1f}%', 'start', 'strong')}</g>"
    )


def _shorten(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    size = math.ceil(len(values) / MAX_POINTS)
    if size <= 1:
        return list(steps), list(values)
    starts = range(0, len(values), size)
    buckets = [[v for v in values[i : i + size] if math.isfinite(v)] for i in starts]
    return [steps[i] for i in starts], [sum(b) / len(b) if b else math.nan for b in buckets]


def _scale(low: float, high: float, start: float, stop: float) -> Scale:
    span = high - low

    def place(value: float) -> float:
        share = (value - low) / span if span else 0.5
        return start + share * (stop - start)

    return place


def _path(steps: Sequence[float], values: Sequence[float], scale_x: Scale, scale_y: Scale, style: str) -> str:
    points = [
        (scale_x(s), scale_y(v)) if math.isfinite(v) else None for s, v in zip(steps, values, strict=True)
    ]
    commands, pen_down = [], False
    for point in points:
        if point is not None:
            commands.append(f"{'L' if pen_down else 'M'}{point[0]:.1f} {point[1]:.1f}")
        pen_down = point is not None
    if sum(point is not None for point in points) == 1:
        x, y = next(point for point in points if point is not None)
        return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    return f'<path class="{style}" d="{"".join(commands)}"/>'


def _frame() -> str:
    return f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'


def _text(x: float, y: float, text: str, anchor: str, style: str = "") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: int, height: int, description: str, marks: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(description, quote=True)}">'
        f"{''.join(marks)}</svg>"
    )
