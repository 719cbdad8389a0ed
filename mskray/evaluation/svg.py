"""A small chart writer: axes, lines, bars and points as one inline SVG that takes its colours from the page.

The report must follow the reader's dark or light mode, print, scale to a phone and speak to a screen reader. An SVG
drawn with the page's own style classes does all of that in a few kilobytes and without fonts of its own; colours
baked in by a plotting library do not. Text is escaped by the XML writer.
"""

from collections.abc import Iterable, Sequence
from xml.etree import ElementTree as Xml  # nosec B405 # writes, parses nothing

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT = 440, 340
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 48
LETTER = 6.8
"""Width of a letter of a tick's label, on average."""
_TILT = 35


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers (steps of 1, 2 or 5 times a power of ten) from low to high."""
    span = max(high - low, 1e-12)
    power = 10.0 ** np.floor(np.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) <= most - 1)
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [float(number * step) for number in range(first, last + 1)]


class Chart:
    """A chart with linear axes; marks are given in the axes' units and styled by class ("s0", "bar s1", …).

    Args:
        alt: what the chart shows, for readers who cannot see it.
        x_label, y_label: axis titles.
        x_range, y_range: ends of the axes.
        x_ticks, y_ticks: labelled positions; round numbers by default.
        x_names: what to write at `x_ticks` in place of the numbers; tilted, below a deeper margin, where it is long.
        y_names: what to write at `y_ticks`; short.
    """

    def __init__(
        self,
        alt: str,
        x_label: str,
        y_label: str,
        *,
        x_range: tuple[float, float] = (0.0, 1.0),
        y_range: tuple[float, float] = (0.0, 1.0),
        x_ticks: Sequence[float] | None = None,
        y_ticks: Sequence[float] | None = None,
        x_names: Sequence[str] | None = None,
        y_names: Sequence[str] | None = None,
    ) -> None:
        self.x_range, self.y_range = x_range, y_range
        places = list(x_ticks if x_ticks is not None else nice_ticks(*x_range))
        names = list(x_names if x_names is not None else (f"{value:g}" for value in places))
        longest = LETTER * max(map(len, names), default=0)
        tilted = x_names is not None and longest * len(names) > WIDTH - LEFT - RIGHT
        height = HEIGHT + (longest * np.sin(np.radians(_TILT)) if tilted else 0)
        self.root = Xml.Element("svg", viewBox=f"0 0 {WIDTH} {height:.0f}", role="img", attrib={"aria-label": alt})
        self.root.set("class", "chart")
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        for value, name in zip(places, names, strict=True):
            x = self._x(value)
            self._add("line", "grid", x1=x, x2=x, y1=TOP, y2=bottom)
            if tilted:
                self._text(x + 4, bottom + 15, name, "tick end").set(
                    "transform", f"rotate(-{_TILT} {x + 4:g} {bottom + 15})"
                )
            else:
                self._text(x, bottom + 17, name, "tick middle")
        heights = list(y_ticks if y_ticks is not None else nice_ticks(*y_range))
        for value, name in zip(heights, y_names or [f"{value:g}" for value in heights], strict=True):
            y = self._y(value)
            self._add("line", "grid", x1=LEFT, x2=right, y1=y, y2=y)
            self._text(LEFT - 7, y + 4, name, "tick end")
        self._add("path", "axis", d=f"M{LEFT} {TOP}V{bottom}H{right}")
        self._text((LEFT + right) / 2, height - 8, x_label, "axis-label middle")
        middle = (TOP + bottom) / 2
        self._text(14, middle, y_label, "axis-label middle").set("transform", f"rotate(-90 14 {middle:g})")

    def line(self, xs: Iterable[float], ys: Iterable[float], style: str) -> None:
        """A line through points."""
        points = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in zip(xs, ys, strict=True))
        self._add("polyline", f"line {style}", points=points)

    def bar(self, x_low: float, x_high: float, height: float, style: str, title: str) -> None:
        """A bar from the bottom of the axes; `title` is shown on hovering."""
        top = self._y(height)
        bar = self._add(
            "rect",
            f"bar {style}",
            x=self._x(x_low),
            width=self._x(x_high) - self._x(x_low),
            y=top,
            height=HEIGHT - BOTTOM - top,
        )
        Xml.SubElement(bar, "title").text = title

    def point(self, x: float, y: float, style: str, title: str, radius: float = 4.5) -> None:
        """A dot; `title` is shown on hovering."""
        dot = self._add("circle", f"point {style}", cx=self._x(x), cy=self._y(y), r=radius)
        Xml.SubElement(dot, "title").text = title

    def vertical(self, x: float, style: str) -> None:
        """A line across the whole height."""
        self._add("line", f"line {style}", x1=self._x(x), x2=self._x(x), y1=TOP, y2=HEIGHT - BOTTOM)

    def markup(self) -> Markup:
        """The SVG as markup that is safe to put into a page."""
        return to_markup(self.root)

    def _x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def _y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def _add(self, tag: str, style: str, **attributes: float | str) -> Xml.Element:
        return add(self.root, tag, style, **attributes)

    def _text(self, x: float, y: float, text: str, style: str) -> Xml.Element:
        element = self._add("text", style, x=x, y=y)
        element.text = text
        return element


def add(parent: Xml.Element, tag: str, style: str, **attributes: float | str) -> Xml.Element:
    """Append an element with a style class; numbers are written with one decimal."""
    values = {name: value if isinstance(value, str) else f"{value:.1f}" for name, value in attributes.items()}
    return Xml.SubElement(parent, tag, {"class": style, **values})


def to_markup(root: Xml.Element) -> Markup:
    """An element tree as markup; its text and attributes are escaped."""
    return Markup(Xml.tostring(root, encoding="unicode", short_empty_elements=True))  # nosec B704 # escaped above
