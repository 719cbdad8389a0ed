"""Votes of several models on pairs, and error = 1 − F1 with intervals that show how little a few cases say.

F1 is the mean over the classes, for three classes and for two. The paper writes "1 − f1-score" and no more. Its
binary test error of 0.29 on 7 pairs is no 1 − F1 of "improved": 2·TP / (2·TP + FP + FN) takes no value near 0.71 on
7 pairs. The mean over both classes does, with 5 of 7 right, as do its 0.64, 0.78 and 0.58 for three classes.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm

from mskray.evaluation.bootstrap import CONFIDENCE, MINIMUM_PATIENTS, resampled_weights
from mskray.evaluation.metrics import weighted_confusion

Voting = Literal["soft", "hard", "weighted"]
VOTINGS: tuple[Voting, ...] = ("soft", "hard", "weighted")


@dataclass(frozen=True)
class PairError:
    """The error of some pairs.

    Args:
        value: 1 − F1, F1 averaged over the classes.
        low, high: its 95 % interval by resampling patients; None where there are fewer than five. It has no width
            where every pair is right, however few there are: see `right_low`.
        n, patients: what it rests on.
        right: pairs called right.
        right_low, right_high: 95 % interval of the share that is right (Wilson 1927), which has a width always.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    patients: int
    right: int
    right_low: float
    right_high: float


def pair_error(
    labels: np.ndarray, probabilities: np.ndarray, patients: np.ndarray, resamples: int = 2000, seed: int = 0
) -> PairError:
    """Return the error of the most probable classes.

    Args:
        labels: (n,) true classes, n at least 1; probabilities: (n, classes); patients: (n,).
    """
    classes = probabilities.shape[1]
    labels, called = np.asarray(labels, np.int64), probabilities.argmax(axis=1)
    _, people = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    count, right = int(people.max()) + 1, int((labels == called).sum())
    value = 1 - float(macro_f1(weighted_confusion(labels, called, np.ones((1, len(labels))), classes))[0])
    low = high = None
    if count >= MINIMUM_PATIENTS:
        blocks = resampled_weights(people, resamples, seed)
        drawn = [1 - macro_f1(weighted_confusion(labels, called, weights, classes)) for weights in blocks]
        low, high = (
            float(end) for end in np.percentile(np.concatenate(drawn), [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
        )
    return PairError(value, low, high, len(labels), count, right, *wilson(right, len(labels)))


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Return F1 (r,) of confusion matrices (r, classes, classes), row = truth, averaged over classes that occur.

    A class occurs where it is the truth or the call of some sample; one that is never called right has F1 = 0. So F1
    is defined for every sample and resample, as scikit-learn's macro average is.
    """
    hit = np.diagonal(confusion, axis1=1, axis2=2)
    both = confusion.sum(axis=2) + confusion.sum(axis=1)
    occurs = both > 0
    f1 = np.divide(2 * hit, both, out=np.zeros_like(both), where=occurs)
    return f1.sum(axis=1) / occurs.sum(axis=1)


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, `right` of `n` (Wilson 1927)."""
    z = float(norm.ppf(0.5 + CONFIDENCE / 2))
    share, square = right / n, z * z / n
    middle = (share + square / 2) / (1 + square)
    reach = z / (1 + square) * np.sqrt(share * (1 - share) / n + square / (4 * n))
    return float(max(0.0, middle - reach)), float(min(1.0, middle + reach))


def vote(probabilities: np.ndarray, voting: Voting, dev_f1: np.ndarray | None = None) -> np.ndarray:
    """Return the vote of several models, whose rows sum to 1.

    Args:
        probabilities: (models, n, classes).
        voting: "soft": the mean. "weighted": the mean weighted by each model's F1 on the development folds, or the
            plain mean where all are 0. "hard": each model has one vote for its most probable class, and the class
            with most has probability 1; where several have as many, as two models that disagree always do, the one
            of them with the highest mean probability has it, the first in order where that is equal too.
        dev_f1: (models,), for "weighted".
    Returns:
        (n, classes).
    """
    mean = probabilities.mean(axis=0)
    if voting == "soft":
        return mean
    if voting == "weighted":
        if dev_f1 is None:
            raise ValueError("the weighted vote needs the models' F1 on the development folds")
        weights = np.asarray(dev_f1, np.float64)
        return mean if not weights.any() else np.tensordot(weights / weights.sum(), probabilities, axes=1)
    votes = np.eye(probabilities.shape[2])[probabilities.argmax(axis=2)].sum(axis=0)
    leading = votes == votes.max(axis=1, keepdims=True)
    return np.eye(votes.shape[1])[np.where(leading, mean, -1.0).argmax(axis=1)]
