"""The papers' own figures, of a search: SpineNet's accuracy by branch point, CRMO's error by size of the vocabulary."""

from collections.abc import Mapping, Sequence
from typing import Any

from mskray.evaluation.page import PageTable
from mskray.evaluation.plots import LINES, Plot
from mskray.evaluation.spinenet_table import MEAN, PAPER
from mskray.evaluation.svg import Chart
from mskray.tuning.axes import figure_axis, parameter_axis
from mskray.tuning.figures import SPLIT
from mskray.tuning.leaderboard import Row, Summary
from mskray.tuning.ledger import Description
from mskray.tuning.wording import ABSENT, is_number, metric_name, number, value_text

_BRANCH, _VOCABULARY = "network.branch", "vocabulary"
_KIND = ("keypoints.descriptor", "classifier.name")
_LEVELS = ("study", "image", "tasks")


def paper_tables(description: Description, rows: Sequence[Row]) -> list[PageTable]:
    """Of `spinenet`: average per-class accuracy of each task by branch point, the paper's below ours.

    A branch point's row is its best by the search's metric. Other families have no such table.
    """
    if description.family != "spinenet":
        return []
    by_branch: dict[str, list[Row]] = {}
    for row in rows:
        branch = setting_of(description, row, _BRANCH)
        if row.rank and branch is not None:
            by_branch.setdefault(str(branch), []).append(row)
    theirs = [task for task in next(iter(PAPER.values())) if task != MEAN]
    ours = dict.fromkeys(task for found in by_branch.values() for row in found for task in _tasks(row))
    tasks = sorted(ours, key=lambda task: theirs.index(task) if task in theirs else len(theirs))
    if not tasks:
        return []
    body: list[tuple[str, ...]] = []
    for branch in [*(name for name in PAPER if name in by_branch), *(name for name in by_branch if name not in PAPER)]:
        best = by_branch[branch][0]
        accuracies = [best.figures.get(_accuracy(task)) for task in tasks]
        mean = best.figures.get(_accuracy("tasks"))
        count = len(by_branch[branch])
        body.append((branch, f"best of {count}", *(_percent(found) for found in accuracies), _percent(mean)))
        paper = PAPER.get(branch, {})
        if any(task in paper for task in tasks):
            spreads = [paper.get(task) for task in tasks] + [paper.get(MEAN) if set(paper) == {*tasks, MEAN} else None]
            texts = [ABSENT if each is None else _of_hundred(each.mean, each.sd) for each in spreads]
            body.append(("", "paper", *texts))
    title = "Average per-class accuracy by branch point, %: ours on validation ± SD, the paper's on its test discs"
    return [PageTable(title, ("branch point", "whose", *tasks, MEAN), body)]


def paper_plots(description: Description, rows: Sequence[Row]) -> list[Plot]:
    """Of `pair_bovw`: error (1 − F1) by size of the vocabulary, a line a descriptor and classifier."""
    if description.family != "pair_bovw":
        return []
    judged = [row for row in rows if row.rank]
    figure = next((name for name in _f1_names() if any(name in row.figures for row in judged)), None)
    if figure is None:
        return []
    lines: dict[str, dict[int, Summary]] = {}
    for row in judged:
        size, found = setting_of(description, row, _VOCABULARY), row.figures.get(figure)
        if not is_number(size) or found is None:
            continue
        kind = [setting_of(description, row, key) for key in _KIND]
        line = lines.setdefault(", ".join(value_text(part) for part in kind if part is not None) or "all", {})
        # Rows of one line and size differ in other parameters: the best of them stands for it.
        if size not in line or found.mean > line[size].mean:
            line[size] = found
    if not lines:
        return []
    sizes = sorted({size for line in lines.values() for size in line})
    across = parameter_axis(description, _VOCABULARY, sizes)
    up = figure_axis(1 - found.mean for line in lines.values() for found in line.values())
    chart = Chart(
        f"Error by size of the vocabulary: {', '.join(lines)}",
        "Vocabulary, words",
        f"Error (1 − {metric_name(figure)})",
        x_range=across.ends,
        y_range=up.ends,
        x_ticks=[place for place, _ in across.ticks],
        x_names=[text for _, text in across.ticks],
    )
    legend = []
    for index, (name, line) in enumerate(sorted(lines.items())[:LINES]):
        points = [(across.place(size), 1 - line[size].mean) for size in sorted(line)]
        chart.line([x for x, _ in points], [y for _, y in points], f"s{index}")
        for size, (x, y) in zip(sorted(line), points, strict=True):
            chart.point(x, y, f"s{index}", f"{name}, {size:g} words: {number(y)}")
        legend.append((f"s{index}", name))
    caption = "The best of the trials with each size, descriptor and classifier."
    if len(lines) > LINES:
        caption += f" {len(lines) - LINES} more kinds are left out."
    return [Plot("Error by size of the vocabulary", chart.markup(), caption, legend)]


def setting_of(description: Description, row: Row, key: str) -> Any:
    """A setting of a row's config: as searched, else as the job gave it, else None."""
    if key in row.parameters:
        return row.parameters[key]
    found: Any = description.base
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _tasks(row: Row) -> list[str]:
    """Tasks that a row has a figure of each of."""
    parts = [name.split(".") for name in row.figures]
    return [part[1] for part in parts if len(part) == 3 and part[2] == "balanced_accuracy" and part[1] not in _LEVELS]


def _accuracy(task: str) -> str:
    return f"{SPLIT}.{task}.balanced_accuracy"


def _f1_names() -> list[str]:
    return [f"{SPLIT}.{level}.f1" for level in ("study", "image", "pair")]


def _percent(found: Summary | None) -> str:
    return ABSENT if found is None else _of_hundred(found.mean, found.sd)


def _of_hundred(mean: float, sd: float | None) -> str:
    return f"{100 * mean:.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}")
