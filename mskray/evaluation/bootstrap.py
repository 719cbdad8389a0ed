"""Confidence intervals by patient: resample patients, not images.

Two views of one patient are not two independent observations. Patients are drawn with replacement, each with all
of their images; the 2.5th and 97.5th percentiles of a figure over the resamples are its 95 % interval (Efron 1979).
Samples of which too little is known get no interval and no figure, but a reason.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mskray.evaluation.metrics import ONE_CLASS_FIGURES, weighted_figures
from mskray.evaluation.studies import Samples

CONFIDENCE = 0.95
MINIMUM_PATIENTS = 5
"""Fewer patients than this have too few distinct resamples for an interval at 95 %."""

UNDEFINED_SHARE = 0.1
"""A figure is withheld when it is undefined in more than this share of the resamples."""

DECIMALS = 6
"""Figures are rounded once, here, so that the report and `metrics.json` cannot differ in the last digit shown."""

BLOCK = 2_000_000
"""Weights held at once (resamples times samples): 16 MB a matrix, whatever the size of the cohort."""


@dataclass(frozen=True)
class Figure:
    """One figure with its 95 % interval, or the reason why there is none.

    n and patients count what the figure rests on: for sensitivity the abnormal samples, for specificity the normal.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    patients: int
    reason: str | None = None

    def to_dict(self) -> dict[str, float | int | str | None]:
        """As written to `metrics.json`; `reason` only where the figure is null."""
        content: dict[str, float | int | str | None] = {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "patients": self.patients,
        }
        return content if self.reason is None else {**content, "reason": self.reason}


def resampled_weights(patient: NDArray[np.int64], resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Blocks of weights (r, n), `resamples` rows in all: how often each sample's patient was drawn.

    Args:
        patient: (n,) patient number, 0 to P - 1; each resample draws P patients with replacement.
    """
    people = int(patient.max()) + 1
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // max(patient.size, people))
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = rng.integers(people, size=(size, people)) + people * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * people).reshape(size, people)
        yield times[:, patient].astype(np.float64)


def figures_with_intervals(
    samples: Samples, classes: Sequence[str], *, threshold: float, ordinal: bool, resamples: int, seed: int
) -> dict[str, Figure]:
    """Every figure of the samples with its interval by patient.

    Args:
        samples: at least one.
        classes: class names, for the reasons.
        threshold, ordinal: see `metrics.weighted_figures`.
        resamples: bootstrap resamples.
        seed: of the resampling; the same seed and samples give the same intervals.
    """
    _, patient = np.unique(samples.patient.astype(str), return_inverse=True)

    def compute(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return weighted_figures(samples.label, samples.prob, weights, threshold=threshold, ordinal=ordinal)

    def support(name: str) -> tuple[int, int]:
        return _support(name, samples, patient)

    def reason(name: str) -> str | None:
        return too_few(patient) or _reason(name, samples, classes)

    return bootstrapped(compute, patient, support, reason, resamples, seed)


def bootstrapped(
    compute: Callable[[NDArray[np.float64]], Mapping[str, NDArray[np.float64]]],
    patient: NDArray[np.int64],
    support: Callable[[str], tuple[int, int]],
    reason: Callable[[str], str | None],
    resamples: int,
    seed: int,
) -> dict[str, Figure]:
    """Figures with their intervals by patient.

    Args:
        compute: weights (R, n) → values (R,) of each figure, NaN where a weighting leaves it undefined.
        patient: (n,) patient number, 0 to P - 1.
        support: of a figure's name, how many samples and patients it rests on.
        reason: of a figure's name, why it must not be given, or None.
    """
    values = {name: float(found[0]) for name, found in compute(np.ones((1, patient.size))).items()}
    reasons = {name: reason(name) for name in values}
    if all(reasons.values()):
        return {name: Figure(None, None, None, *support(name), reasons[name]) for name in values}

    blocks = [compute(weights) for weights in resampled_weights(patient, resamples, seed)]
    figures = {}
    for name, value in values.items():
        drawn = np.concatenate([block[name] for block in blocks])
        defined = drawn[np.isfinite(drawn)]
        undefined = drawn.size - defined.size
        why = reasons[name]
        if why is None and not np.isfinite(value):
            why = "truth and calls all lie in one class"
        if why is None and undefined > UNDEFINED_SHARE * drawn.size:
            why = f"too few patients of each class: {undefined} of {drawn.size} resamples lack one"
        if why is not None:
            figures[name] = Figure(None, None, None, *support(name), why)
            continue
        low, high = np.percentile(defined, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
        # Calibration error grows when samples are drawn twice, so its percentiles can lie above the value itself.
        value, low, high = (round(float(end), DECIMALS) for end in (value, min(low, value), max(high, value)))
        figures[name] = Figure(value, low, high, *support(name))
    return figures


def too_few(patient: NDArray[np.int64]) -> str | None:
    """Why patients, numbered 0 to P - 1, are too few for any interval; None where they are not."""
    people = int(patient.max()) + 1
    if people >= MINIMUM_PATIENTS:
        return None
    return f"{people} patient{'s' * (people != 1)}: an interval by patient needs at least {MINIMUM_PATIENTS}"


def _support(name: str, samples: Samples, patient: NDArray[np.int64]) -> tuple[int, int]:
    counted = np.ones(len(samples), bool)
    if samples.prob.shape[1] == 2 and name in ("sensitivity", "specificity"):
        counted = samples.label == (1 if name == "sensitivity" else 0)
    return int(counted.sum()), int(np.unique(patient[counted]).size)


def _reason(name: str, samples: Samples, classes: Sequence[str]) -> str | None:
    present = np.unique(samples.label)
    if present.size > 1 or name in ONE_CLASS_FIGURES:
        return None
    if len(classes) == 2 and name == ("sensitivity" if present[0] == 1 else "specificity"):
        return None
    return f"all {len(samples)} are {classes[int(present[0])]}"
