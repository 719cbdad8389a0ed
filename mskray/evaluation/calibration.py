"""Are the probabilities true, and where should the line be drawn: temperature, reliability, thresholds.

An ensemble carries a temperature and a threshold in `ensemble.json`; both are fitted here, on a split that is not
the one reported. Everything works on probabilities, since members of an ensemble need not have logits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from mskray.errors import UserError

BINS = 10
"""Equal-width bins of reliability curves and of the expected calibration error."""

SMALLEST_PROBABILITY = 1e-7
"""A float32 softmax saturates at 0 and 1; clipping there keeps its logarithm finite."""

TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of a reliability curve; `stated` and `observed` are None where no sample fell into it."""

    low: float
    high: float
    n: int
    stated: float | None
    observed: float | None


def decision(prob: NDArray[np.floating], threshold: float) -> NDArray[np.int64]:
    """Class (n,) called for probabilities (n, C): by the threshold on class 1 of two, else the most probable."""
    if prob.shape[1] == 2:
        return (prob[:, 1] >= threshold).astype(np.int64)
    return prob.argmax(axis=1).astype(np.int64)


def bin_index(confidence: NDArray[np.floating]) -> NDArray[np.int64]:
    """Bin (n,) of each probability: [0, 0.1), [0.1, 0.2), ... [0.9, 1]."""
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)


def reliability(confidence: NDArray[np.floating], correct: NDArray[np.floating]) -> list[ReliabilityBin]:
    """Bins of a reliability curve.

    Args:
        confidence: (n,) stated probabilities.
        correct: (n,) 1 where what was stated came true, else 0.
    """
    index = bin_index(confidence)
    bins = []
    for number in range(BINS):
        inside = index == number
        n = int(inside.sum())
        stated = float(confidence[inside].mean()) if n else None
        observed = float(correct[inside].mean()) if n else None
        bins.append(ReliabilityBin(number / BINS, (number + 1) / BINS, n, stated, observed))
    return bins


def apply_temperature(prob: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Probabilities (n, C) softened (temperature above 1) or sharpened (below 1): softmax(log p / T).

    For a softmax model this is temperature scaling of its logits (Guo et al. 2017, section 4.2), because a softmax
    does not change when a constant is added to all logits. The most probable class never changes.
    """
    scaled = np.log(np.clip(np.asarray(prob, np.float64), SMALLEST_PROBABILITY, 1.0)) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    power = np.exp(scaled)
    return power / power.sum(axis=1, keepdims=True)


def negative_log_likelihood(prob: NDArray[np.floating], label: NDArray[np.integer]) -> float:
    """Mean -log of the probability (n, C) given to the true class (n,), in nats."""
    given = np.asarray(prob, np.float64)[np.arange(label.size), label]
    return float(-np.log(np.clip(given, SMALLEST_PROBABILITY, 1.0)).mean())


def fit_temperature(prob: NDArray[np.floating], label: NDArray[np.integer]) -> float:
    """Temperature between 0.05 and 20 that minimises the negative log-likelihood.

    Args:
        prob: (n, C) probabilities of a split that neither trained the model nor is reported.
        label: (n,) class index.

    Raises:
        UserError: there are no samples, or all are of one class (the best temperature is then a limit).
    """
    _require_two_classes(label, "a temperature")
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(apply_temperature(prob, float(np.exp(log_t))), label),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def youden_threshold(label: NDArray[np.integer], score: NDArray[np.floating]) -> float:
    """Threshold in [0, 1] that maximises sensitivity + specificity - 1 (Youden 1950).

    It lies halfway between two neighbouring scores, so that rounding does not flip a call. Of equally good
    thresholds the lowest is taken: it misses least.

    Args:
        label: (n,) 0 or 1.
        score: (n,) probability of class 1.

    Raises:
        UserError: fewer than two classes.
    """
    _require_two_classes(label, "a threshold")
    levels = np.unique(np.asarray(score, np.float64))
    positives = np.sort(score[label == 1])
    negatives = np.sort(score[label == 0])
    sensitivity = 1 - np.searchsorted(positives, levels, side="left") / positives.size
    specificity = np.searchsorted(negatives, levels, side="left") / negatives.size
    index = int(np.argmax(sensitivity + specificity))
    below = levels[index - 1] if index else levels[0]
    return float((levels[index] + below) / 2)


def _require_two_classes(label: NDArray[np.integer], what: str) -> None:
    if np.unique(label).size < 2:
        raise UserError(
            f"{what} cannot be fitted: the {label.size} labels hold fewer than two classes; "
            "choose a split that has samples of each"
        )
