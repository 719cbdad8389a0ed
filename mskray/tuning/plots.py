"""The charts of a search: learning curves, the Pareto front, and the metric against each parameter."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from mskray.evaluation.plots import Plot
from mskray.evaluation.svg import Chart, nice_ticks
from mskray.tuning.axes import figure_axis, parameter_axis
from mskray.tuning.leaderboard import Row, pareto_rows
from mskray.tuning.ledger import Description, TrialRecord
from mskray.tuning.wording import is_number, metric_name, number, parameters_text, value_text

BEST = 3
"""How many of the first rows stand out in a chart."""
_STYLES = ("s3", "s0", "s2")
_LOSSES = 4.0
"""How many times the median a loss may be before its curve is cut: one that diverged hides all others."""
_ASIDE = 0.4
"""Width over which the dots of a category are spread, of the distance between two."""
Curve = list[tuple[float, float]]


def learning_curves(metric: str, rows: Sequence[Row]) -> list[Plot]:
    """The metric's figure and the loss over the epochs, a line a trial; the best stand out.

    Args:
        rows: all, best first; those that were stopped or failed are drawn as far as they came.
    """
    told = [trial for row in rows for trial in row.trials if trial.history]
    best = {row.id: (style, row) for style, row in zip(_STYLES, [row for row in rows if row.rank][:BEST], strict=False)}
    plots = []
    for title, key in (("While training", _key(told, metric)), ("Loss", _loss_key(told))):
        curves = {trial.id: _curve(trial, key) for trial in told} if key else {}
        curves = {trial: curve for trial, curve in curves.items() if curve}
        if curves:
            plots.append(_curves(title, key, curves, best))
    return plots


def fronts(description: Description, rows: Sequence[Row], names: Mapping[str, str]) -> list[Plot]:
    """The first metric against each other one, with the front; none with one metric."""
    first, *others = description.metrics
    on_front = {row.id for row in pareto_rows(description, rows)}
    plots = []
    for other in others:
        able = [row for row in rows if row.state == "finished" and {first, other} <= set(row.figures)]
        if not able:
            continue
        points = {row.id: (row.figures[other].mean, row.figures[first].mean) for row in able}
        across, up = figure_axis(x for x, _ in points.values()), figure_axis(y for _, y in points.values())
        title = f"{metric_name(first)} against {metric_name(other)}"
        alt = f"{title}: {len(able)} sets of parameters, {len(on_front)} on the Pareto front"
        chart = Chart(alt, metric_name(other), metric_name(first), x_range=across.ends, y_range=up.ends)
        if len(others) == 1:
            line = sorted(points[row.id] for row in able if row.id in on_front)
            chart.line([x for x, _ in line], [y for _, y in line], "s3 thin")
        for row in sorted(able, key=lambda each: each.id in on_front):
            x, y = points[row.id]
            told = f"trial {row.id}: {number(y)}, {number(x)}; {parameters_text(row.parameters, names)}"
            chart.point(x, y, "s3" if row.id in on_front else "s1", told, 5.5 if row.id in on_front else 4)
        caption = "None of all trials is better than one of the front in one figure and as good in the others."
        plots.append(Plot(title, chart.markup(), caption, [("dot s3", "on the front"), ("dot s1", "beaten")]))
    return plots


def against_parameters(description: Description, rows: Sequence[Row], names: Mapping[str, str]) -> list[Plot]:
    """The first metric against each of the parameters, a dot a set of parameters.

    Args:
        rows: with rank.
        names: of the parameters to draw, key → what to write.
    """
    metric = description.metrics[0]
    plots = []
    for key, name in names.items():
        having = [row for row in rows if key in row.parameters]
        if not having:
            continue
        across = parameter_axis(description, key, [row.parameters[key] for row in having])
        up = figure_axis(row.figures[metric].mean for row in having)
        chart = Chart(
            f"{metric_name(metric)} against {key}, of {len(having)} sets of parameters",
            key,
            metric_name(metric),
            x_range=across.ends,
            y_range=up.ends,
            x_ticks=[place for place, _ in across.ticks],
            x_names=[text for _, text in across.ticks],
        )
        for row in reversed(having):
            figure = row.figures[metric].mean
            # Dots of one category side by side, as scattered as multiples of the golden ratio are.
            aside = _ASIDE * (row.rank * 0.618 % 1 - 0.5) if across.categories else 0.0
            told = f"trial {row.id}: {number(figure)} with {value_text(row.parameters[key])}"
            best = row.rank <= BEST
            chart.point(
                across.place(row.parameters[key]) + aside, figure, "s3" if best else "s0", told, 5.5 if best else 4
            )
        lacking = len(rows) - len(having)
        caption = f"{len(having)} sets of parameters" + (f"; {lacking} do without it." if lacking else ".")
        plots.append(Plot(name, chart.markup(), caption))
    return plots


def _curves(title: str, key: str, curves: Mapping[str, Curve], best: Mapping[str, tuple[str, Row]]) -> Plot:
    figures = [y for curve in curves.values() for _, y in curve]
    epochs = [x for curve in curves.values() for x, _ in curve]
    up = figure_axis(figures).ends
    cut = ""
    if "loss" in key:
        most = _LOSSES * median(figures)
        up = (min(0.0, *figures), up[1])
        if 0 < most < max(figures):
            up, cut = (up[0], most), f" Cut at {number(most)}: the highest is {number(max(figures))}."
    ends = (min(epochs), max(epochs)) if max(epochs) > min(epochs) else (epochs[0] - 1, epochs[0] + 1)
    ticks = [tick for tick in nice_ticks(*ends) if tick == int(tick)]
    label = key.replace("_", " ").replace("/", ", ")
    alt = f"{label} over the epochs, of {len(curves)} trials"
    chart = Chart(alt, "Epoch", label, x_range=ends, y_range=up, x_ticks=ticks)
    legend = []
    for trial in sorted(curves, key=lambda each: -best[each][1].rank if each in best else -BEST - 1):
        style = best[trial][0] if trial in best else "faint"
        curve = [(x, min(y, up[1])) for x, y in curves[trial]]
        chart.line([x for x, _ in curve], [y for _, y in curve], style)
        for x, y in curve if trial in best or len(curve) == 1 else ():
            chart.point(x, y, style, f"trial {trial}, epoch {x:g}: {number(y)}", 2.5)
    legend = [(style, f"{row.rank}. trial {trial}") for trial, (style, row) in best.items() if trial in curves]
    if len(legend) < len(curves):
        legend.append(("faint", "the others"))
    return Plot(title, chart.markup(), f"Of {len(curves)} trials, the first fold of each.{cut}", legend)


def _curve(trial: TrialRecord, key: str) -> Curve:
    """(epoch, figure) where both are numbers; epochs are counted from 1 where the history does not state them."""
    stated = key.rpartition("/")[0] + "/epoch" if "/" in key else "epoch"
    rows = [row for row in trial.history if is_number(row.get(key))]
    return [
        (float(row[stated] if is_number(row.get(stated)) else place), float(row[key]))
        for place, row in enumerate(rows, 1)
    ]


def _key(trials: Sequence[TrialRecord], metric: str) -> str:
    """The key of a history that comes nearest to a metric; of several trainings the last one's."""
    level, _, figure = metric.partition(".")[2].rpartition(".")
    for ending in (f"{level}_{figure}", f"val_{figure}", figure):
        found = [key for key in _keys(trials) if key.rpartition("/")[2].endswith(ending)]
        if figure and found:
            return found[-1]
    return ""


def _loss_key(trials: Sequence[TrialRecord]) -> str:
    keys = [key for key in _keys(trials) if key.endswith("loss")]
    return ([key for key in keys if "val" in key] or keys or [""])[-1]


def _keys(trials: Sequence[TrialRecord]) -> list[str]:
    rows: list[Mapping[str, Any]] = [row for trial in trials for row in trial.history]
    return list(dict.fromkeys(key for row in rows for key, value in row.items() if is_number(value)))
