"""Softmax regression on the difference of two images' features: CRMO, "Transfer Learning".

Of a network's features those of highest variance over the training images are kept ("Low Σ² feature reduction", 399
features); a pair is their difference, after minus before, so that reversal changes its sign; a softmax with L2 penalty
is fitted by cross-entropy. The features and the penalty are chosen on what is learned from alone. No torch.

Beyond the paper: the kept features are divided by one number, the root of their mean variance over the training images.
Networks differ in the scale of their features by orders of magnitude, and a penalty on the coefficients of unscaled
ones means another thing for each network: none at all for large features, whose answers are then all but 0 and 1.
One number for all of them keeps what one feature varies more than another. A fitted model holds coefficients on
features as they come, so that prediction knows nothing of the scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import ray
from pydantic import Field
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression

from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.estimators.pair_errors import macro_f1
from mskray.estimators.pairs import Copies, FoldSection, Learn, Pairs, fold_numbers
from mskray.evaluation.metrics import weighted_confusion
from mskray.progress import Report, silent
from mskray.training.waiting import gather


class SoftmaxSection(Section):
    """The regression."""

    features: int = setting(399, "features of highest variance that are kept", source="CRMO", ge=1, le=100_000)
    C: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = setting(
        (0.001, 0.01, 0.1, 1.0, 10.0),
        "inverse L2 penalties to choose from, on features whose mean variance is 1: the one with the highest F1 over "
        "the folds, the smallest where equal",
        source="ours",
        min_length=1,
        max_length=50,
    )
    max_iterations: int = setting(2000, "of the solver", ge=10, le=1_000_000)


@dataclass(frozen=True)
class PairSoftmax:
    """A fitted regression.

    Args:
        kept: (k,) features that it uses, ascending.
        coefficients: (outputs, k) on differences, one output for two classes, else one for each class.
        intercepts: (outputs,).
        learned: classes that it was given, ascending; the others have probability 0.
        classes: number of classes of the task.
    """

    kept: np.ndarray
    coefficients: np.ndarray
    intercepts: np.ndarray
    learned: np.ndarray
    classes: int

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, classes) of features (n, 2, width), before and after."""
        result = np.zeros((len(features), self.classes))
        scores = differences(features, self.kept) @ self.coefficients.T + self.intercepts
        if len(self.learned) == 2:
            result[:, self.learned] = np.concatenate([expit(-scores), expit(scores)], axis=1)
        else:
            result[:, self.learned] = softmax(scores, axis=1)
        return result


def differences(features: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return after − before (n, k) float64 of features (n, 2, width)."""
    return features[:, 1][:, kept].astype(np.float64) - features[:, 0][:, kept]


def check_width(width: int, section: SoftmaxSection) -> None:
    """Raise UserError where a network has fewer features than are to be kept."""
    if width < section.features:
        raise UserError(f"softmax.features = {section.features}: the network has {width:,} features; ask for no more")


def highest_variance(images: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` features of highest variance over images (n, width), ascending by number.

    Of equal ones the first is taken.
    """
    order = np.argsort(-images.var(axis=0, dtype=np.float64), kind="stable")
    return np.sort(order[:count])


def common_scale(images: np.ndarray) -> float:
    """Return the root of the features' mean variance over images (n, width); 1 where none varies."""
    return float(np.sqrt(images.var(axis=0, dtype=np.float64).mean())) or 1.0


def fit_softmax(features: np.ndarray, copies: Copies, classes: int, section: SoftmaxSection, C: float) -> PairSoftmax:
    """Fit on copies of pairs: C is the inverse penalty for features divided by their `common_scale`.

    Args:
        features: (n, 1 + noisy copies, 2, width) of all pairs; those of `copies` alone are looked at.
    """
    given = features[copies.pair, copies.noise]
    images = given.reshape(-1, given.shape[2])
    kept = highest_variance(images, section.features)
    scale = common_scale(images[:, kept])
    ordered = np.where(copies.reversed[:, None, None], given[:, ::-1], given)
    model = LogisticRegression(C=C, max_iter=section.max_iterations)
    model.fit(differences(ordered, kept) / scale, copies.labels)
    return PairSoftmax(kept, model.coef_ / scale, model.intercept_, model.classes_, classes)


def penalty_f1(
    features: np.ndarray, pairs: Pairs, copies: Copies, fold: np.ndarray, section: SoftmaxSection, C: float
) -> float:
    """Return macro F1 over the folds of the copies' pairs: each is judged by a model that has learned no copy of it.

    Args:
        fold: (n,) of all pairs; those without a copy take no part.
    """
    rows, classes = np.unique(copies.pair), len(pairs.task.classes)
    said = np.zeros((len(rows), classes))
    for number in np.unique(fold[rows]):
        rest = fold[copies.pair] != number
        held = fold[rows] == number
        part = Copies(copies.pair[rest], copies.noise[rest], copies.reversed[rest], copies.labels[rest])
        said[held] = fit_softmax(features, part, classes, section, C).probabilities(features[rows[held], 0])
    confusion = weighted_confusion(pairs.labels[rows], said.argmax(axis=1), np.ones((1, len(rows))), classes)
    return float(macro_f1(confusion)[0])


def best_penalty(section: SoftmaxSection, f1: Sequence[float]) -> float:
    """Return the penalty of the highest F1, given that of each; the smallest C, so the strongest penalty, of equals."""
    return min(zip(section.C, f1, strict=True), key=lambda each: (-each[1], each[0]))[0]


def learn_softmax(features: np.ndarray, pairs: Pairs, section: SoftmaxSection, folds: FoldSection) -> Learn:
    """Return how to learn from copies of pairs, for `mskray.estimators.pairs.run_fold`.

    The penalty is chosen by folds within what is learned from.
    """

    def learn(copies: Copies, asked: np.ndarray) -> np.ndarray:
        C = section.C[0]
        if len(section.C) > 1:
            fold = inner_folds(pairs, np.unique(copies.pair), folds)
            C = best_penalty(section, [penalty_f1(features, pairs, copies, fold, section, each) for each in section.C])
        model = fit_softmax(features, copies, len(pairs.task.classes), section, C)
        return model.probabilities(features[asked, 0])

    return learn


def inner_folds(pairs: Pairs, rows: np.ndarray, folds: FoldSection) -> np.ndarray:
    """Return the fold of each of `rows` when they alone are dealt; −1 for the other pairs: (n,)."""
    change = None if pairs.change is None else pairs.change[rows]
    fold = np.full(len(pairs), -1, np.int64)
    fold[rows] = fold_numbers(Pairs(pairs.task, pairs.labels[rows], change, pairs.patients[rows]), folds)
    return fold


def choose_penalty(
    features: np.ndarray,
    pairs: Pairs,
    copies: Copies,
    fold: np.ndarray,
    section: SoftmaxSection,
    report: Report = silent,
) -> tuple[float, dict[float, float]]:
    """Choose the penalty by the folds, each on a Ray task; return it, and F1 of every one."""
    held = ray.put(features)
    tasks = [_penalty_f1.remote(held, pairs, copies, fold, section, C) for C in section.C]
    f1 = gather(tasks, "choosing the penalty", report)
    return best_penalty(section, f1), dict(zip(section.C, f1, strict=True))


@ray.remote(num_cpus=1, max_retries=3, scheduling_strategy="SPREAD")
def _penalty_f1(
    features: np.ndarray, pairs: Pairs, copies: Copies, fold: np.ndarray, section: SoftmaxSection, C: float
) -> float:
    return penalty_f1(features, pairs, copies, fold, section, C)
