"""The evaluation of one set of predictions: every figure, overall and per body part, of images and of studies.

    evaluation = evaluate(predictions, ["normal", "abnormal"], threshold=0.5)
    location.join("metrics.json").write_json(evaluation.to_dict())

`metrics.json` is the contract with whatever reads figures by machine; `report.html` shows the same ones.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mskray.errors import UserError
from mskray.evaluation.bootstrap import CONFIDENCE, DECIMALS, Figure, figures_with_intervals
from mskray.evaluation.calibration import ReliabilityBin, decision, reliability
from mskray.evaluation.metrics import calibration_pair
from mskray.evaluation.studies import Samples, part_names, read_part, read_predictions, to_studies
from mskray.evaluation.wording import definitions

SCHEMA_VERSION = 2
"""Of `metrics.json`: 2 has `model_parts` at each level."""
PART_THRESHOLD = 0.5
"""From where a part calls class 1 of two: as it would by itself. The whole has a threshold of its own."""


@dataclass(frozen=True)
class Group:
    """The figures of one set of samples.

    class_counts: samples of each class. confusion: (C, C) counts, row = truth, column = called.
    """

    n: int
    patients: int
    class_counts: dict[str, int]
    confusion: list[list[int]]
    reliability: list[ReliabilityBin]
    figures: dict[str, Figure]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in `metrics.json`."""
        return {**asdict(self), "figures": {name: figure.to_dict() for name, figure in self.figures.items()}}


@dataclass(frozen=True)
class Level:
    """All samples of a level ("image" or "study"), together and by body part (sorted by name).

    model_parts: the same samples as each part of the model answers them (the global and the local network of KALM, the
    members of an ensemble), in the order of the predictions; empty for a model of one piece.
    """

    samples: Samples
    overall: Group
    parts: dict[str, Group]
    model_parts: dict[str, Group]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    threshold: None with more than two classes (the most probable class is called).
    counts: rows, unlabelled, failed, images, studies, patients, studies_lost, studies_disagreeing.
    """

    classes: tuple[str, ...]
    ordinal: bool
    threshold: float | None
    resamples: int
    seed: int
    counts: dict[str, int]
    image: Level
    study: Level

    @property
    def binary(self) -> bool:
        """Are there two classes, of which the second is the finding?"""
        return len(self.classes) == 2

    @property
    def headlines(self) -> tuple[str, ...]:
        """The figures that are shown where there is room for a few."""
        if self.binary:
            return ("accuracy", "auroc", "kappa", "sensitivity", "specificity")
        return ("accuracy", "balanced_accuracy", "auroc", "kappa", *(("quadratic_kappa",) if self.ordinal else ()))

    def to_dict(self) -> dict[str, Any]:
        """The content of `metrics.json`: strict JSON values, no NaN; numbers rounded to 6 decimals."""
        levels = {
            name: {
                "overall": level.overall.to_dict(),
                "body_parts": {part: group.to_dict() for part, group in level.parts.items()},
                "model_parts": {part: group.to_dict() for part, group in level.model_parts.items()},
            }
            for name, level in (("study", self.study), ("image", self.image))
        }
        return _rounded(
            {
                "schema_version": SCHEMA_VERSION,
                "classes": list(self.classes),
                "positive_class": self.classes[1] if self.binary else None,
                "ordinal": self.ordinal,
                "threshold": self.threshold,
                "intervals": {
                    "method": "percentile bootstrap by patient",
                    "confidence": CONFIDENCE,
                    "resamples": self.resamples,
                    "seed": self.seed,
                },
                "counts": self.counts,
                "definitions": definitions(self.classes, self.ordinal),
                "levels": levels,
            }
        )


def evaluate(
    predictions: pa.Table | pd.DataFrame,
    classes: Sequence[str],
    *,
    ordinal: bool = False,
    threshold: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Evaluate predictions at image and at study level, overall and per body part.

    Args:
        predictions: a predictions table, see `studies.read_predictions`; columns `<part>:prob_<class>` are answers
            of the model's parts, which are then evaluated beside the whole.
        classes: class names in the order of the label's index; of two, the second is the finding ("abnormal").
        ordinal: the classes are grades in order; adds the quadratic weighted kappa.
        threshold: probability in 0 to 1 from which class 1 of two is called, for images and studies alike.
        resamples: bootstrap resamples of the patients for each interval.
        seed: of the resampling.

    Raises:
        UserError: the table cannot be evaluated, or an argument is out of range.
    """
    if not 0.0 <= threshold <= 1.0:
        raise UserError(f"threshold {threshold:g} is no probability: give a number from 0 to 1")
    check_resamples(resamples)
    names = list(classes)
    images, counts = read_predictions(predictions, names)
    studies, disagreeing = to_studies(images)
    apart = {part: read_part(predictions, part, names) for part in part_names(predictions, names)}
    counts |= {
        "studies": len(studies),
        "patients": int(np.unique(images.patient.astype(str)).size),
        "studies_disagreeing": disagreeing,
    }
    # Nothing about the order matters with two grades: the quadratic kappa is then Cohen's kappa.
    graded = ordinal and len(names) > 2

    def group(samples: Samples, threshold: float = threshold) -> Group:
        figures = figures_with_intervals(
            samples, names, threshold=threshold, ordinal=graded, resamples=resamples, seed=seed
        )
        confusion = np.zeros((len(names), len(names)), np.int64)
        np.add.at(confusion, (samples.label, decision(samples.prob, threshold)), 1)
        return Group(
            n=len(samples),
            patients=int(np.unique(samples.patient.astype(str)).size),
            class_counts=dict(zip(names, confusion.sum(axis=1).tolist(), strict=True)),
            confusion=confusion.tolist(),
            reliability=reliability(*calibration_pair(samples.label, samples.prob)),
            figures=figures,
        )

    def level(samples: Samples, apart: dict[str, Samples]) -> Level:
        overall = group(samples)
        parts = sorted(set(samples.part))
        single = {parts[0]: overall} if len(parts) == 1 else None
        by_body_part = single or {part: group(samples.select(samples.part == part)) for part in parts}
        return Level(
            samples, overall, by_body_part, {name: group(each, PART_THRESHOLD) for name, each in apart.items()}
        )

    return Evaluation(
        classes=tuple(names),
        ordinal=graded,
        threshold=threshold if len(names) == 2 else None,
        resamples=resamples,
        seed=seed,
        counts=counts,
        image=level(images, apart),
        study=level(studies, {name: to_studies(each)[0] for name, each in apart.items()}),
    )


def check_resamples(resamples: int) -> None:
    """Raise UserError for fewer bootstrap resamples than a 95 % interval needs."""
    if resamples < 100:
        raise UserError(f"{resamples} bootstrap resamples are too few for 95 % intervals: give at least 100")


def worst_errors(evaluation: Evaluation, k: int = 12) -> list[str]:
    """The instance ids of up to k images that were called wrongly with the most confidence, worst first.

    With two classes, half are missed findings (false negatives, first) and half false alarms; where one kind has
    fewer, the other fills up. With more classes: by the probability given to the wrong class.
    """
    samples = evaluation.image.samples
    called = decision(samples.prob, evaluation.threshold if evaluation.threshold is not None else 0.5)
    confidence = samples.prob[np.arange(len(samples)), called]
    wrong = np.flatnonzero(called != samples.label)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    if not evaluation.binary:
        return [str(name) for name in samples.ids[wrong[:k]]]
    missed, alarms = wrong[samples.label[wrong] == 1], wrong[samples.label[wrong] == 0]
    of_missed = min(missed.size, max(k - k // 2, k - alarms.size))
    chosen = np.concatenate([missed[:of_missed], alarms[: k - of_missed]])
    return [str(name) for name in samples.ids[chosen]]


def right_calls(evaluation: Evaluation, k: int = 4) -> list[str]:
    """The instance ids of up to k images that were called rightly with the most confidence.

    With two classes those of the finding; with more the most confident of each class in turn, then the second, …
    """
    samples = evaluation.image.samples
    called = decision(samples.prob, evaluation.threshold if evaluation.threshold is not None else 0.5)
    right = np.flatnonzero((called == samples.label) & ((called == 1) | (not evaluation.binary)))
    right = right[np.argsort(-samples.prob[right, called[right]], kind="stable")]
    if not evaluation.binary:
        rank = pd.Series(called[right]).groupby(called[right]).cumcount().to_numpy()
        right = right[np.argsort(rank, kind="stable")]
    return [str(name) for name in samples.ids[right[:k]]]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DECIMALS)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
