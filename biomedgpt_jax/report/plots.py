"""Line charts and score strips as inline SVG, coloured by the page's style."""

import math
from html import escape

import numpy as np

from biomedgpt_jax.report.content import Chart, ScoreRow, Series, percent

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 44
COLOURS = 6  # classes c0..c5 in the style
MOST_POINTS = 500
SMOOTH_FROM = 40  # points; a shorter line is drawn as it is


class _Axis:
    """A range of values on a span of pixels, linear or logarithmic."""

    def __init__(self, values: np.ndarray, start: int, end: int, log: bool):
        low, high = float(values.min()), float(values.max())
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
        self.log, self.start, self.end = log, start, end
        self.ticks = log_ticks(low, high) if log else linear_ticks(low, high)
        self.low, self.high = min(low, self.ticks[0]), max(high, self.ticks[-1])

    def place(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def line_chart(chart: Chart) -> str:
    """The chart as an <svg> element with axes, ticks, gridlines and a line per series.

    A long line is drawn faint, with its moving average on top. Values that cannot be drawn (not finite, or not
    positive on a logarithmic axis) interrupt a line.
    """
    lines = [_drawable(series, chart.log_y) for series in chart.series]
    known = [line[~np.isnan(line[:, 1])] for line in lines]
    points = np.concatenate(known) if known else np.zeros((0, 2))
    if not len(points):
        return f'<p class="quiet">{escape(chart.title)}: nothing was recorded.</p>'
    x = _Axis(points[:, 0], LEFT, WIDTH - RIGHT, log=False)
    x.low, x.high = points[:, 0].min(), max(points[:, 0].max(), points[:, 0].min() + 1e-9)
    y = _Axis(points[:, 1], HEIGHT - BOTTOM, TOP, chart.log_y)
    body = [_frame(chart, x, y)]
    for n, line in enumerate(lines):
        body.append(_line(line, x, y, f"c{n % COLOURS}"))
    label = escape(f"{chart.title}: {chart.y_label} over {chart.x_label}", quote=True)
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(body)}</svg>'


def legend(chart: Chart) -> str:
    """The names of the lines with their last values."""
    items = []
    for n, series in enumerate(chart.series):
        finite = [v for v in series.y if math.isfinite(v)]
        last = f" <b>{finite[-1]:.4g}</b>" if finite else ""
        items.append(f'<span><i class="key c{n % COLOURS}"></i>{escape(series.name)}{last}</span>')
    return f'<p class="legend">{"".join(items)}</p>'


def score_strip(row: ScoreRow) -> str:
    """A 0 to 100% line with the interval, the score after training and a mark at the baseline."""

    def at(value: float) -> str:
        return f"{4 + 192 * value:.1f}"

    parts = [f'<line class="rail" x1="{at(0.0)}" x2="{at(1.0)}" y1="11" y2="11"/>']
    parts += [f'<line class="grid" x1="{at(v)}" x2="{at(v)}" y1="8" y2="14"/>' for v in (0.0, 0.25, 0.5, 0.75, 1.0)]
    if row.low is not None and row.high is not None:
        parts.append(f'<line class="whisker c0" x1="{at(row.low)}" x2="{at(row.high)}" y1="11" y2="11"/>')
    if row.baseline is not None:
        parts.append(f'<line class="mark" x1="{at(row.baseline)}" x2="{at(row.baseline)}" y1="2" y2="20"/>')
    if row.before is not None:
        parts.append(f'<circle class="hollow" cx="{at(row.before)}" cy="11" r="3.5"/>')
    parts.append(f'<circle class="dot c0" cx="{at(row.after)}" cy="11" r="4.5"/>')
    label = f"after {percent(row.after)}, before {percent(row.before)}, majority {percent(row.baseline)}"
    return f'<svg class="strip" viewBox="0 0 200 22" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that enclose low..high."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that enclose low..high, with their doubles and fives inside two decades."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first > 2:
        return [10.0**n for n in range(first, last + 1)]
    ticks = [m * 10.0**n for n in range(first, last + 1) for m in (1, 2, 5)]
    start = max(n for n, tick in enumerate(ticks) if tick <= low * 1.000001)
    end = min(n for n, tick in enumerate(ticks) if tick >= high * 0.999999)
    return ticks[start : end + 1]


def moving_average(values: np.ndarray, reach: int) -> np.ndarray:
    """The mean of the known values up to `reach` places away on both sides; less far at the ends, so that a slope
    stays a slope. NaN where nothing is known.
    """
    out = np.full(len(values), np.nan)
    for n in range(len(values)):
        near = min(reach, n, len(values) - 1 - n)
        window = values[n - near : n + near + 1]
        known = window[~np.isnan(window)]
        if len(known):
            out[n] = known.mean()
    return out


def _drawable(series: Series, log_y: bool) -> np.ndarray:
    """Points [n 2], NaN where the line breaks, at most MOST_POINTS of them (means of neighbours)."""
    points = np.array([series.x, series.y], np.float64).T.reshape(-1, 2)
    points = points[np.isfinite(points[:, 0])]
    hidden = ~np.isfinite(points[:, 1]) | (log_y & (points[:, 1] <= 0))
    points[hidden, 1] = np.nan
    if len(points) <= MOST_POINTS:
        return points
    return np.array([_mean(part) for part in np.array_split(points, MOST_POINTS)])


def _mean(points: np.ndarray) -> tuple[float, float]:
    known = points[~np.isnan(points[:, 1]), 1]
    return float(points[:, 0].mean()), float(known.mean()) if len(known) else math.nan


def _frame(chart: Chart, x: _Axis, y: _Axis) -> str:
    bottom, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    parts = []
    for tick in y.ticks:
        at = y.place(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in x.ticks:
        if not x.low <= tick <= x.high:
            continue
        at = x.place(tick)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    scale = f"{chart.y_label} (log)" if chart.log_y else chart.y_label
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(scale)}</text>'
    )
    return "".join(parts)


def _line(points: np.ndarray, x: _Axis, y: _Axis, colour: str) -> str:
    if len(points) < SMOOTH_FROM:
        return _path(points, x, y, f"line {colour}")
    smooth = np.stack([points[:, 0], moving_average(points[:, 1], len(points) // 30)], 1)
    return _path(points, x, y, f"line faint {colour}") + _path(smooth, x, y, f"line {colour}")


def _path(points: np.ndarray, x: _Axis, y: _Axis, classes: str) -> str:
    commands, pen, marks = [], "M", []
    known = ~np.isnan(points[:, 1])
    for n, (px, py) in enumerate(points):
        if not known[n]:
            pen = "M"
            continue
        at = f"{x.place(px):.1f} {y.place(py):.1f}"
        commands.append(pen + at)
        alone = pen == "M" and (n + 1 == len(points) or not known[n + 1])
        if alone:
            cx, cy = at.split()
            marks.append(f'<circle class="dot {classes}" cx="{cx}" cy="{cy}" r="2.5"/>')
        pen = "L"
    return f'<path class="{classes}" d="{"".join(commands)}"/>' + "".join(marks)


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e4:
        short = f"{value / 1e3:g}k" if abs(value) < 1e6 else f"{value / 1e6:g}M"
        return short if len(short) < 7 else f"{value:.1e}"
    return f"{value:.4g}" if abs(value) >= 1e-3 else f"{value:.0e}"
