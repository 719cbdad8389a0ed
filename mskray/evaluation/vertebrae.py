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

from mskray.evaluation.bootstrap import Figure, bootstrapped, too_few
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

    def compute(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Figures (R,) where in weighting r spine i counts weights[r, i] times."""
        total, spine = weights @ bodies, weights.sum(axis=1)
        return {
            "found": np.divide(weights @ found, total, out=np.full(len(total), np.nan), where=total > 0),
            "levels": weights @ right / spine,
            "corner_mm": np.array([_median(error, weight[owner]) for weight in weights]),
            "stray": weights @ stray / spine,
        }

    counts = {"found": int(bodies.sum()), "levels": len(spines), "corner_mm": len(error), "stray": len(spines)}
    people = int(patient.max()) + 1

    def support(name: str) -> tuple[int, int]:
        return counts[name], people

    def reason(name: str) -> str | None:
        return too_few(patient) or (None if counts[name] else "no vertebral body to measure")

    return VertebraFigures(len(spines), bootstrapped(compute, patient, support, reason, resamples, seed))


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
