"""What a grading is worth, as SpineNet measures it: accuracy in each grade, averaged, so that rare grades count.

    grading = grade("pfirrmann", classes, truth, called, patients)
    grading.figures["average_per_class_accuracy"].value
    intra_rater(first, second, len(classes))          # what the same reader reaches, read twice
    mean_and_sd([on_test, on_validation])             # of two models, validation and test swapped

Source: SpineNet section 5. Truth is -1 where it is missing: such a sample counts in no figure.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mskray.errors import UserError
from mskray.evaluation.bootstrap import Figure, bootstrapped, too_few
from mskray.evaluation.metrics import Floats, Ints, per_class, weighted_confusion, weighted_kappa

MAIN = "average_per_class_accuracy"

_CLASS = "class:"


@dataclass(frozen=True)
class Grading:
    """The figures of one task.

    Args:
        ordinal: the classes are grades, of which the first is normal.
        n: samples with a label, of so many patients; unlabelled: those without.
        confusion: (C, C) counts, row = truth, column = called.
        figures: see `weighted_grading`.
        per_class: accuracy in each class.
    """

    task: str
    classes: tuple[str, ...]
    ordinal: bool
    n: int
    patients: int
    unlabelled: int
    confusion: list[list[int]]
    figures: dict[str, Figure]
    per_class: dict[str, Figure]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in `grading.json`."""
        figures = {name: figure.to_dict() for name, figure in self.figures.items()}
        per_class = {name: figure.to_dict() for name, figure in self.per_class.items()}
        return {**asdict(self), "classes": list(self.classes), "figures": figures, "per_class": per_class}


def weighted_grading(
    truth: Ints, called: Ints, weights: Floats, classes: int, *, ordinal: bool = True
) -> dict[str, Floats]:
    """Every figure of a grading under every weighting, (R,) each; NaN where a weighting leaves it undefined.

    Args:
        truth, called: (n,) class indices, none missing.
        weights: (R, n) weight of each sample.
        ordinal: the classes are grades from normal (0) upwards. Then comes `normal_abnormal` (grade 0 against all
            others), of two grades the same as their accuracy; with more of them `quadratic_kappa` and `within_one` (at
            most one grade off). Lootus measures narrowing by the first and Pfirrmann grades by the last.

    Returns:
        `average_per_class_accuracy` over the classes that occur, `accuracy`, `kappa`, …
    """
    occurring = np.flatnonzero(np.bincount(truth, minlength=classes))
    return _figures(weighted_confusion(truth, called, weights, classes), occurring, ordinal)


def figures_of(confusion: Sequence[Sequence[int]], *, ordinal: bool = True) -> dict[str, float]:
    """The figures of `weighted_grading` of one confusion matrix, row = truth; NaN where one is undefined."""
    counts = np.asarray(confusion, np.float64)[None]
    occurring = np.flatnonzero(counts[0].sum(axis=1))
    return {name: float(values[0]) for name, values in _figures(counts, occurring, ordinal).items()}


def _figures(confusion: Floats, occurring: NDArray[np.intp], ordinal: bool) -> dict[str, Floats]:
    classes = confusion.shape[1]
    figures = {
        MAIN: per_class(confusion)[0][:, occurring].mean(axis=1),
        "accuracy": _share(confusion, np.eye(classes)),
        "kappa": weighted_kappa(confusion, quadratic=False),
    }
    grades = np.arange(classes)
    if ordinal and classes > 2:
        figures["quadratic_kappa"] = weighted_kappa(confusion, quadratic=True)
        figures["within_one"] = _share(confusion, np.abs(grades[:, None] - grades) <= 1)
    if ordinal:
        figures["normal_abnormal"] = _share(confusion, (grades[:, None] > 0) == (grades > 0))
    return figures


def grade(
    task: str,
    classes: Sequence[str],
    truth: Ints,
    called: Ints,
    patients: NDArray[Any],
    *,
    ordinal: bool = True,
    resamples: int = 1000,
    seed: int = 0,
) -> Grading:
    """Every figure of a task with its interval by patient.

    Args:
        classes: names, in the order of the index.
        truth: (n,) class index, -1 where it is missing.
        called: (n,) class index.
        patients: (n,) identifiers; resampled as wholes.
        ordinal: see `weighted_grading`.
        resamples, seed: of the bootstrap.
    Raises:
        UserError: no sample has a label.
    """
    known = truth >= 0
    if not known.any():
        raise UserError(f"task {task}: none of the {truth.size} samples has a label, nothing to evaluate")
    labels, calls = truth[known].astype(np.int64), called[known].astype(np.int64)
    _, patient = np.unique(patients[known].astype(str), return_inverse=True)
    few = too_few(patient)

    def compute(weights: Floats) -> dict[str, Floats]:
        recall = per_class(weighted_confusion(labels, calls, weights, len(classes)))[0]
        by_class = {f"{_CLASS}{name}": recall[:, index] for index, name in enumerate(classes)}
        return weighted_grading(labels, calls, weights, len(classes), ordinal=ordinal) | by_class

    def support(name: str) -> tuple[int, int]:
        counted = labels == list(classes).index(name.removeprefix(_CLASS)) if name.startswith(_CLASS) else labels >= 0
        return int(counted.sum()), int(np.unique(patient[counted]).size)

    def reason(name: str) -> str | None:
        return few or (None if support(name)[0] else f"no sample is {name.removeprefix(_CLASS)}")

    found = bootstrapped(compute, patient, support, reason, resamples, seed)
    confusion = weighted_confusion(labels, calls, np.ones((1, labels.size)), len(classes))[0]
    return Grading(
        task=task,
        classes=tuple(classes),
        ordinal=ordinal,
        n=int(labels.size),
        patients=int(patient.max()) + 1,
        unlabelled=int((~known).sum()),
        confusion=confusion.astype(np.int64).tolist(),
        figures={name: figure for name, figure in found.items() if not name.startswith(_CLASS)},
        per_class={name.removeprefix(_CLASS): each for name, each in found.items() if name.startswith(_CLASS)},
    )


def average_per_class_accuracy(truth: Ints, called: Ints, classes: int) -> float | None:
    """The share of each class called so, averaged over the classes that occur; None where no truth is known."""
    known = truth >= 0
    if not known.any():
        return None
    ones = np.ones((1, int(known.sum())))
    return float(weighted_grading(truth[known], called[known], ones, classes)[MAIN][0])


def intra_rater(first: Ints, second: Ints, classes: int) -> float | None:
    """Average per-class agreement of two readings by one reader, the first as truth, where both are given (not -1)."""
    both = (first >= 0) & (second >= 0)
    return average_per_class_accuracy(first[both], second[both], classes)


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation, of n − 1, of models trained with other splits; NaN deviation for one.

    SpineNet does not say which of the two deviations it gives; that of a sample is what MATLAB, its tool, computes.
    """
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return float(np.mean(values)), deviation


def _share(confusion: Floats, counted: NDArray[Any]) -> Floats:
    """The share of all samples (R,) in the cells of confusion (R, C, C) that count."""
    total = confusion.sum(axis=(1, 2))
    return np.divide((confusion * counted).sum(axis=(1, 2)), total, out=np.full_like(total, np.nan), where=total > 0)
