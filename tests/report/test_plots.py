import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from biomedgpt_jax.report import plots
from biomedgpt_jax.report.content import Chart, ScoreRow, Series


def drawn(chart: Chart) -> ET.Element:
    return ET.fromstring(plots.line_chart(chart))


def chart(*series: Series, log_y: bool = False) -> Chart:
    return Chart("Loss <of> it", "step", "loss", series, log_y)


def commands(path: ET.Element) -> list[tuple[str, float, float]]:
    found = re.findall(r"([ML])([\d.-]+) ([\d.-]+)", path.get("d"))
    return [(pen, float(x), float(y)) for pen, x, y in found]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.3, 7.9, [0, 2, 4, 6, 8]),
        (-3.0, 12.0, [-5, 0, 5, 10, 15]),
        (0.0101, 0.0109, [0.01, 0.0102, 0.0104, 0.0106, 0.0108, 0.011]),
    ],
)
def test_linear_ticks_are_round_and_enclose(low, high, ticks):
    assert plots.linear_ticks(low, high) == pytest.approx(ticks)


def test_log_ticks():
    assert plots.log_ticks(0.3, 4.0) == pytest.approx([0.2, 0.5, 1, 2, 5])
    assert plots.log_ticks(1e-4, 9.0) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1, 10])
    assert plots.log_ticks(1.0, 10.0) == pytest.approx([1, 2, 5, 10])


def test_points_land_where_the_axes_say():
    svg = drawn(chart(Series("a", (0.0, 5.0, 10.0), (0.0, 1.0, 0.5))))
    (path,) = svg.findall("path")
    left, right = plots.LEFT, plots.WIDTH - plots.RIGHT
    top, bottom = plots.TOP, plots.HEIGHT - plots.BOTTOM
    assert commands(path) == [
        ("M", left, bottom),
        ("L", (left + right) / 2, top),
        ("L", right, (top + bottom) / 2),
    ]
    labels = [text.text for text in svg.findall("text")]
    assert {"0", "0.2", "1", "10", "step", "loss"} <= set(labels)
    assert "Loss <of> it" in svg.get("aria-label")


def test_a_log_axis_spaces_decades_evenly():
    svg = drawn(chart(Series("a", (0.0, 1.0, 2.0), (10.0, 1.0, 0.1)), log_y=True))
    heights = [y for _, _, y in commands(svg.find("path"))]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.11) and heights[0] < heights[1]


def test_what_cannot_be_drawn_breaks_the_line():
    ys = (1.0, 2.0, math.nan, 3.0, 4.0, math.inf, 2.0)
    svg = drawn(chart(Series("a", tuple(map(float, range(7))), ys)))
    assert [pen for pen, _, _ in commands(svg.find("path"))] == ["M", "L", "M", "L", "M"]
    assert len(svg.findall("circle")) == 1  # the last point stands alone
    svg = drawn(chart(Series("a", (0.0, 1.0, 2.0), (1.0, 0.0, 0.5)), log_y=True))
    assert [pen for pen, _, _ in commands(svg.find("path"))] == ["M", "M"]


def test_a_long_line_is_thinned_and_smoothed():
    xs = tuple(map(float, range(20_000)))
    svg = drawn(chart(Series("a", xs, tuple(math.sin(x) for x in xs)), Series("b", (0.0,), (2.0,))))
    faint, strong, _ = svg.findall("path")
    assert "faint" in faint.get("class") and "faint" not in strong.get("class")
    assert len(commands(faint)) == plots.MOST_POINTS == len(commands(strong))


def test_moving_average_keeps_a_slope():
    line = np.arange(50.0)
    np.testing.assert_allclose(plots.moving_average(line, 5), line)
    holed = np.array([0.0, np.nan, 4.0, 4.0, 4.0])
    np.testing.assert_allclose(plots.moving_average(holed, 1), [0, 2, 4, 4, 4])


def test_degenerate_charts_still_say_something():
    assert "nothing was recorded" in plots.line_chart(chart())
    assert "Loss &lt;of&gt; it" in plots.line_chart(chart(Series("a", (1.0,), (math.nan,))))
    assert drawn(chart(Series("a", (1.0, 2.0), (3.0, 3.0)))).find("path") is not None
    assert drawn(chart(Series("a", (7.0,), (3.0,)), log_y=True)).find("circle") is not None


def test_legend_has_last_finite_values():
    html = plots.legend(chart(Series("<a>", (0.0, 1.0), (1.0, math.nan)), Series("b", (), ())))
    assert "&lt;a&gt; <b>1</b>" in html and "c1" in html


def test_score_strip_places_score_interval_and_baseline():
    svg = ET.fromstring(plots.score_strip(ScoreRow("x", 5, 0.0, 0.5, 0.25, 0.75, 1.0, "no")))
    whisker = next(e for e in svg if "whisker" in e.get("class"))
    mark = next(e for e in svg if e.get("class") == "mark")
    hollow, dot = svg.findall("circle")
    assert (whisker.get("x1"), whisker.get("x2"), mark.get("x1")) == ("52.0", "148.0", "196.0")
    assert (hollow.get("cx"), dot.get("cx")) == ("4.0", "100.0")
    bare = ET.fromstring(plots.score_strip(ScoreRow("x", 1, None, 0.5, None, None, None, None)))
    assert len(bare.findall("circle")) == 1 and not any("whisker" in e.get("class") for e in bare)
