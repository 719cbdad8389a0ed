"""Passes of k-means that look at those rows alone whose nearest centre can have changed: Hamerly 2010.

A row keeps an upper bound of the distance to its own centre and a lower bound of that to any other. Centres that move
by s raise the one and lower the other by s at most; while the upper is below the lower, the nearest centre is the same
(Hamerly, "Making k-means even faster", SDM 2010, section 3). Sums are taken over all rows in the order of a whole pass:
what is found differs by rounding alone, where a row is equally near to two centres. Of the distances of a k-means of
descriptors half are spared, towards its end two thirds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mskray.estimators.nearest import sums_of, two_nearest

_MOST_ROWS = 1 << 22
"""Rows whose bounds are kept, 100 MB; the others are looked at in each pass."""
_ROUNDING = 1e-5
"""Of a squared distance in float32, as a share of the squared norms that it is the difference of."""


@dataclass
class _Known:
    """Of a piece: labels (n,) int64, bounds (n,) float64, and the sums (k, width) float64."""

    labels: np.ndarray
    upper: np.ndarray
    lower: np.ndarray
    sums: np.ndarray


class Bounds:
    """What passes over the same pieces, in the same order, remember of their rows."""

    def __init__(self) -> None:
        self._known: list[_Known] = []
        self._rows = 0
        self._centres: np.ndarray | None = None

    def sums(self, pieces: Iterator[np.ndarray], centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums (k, width) float64 and counts (k,) int64 of the rows nearest to each centre."""
        self._move(centres)
        total, counts = np.zeros(centres.shape), np.zeros(len(centres), np.int64)
        for number, rows in enumerate(pieces):
            if number < len(self._known):
                known = self._known[number]
                _look_again(rows, centres, known)
            else:
                known = _look(rows, centres)
                if number == len(self._known) and self._rows + len(rows) <= _MOST_ROWS:
                    self._known.append(known)
                    self._rows += len(rows)
            total += known.sums
            counts += np.bincount(known.labels, minlength=len(centres))
        return total, counts

    def _move(self, centres: np.ndarray) -> None:
        """Widen the bounds by how far the centres have moved since the pass before."""
        if self._centres is not None:
            moved = np.sqrt(np.square(centres.astype(np.float64) - self._centres).sum(axis=1))
            farthest = int(moved.argmax())
            second = np.delete(moved, farthest).max(initial=0.0)
            for known in self._known:
                known.upper += moved[known.labels]
                known.lower -= np.where(known.labels == farthest, second, moved[farthest])
        self._centres = centres.astype(np.float64)


def _look(rows: np.ndarray, centres: np.ndarray) -> _Known:
    labels, upper, lower = _bounds(rows, centres)
    return _Known(labels, upper, lower, sums_of(rows, labels, len(centres)))


def _look_again(rows: np.ndarray, centres: np.ndarray, known: _Known) -> None:
    doubtful = np.flatnonzero(known.upper >= known.lower)
    labels, upper, lower = _bounds(rows[doubtful], centres)
    changed = not np.array_equal(labels, known.labels[doubtful])
    known.labels[doubtful], known.upper[doubtful], known.lower[doubtful] = labels, upper, lower
    if changed:
        known.sums = sums_of(rows, known.labels, len(centres))


def _bounds(rows: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each row's nearest centre, and bounds of the distances that rounding leaves true."""
    labels, near, far, norms = two_nearest(rows, centres)
    off = _ROUNDING * norms.astype(np.float64)
    return labels, np.sqrt(near + off), np.sqrt(np.maximum(far - off, 0))
