"""SpineNet's Table 2 and ours in the same shape: average per-class accuracy by branch point, mean ± SD of two models.

result = summary({"conv5": [confusions_a, confusions_b]}, tasks)
blocks(result, readings)                 # what `mskray spine-table` prints and writes as Markdown
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mskray.cohorts import Task
from mskray.evaluation.grading import MAIN, figures_of, mean_and_sd

Confusion = Sequence[Sequence[int]]
"""(C, C) counts of a task, row = truth."""
MEAN = "mean"
"""The column of the tasks' mean, beside their names."""

_TASKS = ("pfirrmann", "narrowing", "upper_endplate", "lower_endplate", "upper_marrow", "lower_marrow")
_BRANCHES = ("none", "conv3", "conv4", "conv5", "fc6", "fc7")
# SpineNet, Table 2, in %: mean and SD by branch point.
_TABLE_2 = {
    "pfirrmann": ((69.8, 0.4), (71.2, 1.0), (70.9, 0.1), (71.2, 0.4), (69.8, 0.4), (70.9, 0.6)),
    "narrowing": ((72.3, 2.1), (74.4, 0.4), (73.3, 1.9), (73.9, 0.7), (73.2, 0.1), (74.5, 0.7)),
    "upper_endplate": ((79.0, 0.5), (83.0, 1.5), (81.7, 2.5), (84.8, 0.6), (85.8, 0.3), (85.7, 0.1)),
    "lower_endplate": ((79.5, 1.2), (82.8, 1.5), (84.5, 1.2), (87.3, 2.3), (85.8, 2.0), (86.4, 2.0)),
    "upper_marrow": ((88.1, 0.6), (89.1, 0.1), (89.2, 0.2), (90.1, 0.4), (89.2, 0.3), (89.2, 0.5)),
    "lower_marrow": ((87.3, 0.3), (88.2, 0.7), (88.9, 0.2), (89.0, 0.4), (88.5, 0.8), (88.2, 0.7)),
}
_INTRA_RATER = dict(zip(_TASKS, (70.4, 72.0, 80.7, 83.3, 92.5, 91.4), strict=True))
_SPLIT = "203 patients of its own, 1,217 discs"


@dataclass(frozen=True)
class Spread:
    """A figure of several models: its mean, and its sample standard deviation, None of a single model."""

    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """None where a model's figure is undefined, or there is no model."""
        if not values or not all(math.isfinite(value) for value in values):
            return None
        mean, sd = mean_and_sd(values)
        return cls(mean, sd if math.isfinite(sd) else None)


PAPER: dict[str, dict[str, Spread]] = {
    branch: {task: Spread(values[place][0] / 100, values[place][1] / 100) for task, values in _TABLE_2.items()}
    | {MEAN: Spread(sum(values[place][0] for values in _TABLE_2.values()) / 100 / len(_TABLE_2), None)}
    for place, branch in enumerate(_BRANCHES)
}
PAPER_INTRA_RATER: dict[str, float] = {name: value / 100 for name, value in _INTRA_RATER.items()}
PAPER_INTRA_RATER[MEAN] = sum(PAPER_INTRA_RATER.values()) / len(_INTRA_RATER)

# Section 5, on the test set of Lootus: plain accuracy.
LOOTUS = {"SpineNet": (0.961, 0.878), "Lootus": (0.874, 0.837)}
AS_LOOTUS = (("pfirrmann", "within_one"), ("narrowing", "normal_abnormal"))


@dataclass(frozen=True)
class Block:
    """A table to be printed."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        return "\n".join([f"**{self.title}**", "", *(f"| {' | '.join(line)} |" for line in lines)])


def summary(
    models: Mapping[str, Sequence[Mapping[str, Confusion]]], tasks: Sequence[Task]
) -> dict[str, dict[str, dict[str, Spread]]]:
    """Branch point → figure → task, or `MEAN` for the mean of the tasks → spread over the branch point's models.

    Args:
        models: of each branch point the confusions of its models by task, each on what was held out from it.
        tasks: the columns; a figure that any model lacks is left out, and with it the mean of that figure.
    """
    found: dict[str, dict[str, dict[str, Spread]]] = {}
    for branch, each in models.items():
        values = [
            {task.name: figures_of(one[task.name], ordinal=task.ordinal) for task in tasks if task.name in one}
            for one in each
        ]
        figures = found[branch] = {}
        for figure in dict.fromkeys(name for one in values for of_task in one.values() for name in of_task):
            asked = [task.name for task in tasks if any(figure in one.get(task.name, {}) for one in values)]
            by_task = {task: [one.get(task, {}).get(figure, math.nan) for one in values] for task in asked}
            # The mean's deviation is that of the models' means: tasks of one model are not independent.
            if len(asked) == len(tasks):
                by_task[MEAN] = [sum(model) / len(model) for model in zip(*by_task.values(), strict=True)]
            spreads = {task: Spread.of(numbers) for task, numbers in by_task.items()}
            figures[figure] = {task: spread for task, spread in spreads.items() if spread is not None}
    return found


def blocks(
    found: Mapping[str, Mapping[str, Mapping[str, Spread]]], tasks: Sequence[Task], readings: Mapping[str, float]
) -> list[Block]:
    """The tables: Table 2, with the paper's figures below ours; the comparison with Lootus; Cohen's κ.

    Args:
        found: from `summary`.
        readings: average per-class agreement of two readings by task, where the cohort has two.
    """
    names = [task.name for task in tasks]
    theirs = set(names) <= set(_TASKS)
    columns = [*names, MEAN]
    rows: list[tuple[str, ...]] = []
    for branch, figures in found.items():
        rows.append((branch, "ours", *(_percent(figures.get(MAIN, {}).get(name)) for name in columns)))
        if theirs:
            paper = PAPER[branch] if len(names) == len(_TASKS) else {**PAPER[branch], MEAN: None}
            rows.append(("", "paper", *(_percent(paper[name]) for name in columns)))
    if readings:
        ours = {name: Spread(value, None) for name, value in readings.items()}
        if set(names) <= set(ours):
            ours[MEAN] = Spread(sum(readings[name] for name in names) / len(names), None)
        rows.append(("intra-rater", "ours", *(_percent(ours.get(name)) for name in columns)))
    if theirs:
        known = [*names, *([MEAN] if len(names) == len(_TASKS) else [])]
        shown = {name: Spread(PAPER_INTRA_RATER[name], None) for name in known}
        label = "" if readings else "intra-rater"
        rows.append((label, "paper", *(_percent(shown.get(name)) for name in columns)))
    title = "Average per-class accuracy, %: mean ± SD of models with validation and test exchanged"
    if theirs:
        title += f" (the paper's on {_SPLIT})"
    if len(names) > 1 and "none" in found:
        title += "; none: a network a task, trained side by side, with one best epoch for all"
    made = [Block(title, ("branch point", "whose", *columns), tuple(rows))]
    lootus = [(task, figure) for task, figure in AS_LOOTUS if task in names]
    if lootus:
        made.append(_as_lootus(found, lootus))
    kappas = [
        (branch, *(_number(figures.get("kappa", {}).get(name)) for name in columns))
        for branch, figures in found.items()
    ]
    made.append(Block("Cohen's κ", ("branch point", *columns), tuple(kappas)))
    return made


def _as_lootus(found: Mapping[str, Mapping[str, Mapping[str, Spread]]], wanted: Sequence[tuple[str, str]]) -> Block:
    words = {"within_one": "within one grade", "normal_abnormal": "normal or not"}
    rows = [
        (branch, *(_percent(figures.get(figure, {}).get(task)) for task, figure in wanted))
        for branch, figures in found.items()
    ]
    for work, values in LOOTUS.items():
        known = dict(zip(AS_LOOTUS, values, strict=True))
        rows.append((f"{work}, Lootus's test set", *(_percent(Spread(known[each], None)) for each in wanted)))
    columns = ("branch point", *(f"{task}, {words[figure]}" for task, figure in wanted))
    return Block("Accuracy as Lootus measures it, %", columns, tuple(rows))


def to_dict(found: Mapping[str, Mapping[str, Mapping[str, Spread]]]) -> dict[str, Any]:
    """Plain values: branch point → figure → task → {mean, sd}."""
    return {
        branch: {
            figure: {task: {"mean": each.mean, "sd": each.sd} for task, each in of_task.items()}
            for figure, of_task in figures.items()
        }
        for branch, figures in found.items()
    }


def _percent(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    return f"{100 * spread.mean:.1f}" + ("" if spread.sd is None else f" ± {100 * spread.sd:.1f}")


def _number(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    return f"{spread.mean:.3f}" + ("" if spread.sd is None else f" ± {spread.sd:.3f}")
