"""Figures of a detector: AP50, precision and recall of each kind, with intervals by patient.

AP50 is COCO's (cocodataset.org, "detection evaluation"): detections, the surest first, each take the free true box that
they overlap most, if by an intersection over union of at least 0.5; precision, made monotone, is averaged over 101
levels of recall.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mskray.evaluation.bootstrap import CONFIDENCE, DECIMALS, MINIMUM_PATIENTS, Figure, resampled_weights
from mskray.imaging.regions import intersection_over_union

_OVERLAP = 0.5
_RECALLS = np.linspace(0, 1, 101)
_MOST = 100
"""Detections of an image that count, as COCO has it."""


@dataclass(frozen=True)
class ImageBoxes:
    """One image: boxes (x, y, w, h), found (k, 4) with `scores` (k,), and true (m, 4); all of one kind."""

    patient: str
    found: np.ndarray
    scores: np.ndarray
    true: np.ndarray


@dataclass(frozen=True)
class DetectionFigures:
    """Figures of one kind; `precision` and `recall` are those at `threshold`."""

    kind: str
    threshold: float
    images: int
    figures: dict[str, Figure]


def detection_figures(
    images: Sequence[ImageBoxes], kind: str, threshold: float, resamples: int = 1000, seed: int = 0
) -> DetectionFigures:
    """Compute `ap50`, `precision` and `recall` of one kind over at least one image."""
    _, patient = np.unique([each.patient for each in images], return_inverse=True)
    order = [np.argsort(-each.scores, kind="stable")[:_MOST] for each in images]
    hits = [hit_boxes(each.found[best], each.true) for each, best in zip(images, order, strict=True)]
    image = np.repeat(np.arange(len(images)), [len(each) for each in hits])
    scores = np.concatenate([each.scores[best] for each, best in zip(images, order, strict=True)])
    hit, true = np.concatenate(hits).astype(bool), np.array([len(each.true) for each in images])
    ranked = np.argsort(-scores, kind="stable")
    image, scores, hit = image[ranked], scores[ranked], hit[ranked]

    def compute(weight: NDArray[np.float64]) -> dict[str, float]:
        """Figures where image i counts weight[i] times."""
        total, each = float(weight @ true), weight[image]
        right, called = each[hit & (scores >= threshold)].sum(), each[scores >= threshold].sum()
        return {
            "ap50": average_precision(hit, each, total),
            "precision": right / called if called else np.nan,
            "recall": right / total if total else np.nan,
        }

    values = compute(np.ones(len(images)))
    drawn = [compute(weight) for block in resampled_weights(patient, resamples, seed) for weight in block]
    people, boxes = int(patient.max()) + 1, int(true.sum())
    figures = {}
    for name, value in values.items():
        ends = np.array([each[name] for each in drawn])
        ends = ends[np.isfinite(ends)]
        if not np.isfinite(value) or people < MINIMUM_PATIENTS or not len(ends):
            reason = f"{boxes} true boxes of {people} patients: too few for a figure"
            figures[name] = Figure(None, None, None, boxes, people, reason)
            continue
        low, high = np.percentile(ends, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
        value, low, high = (round(float(end), DECIMALS) for end in (value, low, high))
        figures[name] = Figure(value, low, high, boxes, people)
    return DetectionFigures(kind, threshold, len(images), figures)


def hit_boxes(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Tell which of the found boxes (k, 4), the surest first, take one of the true boxes (m, 4)."""
    hits = np.zeros(len(found), bool)
    if not len(true) or not len(found):
        return hits
    shared = intersection_over_union(found, true)
    for place in range(len(found)):
        best = int(shared[place].argmax())
        if shared[place, best] >= _OVERLAP:
            hits[place] = True
            shared[:, best] = -1.0  # taken
    return hits


def average_precision(hit: np.ndarray, weight: np.ndarray, total: float) -> float:
    """COCO's average precision of detections sorted by falling score.

    Args:
        hit: (k,) whether each took a true box. weight: (k,) how often it counts. total: true boxes.
    Returns:
        NaN without true boxes.
    """
    if total <= 0:
        return float("nan")
    right, called = np.cumsum(weight * hit), np.cumsum(weight)
    precision = np.maximum.accumulate((right / np.maximum(called, 1e-12))[::-1])[::-1]
    places = np.searchsorted(right / total, _RECALLS - 1e-9, side="left")
    return float(np.append(precision, 0.0)[np.minimum(places, len(precision))].mean())
