"""Which centre is nearest to each row, and which rows to start from: the arithmetic of k-means on arrays."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from mskray.estimators.threads import blas_threads

_BLOCK = 512
"""Rows whose distances to all centres are held at once: 1 MB for 500 centres, which a core's own cache holds."""
_SUMMED = 8192


def nearest(rows: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number (n,) int64 of each row's nearest centre, and its squared distance (n,) float32.

    |x − c|² = |x|² − 2 x·c + |c|²: a matrix product in blocks, of rows and centres less the centres' mean, so that
    what all have in common takes no digits. The first of equally near centres is taken.

    Args:
        rows: (n, width) float32; centres: (k, width) float32.
    """
    labels, distances = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    for part, scores, norms in _scored(rows, centres):
        distances[part] = np.maximum(_least(scores, labels[part]) + norms, 0)
    return labels, distances


def two_nearest(rows: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, ...]:
    """As `nearest`; then (n,) float32 the squared distance of the second nearest centre, and a sum of squared norms.

    From norms of that size the distances are computed. Where there is one centre, the second is infinitely far. Blocks
    of rows go to as many threads as BLAS would take; what is found does not depend on how many these are.
    """
    with blas_threads() as many:
        # Whole blocks to each thread, so that blocks are the same for any number of threads.
        each = _BLOCK * max(1, -(-len(rows) // (_BLOCK * many.number)))
        parts = [rows[start : start + each] for start in range(0, len(rows), each)] or [rows]
        found = list(many.map(partial(_two_nearest, centres=centres), parts))
    return found[0] if len(found) == 1 else tuple(np.concatenate(values) for values in zip(*found, strict=True))


def _two_nearest(rows: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, ...]:
    labels = np.empty(len(rows), np.int64)
    near, far, largest = (np.empty(len(rows), np.float32) for _ in range(3))
    shifted = centres - centres.mean(axis=0)
    most = np.einsum("ij,ij->i", shifted, shifted).max(initial=0)
    for part, scores, norms in _scored(rows, centres):
        near[part] = np.maximum(_least(scores, labels[part]) + norms, 0)
        np.put_along_axis(scores, labels[part, None], np.inf, axis=1)
        far[part] = np.maximum(scores.min(axis=1) + norms, 0)
        largest[part] = norms + most
    return labels, near, far, largest


def _scored(rows: np.ndarray, centres: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield blocks of rows: which, their squared distances less their squared norms (m, k), and these norms (m,)."""
    middle = centres.mean(axis=0)
    others = centres - middle
    factors, norms = np.ascontiguousarray(-2 * others.T), np.einsum("ij,ij->i", others, others)
    scores = np.empty((min(_BLOCK, len(rows)), len(centres)), np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK] - middle
        found = scores[: len(block)]
        np.matmul(block, factors, out=found)
        found += norms
        yield slice(start, start + len(block)), found, np.einsum("ij,ij->i", block, block)


def _least(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Write the place of each row's smallest score into `labels`, and return these scores."""
    scores.argmin(axis=1, out=labels)
    return np.asarray(np.take_along_axis(scores, labels[:, None], axis=1)[:, 0])


@dataclass(frozen=True)
class Chosen:
    """What k-means++ chose of n rows.

    Args:
        rows: (m,) int64, in the order of choice.
        closest: (n,) float32, squared distance of each row from the nearest chosen one.
    """

    rows: np.ndarray
    closest: np.ndarray


def plus_plus(rows: np.ndarray, words: int, seed: int, tries: int, before: Chosen | None = None) -> Chosen:
    """Choose `words` of rows (n, width) float32 as k-means++ does: each with a chance that grows with its distance.

    Of some candidates the one that lowers the sum of squared distances most is taken. The first m of a choice are the
    choice of m: a longer one goes on from a shorter one, bit for bit.

    Args:
        tries: candidates for each; scikit-learn has 2 + ln k.
        before: a choice of fewer of the same rows, with the same seed and tries.
    """
    random = np.random.default_rng([seed, 1])
    norms = np.einsum("ij,ij->i", rows, rows)
    first = int(random.integers(len(rows)))
    if before is None:
        chosen, closest = [first], _distances(rows, norms, [first])[0]
    else:
        chosen, closest = before.rows.tolist(), before.closest
        random.random(tries * (len(chosen) - 1))  # drawn for those
    while len(chosen) < words:
        total = closest.cumsum(dtype=np.float64)
        # Where all rows stand on a chosen one, any will do.
        drawn = np.searchsorted(total, random.random(tries) * total[-1], side="right").clip(max=len(rows) - 1)
        candidates = np.minimum(_distances(rows, norms, drawn), closest)
        best = int(candidates.sum(axis=1, dtype=np.float64).argmin())
        chosen.append(int(drawn[best]))
        closest = candidates[best]
    return Chosen(np.array(chosen, np.int64), np.ascontiguousarray(closest))


def _distances(rows: np.ndarray, norms: np.ndarray, chosen: Any) -> np.ndarray:
    """Return squared distances (m, n) of all rows from the chosen ones."""
    result = rows[chosen] @ rows.T
    result *= -2
    result += norms
    result += norms[chosen][:, None]
    return np.maximum(result, 0, out=result)


def sums_of(rows: np.ndarray, labels: np.ndarray, words: int) -> np.ndarray:
    """Return the sums (k, width) float64 of the rows of each label: float32 within blocks, float64 across them.

    Blocks are summed by as many threads as BLAS would take, and added up in their order.
    """

    def block_sums(start: int) -> np.ndarray:
        block, label = rows[start : start + _SUMMED], labels[start : start + _SUMMED]
        places = csr_matrix((np.ones(len(block), rows.dtype), label, np.arange(len(block) + 1)), (len(block), words))
        return np.asarray(places.T.tocsr() @ block)

    total = np.zeros((words, rows.shape[1]))
    with blas_threads() as many:
        together = _SUMMED * many.number
        for first in range(0, len(rows), together):  # as many sums at once as there are threads
            for part in many.map(block_sums, range(first, min(first + together, len(rows)), _SUMMED)):
                total += part
    return total
