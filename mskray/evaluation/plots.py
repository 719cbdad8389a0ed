"""The report's curves: ROC, precision–recall, reliability, scores by class, training, and interval marks.

Curves are drawn from the same samples as the figures beside them. Study level is the solid line, image level the
dashed one; with more than two classes each class is a line of its own, at study level.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any
from xml.etree import ElementTree as Xml  # nosec B405 # writes, parses nothing

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from mskray.evaluation.bootstrap import Figure
from mskray.evaluation.metrics import FIGURES, calibration_pair
from mskray.evaluation.result import Evaluation
from mskray.evaluation.svg import Chart, add, nice_ticks, to_markup

HISTOGRAM_BINS = 20
LINES = 8
"""Lines of one chart that stay tellable apart; the classes beyond are left out of the curves."""


@dataclass(frozen=True)
class Plot:
    """A chart with its title, a caption in plain words and a legend of (style class, text)."""

    title: str
    svg: Markup
    caption: str
    legend: list[tuple[str, str]] = field(default_factory=list)


def curves(evaluation: Evaluation) -> list[Plot]:
    """ROC, precision–recall, reliability and score plots; those that one class leaves undefined are left out."""
    plots = []
    if evaluation.study.overall.figures["auroc"].value is not None:
        plots += [roc(evaluation), precision_recall(evaluation)]
    return [*plots, reliability_plot(evaluation), score_histogram(evaluation)]


def roc(evaluation: Evaluation) -> Plot:
    """Sensitivity against the false alarm rate over all thresholds."""
    chart = Chart("ROC curve", "False alarm rate (1 − specificity)", "Sensitivity")
    chart.line([0, 1], [0, 1], "chance")
    legend = []
    for style, name, positive, score in _one_vs_rest(evaluation):
        rate, sensitivity, _ = roc_curve(positive, score)
        chart.line(rate, sensitivity, style)
        legend.append((style, name))
    if evaluation.binary:
        (passed, alarms), (missed, found) = evaluation.study.overall.confusion
        if passed + alarms and missed + found:
            title = f"threshold {evaluation.threshold:g}, by study"
            chart.point(alarms / (passed + alarms), found / (missed + found), "s0", title)
    point = " The dot is the threshold in use." if evaluation.binary else ""
    return Plot("ROC", chart.markup(), f"Nearer the top left corner is better; the diagonal is chance.{point}", legend)


def precision_recall(evaluation: Evaluation) -> Plot:
    """Precision against sensitivity over all thresholds."""
    chart = Chart("Precision–recall curve", "Sensitivity (recall)", "Precision (positive predictive value)")
    legend = []
    for style, name, positive, score in _one_vs_rest(evaluation):
        precision, recall, _ = precision_recall_curve(positive, score)
        chart.line(recall, precision, style)
        legend.append((style, name))
    caption = "How many of the alarms are right, as the threshold is lowered to find more."
    if evaluation.binary:
        share = float((evaluation.study.samples.label == 1).mean())
        chart.line([0, 1], [share, share], "chance")
        caption += f" Chance gives the dotted line, the share that is {evaluation.classes[1]}."
    return Plot("Precision and recall", chart.markup(), caption, legend)


def reliability_plot(evaluation: Evaluation) -> Plot:
    """Observed frequency against stated probability in 10 bins."""
    chart = Chart("Reliability curve", "Stated probability", "Observed frequency")
    chart.line([0, 1], [0, 1], "chance")
    legend = []
    for style, name, level in (("s0", "by study", evaluation.study), ("s1 dashed", "by image", evaluation.image)):
        bins = [b for b in level.overall.reliability if b.stated is not None and b.observed is not None]
        stated = [b.stated for b in bins if b.stated is not None]
        observed = [b.observed for b in bins if b.observed is not None]
        chart.line(stated, observed, style)
        for b, x, y in zip(bins, stated, observed, strict=True):
            radius = 2.5 + 5.5 * float(np.sqrt(b.n / level.overall.n))
            chart.point(x, y, style, f"{name}: stated {x:.2f}, observed {y:.2f}, n = {b.n}", radius)
        legend.append((style, name))
    what = evaluation.classes[1] if evaluation.binary else "the called class"
    caption = (
        f"Of the samples given a certain probability of {what}, how many were so. On the diagonal the probabilities "
        "are true; below it they are too high. A larger dot rests on more samples."
    )
    return Plot("Reliability", chart.markup(), caption, legend)


def score_histogram(evaluation: Evaluation) -> Plot:
    """Distribution of the stated probability: by class, or by right and wrong with more than two classes."""
    samples = evaluation.study.samples
    confidence, correct = calibration_pair(samples.label, samples.prob)
    names = evaluation.classes if evaluation.binary else ("called wrongly", "called rightly")
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    shares = [np.histogram(confidence[correct == value], edges)[0] for value in (0, 1)]
    most = max(1, *(int(share.max()) for share in shares))
    what = f"Probability of {evaluation.classes[1]}" if evaluation.binary else "Probability of the called class"
    ticks = [tick for tick in nice_ticks(0, most) if tick == int(tick)]
    chart = Chart("Histogram of scores", what, "Studies", y_range=(0, most * 1.05), y_ticks=ticks)
    for style, name, numbers in zip(("s0", "s3"), names, shares, strict=True):
        for low, high, n in zip(edges[:-1], edges[1:], numbers, strict=True):
            if n:
                chart.bar(low, high, float(n), style, f"{name}: {n} from {low:.2f} to {high:.2f}")
    legend = [("bar s0", names[0]), ("bar s3", names[1])]
    caption = "The less the two overlap, the easier the decision."
    if evaluation.threshold is not None:
        chart.vertical(evaluation.threshold, "threshold")
        caption += " The vertical line is the threshold."
    return Plot("Scores by study", chart.markup(), caption, legend)


def training_curves(history: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Losses and figures over the epochs, of each of several trainings apart ("global/epoch", "global/train_loss").

    Args:
        history: one mapping an epoch, in order, with "epoch" (else numbered from 1). Keys that name a loss
            ("train_loss") and keys that end in a figure's name ("val_auroc") are drawn, the others are not.
    """
    trainings: dict[str, list[dict[str, Any]]] = {}
    for row in history:
        parts: dict[str, dict[str, Any]] = {}
        for key, value in row.items():
            training, _, name = key.rpartition("/")
            parts.setdefault(training, {})[name] = value
        for training, part in parts.items():
            trainings.setdefault(training, []).append(part)
    return [plot for name, rows in trainings.items() for plot in _curves_of_one(name, rows)]


def _curves_of_one(training: str, history: Sequence[Mapping[str, Any]]) -> list[Plot]:
    stated = [_number(row.get("epoch")) for row in history]
    epochs = [float(index) if epoch is None else epoch for index, epoch in enumerate(stated, start=1)]
    keys = list(dict.fromkeys(key for row in history for key in row))
    losses = [key for key in keys if "loss" in key]
    figures = [key for key in keys if key not in losses and any(_names(key, figure) for figure in FIGURES)]
    plots = []
    for title, label, drawn in (("Loss", "Loss", losses), ("Figures while training", "Value", figures)):
        lines = [(key, [(x, _number(row.get(key))) for x, row in zip(epochs, history, strict=True)]) for key in drawn]
        points = {key: [(x, y) for x, y in line if y is not None] for key, line in lines}
        values = [y for line in points.values() for _, y in line]
        if not values:
            continue
        low, high = (0.0, max(values) * 1.05 or 1.0) if title == "Loss" else (min(0.0, *values), 1.0)
        ends = (min(epochs), max(epochs)) if len(epochs) > 1 else (epochs[0] - 1, epochs[0] + 1)
        ticks = [tick for tick in nice_ticks(*ends) if tick == int(tick)]
        chart = Chart(title, "Epoch", label, x_range=ends, y_range=(low, high), x_ticks=ticks)
        legend = []
        for index, (key, line) in enumerate(list(points.items())[:LINES]):
            chart.line([x for x, _ in line], [y for _, y in line], f"s{index}")
            for x, y in line:
                chart.point(x, y, f"s{index}", f"{key}, epoch {x:g}: {y:.4g}", 2.5)
            legend.append((f"s{index}", key.replace("_", " ")))
        whole = f"{title}, {training} training" if training else title
        plots.append(Plot(whole, chart.markup(), f"{len(history)} epoch{'s' * (len(history) != 1)}.", legend))
    return plots


def interval_mark(figure: Figure, reference: float | None, low: float, high: float) -> Markup:
    """A line of a forest plot: the interval, the value as a dot and the overall value as a thin vertical line.

    Args:
        figure: with or without a value; without, only the reference is drawn.
        reference: the value over all samples.
        low, high: ends of the scale; what lies outside is drawn at the end.
    """
    width, height = 120, 24
    root = Xml.Element("svg", {"class": "interval", "viewBox": f"0 0 {width} {height}", "aria-hidden": "true"})

    def place(value: float) -> float:
        return 6 + (min(max(value, low), high) - low) / (high - low) * (width - 12)

    add(root, "line", "scale", x1=6, x2=width - 6, y1=height - 3, y2=height - 3)
    if reference is not None:
        add(root, "line", "reference", x1=place(reference), x2=place(reference), y1=2, y2=height - 3)
    if figure.value is not None and figure.low is not None and figure.high is not None:
        add(root, "line", "span", x1=place(figure.low), x2=place(figure.high), y1=height / 2 - 1, y2=height / 2 - 1)
        add(root, "circle", "dot", cx=place(figure.value), cy=height / 2 - 1, r=4)
    return to_markup(root)


def _one_vs_rest(
    evaluation: Evaluation,
) -> Iterator[tuple[str, str, NDArray[np.bool_], NDArray[np.float64]]]:
    """(style, name, is it the class, score) of each curve."""
    if evaluation.binary:
        for style, name, level in (("s0", "by study", evaluation.study), ("s1 dashed", "by image", evaluation.image)):
            yield style, f"{name}, n = {len(level.samples):,}", level.samples.label == 1, level.samples.prob[:, 1]
        return
    samples = evaluation.study.samples
    for index, name in list(enumerate(evaluation.classes))[:LINES]:
        positive = samples.label == index
        if positive.any() and not positive.all():
            yield f"s{index}", f"{name}, n = {int(positive.sum()):,}", positive, samples.prob[:, index]


def _names(key: str, figure: str) -> bool:
    return key == figure or key.endswith(("_" + figure, "/" + figure, "." + figure))


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return None
    return float(value) if isfinite(value) else None
