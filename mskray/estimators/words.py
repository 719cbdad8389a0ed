"""Visual words: how often each occurs in an image, and classifiers of pairs of such histograms.

A pair is the histogram of its first image followed by that of its second, so that reversing the pair swaps the halves
(CRMO: "concatenating the bag of words representation for each image").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import softmax
from sklearn.naive_bayes import GaussianNB, MultinomialNB

from mskray.config import Section, setting
from mskray.errors import UserError
from mskray.estimators.svm import PartModel, Rbf, Standard, fit_svms

Norm = Literal["l1", "counts"]
Classifier = Literal["svm", "gaussian_nb", "multinomial_nb"]
_MOST_GRAM_BYTES = 4 << 30
"""Of the kernel matrix of all training rows; the folds' copies of it take as much again."""


class JudgeSection(Section):
    """How histograms are judged."""

    C: float = setting(1.0, "SVM: penalty of a misjudged pair", gt=0, le=1e6)
    gamma: float = setting(
        0.0, "SVM: width of the kernel; 0 for 1 / (columns × variance), scikit-learn's scale", ge=0, le=1e6
    )
    folds: int = setting(
        3, "SVM: folds of the training pairs whose held-out decisions its probabilities are fitted on", ge=2, le=20
    )
    balance: bool = setting(
        True,
        "SVM: classes count alike however often they occur, as they do in the error 1 − F1; false: pairs count alike, "
        "and few pairs of which most are of one class get that class as every answer",
        source="ours",
    )
    cache_mb: int = setting(200, "SVM: libsvm's own cache", unit="MB", ge=1, le=16384)
    norm: Norm = setting(
        "l1", "histograms sum to 1 (l1), or count words; multinomial naive Bayes always counts", source="ours"
    )


class ClassifierSection(JudgeSection):
    """What judges the histograms of a pair."""

    name: Classifier = setting(
        "svm", "support vector machine with a radial basis function, or naive Bayes", source="CRMO"
    )


def pair_rows(counts: np.ndarray, section: ClassifierSection) -> np.ndarray:
    """Return what the classifier is given of pairs: (n, 2k) float32 from the words' counts (n, 2, k)."""
    if section.norm == "l1" and section.name != "multinomial_nb":
        counts = counts / np.maximum(counts.sum(axis=2, keepdims=True), 1)
    return counts.reshape(len(counts), -1).astype(np.float32, copy=False)


@dataclass(frozen=True)
class RbfSvm:
    """One-vs-rest support vector machines with a common kernel, and the sigmoids of their probabilities."""

    kernel: Rbf
    model: PartModel

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, classes) of rows (n, columns)."""
        return self.model.probabilities(self.model.decision(rows, self.kernel))


@dataclass(frozen=True)
class Gaussians:
    """Gaussian naive Bayes: means and variances (classes, columns), and the logarithms (classes,) of the priors."""

    means: np.ndarray
    variances: np.ndarray
    priors: np.ndarray

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, classes) of rows (n, columns)."""
        spread = np.log(2 * np.pi * self.variances).sum(axis=1)
        given = zip(self.means, self.variances, strict=True)
        away = np.stack([(np.square(rows - mean) / variance).sum(axis=1) for mean, variance in given], axis=1)
        return np.asarray(softmax(self.priors - (spread + away) / 2, axis=1))


@dataclass(frozen=True)
class Multinomials:
    """Multinomial naive Bayes: logarithms of the words' shares (classes, columns), and of the priors (classes,)."""

    shares: np.ndarray
    priors: np.ndarray

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, classes) of rows (n, columns)."""
        return np.asarray(softmax(rows @ self.shares.T + self.priors, axis=1))


def fit_classifier(
    rows: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: Sequence[str], section: ClassifierSection
) -> Any:
    """Fit a classifier; `class_probabilities` asks it.

    Args:
        rows: (n, columns); labels: (n,) class indices, each of which occurs.
        groups: (n,) whose pair each is: copies of a pair, and pairs of a patient, stay on one side of a fold.
    Raises:
        UserError: a class of which no training pair is there; for the SVM also one whose pairs are all of one patient,
            or more rows than its kernel matrix may have.
    """
    present = np.bincount(labels, minlength=len(classes))
    if not present.all():
        lacking = ", ".join(name for name, count in zip(classes, present, strict=True) if not count)
        raise UserError(f"no training pair of {lacking} is left to learn from: bring more pairs")
    if section.name == "svm":
        return _fit_svm(rows, labels, groups, classes, section)
    given = rows.astype(np.float64)
    if section.name == "gaussian_nb":
        gaussian = GaussianNB().fit(given, labels)
        return Gaussians(gaussian.theta_, gaussian.var_, np.log(gaussian.class_prior_))
    multinomial = MultinomialNB().fit(given, labels)
    return Multinomials(multinomial.feature_log_prob_, multinomial.class_log_prior_)


def class_probabilities(model: Any, rows: np.ndarray) -> np.ndarray:
    """Return class probabilities (n, classes), each row summing to 1."""
    return np.asarray(model.predict_proba(rows.astype(np.float64)))


def _fit_svm(
    rows: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: Sequence[str], section: ClassifierSection
) -> RbfSvm:
    """Fit on all rows, the sigmoids on decisions about rows that their machine had not learned."""
    need = len(rows) ** 2 * np.dtype(np.float64).itemsize
    if need > _MOST_GRAM_BYTES:
        raise UserError(
            f"the SVM's kernel matrix of {len(rows):,} pairs, copies counted, takes {need / 1e9:,.1f} GB, "
            f"{_MOST_GRAM_BYTES / 1e9:.1f} GB at most: lower augment.noise_copies, or choose naive Bayes"
        )
    spread = rows.shape[1] * float(rows.var(dtype=np.float64))
    kernel = Rbf(section.gamma or 1 / (spread or 1.0))
    gram = kernel(rows, rows)
    weights = class_weights(labels) if section.balance else np.ones(len(labels))
    fold = deal(labels, groups, section.folds, classes)
    held = np.empty((len(rows), 1 if len(classes) == 2 else len(classes)))
    for number in range(int(fold.max()) + 1):
        inside, outside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        duals, intercepts = _machines(
            gram[np.ix_(inside, inside)], labels[inside], weights[inside], len(classes), section
        )
        held[outside] = gram[np.ix_(outside, inside)] @ duals.T + intercepts
    duals, intercepts = _machines(gram, labels, weights, len(classes), section)
    used = np.flatnonzero(duals.any(axis=0))
    plain = Standard(np.zeros(rows.shape[1], np.float32), np.ones(rows.shape[1], np.float32))
    ones, zeros = np.ones(len(intercepts)), np.zeros(len(intercepts))
    model = PartModel(plain, rows[used].astype(np.float32), duals[:, used], intercepts, ones, zeros)
    return RbfSvm(kernel, model.calibrated(held, labels, weights))


def class_weights(labels: np.ndarray) -> np.ndarray:
    """Return weights (n,) with which each class has the same share of all; their mean is 1."""
    counts = np.bincount(labels)
    return np.asarray(len(labels) / (np.count_nonzero(counts) * counts[labels]))


def _machines(
    gram: np.ndarray, labels: np.ndarray, weights: np.ndarray, classes: int, section: ClassifierSection
) -> tuple[np.ndarray, np.ndarray]:
    return fit_svms(gram, labels, weights, classes, section.C, section.cache_mb)


def deal(labels: np.ndarray, groups: np.ndarray, folds: int, classes: Sequence[str]) -> np.ndarray:
    """Deal groups to folds so that every class is learned from beside each: (n,) fold numbers.

    Groups come in the order of their rarest class and then of their first row, one to a fold. There are fewer folds
    where the rarest class has fewer groups.
    """
    frequency = np.bincount(labels, minlength=len(classes))
    names, first, group = np.unique(groups, return_index=True, return_inverse=True)
    rarest = np.full(len(names), -1)
    for label in np.argsort(-frequency, kind="stable"):  # the last to write is the rarest
        rarest[group[labels == label]] = label
    members = [len(set(group[labels == label])) for label in range(len(classes))]
    if min(members) < 2:
        raise UserError(
            "the SVM's probabilities need training pairs of two patients of each class, "
            f"{classes[int(np.argmin(members))]} has one: bring more pairs, or choose naive Bayes"
        )
    order = np.lexsort([first, frequency[rarest], rarest])
    result = np.empty(len(names), np.int64)
    result[order] = np.arange(len(names)) % min(folds, *members)
    fold = result[group]
    for label, name in enumerate(classes):
        if len(set(fold[labels == label])) < 2:  # beside that fold it could not be learned
            raise UserError(
                f"the SVM's probabilities need training pairs of each class beside every fold, those of {name} are "
                "all in one: bring more pairs, or choose naive Bayes"
            )
    return fold
