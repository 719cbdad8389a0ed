"""Figures of a vertebra detector, with intervals by patient.

A body counts as found where one of the detector's overlaps it by an intersection over union of at least 0.5, or has
corners that are on average nearer to its own than half its height. A spine is named right where every body is found
under its own name. The error of corners is that of the bodies found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mskray.evaluation.bootstrap import CONFIDENCE, DECIMALS, MINIMUM_PATIENTS, Figure, resampled_weights
from mskray.imaging.spine_levels import body_areas, body_heights

_OVERLAP, _NEAR = 0.5, 0.5


@dataclass(frozen=True)
class Bodies:
    """Bodies of one spine: names, and corners (k, 4, 2) in mm, in the order of `mskray.imaging.spine.Vertebra`."""

    levels: tuple[str, ...]
    corners: NDArray[np.float64]


@dataclass(frozen=True)
class SpineResult:
    """One spine: who it is of, what is there and what was found."""

    patient: str
    true: Bodies
    found: Bodies


@dataclass(frozen=True)
class VertebraFigures:
    """`found` (share of bodies), `levels` (share of spines), `corner_mm` (median), `stray` (bodies a volume)."""

    spines: int
    figures: dict[str, Figure]


def vertebra_figures(spines: Sequence[SpineResult], resamples: int = 1000, seed: int = 0) -> VertebraFigures:
    """Compute the figures over at least one spine."""
    _, patient = np.unique([each.patient for each in spines], return_inverse=True)
    hits = [match_bodies(each.true.corners, each.found.corners) for each in spines]
    bodies = np.array([len(each.true.levels) for each in spines])
    found = np.array([(hit >= 0).sum() for hit in hits])
    stray = np.array([len(each.found.levels) for each in spines]) - found
    right = np.array([_named_right(each, hit) for each, hit in zip(spines, hits, strict=True)], float)
    errors = [_errors(each, hit) for each, hit in zip(spines, hits, strict=True)]
    error, owner = np.concatenate(errors), np.repeat(np.arange(len(spines)), [len(each) for each in errors])
    order = np.argsort(error, kind="stable")
    error, owner = error[order], owner[order]

    def compute(weight: NDArray[np.float64]) -> dict[str, float]:
        """Figures where spine i counts weight[i] times."""
        total, spine = float(weight @ bodies), float(weight.sum())
        return {
            "found": float(weight @ found) / total if total else np.nan,
            "levels": float(weight @ right) / spine if spine else np.nan,
            "corner_mm": _median(error, weight[owner]),
            "stray": float(weight @ stray) / spine if spine else np.nan,
        }

    values = compute(np.ones(len(spines)))
    drawn = [compute(weight) for block in resampled_weights(patient, resamples, seed) for weight in block]
    counts = {"found": int(bodies.sum()), "levels": len(spines), "corner_mm": len(error), "stray": len(spines)}
    people = int(patient.max()) + 1
    figures = {
        name: _figure(value, [each[name] for each in drawn], counts[name], people) for name, value in values.items()
    }
    return VertebraFigures(len(spines), figures)


def match_bodies(true: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each true body (m, 4, 2) which of the found ones (k, 4, 2) is it, -1 for none; each is taken once."""
    taken = np.full(len(true), -1)
    if not len(true) or not len(found):
        return taken
    away = np.linalg.norm(true[:, None] - found[None], axis=-1).mean(axis=-1)
    near = (away < _NEAR * body_heights(true)[:, None]) | (_overlaps(true, found) >= _OVERLAP)
    away = np.where(near, away, np.inf)
    while np.isfinite(away).any():
        body, one = np.unravel_index(away.argmin(), away.shape)
        taken[body] = one
        away[body], away[:, one] = np.inf, np.inf
    return taken


def _overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m, k) intersections over unions of convex bodies."""
    small, other = first.astype(np.float32), second.astype(np.float32)
    shared = np.array([[cv2.intersectConvexConvex(one, two)[0] for two in list(other)] for one in list(small)])
    return shared / np.maximum(body_areas(first)[:, None] + body_areas(second)[None] - shared, 1e-12)


def _named_right(spine: SpineResult, hit: NDArray[np.int64]) -> bool:
    names = [spine.found.levels[one] if one >= 0 else None for one in hit]
    return names == list(spine.true.levels)


def _errors(spine: SpineResult, hit: NDArray[np.int64]) -> NDArray[np.float64]:
    """Distances in mm of the corners of the bodies found."""
    there = hit >= 0
    return np.linalg.norm(spine.true.corners[there] - spine.found.corners[hit[there]], axis=-1).ravel()


def _median(ordered: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """The median of ascending values, each counted `weight` times."""
    total = np.cumsum(weight)
    if not len(ordered) or total[-1] <= 0:
        return float("nan")
    low, high = np.searchsorted(total, total[-1] / 2, side="left"), np.searchsorted(total, total[-1] / 2, side="right")
    return float(ordered[low] + ordered[min(high, len(ordered) - 1)]) / 2


def _figure(value: float, drawn: Sequence[float], n: int, people: int) -> Figure:
    ends = np.array(drawn)
    ends = ends[np.isfinite(ends)]
    if not np.isfinite(value) or people < MINIMUM_PATIENTS or not len(ends):
        return Figure(None, None, None, n, people, f"{n} of {people} patients: too few for a figure")
    low, high = np.percentile(ends, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    value, low, high = (round(float(end), DECIMALS) for end in (value, low, high))
    return Figure(value, low, high, n, people)
