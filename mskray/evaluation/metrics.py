"""Figures of merit from labels, probabilities and weights, for many weightings at once.

A bootstrap resample is a weighting: a patient drawn twice counts twice, one never drawn counts nothing. So every
figure here takes a matrix of weights (one row a resample) and returns one value a row, by matrix products and
cumulative sums instead of a Python loop over resamples (`mskray.evaluation.bootstrap`).

    mskray evaluate BUNDLE --cohort URI --split test

Shapes: n samples, C classes, R weightings. A figure that a weighting leaves undefined (no abnormal sample drawn)
is NaN here; the caller turns that into a reason.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mskray.evaluation.calibration import BINS, bin_index, decision

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

FIGURES = (
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "f1",
    "auroc",
    "auprc",
    "kappa",
    "quadratic_kappa",
    "brier",
    "ece",
)
"""Every figure, in the order of the report; `quadratic_kappa` only where the classes are grades."""

ONE_CLASS_FIGURES = ("accuracy", "brier", "ece")
"""What can still be told when all samples are of one class."""

LOWER_IS_BETTER = ("brier", "ece")


def weighted_figures(
    label: Ints, prob: Floats, weights: Floats, *, threshold: float = 0.5, ordinal: bool = False
) -> dict[str, Floats]:
    """Every figure under every weighting.

    Args:
        label: (n,) class index.
        prob: (n, C) probabilities, rows sum to 1.
        weights: (R, n) weight of each sample, >= 0.
        threshold: two classes only: a sample is called class 1 when its probability is at least this.
            With more classes the most probable class is called.
        ordinal: the classes are grades in order: add `quadratic_kappa`.

    Returns:
        name -> (R,) values. With two classes sensitivity, specificity, F1, AUROC and AUPRC are those of class 1;
        with more they are averaged over the classes that occur in `label` (one against the rest).
    """
    classes = prob.shape[1]
    confusion = weighted_confusion(label, decision(prob, threshold), weights, classes)
    occurring = np.flatnonzero(np.bincount(label, minlength=classes))
    averaged = np.array([1]) if classes == 2 else occurring
    recall, specificity, f1 = per_class(confusion)
    ranked = [weighted_ranking(label == index, prob[:, index], weights) for index in averaged]
    confidence, correct = calibration_pair(label, prob)
    figures = {
        "accuracy": _ratio(np.trace(confusion, axis1=1, axis2=2), confusion.sum(axis=(1, 2))),
        "balanced_accuracy": recall[:, occurring].mean(axis=1),
        "sensitivity": recall[:, averaged].mean(axis=1),
        "specificity": specificity[:, averaged].mean(axis=1),
        "f1": f1[:, averaged].mean(axis=1),
        "auroc": np.mean([auroc for auroc, _ in ranked], axis=0),
        "auprc": np.mean([auprc for _, auprc in ranked], axis=0),
        "kappa": weighted_kappa(confusion, quadratic=False),
        "brier": _ratio(weights @ brier_terms(label, prob), weights.sum(axis=1)),
        "ece": weighted_ece(confidence, correct, weights),
    }
    if ordinal:
        figures["quadratic_kappa"] = weighted_kappa(confusion, quadratic=True)
    return {name: figures[name] for name in FIGURES if name in figures}


def weighted_confusion(label: Ints, called: Ints, weights: Floats, classes: int) -> Floats:
    """Confusion matrices (R, C, C), row = truth, column = called, by one matrix product."""
    cells = np.zeros((label.size, classes * classes))
    cells[np.arange(label.size), label * classes + called] = 1.0
    return (weights @ cells).reshape(-1, classes, classes)


def per_class(confusion: Floats) -> tuple[Floats, Floats, Floats]:
    """Sensitivity (recall), specificity and F1 of each class against the rest, (R, C) each.

    NaN where the class (for specificity: the rest) has no weight.
    """
    hit = np.diagonal(confusion, axis1=1, axis2=2)
    truth, called = confusion.sum(axis=2), confusion.sum(axis=1)
    total = truth.sum(axis=1, keepdims=True)
    recall = _ratio(hit, truth)
    specificity = _ratio(total - truth - called + hit, total - truth)
    f1 = np.where(truth > 0, _ratio(2 * hit, truth + called), np.nan)
    return recall, specificity, f1


def weighted_kappa(confusion: Floats, *, quadratic: bool) -> Floats:
    """Cohen's kappa (R,) of confusion matrices (R, C, C), chance-corrected agreement.

    Cohen 1960; `quadratic` weights a disagreement by its squared distance in grades (Cohen 1968).
    NaN where truth and calls all lie in one class, so that agreement by chance is complete.
    """
    classes = confusion.shape[1]
    index = np.arange(classes)
    distance = (index[:, None] - index[None, :]) ** 2 if quadratic else index[:, None] != index[None, :]
    total = confusion.sum(axis=(1, 2))
    expected = confusion.sum(axis=2)[:, :, None] * confusion.sum(axis=1)[:, None, :]
    seen = (confusion * distance).sum(axis=(1, 2))
    by_chance = _ratio((expected * distance).sum(axis=(1, 2)), total)
    return 1.0 - _ratio(seen, by_chance)


def weighted_ranking(positive: Bools, score: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """AUROC and AUPRC (R,) from one sort and cumulative sums.

    Samples of equal score form one step: AUROC counts a tie as half (the Mann-Whitney statistic), AUPRC is the
    average precision, sum of precision times the gain in recall, without interpolation.

    Args:
        positive: (n,) is the sample of the class.
        score: (n,) higher means more likely of the class.
        weights: (R, n).
    """
    order = np.argsort(-score, kind="stable")
    step = np.flatnonzero(np.r_[True, np.diff(score[order]) != 0])
    ordered = weights[:, order]
    gained = np.add.reduceat(ordered * positive[order], step, axis=1)
    false = np.add.reduceat(ordered * ~positive[order], step, axis=1)
    found, alarms = np.cumsum(gained, axis=1), np.cumsum(false, axis=1)
    positives, negatives = found[:, -1], alarms[:, -1]
    auroc = _ratio(((found - gained / 2) * false).sum(axis=1), positives * negatives)
    precision = np.divide(found, found + alarms, out=np.zeros_like(found), where=found > 0)
    auprc = np.where(negatives > 0, _ratio((gained * precision).sum(axis=1), positives), np.nan)
    return auroc, auprc


def brier_terms(label: Ints, prob: Floats) -> Floats:
    """Squared error of each sample (n,): (p - y)^2 with two classes, else the sum over classes (Brier 1950)."""
    if prob.shape[1] == 2:
        return (prob[:, 1] - label) ** 2
    return ((prob - np.eye(prob.shape[1])[label]) ** 2).sum(axis=1)


def calibration_pair(label: Ints, prob: Floats) -> tuple[Floats, Floats]:
    """What a reliability curve compares, (n,) each: the stated probability, and 1 where it came true.

    With two classes the probability of class 1; with more, that of the most probable class (top label).
    """
    if prob.shape[1] == 2:
        return prob[:, 1], label.astype(np.float64)
    top = prob.argmax(axis=1)
    return prob.max(axis=1), (top == label).astype(np.float64)


def weighted_ece(confidence: Floats, correct: Floats, weights: Floats) -> Floats:
    """Expected calibration error (R,): the mean gap between stated and observed frequency over 10 equal-width bins.

    Each bin's gap is weighted by its share of the samples (Naeini et al. 2015; Guo et al. 2017, eq. 3).
    """
    gap = np.zeros((confidence.size, BINS))
    gap[np.arange(confidence.size), bin_index(confidence)] = correct - confidence
    return _ratio(np.abs(weights @ gap).sum(axis=1), weights.sum(axis=1))


def _ratio(part: Floats, whole: Floats) -> Floats:
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
