"""k-means over any number of rows: Lloyd's updates to convergence, or mini-batches.

    words = fit_kmeans(pieces, 500, KMeansSection(), Spread)     # on Ray tasks
    words = fit_kmeans(Arrays((rows,)), 50, KMeansSection(), Here)

Each pass gives the sums, counts and inertia of the rows nearest to each centre; they are added up in float64, so that
tasks and the cut into pieces change the result by rounding alone. Rows are drawn by a hash of their values: neither
the sample nor the start depends on their order.

In one process a pass looks at those rows alone whose centre can have changed (`mskray.estimators.bounds`).

Sources: Lloyd 1982; Arthur & Vassilvitskii 2007 (k-means++); Sculley 2010 (mini-batches).
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from mskray.estimators.bounds import Bounds
from mskray.estimators.nearest import nearest, sums_of
from mskray.estimators.pieces import Each, Pieces, Sampled, row_hashes
from mskray.estimators.starts import KMeansSection, Start, choose_start
from mskray.progress import Progress, Report, silent


@dataclass(frozen=True)
class KMeansResult:
    """What was found.

    Args:
        centres: (k, width) float32.
        counts: (k,) int64, rows nearest to each in the last pass.
        rows: rows that it learned from; of: rows that there were.
        passes: Lloyd updates or epochs.
        converged: whether the tolerance was met; shift: the last sum of squared shifts.
        inertia: sum of squared distances in the last pass.
    """

    centres: np.ndarray
    counts: np.ndarray
    rows: int
    of: int
    passes: int
    converged: bool
    shift: float
    inertia: float
    seed: int

    def facts(self) -> dict[str, Any]:
        """Everything but the arrays, and how many centres no row is nearest to."""
        plain = {key: value for key, value in asdict(self).items() if key not in ("centres", "counts")}
        return {**plain, "words": len(self.centres), "empty": int((self.counts == 0).sum())}


def fit_kmeans(
    pieces: Pieces,
    words: int,
    section: KMeansSection,
    runner: Callable[[Pieces], Each],
    report: Report = silent,
    start: Start | None = None,
) -> KMeansResult:
    """Learn `words` centres from the rows of all pieces.

    Args:
        runner: `Here` or `Spread`.
        start: of these pieces, for at least as many words; chosen where None.
    Raises:
        UserError: fewer rows than centres, or more centres asked for than rows are drawn.
    """
    start = start or choose_start(pieces, words, section, runner)
    if start.drawn < start.rows:
        pieces = Sampled(pieces, section.seed, start.limit)
    return refine(
        runner(pieces), start.centres[:words], section, section.tolerance * start.variance, start.rows, report
    )


def refine(
    each: Each, centres: np.ndarray, section: KMeansSection, tolerance: float, of: int = 0, report: Report = silent
) -> KMeansResult:
    """Update centres (k, width) until they stay: Lloyd's updates, or mini-batches where `section.batch` says so.

    Args:
        tolerance: largest sum of squared shifts of converged centres.
        of: rows that there were before a sample was drawn; 0 for as many as are seen.
    """
    history, bounds = np.zeros(len(centres)), Bounds()
    most, unit = (section.epochs, "epochs") if section.batch else (section.iterations, "passes")
    for number in range(1, most + 1):
        if section.batch:
            step = partial(_mini_batches, centres=centres, history=history, batch=section.batch)
            moved, history, found = each(partial(step, seed=(section.seed, number)), whole=True)[0]
            moved = _fill(moved, found.counts, each)
        else:
            found = _pass(each, centres, bounds)
            moved = _fill(_means(found, centres), found.counts, each, centres)
        shift = float(np.square(moved.astype(np.float64) - centres).sum())
        before, centres = centres, moved
        report(Progress("learning words", number, 0, unit, note=f"shift {shift:.3g}, to be {tolerance:.3g}"))
        if shift <= tolerance:
            break
    if not section.batch and each.remembers:
        found = _merge(each(partial(assign, centres=before)))  # bounds know no inertia
    rows = int(found.counts.sum())
    done = shift <= tolerance
    return KMeansResult(
        centres, found.counts, rows, of or rows, number, done, shift, float(found.inertia), section.seed
    )


@dataclass(frozen=True)
class Partial:
    """Of some rows: sums (k, width) float64 and counts (k,) int64 of those nearest to each centre, and inertia."""

    sums: np.ndarray
    counts: np.ndarray
    inertia: float


def _pass(each: Each, centres: np.ndarray, bounds: Bounds) -> Partial:
    """One pass over all rows; the inertia is NaN where bounds spared distances."""
    if not each.remembers:
        return _merge(each(partial(assign, centres=centres)))
    ((sums, counts),) = each(partial(bounds.sums, centres=centres))
    return Partial(sums, counts, float("nan"))


def assign(pieces: Iterator[np.ndarray], centres: np.ndarray) -> Partial:
    """Sum up the rows nearest to each centre."""
    sums, counts, inertia = np.zeros(centres.shape), np.zeros(len(centres), np.int64), 0.0
    for rows in pieces:
        labels, distances = nearest(rows, centres)
        sums += sums_of(rows, labels, len(centres))
        counts += np.bincount(labels, minlength=len(centres))
        inertia += float(distances.sum(dtype=np.float64))
    return Partial(sums, counts, inertia)


def _merge(parts: list[Partial]) -> Partial:
    return Partial(
        np.sum([part.sums for part in parts], axis=0),
        np.sum([part.counts for part in parts], axis=0),
        float(np.sum([part.inertia for part in parts])),
    )


def _means(found: Partial, centres: np.ndarray) -> np.ndarray:
    """Return the rows' means, and where there is no row the centre as it was."""
    some = found.counts[:, None] > 0
    return np.where(some, found.sums / np.maximum(found.counts, 1)[:, None], centres).astype(np.float32)


def _fill(moved: np.ndarray, counts: np.ndarray, each: Each, before: np.ndarray | None = None) -> np.ndarray:
    """Put each centre without rows on the row farthest from its own: distinct rows, in the order of distance.

    Args:
        before: the centres that the counts belong to; `moved` where None. Where no row lies off its centre, the
            centres without rows stay.
    """
    empty = np.flatnonzero(counts == 0)
    if not len(empty):
        return moved
    parts = each(partial(_farthest, centres=moved if before is None else before, most=len(empty)))
    rows, distances = (np.concatenate(values) for values in zip(*parts, strict=True))
    far, _ = _first_distinct(rows, distances, len(empty))
    result = moved.copy()
    result[empty[: len(far)]] = far
    return result


def _farthest(pieces: Iterator[np.ndarray], centres: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows (m, width) farthest from their centres, and their squared distances (m,)."""
    far, away = np.zeros((0, centres.shape[1]), np.float32), np.zeros(0, np.float32)
    for rows in pieces:
        _, distances = nearest(rows, centres)
        off = distances > 1e-6 * np.einsum("ij,ij->i", rows, rows)  # what rounding leaves of 0 is no distance
        far, away = _first_distinct(np.concatenate([far, rows[off]]), np.concatenate([away, distances[off]]), most)
    return far, away


def _first_distinct(rows: np.ndarray, distances: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    hashes = row_hashes(rows, 0)
    order = np.lexsort([hashes, -distances])
    _, first = np.unique(hashes[order], return_index=True)
    kept = order[np.sort(first)[:most]]
    return rows[kept], distances[kept]


def _mini_batches(
    pieces: Iterator[np.ndarray], centres: np.ndarray, history: np.ndarray, batch: int, seed: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, Partial]:
    """One epoch: each batch draws its centres towards its rows by 1 / (rows that a centre has had), Sculley 2010.

    Args:
        history: (k,) rows that each centre has had before.
    Returns:
        The centres, their history, and counts and inertia of the epoch.
    """
    random, moved, history = np.random.default_rng(seed), centres.astype(np.float64), history.copy()
    counts, inertia = np.zeros(len(centres), np.int64), 0.0
    for rows in pieces:
        for chosen in np.array_split(random.permutation(len(rows)), -(-len(rows) // batch)):
            found = assign(iter([rows[chosen]]), moved.astype(np.float32))
            history += found.counts
            counts += found.counts
            inertia += found.inertia
            moved += (found.sums - found.counts[:, None] * moved) / np.maximum(history, 1)[:, None]
    return moved.astype(np.float32), history, Partial(np.zeros(0), counts, inertia)
