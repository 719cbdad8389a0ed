"""Bags of polynomial support vector machines, one-vs-rest, and what is left of them for prediction.

The decision of a bag of SVMs is the mean of theirs, as in scikit-learn's `BaggingClassifier.decision_function`. All
SVMs of a body part share kernel and standardisation, so their mean is one kernel expansion over the union of their
support vectors with the mean of their dual coefficients: predicting costs the same for one SVM and for ten, and a
support vector that several share is stored once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.svm import SVC

ALL_PARTS = ""
"""Name of the model over all body parts."""
_BLOCK = 1024

_FOLDS = 5


@dataclass(frozen=True)
class Polynomial:
    """k(x, v) = (gamma · x·v + coef0) ^ degree, as scikit-learn's "poly" kernel."""

    degree: int
    gamma: float
    coef0: float

    def __call__(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the kernel (n, m), float64, of rows (n, features) and (m, features)."""
        first = left.astype(np.float64)
        values = first @ (first if right is left else right.astype(np.float64)).T
        values *= self.gamma
        values += self.coef0
        return np.power(values, self.degree, out=values)


@dataclass(frozen=True)
class Rbf:
    """k(x, v) = exp(−gamma · |x − v|²), as scikit-learn's "rbf" kernel."""

    gamma: float

    def __call__(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the kernel (n, m), float64, of rows (n, features) and (m, features)."""
        first = left.astype(np.float64)
        second = first if right is left else right.astype(np.float64)
        values = first @ second.T
        values *= -2
        values += np.einsum("ij,ij->i", first, first)[:, None]
        values += np.einsum("ij,ij->i", second, second)
        np.maximum(values, 0, out=values)
        values *= -self.gamma
        return np.exp(values, out=values)


Kernel = Polynomial | Rbf


@dataclass(frozen=True)
class Standard:
    """Features with mean 0 and standard deviation 1; one that does not vary becomes 0. `mean`, `scale`: (features,)."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, rows: float, sums: np.ndarray, squares: np.ndarray) -> "Standard":
        """From the number of rows, the sums of each feature and the sums of its squares."""
        mean = sums / rows
        variance = squares / rows - mean**2
        # What rounding leaves of a constant feature's variance is noise of the size of its squares.
        varies = variance > 1e-10 * np.maximum(mean**2, 1e-30)
        return cls(mean.astype(np.float32), np.where(varies, np.sqrt(np.abs(variance)), np.inf).astype(np.float32))

    def __call__(self, features: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return features (n, features) float32, standardised; in `out`, which may be `features`, where it is given."""
        result = np.subtract(features, self.mean, out=out)
        return np.divide(result, self.scale, out=result)


@dataclass(frozen=True)
class FittedBag:
    """The SVMs of one bag: its distinct rows (m,), their dual coefficients (outputs, m), intercepts (outputs,)."""

    rows: np.ndarray
    duals: np.ndarray
    intercepts: np.ndarray


CONSTANT = "held out, its decisions say nothing of the class: it gives every image or pair the same probabilities"


@dataclass(frozen=True)
class PartModel:
    """The bagged SVMs of one body part.

    Args:
        standard: how its features are standardised.
        vectors: (v, features) float32, standardised.
        duals: (outputs, v) float64, mean over the SVMs; one output for two classes, else one a class.
        intercepts: (outputs,).
        slopes, offsets: (outputs,), Platt's sigmoid; see `fit_sigmoid`.
    """

    standard: Standard
    vectors: np.ndarray
    duals: np.ndarray
    intercepts: np.ndarray
    slopes: np.ndarray
    offsets: np.ndarray

    @property
    def constant(self) -> bool:
        """Whether all rows get the same probabilities: held out, no decision rose with the share of its class."""
        return not self.slopes.any()

    def decision(self, features: np.ndarray, kernel: Kernel) -> np.ndarray:
        """Return the mean decision (n, outputs) of the SVMs for features (n, features) as extracted."""
        given = self.standard(features)
        result = np.tile(self.intercepts, (len(given), 1))
        for start in range(0, len(self.vectors), _BLOCK):
            part = slice(start, start + _BLOCK)
            result += kernel(given, self.vectors[part]) @ self.duals[:, part].T
        return result

    def probabilities(self, decision: np.ndarray) -> np.ndarray:
        """Return class probabilities (n, classes) of decisions; one-vs-rest answers are scaled to sum to 1."""
        given = expit(self.slopes * decision + self.offsets)
        if given.shape[1] == 1:
            return np.concatenate([1 - given, given], axis=1)
        given = np.maximum(given, 1e-12)
        return given / given.sum(axis=1, keepdims=True)

    def calibrated(self, decision: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> "PartModel":
        """Return the model with sigmoids fitted to its decisions (n, outputs) on held-out labels (n,).

        Args:
            weights: (n,) as in `fit_sigmoid`.
        """
        found = [
            fit_sigmoid(decision[:, output], labels == positive, weights)
            for output, positive in enumerate(positives(decision.shape[1]))
        ]
        slopes, offsets = np.array(found).T
        return replace(self, slopes=slopes, offsets=offsets)

    def crossed(self, decision: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> np.ndarray:
        """Probabilities (n, classes) of held-out decisions by sigmoids that were fitted to those of other patients.

        Args:
            decision: (n, outputs); labels and patients (n,).
        """
        folds = np.unique(patients, return_inverse=True)[1] % _FOLDS
        result = self.calibrated(decision, labels).probabilities(decision)
        for fold in range(_FOLDS):
            held = folds == fold
            if len(np.unique(labels[~held])) == len(np.unique(labels)):
                result[held] = self.calibrated(decision[~held], labels[~held]).probabilities(decision[held])
        return result


@dataclass(frozen=True)
class BaggedSVM:
    """A model for each body part, and one over all parts (`ALL_PARTS`) that answers for every other part."""

    kernel: Polynomial
    models: dict[str, PartModel]

    def named(self, parts: Sequence[str]) -> np.ndarray:
        """Name the model that answers for each body part."""
        return np.array([part if part in self.models else ALL_PARTS for part in parts], dtype=object)

    def probabilities(self, features: np.ndarray, parts: Sequence[str]) -> np.ndarray:
        """Return class probabilities (n, classes) of features (n, features) as extracted."""
        names, result = self.named(parts), None
        for name in set(names):
            model, inside = self.models[name], names == name
            found = model.probabilities(model.decision(features[inside], self.kernel))
            result = np.empty((len(features), found.shape[1])) if result is None else result
            result[inside] = found
        if result is None:
            raise ValueError("no features were given")
        return result


def positives(outputs: int) -> range:
    """The class that each output tells from the rest: class 1 of two, else each."""
    return range(1, 2) if outputs == 1 else range(outputs)


def fit_svms(
    gram: np.ndarray, labels: np.ndarray, counts: np.ndarray, classes: int, C: float, cache_mb: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fit one SVM a class against the rest; one for two classes.

    The kernel is computed once, by BLAS, and shared by all classes: at 3,000 rows of 2,048 features that takes a tenth
    of the time of libsvm's own polynomial kernel and gives the same coefficients.

    Args:
        gram: (m, m) float64 kernel of the bag's distinct rows.
        labels: (m,) class of each; every class occurs.
        counts: (m,) times that the bag holds each: its share of C.
        C: penalty of a row that is drawn once.
        cache_mb: most memory of libsvm's own cache.
    Returns:
        Dual coefficients (outputs, m), 0 for what is no support vector, and intercepts (outputs,).
    """
    chosen = positives(1 if classes == 2 else classes)
    duals, intercepts = np.zeros((len(chosen), len(labels))), np.empty(len(chosen))
    for output, positive in enumerate(chosen):
        svc = SVC(kernel="precomputed", C=C, cache_size=cache_mb)
        svc.fit(gram, labels == positive, sample_weight=counts)
        duals[output, svc.support_] = svc.dual_coef_[0]
        intercepts[output] = svc.intercept_[0]
    return duals, intercepts


def mean_of_bags(rows: np.ndarray, bags: Sequence[FittedBag]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bring bags together: the union of their support vectors, the mean of their coefficients.

    Args:
        rows: (n,) the rows that bags were drawn from, ascending.
    Returns:
        Places (v,) of the support vectors among `rows`, dual coefficients (outputs, v), intercepts (outputs,).
    """
    duals = np.zeros((len(bags[0].intercepts), len(rows)))
    for bag in bags:
        duals[:, np.searchsorted(rows, bag.rows)] += bag.duals / len(bags)
    used = np.flatnonzero(duals.any(axis=0))
    return used, duals[:, used], np.mean([bag.intercepts for bag in bags], axis=0)


def fit_sigmoid(decision: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Fit p = 1 / (1 + exp(−(slope · decision + offset))) by maximum likelihood.

    Targets are Platt's (1999, section 2.2): (n₊ + 1)/(n₊ + 2) and 1/(n₋ + 2), which keeps the slope finite where
    decisions separate the classes. The slope is never negative: calibration does not turn an order round.

    Args:
        decision: (n,); positive: (n,) bool, some of each. Neither may come from rows that the SVMs were fitted on.
        weights: (n,) how much each counts; all alike where not given.
    Returns:
        Slope and offset.
    """
    many, few = positive.sum(), (~positive).sum()
    target = np.where(positive, (many + 1) / (many + 2), 1 / (few + 2))
    unit = float(decision.std()) or 1.0
    given = decision / unit
    share = np.ones(len(given)) if weights is None else weights
    share = share / share.sum()

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        score = at[0] * given + at[1]
        error = expit(score) - target
        return float(share @ (np.logaddexp(0, score) - target * score)), np.array(
            [share @ (error * given), share @ error]
        )

    start = np.array([1.0, np.log((many + 1) / (few + 1))])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)])
    return float(found.x[0] / unit), float(found.x[1])
