"""Parallel coordinates: a line a set of parameters, across an axis a parameter, to the figures at the right.

A parameter that is not there under its condition is passed below its axis. Colour goes by place in the ranking, not by
the figure itself: one hopeless trial would leave all others the same colour.
"""

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as Xml  # nosec B405 # writes, parses nothing

from markupsafe import Markup

from mskray.evaluation.svg import LETTER, add, to_markup
from mskray.tuning.axes import Axis, figure_axis, parameter_axis
from mskray.tuning.leaderboard import Row
from mskray.tuning.ledger import Description
from mskray.tuning.wording import metric_name, number, parameters_text, shortened

FIFTHS = 5
MOST_AXES = 9
"""Axes that are side by side on the page's width."""
_WIDTH, _HEIGHT, _TOP, _BOTTOM, _LEFT, _RIGHT = 1064.0, 400.0, 44.0, 42.0, 62.0, 84.0
_LEAST_GAP = 104.0
_TITLE_LETTER = 1.1 * LETTER
_FAN = 12.0
"""Height over which lines through the same category are spread, so that each can be seen."""


def fifth(rank: int, ranks: int) -> str:
    """The style of a place in the ranking: "q0" of the best fifth to "q4"."""
    return f"q{(rank - 1) * FIFTHS // ranks}"


def parallel_coordinates(description: Description, rows: Sequence[Row], names: Mapping[str, str], alt: str) -> Markup:
    """Draw the ranked rows. The SVG is as wide as its axes need.

    Args:
        rows: with rank, at least one.
        names: of the parameters to draw, key → what to write.
        alt: what it shows, in words.
    """
    metrics = [metric for metric in reversed(description.metrics) if any(metric in row.figures for row in rows)]
    axes: list[tuple[str, str, Axis]] = []
    for key, name in names.items():
        values = [row.parameters[key] for row in rows if key in row.parameters]
        axes.append((key, name, parameter_axis(description, key, values)))
    for metric in metrics:
        figures = [row.figures[metric].mean for row in rows if metric in row.figures]
        axes.append((metric, metric_name(metric), figure_axis(figures)))
    width = max(_WIDTH, _LEFT + _RIGHT + _LEAST_GAP * (len(axes) - 1))
    gap = (width - _LEFT - _RIGHT) / max(1, len(axes) - 1)
    places = [_LEFT + gap * index for index in range(len(axes))]
    root = Xml.Element("svg", viewBox=f"0 0 {width:g} {_HEIGHT:g}", role="img", attrib={"aria-label": alt})
    root.set("class", "chart parallel")
    root.set("style", f"min-width: {width:g}px")
    for row in sorted(rows, key=lambda each: -each.rank):
        fan = _FAN * ((row.rank - 1) / max(1, len(rows) - 1) - 0.5)
        points = [f"{x:.1f},{_height(row, key, axis, fan):.1f}" for x, (key, _, axis) in zip(places, axes, strict=True)]
        line = add(root, "polyline", f"line {fifth(row.rank, len(rows))}", points=" ".join(points))
        told = f"{number(row.figures[description.metrics[0]].mean)}: {parameters_text(row.parameters, names)}"
        Xml.SubElement(line, "title").text = f"{row.rank}. trial {row.id}, {told}"
    for x, (key, name, axis) in zip(places, axes, strict=True):
        some_lack = any(key not in row.parameters and key not in row.figures for row in rows)
        _draw(root, x, gap, key, name, axis, some_lack)
    return to_markup(root)


def _height(row: Row, key: str, axis: Axis, fan: float) -> float:
    if key in row.parameters:
        share = axis.share(row.parameters[key])
    elif key in row.figures:
        share = axis.share(row.figures[key].mean)
    else:
        return _HEIGHT - 12 + fan / 2
    return _y(share) + (fan if axis.categories else 0.0)


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _draw(root: Xml.Element, x: float, gap: float, key: str, name: str, axis: Axis, some_lack: bool) -> None:
    add(root, "line", "axis", x1=x, x2=x, y1=_TOP, y2=_HEIGHT - _BOTTOM)
    for index, part in enumerate(_in_two(name, int((gap - 8) / _TITLE_LETTER))):
        title = add(root, "text", "axis-label middle", x=x, y=14.0 + 15 * index)
        title.text = part
        Xml.SubElement(title, "title").text = key
    labels = [(_y((place - axis.ends[0]) / (axis.ends[1] - axis.ends[0])), name) for place, name in axis.ticks]
    if some_lack:
        labels.append((_HEIGHT - 12, "not there"))
    for y, label in labels:
        add(root, "line", "axis", x1=x - 4, x2=x + 4, y1=y, y2=y)
        text = add(root, "text", "halo", x=x + 7, y=y + 4)
        text.text = shortened(label, int((gap - 12) / LETTER))


def _in_two(name: str, most: int) -> list[str]:
    """A name in one line, or in two that are parted where a word ends."""
    if len(name) <= most:
        return [name]
    cuts = [index + 1 for index, letter in enumerate(name) if letter in "_. " and 0 < index < most]
    cut = max(cuts, default=most)
    return [name[:cut].rstrip(), shortened(name[cut:], most)]
