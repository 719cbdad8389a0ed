"""The chart writer: round ticks, marks where they belong, text escaped."""

from xml.etree import ElementTree as Xml

import pytest

from mskray.evaluation.bootstrap import Figure
from mskray.evaluation.plots import interval_mark
from mskray.evaluation.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, nice_ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.5, 1, [0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        (0, 87, [0, 20, 40, 60, 80]),
        (1, 8, [2, 4, 6, 8]),
        (-0.3, 1, [0, 0.5, 1]),
        (0, 0, [0]),
    ],
)
def test_ticks_are_round(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)
    assert "-0" not in [f"{tick:g}" for tick in nice_ticks(low, high)]


def test_the_corners_of_the_axes_are_the_corners_of_the_frame():
    chart = Chart("a chart", "x", "y", x_range=(0, 10), y_range=(-1, 1))
    chart.line([0, 10], [-1, 1], "s0")
    line = Xml.fromstring(chart.markup()).find("polyline")
    assert line is not None
    assert line.get("points") == f"{LEFT}.0,{HEIGHT - BOTTOM}.0 {WIDTH - RIGHT}.0,{TOP}.0"


def test_text_is_escaped():
    chart = Chart('<b>"&', "x & y", "</svg>")
    chart.point(0.5, 0.5, "s0", "<script>")
    root = Xml.fromstring(chart.markup())
    assert root.get("aria-label") == '<b>"&'
    assert "</svg>" in [text.text for text in root.iter("text")]
    assert [title.text for title in root.iter("title")] == ["<script>"]


@pytest.mark.parametrize(
    ("figure", "reference", "marks"),
    [
        (Figure(0.75, 0.5, 1.0, 9, 9), 0.75, {"span": (6.0, 114.0), "reference": (60.0, 60.0)}),
        (Figure(0.2, 0.1, 0.3, 9, 9), None, {"span": (6.0, 6.0)}),  # below the scale: drawn at its end
        (Figure(None, None, None, 9, 1, "1 patient"), 1.0, {"reference": (114.0, 114.0)}),
    ],
)
def test_interval_marks(figure, reference, marks):
    root = Xml.fromstring(interval_mark(figure, reference, 0.5, 1.0))
    drawn = {
        line.get("class"): (float(line.get("x1", "nan")), float(line.get("x2", "nan")))
        for line in root.iter("line")
        if line.get("class") != "scale"
    }
    assert drawn == marks


@pytest.mark.parametrize(("names", "tilted"), [(["a", "b"], False), (["a long name of a category"] * 4, True)])
def test_long_names_of_ticks_are_tilted_and_get_a_deeper_margin(names, tilted):
    ticks = list(range(len(names)))
    chart = Chart("a chart", "x", "y", x_range=(0, len(names) - 1), x_ticks=ticks, x_names=names)
    root = Xml.fromstring(chart.markup())
    labels = [text for text in root.iter("text") if text.text in names]
    assert len(labels) == len(names)
    assert all((text.get("transform") is not None) == tilted for text in labels)
    assert (float(root.get("viewBox", "").split()[3]) > HEIGHT) == tilted
