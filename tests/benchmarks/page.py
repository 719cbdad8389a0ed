"""bench.json as a page: each case as a table with bars, each growth as a chart on logarithmic axes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mskray import evaluation
from mskray.evaluation.plots import Plot
from mskray.evaluation.svg import Chart

_SHARED = Path(evaluation.__file__).parent


def page(result: Mapping[str, Any]) -> str:
    """The page of what `bench.py` measured; it loads nothing."""
    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, _SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    wanted = [
        {"case": found, "area": area["area"], **reach}
        for area in result["areas"]
        for found in area["found"]
        for reach in found.get("reach", ())
    ]
    return environment.get_template("bench.html").render(
        style=Markup((_SHARED / "report.css").read_text(encoding="utf-8")),
        machine=result["machine"],
        small=result["small"],
        areas=result["areas"],
        wanted=wanted,
        missed=[each for each in wanted if not each["reached"]],
        figure=figure,
        share=share,
        rounds=rounds,
        growth=growth,
    )


def figure(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def rounds(found: Mapping[str, Any]) -> str:
    """How many rounds the figures of a table come from."""
    number = len(found["runs"][found["ours"]])
    return "one round" if number == 1 else f"medians of {number} rounds"


def share(found: Mapping[str, Any], name: str) -> float:
    """Length of a subject's bar, of the longest."""
    values = found["values"]
    return float(values[name]["median"] / max(each["median"] for each in values.values()))


def growth(found: Mapping[str, Any]) -> Plot:
    """Cost against size; a line that is as steep as the grid's diagonal grows in proportion."""
    points: Mapping[str, Sequence[tuple[float, float]]] = found["points"]
    xs = [math.log10(x) for line in points.values() for x, _ in line]
    ys = [math.log10(y) for line in points.values() for _, y in line]
    across, up = _axis(xs), _axis(ys)
    chart = Chart(
        found["what"],
        found["size"],
        found["cost"],
        x_range=across[0],
        y_range=up[0],
        x_ticks=across[1],
        x_names=[_power(tick) for tick in across[1]],
        y_ticks=up[1],
        y_names=[_power(tick) for tick in up[1]],
    )
    legend = []
    for number, (name, line) in enumerate(points.items()):
        chart.line([math.log10(x) for x, _ in line], [math.log10(y) for _, y in line], f"s{number}")
        for x, y in line:
            chart.point(math.log10(x), math.log10(y), f"s{number}", f"{name}: {x:,.0f} → {figure(y)} {found['cost']}")
        legend.append((f"s{number}", f"{name}, exponent {found['exponents'][name]:.2f}"))
    return Plot(found["what"], chart.markup(), " ".join(found["notes"]), legend)


def _axis(values: Sequence[float]) -> tuple[tuple[float, float], list[float]]:
    """Ends and ticks in whole powers of ten."""
    low, high = math.floor(min(values)), math.ceil(max(values))
    high = max(high, low + 1)
    return (low, high), [float(power) for power in range(low, high + 1)]


def _power(tick: float) -> str:
    return f"{10**tick:,.0f}" if tick >= 0 else f"{10**tick:g}"
